"""Columns of a file of outcomes: those that it has by the names of a training table, and the unit of its numbers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from engine.twins import few_implausible, scale_problem
from schemas import TWIN_TYPES, OutcomeEvent, TwinType
from schemas.identifiers import entity_column
from schemas.twin_types import Target

__all__ = ["OutcomeScale", "named_as_outcomes", "outcome_scale", "without_left_out"]

_ENTITY, _ACTUAL = "entity_id", "actual_value"
_NUMBERS = (_ACTUAL, "predicted_value")
_TARGET = ["twin_type", "metric_type"]


class OutcomeScale(NamedTuple):
    """What is doubtful about the unit of outcomes: columns in another unit than declared, and single implausible values."""

    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def named_as_outcomes(frame: pd.DataFrame, twin_type: TwinType, target: str) -> tuple[pd.DataFrame, list[str]]:
    """The table with the names of an outcome's fields, and a note for each column that was renamed.

    The column that names the entities in a training table, such as ``npi``, is ``entity_id``, and the target is ``actual_value``,
    where the table has no columns of these names.

    Example:
        >>> frame = pd.DataFrame({"npi": ["1"], "prescribing_change": [0.1]})
        >>> list(named_as_outcomes(frame, TwinType.HCP, "prescribing_change")[0])
        ['entity_id', 'actual_value']
    """
    names = {}
    if _ENTITY not in frame and (entity := entity_column(frame, twin_type)) is not None:
        names[entity] = _ENTITY
    if _ACTUAL not in frame and target in frame:
        names[target] = _ACTUAL
    return frame.rename(columns=names), [f"{column} read as {field}" for column, field in names.items()]


def without_left_out(frame: pd.DataFrame, twin_type: TwinType, left_out: Collection[str]) -> tuple[pd.DataFrame, list[str]]:
    """The table without columns that trainings of its lines left out, and a note that names them."""
    used = {*OutcomeEvent.model_fields, *TWIN_TYPES[twin_type].by_name}
    dropped = [name for name in map(str, frame) if name in left_out and name not in used]
    return frame.drop(columns=dropped), [f"not sent, as training left them out: {', '.join(dropped)}"] if dropped else []


def outcome_scale(frame: pd.DataFrame, constants: Mapping[str, Any]) -> OutcomeScale:
    """Compare the outcomes of a file, and their predictions, with the plausible scale of their targets.

    Args:
        frame: rows of a file.
        constants: fields of all rows for which it has no column.
    """
    problems: list[str] = []
    warnings: list[str] = []
    for target, rows in _by_target(frame, constants):
        for name in [name for name in _NUMBERS if name in rows]:
            values = pd.to_numeric(rows[name], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
            is_number = np.isfinite(values)
            problem = scale_problem(values[is_number], target, rows[is_number].get(target.share_of))
            problems += [f"{name}: {problem}"] if problem else []
            warnings += [f"{name}: {warning}" for warning in few_implausible(values[is_number], target)]
    return OutcomeScale(tuple(problems), tuple(warnings))


def _by_target(frame: pd.DataFrame, constants: Mapping[str, Any]) -> Iterator[tuple[Target, pd.DataFrame]]:
    """The rows of each target that the catalogue has."""
    named = frame.assign(**{name: constants[name] for name in _TARGET if name not in frame})
    for (twin_type, metric_type), rows in named.groupby(_TARGET, sort=True):
        targets = TWIN_TYPES[TwinType(twin_type)].targets if twin_type in set(TwinType) else ()
        yield from ((target, rows) for target in targets if target.name == metric_type)
