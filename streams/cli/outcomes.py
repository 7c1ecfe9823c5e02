"""Commands about what really happened: publish outcomes, and show how well the predictions match them."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from schemas import Brand, TwinType
from streams.cli.campaigns import BrandOption, TargetOption, TwinTypeOption
from streams.cli.connection import use_service_catalogue, with_pool, with_read_pool
from streams.cli.options import JsonOption, TableArgument, examples
from streams.cli.output import Table, notify, print_result, show_progress
from streams.cli.table_options import notify_remarks, reads_table
from streams.tables import TableOptions

if TYPE_CHECKING:
    from sql.database import Pool
    from sql.history_store import HistoryWindow
    from streams.operations.publication import Published
    from streams.operations.receipts import Receipt
    from streams.reporting.overview import LineOverview
    from streams.settings import Settings

app = typer.Typer()


class Period(StrEnum):
    """Length of a period of history."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"


@app.command(
    epilog=examples(
        "twinstream outcomes publish outcomes.parquet",
        "twinstream outcomes publish outcomes.csv --brand fabhalta --timeout 300",
        "twinstream outcomes publish last_year.csv --backfill",
    )
)
@reads_table
def publish(
    file: TableArgument,
    twin_type: TwinTypeOption = TwinType.HCP,
    brand: BrandOption = Brand.KISQALI,
    target: TargetOption = None,
    partly: Annotated[
        bool, typer.Option("--partly", help="Leave out rows that are bad or too late, and publish the others.")
    ] = False,
    backfill: Annotated[
        bool, typer.Option("--backfill", help="Publish rows that are too late to be counted too: they are stored as history.")
    ] = False,
    accept: Annotated[
        bool,
        typer.Option("--accept", help="Confirm that outcomes beyond the plausible scale of their target are meant as they are."),
    ] = False,
    timeout: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="The longest wait for the rows to be processed.")] = 30.0,
    as_json: JsonOption = False,
    *,
    reading: TableOptions,
) -> None:
    """Publish the rows of the table FILE as outcome events.

    Columns are fields of an outcome, segment.DIMENSION, and features, also those that only models of the line have; a file with the
    columns of the training table can be published as it is. twin_type, brand, metric_type and observed_at are filled in where FILE
    has no such column: the time is then that of the first publication, and the same outcomes with their true times are others
    later. All rows are checked before the first is sent.

    Publishing the same rows again changes nothing, in any file and order. Without event_id, entity and time name an outcome:
    another value for them corrects it. Without these either, equal rows are one outcome each within a file, and the same outcomes
    in every file.
    """
    from streams.operations.operator import operator_name
    from streams.operations.outcome_files import OutcomeLine, publish_outcomes, read_outcome_file, require_plausible_scale
    from streams.operations.publication import Publisher, describe_rows
    from streams.operations.receipts import await_receipt

    use_service_catalogue()
    outcomes, remarks = read_outcome_file(file, OutcomeLine(twin_type, brand, target), reading, datetime.now(UTC), partly=partly)
    notify_remarks(remarks)
    notify_remarks(require_plausible_scale(outcomes, accept=accept))

    async def work(settings: Settings, pool: Pool) -> tuple[Published, Receipt]:
        with show_progress("publishing outcomes", 2 * len(outcomes.frame)) as report_progress:
            published = await publish_outcomes(
                settings,
                pool,
                outcomes,
                twin_type,
                Publisher(operator_name(), "command line"),
                partly=partly,
                backfill=backfill,
                notify=notify,
                report_progress=report_progress,
            )
        return published, await await_receipt(pool, published.publication_id, timeout)

    published, receipt = with_pool(work, "kafka")
    notify_remarks(outcomes.remarks())
    if published.bad:
        notify(f"left out: {describe_rows(published.bad)}")
    if published.late is not None:
        notify(f"{'published as history' if backfill else 'left out'}: {published.late}")
    if published.history:
        notify(f"{published.history:,} rows were added to the training history")
    payload = {"published": published.sent, **receipt.to_dict()}
    print_result(payload, lambda: f"{published.sent:,} outcomes published\n{receipt.format_text()}", as_json=as_json)


@app.command(epilog=examples("twinstream outcomes receipt 5d0f4f6e-4f5c-5d0e-9b0a-3f1e0c9d7a11"))
def receipt(
    receipt_id: Annotated[UUID, typer.Argument(metavar="ID", help="The id that publish has printed.", show_default=False)],
    timeout: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="The longest wait for the rows to be processed.")] = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Show what became of the rows of a published file."""
    from streams.operations.receipts import await_receipt

    result = with_read_pool(lambda _settings, pool: await_receipt(pool, receipt_id, timeout))
    print_result(result.to_dict(), result.format_text, as_json=as_json)


@app.command(epilog=examples("twinstream outcomes receipts", "twinstream outcomes receipts --limit 100 --json"))
def receipts(
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="How many, the newest first.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List the published files, with the id of each receipt."""
    from sql.publication_store import publications

    listed = with_read_pool(lambda _settings, pool: publications(pool, limit))
    rows = [
        [
            str(item.publication_id),
            item.name,
            f"{item.rows:,}",
            item.begun_at.strftime("%Y-%m-%d %H:%M:%S UTC"),
            "sent" if item.sent_at else "interrupted",
            item.published_by,
        ]
        for item in listed
    ]
    columns = ("receipt", "file", "rows", "begun", "state", "by")
    print_result(
        [item._asdict() for item in listed],
        lambda: Table(columns, rows, numeric=(2,), empty="no file was published yet"),
        as_json=as_json,
    )


@app.command(epilog=examples("twinstream outcomes history", "twinstream outcomes history --by week --json"))
def history(
    by: Annotated[Period, typer.Option(help="Length of a period.")] = Period.MONTH,
    as_json: JsonOption = False,
) -> None:
    """Show the errors of outcomes that came too late.

    They are grouped by their own time, and are not counted: no window, detector, alarm or retrain of the service sees them.
    """
    from sql.history_store import history_windows

    listed = with_read_pool(lambda _settings, pool: history_windows(pool, by.value))
    columns = ("line", "from", "n", "MAE", "RMSE", "correlation", "coverage")
    print_result(
        [window._asdict() for window in listed],
        lambda: Table(columns, list(map(_history_cells, listed)), numeric=range(2, 7)) if listed else "no late outcomes",
        as_json=as_json,
    )


def _history_cells(window: HistoryWindow) -> list[str]:
    numbers = (window.mae, window.rmse, window.correlation, window.coverage)
    cells = ["-" if number is None else f"{number:.4g}" for number in numbers]
    return [window.line, f"{window.start:%Y-%m-%d}", f"{window.n:,}", *cells]


@app.command(
    epilog=examples("twinstream fidelity", "twinstream fidelity --brand kisqali --weighted region", "twinstream fidelity --json")
)
def fidelity(
    weighted: Annotated[
        str,
        typer.Option(
            metavar="DIMENSION",
            help="Also show the error with the levels of this dimension weighted by their share of the predictions.",
            show_default=False,
        ),
    ] = "",
    brand: Annotated[str | None, typer.Option("--brand", metavar="NAME", help="Only the model lines of this brand.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show how well the predictions match the outcomes.

    These are the newest windows, the estimate before outcomes arrive, and the simulations whose outcomes are still pending.
    """
    from schemas.twin_types import catalogue_brand, line_parts
    from streams.reporting.overview import read_overview
    from streams.reporting.text import windows_dict

    overview = with_read_pool(lambda settings, pool: read_overview(pool, settings.n_min))
    own = None if brand is None else catalogue_brand(brand)
    lines = [line for line in overview.lines if own is None or line_parts(line.line)[1] == own]
    print_result(
        [windows_dict(line, weighted) for line in lines],
        lambda: [_windows_table(line, weighted) for line in lines] or f"no model line{f' of {own}' if own else ''} yet",
        as_json=as_json,
    )


def _windows_table(line: LineOverview, dimension: str) -> Table:
    from streams.reporting import text

    rows = [text.window_cells(window) for window in line.windows] if line.scored_model else []
    return Table(
        text.WINDOW_COLUMNS,
        rows,
        title=text.windows_heading(line),
        text=text.windows_text(line, dimension),
        notes=text.windows_notes(line, dimension),
        numeric=text.NUMERIC_WINDOW_COLUMNS,
    )
