"""The options of all commands that read a table: what the file leaves open, and how strict to be."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from streams.cli.output import notify
from streams.tables.declared import Kind
from streams.tables.options import DateOrder, Decimal, TableOptions, TimeUnit

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["notify_remarks", "reads_table"]

_PANEL = "How the table is read"


def _option(*names: str, metavar: str, text: str) -> Any:
    return typer.Option(*names, metavar=metavar, help=text, rich_help_panel=_PANEL, show_default=False)


def _options(
    *,
    decimal: Annotated[
        Decimal | None, _option("--decimal", metavar="point|comma", text="The sign of decimals, where 1,240 may be 1240 or 1.24.")
    ] = None,
    timezone: Annotated[
        str | None, _option("--timezone", metavar="NAME", text="The zone of times without one, such as UTC or Europe/Berlin.")
    ] = None,
    time_unit: Annotated[
        TimeUnit | None, _option("--time-unit", metavar="|".join(TimeUnit), text="What numbers in a column of times count.")
    ] = None,
    date_order: Annotated[
        DateOrder | None, _option("--date-order", metavar="|".join(DateOrder), text="The order in dates such as 01/02/2026.")
    ] = None,
    missing: Annotated[
        list[str] | None,
        _option(
            "--missing", metavar="TEXT", text="A text that means a missing value, such as NA; repeatable. Empty cells always do."
        ),
    ] = None,
    column: Annotated[
        list[str] | None,
        _option("--column", metavar="NAME=KIND", text=f"The kind of a column, {', '.join(get_args(Kind))}; repeatable."),
    ] = None,
    delimiter: Annotated[
        str | None, _option("--delimiter", metavar="SIGN", text="Between the cells of a text file; tab for a tab.")
    ] = None,
    encoding: Annotated[str | None, _option("--encoding", metavar="NAME", text="Of a text file, such as latin-1.")] = None,
    sheet: Annotated[str | None, _option("--sheet", metavar="NAME", text="The sheet of a workbook.")] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse the table for a single bad row.", rich_help_panel=_PANEL)
    ] = False,
) -> TableOptions:
    """The options as the reader takes them.

    Raises:
        ValueError: for an unknown zone, encoding or kind.
    """
    return TableOptions(
        decimal=decimal,
        delimiter="\t" if delimiter in {"tab", r"\t"} else delimiter,
        encoding=encoding,
        sheet=sheet,
        time_unit=time_unit,
        timezone=timezone,
        date_order=date_order,
        missing=tuple(missing or ()),
        kinds=dict(map(_named_kind, column or ())),
        strict=strict,
    )


def _named_kind(text: str) -> tuple[str, Any]:
    name, sign, kind = text.rpartition("=")
    if not sign or not name:
        raise ValueError(f"--column {text!r} is not NAME=KIND, for example zip=category")
    return name, kind


def reads_table(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of the reader in place of its argument ``reading``, which gets them as :class:`TableOptions`."""
    own = [item for item in inspect.signature(command, eval_str=True).parameters.values() if item.name != "reading"]
    added = list(inspect.signature(_options, eval_str=True).parameters.values())

    @wraps(command)
    def with_options(**values: Any) -> None:
        options = _options(**{item.name: values.pop(item.name) for item in added})
        command(**values, reading=options)

    parameters = [*own, *added]
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # Typer reads the options from it
    with_options.__annotations__ = {item.name: item.annotation for item in parameters}
    return with_options


def notify_remarks(remarks: Iterable[str]) -> None:
    """Print on stderr what was converted and left out."""
    for remark in remarks:
        notify(remark)
