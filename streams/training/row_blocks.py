"""Reads some columns of long tables block by block, with the refusals and counts of the one reader over all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from schemas.arrays import Flags
from streams.tables import BadCell, Column, RawTable, TableOptions, TableReading, TableRefused, convert_table, table_blocks
from streams.tables.report import count_of

__all__ = ["RowBlocks", "refuse_rows"]

_MAX_BAD_ROWS = 100_000
"""Bad rows beyond which reading stops at once."""


def refuse_rows(reading: TableReading, bad: Flags, column: str, values: pd.Series[Any], reason: str) -> TableReading:
    """The reading without the rows at which the mask ``bad``, of shape ``(n,)``, is true, which are counted as bad."""
    if not bad.any():
        return reading
    cells = [
        BadCell(int(row), column, str(value), reason)
        for row, value in zip(reading.rows[bad].tolist(), values[bad].tolist(), strict=True)
    ]
    frame = reading.frame[~bad].reset_index(drop=True)
    return replace(reading, frame=frame, rows=reading.rows[~bad], bad_cells=tuple(sorted((*reading.bad_cells, *cells))))


@dataclass
class RowBlocks:
    """The rows of files in blocks, and what was read so far.

    Attributes:
        paths: of the files.
        choose: takes the headers of a file; returns the header of each column that is needed, by our name of it.
        columns: what each of them holds, by our name.
        options: of reading.
        check: of a block, which may refuse rows.
        unused: headers that were not needed, of the files read so far.
    """

    paths: Sequence[Path]
    choose: Callable[[RawTable], Mapping[str, str]]
    columns: Mapping[str, Column]
    options: TableOptions
    check: Callable[[TableReading], TableReading] = lambda reading: reading
    n_rows: int = 0
    bad_cells: list[BadCell] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)
    unused: dict[str, None] = field(default_factory=dict)

    def frames(self) -> Iterator[pd.DataFrame]:
        """The good rows of each block, columns by our names; afterwards the counts are complete.

        Raises:
            TableRefused: when a column can be read in two ways, or too many rows are bad.
        """
        for path in self.paths:
            for raw in table_blocks(path, self.options):
                reading = self.check(self._convert(raw))
                self.n_rows += reading.n_rows
                self.bad_cells += reading.bad_cells
                self.notes |= dict.fromkeys(note for note in reading.notes if " cells " not in note)
                if len(self.bad_cells) > _MAX_BAD_ROWS:
                    raise TableRefused(path.name, [f"more than {_MAX_BAD_ROWS:,} cells are bad", *reading.examples()])
                yield reading.frame
        self.summary.require_usable(strict=self.options.strict)

    def _convert(self, raw: RawTable) -> TableReading:
        headers = self.choose(raw)
        self.unused |= dict.fromkeys(header for header in raw.headers if header not in headers.values())
        places = [raw.headers.index(header) for header in headers.values()]
        chosen_columns = replace(raw, headers=tuple(headers), columns=tuple(raw.columns[place] for place in places))
        return convert_table(chosen_columns, self.columns, replace(self.options, kinds={}, mapping=None))

    @property
    def summary(self) -> TableReading:
        """What was read: counts, bad cells and notes, without the rows."""
        name = self.paths[0].name if len(self.paths) == 1 else count_of(len(self.paths), "file")
        return TableReading(name, pd.DataFrame(), np.arange(0), self.n_rows, tuple(self.bad_cells), tuple(self.notes))
