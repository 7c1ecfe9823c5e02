"""The command line: a few lines a command, each calls a room.

Exit status 0 when done, 1 when refused or failed with one clear line on stderr, 2 for wrong usage.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import click

from schemas import INTERVENTIONS, Brand, SimulationRequest, TwinType, model_line
from schemas.base import require_one_of
from streams.cli.experiments import counterfactuals_of, design, untreated
from streams.cli.models import models, retrain, why
from streams.cli.operations import dlq, replay, schemas, simulate_again
from streams.cli.options import (
    TABLE,
    brand_option,
    campaign,
    campaign_options,
    filter_option,
    filters_of,
    line_options,
    target_option,
    twin_type_option,
)
from streams.cli.output import Commands, answer, as_json_option, say, with_pool
from streams.reporting.overview import read_overview
from streams.reporting.text import model_facts, simulation_text, windows_dict, windows_text
from streams.settings import ROLES, Role, settings
from streams.training.datasets import as_training_table, read_table, write_table
from streams.worker.local_stack import connected
from streams.worker.setup import ask, learn, prepare, publish_table, with_features

__all__ = ["main"]


@click.group(cls=Commands)
@click.version_option(package_name="twinstream")
def main() -> None:
    """Twins of prescribers, journeys and territories: simulate a campaign, then watch how well the answer held."""


@main.command()
@as_json_option
def migrate(*, as_json: bool) -> None:
    """Apply migrations, create topics, prepare the MLflow store."""
    with connected(settings(), say) as at:
        done = asyncio.run(prepare(at))
    answer(done, lambda: "\n".join(f"{what}: {', '.join(made) or 'nothing to do'}" for what, made in done.items()), as_json=as_json)


@main.command("import")
@click.argument("source", type=TABLE)
@click.argument("out", type=TABLE)
@twin_type_option
@target_option
@as_json_option
def import_(source: Path, out: Path, twin_type: str, target: str | None, *, as_json: bool) -> None:
    """Turn a known table SOURCE into features and target, and write it to OUT (.csv, .csv.gz or .parquet)."""
    found = as_training_table(read_table(source), TwinType(twin_type), target)
    write_table(found.frame, out)
    said = {
        "recognised": found.source,
        "rows": len(found.frame),
        "target": found.target,
        "left_out": found.left_out,
        "notes": found.notes,
    }
    words = [f"{found.source}: {len(found.frame):,} rows written to {out}", *found.notes]
    if found.left_out:
        words.append(f"left out, the table has nothing for them: {', '.join(found.left_out)}")
    answer(said, lambda: "\n".join(words), as_json=as_json)


@main.command()
@click.argument("file", type=TABLE)
@click.option(
    "--features",
    metavar="SOURCE",
    help="Where the features are, when FILE has only entity_id, observed_at and the target: history (of the line), or "
    "feast:REPOSITORY:SERVICE. Each row gets what was known at its time.",
)
@line_options
@as_json_option
def train(file: Path, features: str | None, twin_type: str, brand: str, target: str | None, *, as_json: bool) -> None:
    """Train a model line on FILE; the first model of a line becomes its champion, a later one when it proves better."""
    table, kind, source = read_table(file), TwinType(twin_type), file.name
    if features is None:
        found = as_training_table(table, kind, target)
    with connected(settings(), say) as at:
        asyncio.run(prepare(at))
        if features is not None:
            table, name = asyncio.run(with_features(at, table, features, model_line(kind, Brand(brand), target)))
            found, source = as_training_table(table, kind, target), f"{source}, features from {name}"
        trained = asyncio.run(learn(at, found.frame, kind, Brand(brand), found.target, source))
    metrics = trained.card.metrics
    words = [
        f"{trained.event.happened}: {trained.card.model_type} {trained.card.model_id} of {trained.card.line}",
        *model_facts(trained.card),
        *(f"note: {note}" for note in (*found.notes, *metrics.warnings)),
    ]
    answer(
        {"event": trained.event.model_dump(mode="json"), "card": trained.card.model_dump(mode="json")},
        lambda: "\n".join(words),
        as_json=as_json,
    )


@main.command()
@click.argument("intervention", type=click.Choice(sorted(INTERVENTIONS)), required=False)
@campaign_options
@filter_option
@click.option(
    "--against",
    "others",
    multiple=True,
    type=click.Choice(sorted(INTERVENTIONS)),
    help="Compare with this one at the same frequency.",
)
@click.option("--twins", type=int, help="How many twins to ask, 10,000 by default.")
@click.option("--seed", type=int, help="Makes a simulation repeatable.")
@click.option("--timeout", "timeout_s", type=float, default=60.0, show_default=True, help="Seconds to wait for the answer.")
@click.option("--again", type=click.UUID, metavar="ID", help="Compute this past simulation again, and say whether it is the same.")
@line_options
@as_json_option
def simulate(
    intervention: str | None,
    channel: str | None,
    frequency: str,
    weeks: int,
    intensity: float | None,
    filters: tuple[str, ...],
    others: tuple[str, ...],
    twins: int | None,
    seed: int | None,
    timeout_s: float,
    again: UUID | None,
    twin_type: str,
    brand: str,
    target: str | None,
    *,
    as_json: bool,
) -> None:
    """Publish a request and wait for its result; a worker with the role simulation must be running."""
    if again is not None:
        simulate_again(again, as_json=as_json)
        return
    if intervention is None:
        raise click.UsageError("name an INTERVENTION, or a past simulation with --again ID")
    request = SimulationRequest(
        simulation_id=uuid4(),
        requested_at=datetime.now(UTC),
        twin_type=TwinType(twin_type),
        brand=Brand(brand),
        target=target,
        intervention=campaign(intervention, channel, frequency, weeks, intensity),
        alternatives=tuple(campaign(other, None, frequency, weeks, intensity) for other in others),
        filters=filters_of(filters),
        twin_count=twins,
        seed=seed,
        requested_by="command line",
    )
    with connected(settings(), say) as at:
        replied = asyncio.run(ask(at, request, timeout_s))
    if replied.result is None:
        raise ValueError(f"{replied.status.value}: {replied.reason}")
    answer(replied.model_dump(mode="json"), lambda: simulation_text(replied), as_json=as_json)


@main.group()
def outcomes() -> None:
    """What really happened."""


@outcomes.command()
@click.argument("file", type=TABLE)
@line_options
@as_json_option
def publish(file: Path, twin_type: str, brand: str, target: str | None, *, as_json: bool) -> None:
    """Publish the rows of FILE as outcome events: columns are fields of an outcome, segment.DIMENSION, and features.

    twin_type, brand, metric_type, event_id and observed_at are filled in where FILE has no such column.
    """
    table = read_table(file)
    with connected(settings(), say) as at:
        sent = asyncio.run(publish_table(at, table, TwinType(twin_type), Brand(brand), target, say))
    answer({"published": sent}, lambda: f"{sent:,} outcomes published", as_json=as_json)


@main.command()
@click.option("--role", "roles", default=",".join(ROLES), show_default=True, help="Roles to play, a process each.")
def worker(roles: str) -> None:
    """Run workers against the configured Kafka and Postgres until Ctrl-C."""
    from streams.worker.supervisor import run_worker  # noqa: PLC0415  # heavy, and only this command needs it

    chosen: list[Role] = []
    for role in roles.split(","):
        require_one_of("role", role.strip(), ROLES)
        chosen.append(role.strip())  # type: ignore[arg-type]  # checked one line above
    with connected(settings(), say) as at:
        run_worker(chosen, at, say=say)


@main.command()
@click.option("--home", type=click.Path(file_okay=False, path_type=Path), help="Folder of the stack; the one used last by default.")
@click.option("--port", type=int, default=0, help="Port of the page; a free one by default.")
def up(home: Path | None, port: int) -> None:
    """Run the whole service on the local stack until Ctrl-C, with its page."""
    from streams.worker.up import serve  # noqa: PLC0415  # heavy, and only this command needs it

    serve(settings(), home, port, say)


@main.command()
@click.option("--weighted", default="", metavar="DIMENSION", help="Also weight its levels by their share of what was predicted.")
@as_json_option
def fidelity(weighted: str, *, as_json: bool) -> None:
    """The newest windows of every line, what is expected before outcomes arrive, and who is waited for."""
    seen = with_pool(lambda at, pool: read_overview(pool, at.n_min))
    answer(
        [windows_dict(line, weighted) for line in seen.lines],
        lambda: "\n\n".join(windows_text(line, weighted) for line in seen.lines) or "no model line yet",
        as_json=as_json,
    )


@main.command()
@click.option("--repair", is_flag=True, help="Send again what is only behind.")
@as_json_option
def verify(*, repair: bool, as_json: bool) -> None:
    """Recompute every window from what is stored and compare; exit status 1 on any mismatch."""
    from streams.operations.verify import verify as check  # noqa: PLC0415  # heavy, and only this command needs it

    with connected(settings(), say) as at:
        report = asyncio.run(check(at, repair=repair))
    answer(report.to_dict(), report.format_text, as_json=as_json)
    if report.mismatches:
        sys.exit(1)


@main.command()
@click.option("--data", type=TABLE, help="Your own table: CSV or Parquet, or the public prescriber table.")
@click.option("--once", is_flag=True, help="For scripts: no progress, only the report at the end.")
@twin_type_option
@brand_option
@as_json_option
def demo(data: Path | None, twin_type: str, brand: str, *, once: bool, as_json: bool) -> None:
    """Run the main job end to end on the local stack, and report."""
    from streams.demo.run import run_demo  # noqa: PLC0415  # heavy, and only this command needs it

    report = run_demo(settings(), data, TwinType(twin_type), Brand(brand), (lambda _line: None) if once else say)
    answer(report.to_dict(), report.format_text, as_json=as_json)
    if not report.succeeded:
        sys.exit(1)


for command in (counterfactuals_of, design, dlq, models, replay, retrain, schemas, untreated, why):
    main.add_command(command)
