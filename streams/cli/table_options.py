"""The options of all commands that read a table: what the file leaves open, and how strict to be."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from pydantic import SecretStr

from schemas.twin_types import TwinType
from streams.cli.connection import load_settings, mappings_folder
from streams.cli.output import notify
from streams.mappings.saved import absent_columns, load_mapping, matching_mappings
from streams.tables.declared import Kind
from streams.tables.files import table_headers
from streams.tables.mapping import TableMapping
from streams.tables.options import DateOrder, Decimal, TableOptions, TimeUnit

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["NO_MAPPING", "notify_remarks", "reads_table", "saved_mapping"]

NO_MAPPING = "none"
"""Name that stands for no mapping."""

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
    mapping: Annotated[
        str | None,
        _option(
            "--mapping",
            metavar="NAME",
            text="Which column is which feature: a mapping that import has saved, by its name or file. Without it a saved one that "
            "fits is used, which is told; none for no mapping.",
        ),
    ] = None,
    database: Annotated[
        str | None,
        _option(
            "--database",
            metavar="URL",
            text="The database of a query in a .sql file, such as postgresql://ann@host/crm or duckdb:///crm.duckdb; better as "
            "TWIN_TABLES_URL or TWIN_TABLES_URL_FILE, as other users of the machine see the options of commands.",
        ),
    ] = None,
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
        database=SecretStr(database) if database else None,
        mapping=load_mapping(mapping, mappings_folder()) if mapping not in {None, NO_MAPPING} else None,
        ignores_mappings=mapping == NO_MAPPING,
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
        answers = {item.name: values.pop(item.name) for item in added}
        options = _options(**answers)
        source, twin_type = values.get("file") or values.get("data"), values.get("twin_type")
        if options.database is None and any(str(name).endswith(".sql") for name in (source, *values.get("files", ()))):
            options = replace(options, database=load_settings().tables_url)
        if twin_type is not None:
            options = _with_mapping(options, answers["mapping"], source, twin_type)
        command(**values, reading=options)

    parameters = [*own, *added]
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # Typer reads the options from it
    with_options.__annotations__ = {item.name: item.annotation for item in parameters}
    return with_options


def _with_mapping(options: TableOptions, name: str | None, source: Path | None, twin_type: TwinType) -> TableOptions:
    """The options with the saved mapping that fits a file, where none is named."""
    if name is None and source is not None:
        return replace(options, mapping=saved_mapping(source, twin_type, options))
    if options.mapping is not None and options.mapping.twin_type is not twin_type:
        raise ValueError(f"the mapping {options.mapping.name!r} is for {options.mapping.twin_type} twins, not {twin_type} twins")
    return options


def saved_mapping(source: Path, twin_type: TwinType, options: TableOptions) -> TableMapping | None:
    """The only saved mapping that fits a file; None without one, and where the file is absent.

    Raises:
        ValueError: when several fit.
    """
    folder = mappings_folder()
    if not folder.is_dir() or not source.exists():
        return None
    headers = table_headers(source, options)
    fitting = [mapping for mapping in matching_mappings(headers, folder) if mapping.twin_type is twin_type]
    if len(fitting) > 1:
        names = ", ".join(mapping.name for mapping in fitting)
        raise ValueError(f"{source.name}: several saved mappings fit, {names}: choose one with --mapping, or none")
    if not fitting:
        for text in absent_columns(headers, folder, twin_type):
            notify(f"{source.name}: {text}")
    return fitting[0] if fitting else None


def notify_remarks(remarks: Iterable[str]) -> None:
    """Print on stderr what was converted and left out."""
    for remark in remarks:
        notify(remark)
