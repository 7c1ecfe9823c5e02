"""The command that tells what a model would make of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from schemas import Brand, TwinType, model_line
from streams.cli.campaigns import BrandOption, TargetOption, TwinTypeOption
from streams.cli.connection import use_file_catalogue
from streams.cli.options import JsonOption, TableArgument, examples
from streams.cli.output import Table, print_result
from streams.cli.table_options import reads_table
from streams.tables import TableOptions

if TYPE_CHECKING:
    from schemas import ModelCard
    from sql.database import Pool
    from streams.settings import Settings
    from streams.training.data_report import DataReport

app = typer.Typer()

_SHOWN = 5


@app.command(epilog=examples("twinstream data check history.parquet", "twinstream data check hcps.csv --mapping hcps --json"))
@reads_table
def check(
    file: TableArgument,
    twin_type: TwinTypeOption = TwinType.HCP,
    brand: BrandOption = Brand.KISQALI,
    target: TargetOption = None,
    as_json: JsonOption = False,
    *,
    reading: TableOptions,
) -> None:
    """Tell what a model would make of the table FILE, on one page.

    Each column with what is missing and beyond its bounds, features that know the target too well, entities with several rows, the
    span of times, and the drift against the training rows of the line's champion where the service can be reached; no server is
    started for it. Exit status 1 when a training would refuse the table.
    """
    from streams.training.data_report import report_file

    use_file_catalogue()
    champion, reason = _champion(model_line(twin_type, brand, target))
    use_file_catalogue()  # the service may have another one, and the table is read by that of the file
    report = report_file(file, twin_type, target, reading, champion)
    print_result(_payload(report, reason), lambda: [_page(report, reason)], as_json=as_json)
    if report.check.problems:
        raise typer.Exit(1)


def _champion(line: str) -> tuple[ModelCard | None, str]:
    """The champion of a line where the service can be reached without starting it, and otherwise why there is none."""
    from streams.cli.connection import load_settings, with_read_pool
    from streams.cli.failures import ServerFailure
    from streams.client.discovery import settings_on_running_stack

    settings = load_settings()
    if not (settings.kafka_bootstrap and settings.server_dsn) and settings_on_running_stack(settings) is None:
        return None, "the service is not running: no champion to compare with"
    try:
        card = with_read_pool(lambda settings, pool: _champion_card(settings, pool, line))
    except ServerFailure as failure:
        return None, f"{failure}: no champion to compare with"
    return card, "" if card else f"{line} has no champion yet"


async def _champion_card(_settings: Settings, pool: Pool, line: str) -> ModelCard | None:
    from sql.ledger import Ledger

    ledger = Ledger(pool)
    champion = await ledger.champion(line)
    return None if champion is None else await ledger.card(champion)


def _payload(report: DataReport, reason: str) -> dict[str, Any]:
    return report.to_dict() | {"drift_reason": reason or report.drift_reason}


def _page(report: DataReport, reason: str) -> Table:
    rows = [
        [
            column.name,
            column.role,
            "" if column.missing is None else f"{column.missing:.1%}",
            f"{column.beyond:,}" if column.beyond else "",
            column.content,
        ]
        for column in report.columns
    ]
    verdict = "a training would refuse it" if report.check.problems else "it can be trained on"
    notes = [
        *(f"problem: {problem}" for problem in report.check.problems),
        *report.facts,
        *_leakage_lines(report),
        *_drift_lines(report, reason),
        *(f"note: {note}" for note in report.check.notes),
    ]
    table = Table(
        ("Column", "Role", "Missing", "Refused", "Content"), rows, f"{report.name}: {verdict}", notes=notes, numeric=(2, 3)
    )
    return table._replace(text="\n".join([table.format_text(), *notes]))


def _leakage_lines(report: DataReport) -> list[str]:
    if not report.knowledge and not report.suspects:
        return ["leakage: not looked for, as no model can be trained on the table"]
    most = sorted(report.knowledge, key=lambda item: -item.alone)[:_SHOWN]
    best = ", ".join(f"{item.name} {item.alone:.2f}" for item in most)
    lines = [f"R2 of one feature alone, on rows that were not learned: {best}"] if best else []
    return [*lines, *(f"leakage suspect: {suspect}" for suspect in report.suspects)] + ["leakage: no suspect"] * (
        not report.suspects
    )


def _drift_lines(report: DataReport, reason: str) -> list[str]:
    if report.drift is None:
        return [f"drift: {reason or report.drift_reason}"]
    moved = [shift for shift in report.drift if shift.moved]
    texts = [f"{shift.name} (index {shift.psi:.2f}, limit {shift.limit:.2f})" for shift in moved]
    return [f"drift {report.drift_reason}: {', '.join(texts) if texts else 'no column has moved'}"]
