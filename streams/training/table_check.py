"""Checks a table before a training: everything that would stop it, and everything it would only tell, with the rows concerned.

Nothing is trained, and no server is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from engine.twins import (
    MIN_ENTITIES,
    MIN_SAMPLES,
    TrainingTable,
    build_training_table,
    feature_knowledge,
    identifier_warnings,
    refuse_copies,
    scale_problem,
)
from schemas import TWIN_TYPES, TwinType
from schemas.arrays import Flags
from schemas.clinical_terms import clinical_term
from schemas.identifiers import entity_column
from schemas.levels import numbers_of
from sql.training_data_store import OBSERVED
from streams.tables import (
    MAX_BAD_SHARE,
    BadCell,
    TableOptions,
    TableReading,
    TableRefused,
    convert_table,
    entity_columns,
    load_table,
)
from streams.tables.headers import header_key
from streams.tables.raw import FIRST_ROW
from streams.training import part_d
from streams.training.datasets import as_training_table, read_training_table
from streams.training.imported_table import ImportedTable
from streams.training.open_payments import is_open_payments

__all__ = ["Finding", "TableCheck", "check_file", "check_reading", "check_table", "read_for_check", "suspects"]

_SHOWN_ROWS = 10


@dataclass(frozen=True)
class Finding:
    """Something to know of a table.

    Attributes:
        text: one sentence without its full stop.
        rows: numbers of the rows in the file, where single rows are concerned.
    """

    text: str
    rows: tuple[int, ...] = ()

    def __str__(self) -> str:
        if not self.rows:
            return self.text
        more = len(self.rows) - _SHOWN_ROWS
        shown = ", ".join(map(str, self.rows[:_SHOWN_ROWS])) + (f" and {more:,} more" if more > 0 else "")
        return f"{self.text}: {len(self.rows):,} {'row' if len(self.rows) == 1 else 'rows'}, {shown}"


@dataclass(frozen=True)
class TableCheck:
    """What a check has found.

    Attributes:
        rows: number of rows of the table.
        problems: what a training would refuse the table for.
        notes: what a training would leave out or tell.
    """

    rows: int
    problems: tuple[Finding, ...]
    notes: tuple[Finding, ...]


def check_file(path: Path, twin_type: TwinType, target: str | None = None, options: TableOptions | None = None) -> TableCheck:
    """All findings of a file, also of one that cannot be read.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for a target that the catalogue does not declare.
    """
    try:
        reading, remarks = read_for_check(path, twin_type, target, options or TableOptions())
    except TableRefused as refused:
        return TableCheck(0, tuple(map(Finding, refused.problems)), ())
    check = check_reading(reading, twin_type, target, remarks)
    doubtful = suspects(reading.frame, twin_type, TWIN_TYPES[twin_type].target(target).name)
    return replace(check, notes=(*check.notes, *map(Finding, doubtful)))


def read_for_check(
    path: Path, twin_type: TwinType, target: str | None, options: TableOptions
) -> tuple[TableReading, tuple[str, ...]]:
    """A table whatever the number of its bad rows, and remarks on its conversion where it has a known layout.

    Raises:
        TableRefused: when the file cannot be read.
    """
    declared = entity_columns(twin_type)
    raw = load_table(path, options, frozenset(map(header_key, declared)) | part_d.KNOWN_HEADERS)
    if options.mapping is None and (part_d.is_part_d(raw.headers) or is_open_payments(raw.headers)):
        return _converted(read_training_table([path], twin_type, target, options))
    reading = convert_table(raw, declared, options)
    if part_d.is_joined_years(reading.frame):
        return _converted(as_training_table(reading, twin_type, target))
    return reading, ()


def _converted(imported: ImportedTable) -> tuple[TableReading, tuple[str, ...]]:
    frame = imported.frame
    reading = TableReading(imported.source, frame, np.arange(len(frame)) + FIRST_ROW, len(frame))
    return reading, (*imported.remarks, *imported.notes)


def check_reading(reading: TableReading, twin_type: TwinType, target: str | None = None, remarks: Sequence[str] = ()) -> TableCheck:
    """All findings of a table, and remarks on its conversion."""
    check = check_table(reading, twin_type, target)
    return replace(check, notes=(*map(Finding, remarks), *check.notes))


def check_table(reading: TableReading, twin_type: TwinType, target: str | None = None) -> TableCheck:
    """All findings of a table, whatever the number of its bad rows.

    Args:
        reading: the table.
        twin_type: of the line that would be trained.
        target: of that line; by default that of the twin type.

    Raises:
        ValueError: for a target that the catalogue does not declare.
    """
    name = TWIN_TYPES[twin_type].target(target).name
    too_many = reading.n_bad > MAX_BAD_SHARE * reading.n_rows
    bad = list(_bad_cells(reading.bad_cells))
    problems = [Finding(f"{reading.n_bad:,} of {reading.n_rows:,} rows are bad, at most {MAX_BAD_SHARE:.0%} may be")] * too_many
    problems += [*(bad if too_many else []), *_problems(reading, twin_type, name)]
    notes = [*map(Finding, reading.notes), *([] if too_many else bad), *_row_notes(reading, twin_type, name)]
    try:
        table = build_training_table(reading.frame, twin_type, name)
    except ValueError as error:
        problems = problems or [Finding(str(error))]
        notes += map(Finding, identifier_warnings(reading.frame, twin_type))
    else:
        notes += map(Finding, table.warnings)
        problems += map(Finding, _copies(table, name))
    return TableCheck(reading.n_rows, tuple(problems), tuple(notes))


def _copies(table: TrainingTable, target: str) -> Iterator[str]:
    try:
        refuse_copies(table, target)
    except ValueError as error:
        yield str(error)


def suspects(frame: pd.DataFrame, twin_type: TwinType, target: str) -> list[str]:
    """Features of a table that know its target too well, a sentence each; none where no model can be trained on it."""
    try:
        table = build_training_table(frame, twin_type, target)
    except ValueError:
        return []
    return [item.suspicion for item in feature_knowledge(table) if item.is_suspect]


def _bad_cells(cells: Sequence[BadCell]) -> Iterator[Finding]:
    """One finding for each column and reason."""
    for column, reason in dict.fromkeys((cell.column, cell.reason) for cell in cells):
        alike = [cell for cell in cells if (cell.column, cell.reason) == (column, reason)]
        text = f"{column} {reason}, such as {alike[0].value!r}" if column else f"a row {reason}"
        yield Finding(text, tuple(dict.fromkeys(cell.row for cell in alike)))


def _problems(reading: TableReading, twin_type: TwinType, target: str) -> Iterator[Finding]:
    yield from _column_problems(reading.frame, twin_type, target)
    if target in reading.frame and not reading.n_bad == reading.n_rows > 0:  # of bad rows alone nothing is concluded
        yield from _target_problems(reading.frame, twin_type, target)


def _column_problems(frame: pd.DataFrame, twin_type: TwinType, target: str) -> Iterator[Finding]:
    for name in map(str, frame):
        if term := clinical_term(twin_type, name):
            yield Finding(f"column {name!r} is clinical ({term!r}): twins are made of operational data only, drop it")
    names = TWIN_TYPES[twin_type].by_name
    if not any(name in frame for name in names):
        yield Finding(f"no column is a feature of {twin_type} twins: expected some of {', '.join(names)}")
    if target not in frame:
        yield Finding(f"the table has no column {target!r}, the target: it has {', '.join(map(str, frame))}")


def _target_problems(frame: pd.DataFrame, twin_type: TwinType, target: str) -> Iterator[Finding]:
    outcome = numbers_of(frame[target], target)
    usable = np.isfinite(outcome)
    if usable.sum() < MIN_SAMPLES:
        yield Finding(f"{int(usable.sum()):,} rows with a value of {target!r} are too few: {MIN_SAMPLES:,} are needed")
    elif not np.ptp(outcome[usable]):
        yield Finding(f"{target!r} is {outcome[usable][0]:g} in every row: there is nothing to learn")
    declared = TWIN_TYPES[twin_type].target(target)
    if problem := scale_problem(outcome[usable], declared, frame[usable].get(declared.share_of)):
        yield Finding(problem)
    entity = entity_column(frame, twin_type)
    if entity is not None and (n := frame.loc[usable, entity].nunique() + frame.loc[usable, entity].isna().sum()) < MIN_ENTITIES:
        yield Finding(f"the rows are of {n} entities by the column {entity!r}: {MIN_ENTITIES} are needed")


def _row_notes(reading: TableReading, twin_type: TwinType, target: str) -> Iterator[Finding]:
    """Rows without a target, and rows that repeat others."""
    frame = reading.frame
    if target in frame:
        yield from _of_rows(reading, ~np.isfinite(numbers_of(frame[target], target)), f"without a value of {target!r}, left out")
    repeated = _repeated(frame)
    yield from _of_rows(reading, repeated, "equal to an earlier row in every column, kept")
    entity = entity_column(frame, twin_type)
    if entity is not None:
        keys = [entity, *([OBSERVED] if OBSERVED in frame else [])]
        again = _repeated(frame[keys]) & frame[entity].notna().to_numpy() & ~repeated
        yield from _of_rows(reading, again, f"with the {' and '.join(keys)} of an earlier row, kept as rows of one entity")
        yield from _of_rows(reading, frame[entity].isna().to_numpy(), f"without a value of {entity!r}, each taken for an entity")


def _repeated(frame: pd.DataFrame) -> Flags:
    return np.asarray(frame.duplicated().to_numpy(), dtype=np.bool_)


def _of_rows(reading: TableReading, mask: Any, text: str) -> Iterator[Finding]:
    if mask.any():
        yield Finding(text, tuple(reading.rows[mask].tolist()))
