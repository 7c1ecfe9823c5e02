"""The data contract of a table: what a model would make of it, on one page.

It holds, besides the findings of :mod:`streams.training.table_check`, each column with what is missing and beyond its bounds,
suspects of leakage, entities with several rows, the span of times, and the drift against the training rows of a champion.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from engine.fidelity.input_drift import PREDICTED, bin_counts, column_shifts
from engine.twins import build_training_table
from engine.twins.leakage import FeatureKnowledge, copied_columns, feature_knowledge
from schemas import TWIN_TYPES, ModelCard, TwinType
from schemas.fidelity_models import ColumnShift
from schemas.identifiers import entity_column
from schemas.level_meaning import declared_level
from schemas.levels import levels_of
from sql.training_data_store import OBSERVED
from streams.mappings.names import name_parts
from streams.tables import TableOptions, TableReading
from streams.training.table_check import TableCheck, check_reading, read_for_check

__all__ = ["ColumnLine", "DataReport", "report_file", "report_table"]

_SHOWN_LEVELS = 3
_RARE_ROWS = 10
_NOT_COMPARED = "not looked for, as no row can be used"


@dataclass(frozen=True)
class ColumnLine:
    """One column.

    Attributes:
        name: of the column.
        role: feature, own feature, target, id, time, or unused.
        missing: share of the rows without a value; None without a row that can be used.
        content: its levels with their shares, or its numbers from the smallest over the median to the largest.
        beyond: cells that were refused, such as numbers beyond the bounds.
    """

    name: str
    role: str
    missing: float | None
    content: str
    beyond: int


@dataclass(frozen=True)
class DataReport:
    """What a model would make of a table.

    Attributes:
        name: of the table.
        check: what a training would refuse it for, leave out or tell.
        columns: each column.
        facts: rows, entities, entities with several rows, span of times; a sentence each.
        suspects: features that know the target too well; a sentence each.
        knowledge: what each feature knows of the target, the most first; empty where no model could be trained.
        drift: shift of each column against the champion's training rows, the furthest first; None without a champion.
        drift_reason: why there is no drift, or of which model it is.
    """

    name: str
    check: TableCheck
    columns: tuple[ColumnLine, ...]
    facts: tuple[str, ...]
    suspects: tuple[str, ...]
    knowledge: tuple[FeatureKnowledge, ...] = ()
    drift: tuple[ColumnShift, ...] | None = None
    drift_reason: str = field(default="no champion to compare with")

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON."""
        return {
            "table": self.name,
            "facts": self.facts,
            "columns": [vars(column) for column in self.columns],
            "suspects": self.suspects,
            "knowledge": [item._asdict() for item in self.knowledge],
            "drift": None if self.drift is None else [shift.model_dump(mode="json") for shift in self.drift],
            "drift_reason": self.drift_reason,
            "problems": [{"text": item.text, "rows": item.rows} for item in self.check.problems],
            "notes": [{"text": item.text, "rows": item.rows} for item in self.check.notes],
        }


def report_file(
    path: Path, twin_type: TwinType, target: str | None, options: TableOptions, champion: ModelCard | None = None
) -> DataReport:
    """The report on a file, also on one that a training would refuse.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for a target that the catalogue does not declare, or a file that cannot be read at all.
    """
    reading, remarks = read_for_check(path, twin_type, target, options)
    return report_table(reading, twin_type, target, champion, remarks)


def report_table(
    reading: TableReading,
    twin_type: TwinType,
    target: str | None = None,
    champion: ModelCard | None = None,
    remarks: Sequence[str] = (),
) -> DataReport:
    """The report on a table.

    Args:
        reading: the table.
        twin_type: of the entities.
        target: of the line; by default that of the twin type.
        champion: model whose training rows the columns are compared with.
        remarks: on the reading, beside those that it has.
    """
    name = TWIN_TYPES[twin_type].target(target).name
    check = check_reading(reading, twin_type, target, remarks)
    knowledge = _knowledge(reading.frame, twin_type, name)
    if champion is None or reading.frame.empty:
        drift, reason = None, _NOT_COMPARED if reading.frame.empty else "no champion to compare with"
    else:
        drift = column_shifts(_counts(reading.frame, champion), champion.baseline)
        reason = f"against the training rows of {champion.model_id}"
    return DataReport(
        name=reading.name,
        check=check,
        columns=tuple(_column_lines(reading, twin_type, name)),
        facts=tuple(_facts(reading, twin_type)),
        suspects=tuple(_suspects(reading.frame, name, knowledge)),
        knowledge=tuple(knowledge),
        drift=drift,
        drift_reason=reason,
    )


def _column_lines(reading: TableReading, twin_type: TwinType, target: str) -> list[ColumnLine]:
    beyond = Counter(cell.column for cell in reading.bad_cells)
    frame = reading.frame
    entity = entity_column(frame, twin_type)
    names = TWIN_TYPES[twin_type].by_name

    def role(column: str) -> str:
        if column in {entity, OBSERVED, target}:
            return "id" if column == entity else "time" if column == OBSERVED else "target"
        return "feature" if column in names else "own feature"

    return [
        ColumnLine(
            str(column),
            role(str(column)),
            float(frame[column].isna().mean()) if len(frame) else None,
            _content(frame[column], str(column)) if len(frame) else "",
            beyond[str(column)],
        )
        for column in frame
    ]


def _content(column: pd.Series[Any], name: str) -> str:
    present = column.dropna()
    if present.empty:
        return "empty"
    if pd.api.types.is_datetime64_any_dtype(column):
        return f"{present.min():%Y-%m-%d} to {present.max():%Y-%m-%d}"
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        low, middle, high = (float(present.quantile(share)) for share in (0, 0.5, 1))
        return f"{low:g} .. {middle:g} .. {high:g}"
    counts = _as_levels(present, name).value_counts()
    if len(counts) > len(present) / 2 and len(present) > _RARE_ROWS:
        return f"{len(counts):,} different values"
    shown = ", ".join(f"{level} {share:.0%}" for level, share in (counts / len(present))[:_SHOWN_LEVELS].items())
    rare = int((counts < _RARE_ROWS).sum())
    return f"{len(counts):,} levels: {shown}" + (f"; {rare:,} with fewer than {_RARE_ROWS} rows" if rare else "")


def _as_levels(column: pd.Series[Any], name: str) -> pd.Series[str]:
    """The column with each value as the level that it means, whatever its spelling."""
    levels = levels_of(column)
    return levels.texts({text: declared_level(name, spelled) for text, spelled in levels.spellings().items()})


def _facts(reading: TableReading, twin_type: TwinType) -> list[str]:
    frame = reading.frame
    facts = [f"{reading.n_rows:,} rows, {reading.n_bad:,} of them bad"]
    if frame.empty:
        return [*facts, "no row can be used: nothing is told of the columns but what was refused"]
    entity = entity_column(frame, twin_type)
    if entity is None:
        facts.append("no column names the entity of a row: each row counts as one")
    else:
        counts = frame[entity].value_counts()
        repeated = int((counts > 1).sum())
        most = f", at most {int(counts.max()):,}" if repeated else ""
        facts.append(f"{len(counts):,} entities by {entity}, {repeated:,} of them with several rows{most}")
    if OBSERVED in frame and frame[OBSERVED].notna().any():
        times = frame[OBSERVED]
        later = int((times > pd.Timestamp.now("UTC")).sum())
        facts.append(f"times from {times.min():%Y-%m-%d} to {times.max():%Y-%m-%d}, {later:,} later than now")
    else:
        facts.append("no times: a model cannot be judged on later rows than it has learned")
    return facts


def _knowledge(frame: pd.DataFrame, twin_type: TwinType, target: str) -> list[FeatureKnowledge]:
    """What the features know of the target; nothing where no model could be trained."""
    try:
        return feature_knowledge(build_training_table(frame, twin_type, target))
    except ValueError:
        return []


def _suspects(frame: pd.DataFrame, target: str, knowledge: Sequence[FeatureKnowledge]) -> list[str]:
    sentences = [item.suspicion for item in knowledge if item.is_suspect]
    if target in frame:
        sentences += copied_columns(frame, target)
    return [*sentences, *_of_the_last_year([str(name) for name in frame if name != target])]


def _of_the_last_year(names: Sequence[str]) -> list[str]:
    """Columns that name the last of several years, which may be that of the target."""
    years = _named_years(names)
    if len(set(years.values())) < 2:
        return []
    last = max(years.values())
    of_last = ", ".join(repr(name) for name, year in years.items() if year == last)
    return [f"of {last}, the last year that names of columns have: {of_last}; leave out what is of the target's own period"]


def _named_years(names: Sequence[str]) -> dict[str, int]:
    """The year that a column names; of columns that differ in their numbers alone only where each number is a past or next year."""
    latest = pd.Timestamp.now("UTC").year + 1
    years = {name: name_parts(name).year for name in names}
    stems = {name: re.sub(r"\d+", "#", name) for name in names}
    counted = {stems[name] for name, year in years.items() if "#" in stems[name] and (year is None or year > latest)}
    return {name: year for name, year in years.items() if year is not None and stems[name] not in counted}


def _counts(frame: pd.DataFrame, champion: ModelCard) -> dict[str, np.ndarray[Any, Any]]:
    """Rows in each bin of each input of a model; a column that the table lacks counts as missing."""
    missing = pd.Series([None] * len(frame), dtype=object)
    inputs = {name: bins for name, bins in champion.baseline.inputs.items() if name != PREDICTED}
    return {name: bin_counts(frame.get(name, missing), bins, name) for name, bins in inputs.items()}
