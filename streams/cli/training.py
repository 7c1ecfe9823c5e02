"""The command that trains a model line on a table, or checks the table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from schemas import Brand, TwinType, model_line
from streams.cli.campaigns import BrandOption, TargetOption, TwinTypeOption
from streams.cli.connection import connected_service, use_file_catalogue, use_service_catalogue
from streams.cli.options import JsonOption, TableArgument, examples
from streams.cli.output import print_result, show_progress
from streams.cli.running import run_command
from streams.cli.table_options import notify_remarks, reads_table
from streams.tables import TableOptions

if TYPE_CHECKING:
    from streams.training import ImportedTable
    from streams.training.line_training import TrainedLine
    from streams.training.table_check import TableCheck

app = typer.Typer()


@app.command(
    epilog=examples(
        "twinstream train history.csv --brand kisqali",
        "twinstream train history.csv --check",
        "twinstream train outcomes.parquet --features history",
        "twinstream train outcomes.parquet --features feast:features/:hcp_features",
    )
)
@reads_table
def train(
    file: TableArgument,
    features: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Where the features are, when FILE has only entity_id, observed_at and the target: history (what the line has "
            "received so far) or feast:REPOSITORY:SERVICE. Each row gets the features as they were at its time.",
        ),
    ] = None,
    twin_type: TwinTypeOption = TwinType.HCP,
    brand: BrandOption = Brand.KISQALI,
    target: TargetOption = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only tell what is wrong with FILE, all at once: nothing is trained or started.")
    ] = False,
    as_json: JsonOption = False,
    *,
    reading: TableOptions,
) -> None:
    """Train a model line on the table FILE.

    The first model of a line becomes its champion; a later one only when it proves better than the champion, on rows that neither
    has learned. Exit status 1 when it is rejected, or when a check finds what a training would refuse.
    """
    if check:
        _check(file, features, twin_type, target, reading, as_json=as_json)
        return
    imported, trained = _train(file, features, twin_type, brand, target, reading)
    event, card = (part.model_dump(mode="json") for part in (trained.event, trained.card))
    payload = {"event": event, "card": card, "notes": trained.notes}
    print_result(payload, lambda: _training_text(imported, trained), as_json=as_json)
    if not trained.promoted:
        raise typer.Exit(1)


def _check(
    file: Path, features: str | None, twin_type: TwinType, target: str | None, reading: TableOptions, *, as_json: bool
) -> None:
    """Print the findings of a table.

    Raises:
        typer.Exit: with status 1 when a training would refuse it.
    """
    from streams.training.table_check import check_file

    if features is not None:
        raise typer.BadParameter("a check looks at FILE alone, whose features are elsewhere with --features")
    use_file_catalogue()
    result = check_file(file, twin_type, target, reading)
    payload = {
        "rows": result.rows,
        "problems": [{"text": item.text, "rows": item.rows} for item in result.problems],
        "notes": [{"text": item.text, "rows": item.rows} for item in result.notes],
    }
    print_result(payload, lambda: _check_text(file, result), as_json=as_json)
    if result.problems:
        raise typer.Exit(1)


def _check_text(file: Path, result: TableCheck) -> str:
    verdict = "a training would refuse it" if result.problems else "it can be trained on"
    return "\n".join(
        [
            f"{file.name}: {result.rows:,} rows, {verdict}",
            *(f"problem: {problem}" for problem in result.problems),
            *(f"note: {note}" for note in result.notes),
        ]
    )


def _train(
    file: Path, features: str | None, twin_type: TwinType, brand: str, target: str | None, reading: TableOptions
) -> tuple[ImportedTable, TrainedLine]:
    """Read the table, refuse it before anything is started where it has no features, and train."""
    from streams.training import read_training_table
    from streams.training.table_check import suspects
    from streams.worker.setup import join_features, prepare, train_model

    use_file_catalogue()
    imported = read_training_table([file], twin_type, target, reading, needs_features=features is None).require_target()
    notify_remarks([*imported.remarks, *suspects(imported.frame, twin_type, imported.target)])
    source = file.name
    with connected_service() as settings:
        run_command(settings, prepare(settings), "postgres", "kafka", "mlflow")
        use_service_catalogue()
        if features is not None:
            line = model_line(twin_type, brand, target)
            table, name = run_command(settings, join_features(settings, imported.frame, features, line), "postgres")
            imported, source = imported.with_frame(table, twin_type), f"{source}, features from {name}"
        with show_progress(f"training on {len(imported.frame):,} rows"):
            training = train_model(settings, imported.frame, twin_type, brand, imported.target, source)
            trained = run_command(settings, training, "postgres", "mlflow")
    return imported, trained


def _training_text(imported: ImportedTable, trained: TrainedLine) -> str:
    from streams.reporting.text import model_facts

    card = trained.card
    return "\n".join(
        [
            f"{trained.event.happened}: {card.model_type} {card.model_id} of {card.line}",
            trained.event.reason,
            *model_facts(card),
            *(f"note: {note}" for note in (*imported.notes, *card.metrics.warnings, *trained.notes)),
        ]
    )
