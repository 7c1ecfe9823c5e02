"""The command that demonstrates the whole workflow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from schemas import Brand, TwinType
from streams.cli.campaigns import TwinTypeOption
from streams.cli.connection import load_settings
from streams.cli.log_output import show_service_warnings
from streams.cli.options import TABLE_KINDS, JsonOption, examples, table_path
from streams.cli.output import notify, print_result
from streams.cli.table_options import reads_table
from streams.tables import TableOptions

app = typer.Typer()


@app.command(epilog=examples("twinstream demo", "twinstream demo --data prescribers.csv", "twinstream demo --once --json"))
@reads_table
def demo(
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE", parser=table_path, help=f"Your own table, or the public prescriber table. {TABLE_KINDS}"),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="For scripts: print only the report at the end.")] = False,
    twin_type: TwinTypeOption = TwinType.HCP,
    brand: Annotated[Brand, typer.Option(help="A built-in brand.")] = Brand.KISQALI,
    as_json: JsonOption = False,
    *,
    reading: TableOptions,
) -> None:
    """Run the whole workflow here and print a report.

    It starts the local stack on this machine, trains a model, publishes outcomes that drift, and follows the retrain to the
    promotion. Without --data it runs on a generated table.
    """
    from streams.demo.run import run_demo

    show_service_warnings()
    report = run_demo(load_settings(), data, twin_type, brand, _ignore if once else notify, reading=reading)
    print_result(report.to_dict(), report.format_text, as_json=as_json)
    if not report.succeeded:
        raise typer.Exit(1)


def _ignore(_line: str) -> None:
    """Print nothing."""
