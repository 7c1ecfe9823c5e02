"""How a table is to be read where the file itself does not settle it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import get_args

from pydantic import SecretStr

from schemas.base import require_one_of
from streams.tables.declared import Kind
from streams.tables.mapping import TableMapping, require_zone

__all__ = ["DateOrder", "Decimal", "TableOptions", "TimeUnit"]


class Decimal(StrEnum):
    """The sign between the whole part and the fraction of a number."""

    POINT = "point"
    COMMA = "comma"


class TimeUnit(StrEnum):
    """What a number in a column of times counts: time since 1970 in UTC, a date written as one number, or days of a spreadsheet."""

    SECONDS = "s"
    MILLISECONDS = "ms"
    MICROSECONDS = "us"
    NANOSECONDS = "ns"
    DATE = "yyyymmdd"
    EXCEL = "excel"


class DateOrder(StrEnum):
    """Order of day, month and year in dates such as 01/02/2026."""

    DMY = "dmy"
    MDY = "mdy"
    YMD = "ymd"


@dataclass(frozen=True)
class TableOptions:
    """Answers to what a file leaves open; without an answer, what can be read in two ways is refused.

    Attributes:
        decimal: sign of decimals in text.
        delimiter: between the cells of a text file.
        encoding: of a text file.
        sheet: of a workbook.
        time_unit: of numbers in columns of times.
        timezone: name of the zone of times that are written without one, as in the IANA database.
        date_order: of dates with their parts in doubt.
        missing: texts that mean a missing value in every column, beside the empty cell.
        kinds: kinds of columns that are not declared, or are to be read otherwise.
        strict: refuse a table with a single bad row.
        database: SQLAlchemy URL of a query.
        mapping: which column is which feature, where the headers are not the declared names.
        ignores_mappings: whether no saved mapping is to be looked for.
    """

    decimal: Decimal | None = None
    delimiter: str | None = None
    encoding: str | None = None
    sheet: str | None = None
    time_unit: TimeUnit | None = None
    timezone: str | None = None
    date_order: DateOrder | None = None
    missing: tuple[str, ...] = ()
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    strict: bool = False
    mapping: TableMapping | None = None
    database: SecretStr | None = None
    ignores_mappings: bool = False

    def __post_init__(self) -> None:
        """Check what can be wrong without a table.

        Raises:
            ValueError: for an unknown time zone, kind or encoding, or a delimiter of several characters.
        """
        for kind in self.kinds.values():
            require_one_of("kind of a column", kind, get_args(Kind))
        if self.delimiter is not None and len(self.delimiter) != 1:
            raise ValueError(f"the delimiter is one character, not {self.delimiter!r}")
        if self.encoding is not None:
            _require_encoding(self.encoding)
        if self.timezone is not None:
            require_zone(self.timezone)


def _require_encoding(name: str) -> None:
    try:
        " ".encode(name)  # an empty text is encoded without a look at the name
    except (LookupError, ValueError):
        raise ValueError(f"unknown encoding {name!r}: use a name such as utf-8, utf-16 or latin-1") from None
