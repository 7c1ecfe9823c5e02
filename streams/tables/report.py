"""What was read from a table: its rows, the rows that were refused and why, and what was converted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from schemas.arrays import Integers
from schemas.base import count_of, shorten

__all__ = ["MAX_BAD_SHARE", "BadCell", "TableReading", "TableRefused", "count_of"]

MAX_BAD_SHARE = 0.05
"""Share of bad rows above which a table is refused."""

_SHOWN = 5


class BadCell(NamedTuple):
    """A cell that cannot be read, for which its row is refused.

    Attributes:
        row: number of the row in the file, as a spreadsheet counts: the header is row 1. The rows of a data frame count from 0.
        column: name of the column; empty where the row as a whole is wrong.
        value: the cell as it is written.
        reason: what is wrong with it, as a phrase that follows the value.
    """

    row: int
    column: str
    value: str
    reason: str

    def __str__(self) -> str:
        place = f"row {self.row}, {self.column}" if self.column else f"row {self.row}"
        return f"{place}: {shorten(self.value)} {self.reason}"


class TableRefused(ValueError):
    """A table, or a file, that is refused as a whole.

    Attributes:
        problems: one sentence each.
        bad_cells: what is wrong with single rows, where that is the reason.
    """

    def __init__(self, name: str, problems: Sequence[str], bad_cells: Sequence[BadCell] = ()) -> None:
        super().__init__(f"{name}: {'; '.join(problems)}")
        self.problems = tuple(problems)
        self.bad_cells = tuple(bad_cells)


@dataclass(frozen=True)
class TableReading:
    """A table in the kinds of its columns, without its bad rows.

    Attributes:
        name: of the file, for messages.
        frame: the good rows, with the index 0, 1, ... Ids, levels and texts are text with None for missing; whole numbers are int64
            where complete; other numbers float64 with NaN for missing; flags bool where complete, else float64; times are in UTC.
        rows: row of the file of each row of ``frame``, shape ``(n,)``; the header is row 1.
        n_rows: rows of the table, bad ones included.
        bad_cells: in the order of the rows; a row may have several.
        notes: what was converted or left out, one sentence each.
    """

    name: str
    frame: pd.DataFrame
    rows: Integers
    n_rows: int
    bad_cells: tuple[BadCell, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def n_bad(self) -> int:
        """Number of rows that were refused."""
        return len({cell.row for cell in self.bad_cells})

    def require_usable(self, *, strict: bool = False) -> TableReading:
        """The reading itself, when few enough of its rows are bad.

        Raises:
            TableRefused: with more than ``MAX_BAD_SHARE`` of bad rows; when strict, with any.
        """
        if self.n_bad > (0 if strict else MAX_BAD_SHARE * self.n_rows):
            limit = "--strict allows none" if strict else f"at most {MAX_BAD_SHARE:.0%} may be"
            raise TableRefused(
                self.name, [f"{self.n_bad:,} of {count_of(self.n_rows, 'row')} bad, {limit}", *self.examples()], self.bad_cells
            )
        return self

    def examples(self) -> list[str]:
        """The first bad cells, in words."""
        more = len(self.bad_cells) - _SHOWN
        return [*map(str, self.bad_cells[:_SHOWN]), *([f"and {more:,} more"] if more > 0 else [])]

    def remarks(self) -> list[str]:
        """What a user should be told of the reading, one line each: conversions, and rows that were left out."""
        if not self.bad_cells:
            return list(self.notes)
        left_out = f"{self.n_bad:,} of {count_of(self.n_rows, 'row')} left out"
        return [*self.notes, left_out, *(f"  {example}" for example in self.examples())]
