"""Options that several commands share, and how a filter is read. Nothing here imports the schemas: those are in ``campaigns``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from schemas import PopulationFilter

__all__ = [
    "TABLE_KINDS",
    "ConfidenceOption",
    "DryRunOption",
    "FilterOption",
    "JsonOption",
    "KindOption",
    "LineArgument",
    "MinEffectOption",
    "OutOption",
    "ReasonOption",
    "TableArgument",
    "TopicOption",
    "examples",
    "parse_filter",
    "parse_filters",
    "require_value",
    "table_path",
]

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")]
ReasonOption = Annotated[str, typer.Option(metavar="TEXT", help="Why; it is stored in the ledger.", show_default=False)]
TopicOption = Annotated[str | None, typer.Option(metavar="TOPIC", help="Only records that arrived on this topic.")]
KindOption = Annotated[
    str | None, typer.Option(metavar="KIND", help="Only this kind of refusal: invalid, json, simulation, champion, ...")
]
LineArgument = Annotated[
    str, typer.Argument(metavar="LINE", help="A model line, for example hcp:kisqali:prescribing_change.", show_default=False)
]
TABLE_KINDS = "A CSV, Parquet or Excel file, a folder of them, or a .sql file with a query."


def table_path(text: str) -> Path:
    """The path of a table; an empty one would be the current folder."""
    if not text:
        raise typer.BadParameter("the name of the file is empty")
    return Path(text)


TableArgument = Annotated[Path, typer.Argument(metavar="FILE", parser=table_path, help=TABLE_KINDS)]
OutOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", dir_okay=False, help="Write one row per entity to this .csv, .csv.gz or .parquet file."),
]
FilterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        metavar="NAME=VALUE[,VALUE]",
        help="Only these twins, for example region=south,west or min_decile=8; repeatable.",
    ),
]


def examples(*lines: str) -> str:
    r"""Build the "Examples:" at the end of a command's help; ``\b`` keeps Typer from joining the lines."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


_NUMBER_WITH_SIGNS = re.compile(r"[+-]?[$\u20ac\u00a3]?\s?\d[\d.,'\s]*[%$\u20ac\u00a3]?")
_PLAIN_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")

T = TypeVar("T", bound=float | None)


def require_value(is_allowed: Callable[[float], bool], allowed: str) -> Callable[[typer.CallbackParam, T], T]:
    """Build the callback of an option that refuses a number that is not allowed; ``allowed`` words what is.

    The command then raises a ``ValueError`` that names the option, where the event would name its own field.
    """

    def check(option: typer.CallbackParam, value: T) -> T:
        if value is not None and not is_allowed(value):
            raise ValueError(f"{option.opts[0]} {allowed}, not {value}")
        return value

    return check


MinEffectOption = Annotated[
    float | None,
    typer.Option(
        "--min-effect",
        metavar="FRACTION",
        help="Smallest effect worth a deployment; 0.05 unless the line has another one.",
        callback=require_value(lambda value: 0.0001 <= value < 1, "must be at least 0.0001 and below 1"),
    ),
]
ConfidenceOption = Annotated[
    float | None,
    typer.Option(
        metavar="PROBABILITY",
        help="Probability that a recommendation needs; 0.9 unless the line has another one.",
        callback=require_value(lambda value: 0.5 < value < 1, "must be between 0.5 and 1"),
    ),
]


def parse_filter(text: str) -> tuple[str, Any]:
    """Read ``name=value`` or ``name=value,value``; a value that is written as a number is one.

    Raises:
        ValueError: when name, ``=`` or value is missing, and for a bound written with signs: 1,000 is no list of values.
    """
    name, sign, listed = text.partition("=")
    if not sign or not name or not listed:
        raise ValueError(f"filter {text!r} is not NAME=VALUE, for example region=south,west or min_decile=8")
    values = [_filter_value(value) for value in listed.split(",")]
    if not name.startswith(("min_", "max_")):
        return name, values
    if _NUMBER_WITH_SIGNS.fullmatch(listed) and not _PLAIN_NUMBER.fullmatch(listed):
        raise ValueError(
            f"filter {text!r} is a bound, which is one number in digits with a decimal point: write {name}=1000 for a thousand,"
            f" {name}=0.5 for a half or 50%"
        )
    return name, values if len(values) > 1 else values[0]


def _filter_value(text: str) -> int | float | str:
    """The number whose usual form the text is, else the text: ``01`` may be a level."""
    for convert in (int, float):
        try:
            number: int | float = convert(text)
        except ValueError:
            continue
        if str(number) == text and math.isfinite(number):
            return number
    return text


def parse_filters(texts: Iterable[str] | None) -> PopulationFilter:
    """Combine every ``--filter`` of a command.

    Raises:
        ValueError: for a filter that cannot be read, or one that does not exist.
    """
    from schemas import PopulationFilter

    return PopulationFilter.model_validate(dict(map(parse_filter, texts or ())))
