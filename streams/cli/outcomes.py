"""Commands about what really happened: publish outcomes, and show how well the predictions match them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from schemas import Brand, TwinType
from streams.cli.campaigns import BrandOption, TargetOption, TwinTypeOption
from streams.cli.connection import connected_service, with_read_pool
from streams.cli.options import JsonOption, TableArgument, examples
from streams.cli.output import Table, notify, print_result, show_progress
from streams.cli.running import run_command
from streams.cli.table_options import notify_remarks, reads_table
from streams.tables import TableOptions

if TYPE_CHECKING:
    from streams.reporting.overview import LineOverview

app = typer.Typer()


@app.command(
    epilog=examples("twinstream outcomes publish outcomes.parquet", "twinstream outcomes publish outcomes.csv --brand fabhalta")
)
@reads_table
def publish(
    file: TableArgument,
    twin_type: TwinTypeOption = TwinType.HCP,
    brand: BrandOption = Brand.KISQALI,
    target: TargetOption = None,
    as_json: JsonOption = False,
    *,
    reading: TableOptions,
) -> None:
    """Publish the rows of the table FILE as outcome events.

    Columns are fields of an outcome, segment.DIMENSION, and features, also those that only models of the line have. twin_type,
    brand, metric_type, event_id and observed_at are filled in where FILE has no such column.
    """
    from streams.tables import outcome_columns, read_table
    from streams.worker.setup import publish_table

    result = read_table(file, outcome_columns(twin_type), reading)
    notify_remarks(result.remarks())
    table = result.frame
    with connected_service() as settings, show_progress("publishing outcomes", len(table)) as report_progress:
        publication = publish_table(settings, table, twin_type, brand, target, report_progress, notify)
        published = run_command(settings, publication, "kafka")
    print_result({"published": published}, lambda: f"{published:,} outcomes published", as_json=as_json)


@app.command(epilog=examples("twinstream fidelity", "twinstream fidelity --weighted region", "twinstream fidelity --json"))
def fidelity(
    weighted: Annotated[
        str,
        typer.Option(
            metavar="DIMENSION",
            help="Also show the error with the levels of this dimension weighted by their share of the predictions.",
            show_default=False,
        ),
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Show how well the predictions match the outcomes.

    These are the newest windows, the estimate before outcomes arrive, and the simulations whose outcomes are still pending.
    """
    from streams.reporting.overview import read_overview
    from streams.reporting.text import windows_dict

    overview = with_read_pool(lambda settings, pool: read_overview(pool, settings.n_min))
    print_result(
        [windows_dict(line, weighted) for line in overview.lines],
        lambda: [_windows_table(line, weighted) for line in overview.lines] or "no model line yet",
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
