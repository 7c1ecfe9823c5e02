"""Commands of those who keep the service running: set up, verify, replay, and print the schemas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli.connection import connected_service, with_pool
from streams.cli.options import DryRunOption, JsonOption, examples
from streams.cli.output import notify, print_result
from streams.cli.running import run_command

if TYPE_CHECKING:
    from sql.database import Pool
    from streams.operations.replay_report import ReplayReport
    from streams.settings import Settings

app = typer.Typer()


@app.command(epilog=examples("twinstream migrate"))
def migrate(as_json: JsonOption = False) -> None:
    """Create or update tables, topics and the MLflow store.

    It applies the database migrations. Safe to repeat: what exists already stays as it is.
    """
    from streams.worker.setup import prepare

    with connected_service() as settings:
        created = run_command(settings, prepare(settings), "postgres", "kafka", "mlflow")
    print_result(
        created,
        lambda: "\n".join(f"{kind}: {', '.join(names) or 'nothing to do'}" for kind, names in created.items()),
        as_json=as_json,
    )


@app.command(epilog=examples("twinstream verify", "twinstream verify --repair", "twinstream verify --patience 20"))
def verify(
    repair: Annotated[bool, typer.Option("--repair", help="Publish again what other parts have not received.")] = False,
    patience_s: Annotated[
        float, typer.Option("--patience", min=0.0, metavar="SECONDS", help="How long to wait for windows that lag.")
    ] = 150.0,
    as_json: JsonOption = False,
) -> None:
    """Recompute every window from the outcomes and compare.

    Windows whose present version was not published yet are waited for, and what is waited for is told. The exit status is 1 on any
    mismatch.
    """
    from streams.operations.verify import verify as verify_windows

    with connected_service() as settings:
        report = run_command(
            settings, verify_windows(settings, repair=repair, patience_s=patience_s, notify=notify), "postgres", "kafka"
        )
    print_result(report.to_dict(), report.format_text, as_json=as_json)
    if report.mismatches:
        raise typer.Exit(1)


@app.command(
    epilog=examples(
        "twinstream replay outcome-events --dry-run",
        "twinstream replay outcome-events --from 2026-03-01T08:00:00Z --to 2026-03-01T12:00:00Z",
        "twinstream replay simulation-requests --partition 1 --from 1200",
    )
)
def replay(
    topic: Annotated[
        str, typer.Argument(metavar="TOPIC", help="outcome-events, simulation-requests or experiment-results.", show_default=False)
    ],
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="OFFSET|TIME", help="First record; the beginning by default. A time needs its zone."),
    ] = None,
    end: Annotated[
        str | None,
        typer.Option("--to", metavar="OFFSET|TIME", help="End, not included; everything published so far by default."),
    ] = None,
    partitions: Annotated[
        list[int] | None, typer.Option("--partition", metavar="NUMBER", help="Only this partition; repeatable.")
    ] = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Process a range of TOPIC again.

    Refused outcomes are checked again, and published again if they are valid by now. Simulation requests are computed again from
    what is stored for them. Accepted outcomes stay as they are, and the replay triggers no training and no alarm.
    """
    from streams.operations import topic_replay

    first, last = (None if text is None else topic_replay.parse_bound(text) for text in (start, end))

    async def work(settings: Settings, pool: Pool) -> ReplayReport:
        return await topic_replay.replay_topic(settings, pool, topic, first, last, partitions or (), dry_run=dry_run)

    report = with_pool(work, "kafka")
    print_result(report.to_dict(), report.format_text, as_json=as_json)


@app.command(epilog=examples("twinstream sweep --dry-run", "twinstream sweep"))
def sweep(dry_run: DryRunOption = False, as_json: JsonOption = False) -> None:
    """Delete rows that have aged out, now instead of once a day.

    The settings TWIN_KEEP_..._DAYS have the retention of each table. A sweep also makes the partitions of the coming months and
    drops empty ones. The exit status is 1 when a part of it failed.
    """
    from streams.operations import ageing
    from streams.operations.operator import operator_name

    with connected_service() as settings:
        if dry_run:
            due = run_command(settings, ageing.due_rows(settings), "postgres")
            print_result([rows.to_dict() for rows in due], lambda: ageing.format_due_rows(due), as_json=as_json)
            return
        run = run_command(settings, ageing.sweep(settings, operator_name()), "postgres")
    print_result(run.to_dict(), lambda: ageing.format_run(run), as_json=as_json)
    if run.error:
        raise typer.Exit(1)


@app.command(epilog=examples("twinstream forget 1234567890 --dry-run", "twinstream forget 1234567890 --twin-type hcp --yes"))
def forget(
    entity_id: Annotated[
        str, typer.Argument(metavar="ENTITY_ID", help="The id, exactly as records have it in entity_id.", show_default=False)
    ],
    twin_type: Annotated[
        str | None, typer.Option(metavar="TYPE", help="Only the entity of this twin type: hcp, patient or territory.")
    ] = None,
    dry_run: DryRunOption = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: an erasure cannot be undone.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Erase the person ENTITY_ID everywhere.

    Outcomes keep their values and sums, and lose id and features. Training rows and twins of the person are deleted, and the id is
    replaced wherever else it is stored. Outcomes that arrive later are stored without it, requests and experiments that name it are
    refused. The report says what was done, in which columns the id stays and why, until when Kafka holds it, and which models were
    trained with rows of the person.
    """
    from streams.operations.forgetting import forget as forget_entity
    from streams.operations.forgetting import parse_twin_type, require_entity_id
    from streams.operations.operator import operator_name

    require_entity_id(entity_id)
    scope = parse_twin_type(twin_type)
    if not dry_run and not yes:
        typer.confirm(f"Erase {entity_id!r} for ever?", abort=True, err=True)
    with connected_service() as settings:
        erasing = forget_entity(settings, entity_id, scope, operator_name(), dry_run=dry_run)
        report = run_command(settings, erasing, "postgres", "kafka")
    print_result(report.to_dict(), report.format_text, as_json=as_json)


@app.command(epilog=examples("twinstream schemas", "twinstream schemas --out contracts/"))
def schemas(
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", file_okay=False, help="Write asyncapi.json and one file per event to this folder."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the schemas of all events, as AsyncAPI 3.

    It holds every topic, and the JSON Schema of each event on it.
    """
    from streams.kafka.asyncapi import asyncapi_document, write_schemas

    if out is None:
        document = asyncapi_document()
        print_result(document, lambda: json.dumps(document, indent=2), as_json=as_json)
        return
    written = [str(file) for file in write_schemas(out)]
    print_result({"written": written}, lambda: "\n".join(written), as_json=as_json)
