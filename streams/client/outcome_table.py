"""A table of outcomes as events, a row each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from schemas import TWIN_TYPES, OutcomeEvent, TwinType
from streams.errors import describe_error

__all__ = ["outcome_events"]

_FIELDS = frozenset(OutcomeEvent.model_fields)
_SEGMENT = "segment."


def outcome_events(table: pd.DataFrame, constants: Mapping[str, Any] | None = None) -> Iterator[OutcomeEvent]:
    """The rows of ``table`` as events; an empty cell says nothing, but an empty ``actual_value`` is known to be missing.

    Args:
        table: columns are fields of an OutcomeEvent, ``segment.DIMENSION``, and features of the twin type.
        constants: fields that are the same for every row, such as ``twin_type`` and ``brand``.

    Raises:
        ValueError: for a column that means nothing, and for a row that is no outcome; it names the column or the row.
    """
    same = dict(constants or {})
    features = _feature_columns(table, same)
    for number, row in enumerate(table.to_dict("records")):
        try:
            yield OutcomeEvent.model_validate(_fields({str(name): cell for name, cell in row.items()}, same, features))
        except ValueError as error:
            raise ValueError(f"row {number} is no outcome: {describe_error(error)}") from error


def _feature_columns(table: pd.DataFrame, same: Mapping[str, Any]) -> frozenset[str]:
    kinds = {
        TwinType(kind) for kind in ([same["twin_type"]] if "twin_type" in same else table.get("twin_type", pd.Series()).unique())
    }
    known = {name for kind in kinds for name in TWIN_TYPES[kind].by_name}
    strange = [name for name in map(str, table.columns) if name not in _FIELDS | known and not name.startswith(_SEGMENT)]
    if strange:
        named = ", ".join(sorted(known)) or "unknown without twin_type"
        raise ValueError(
            f"columns {', '.join(strange)} mean nothing here: use {_SEGMENT}DIMENSION, fields of an outcome"
            f" ({', '.join(sorted(_FIELDS))}) or features of the twin type ({named})"
        )
    return frozenset(known & set(map(str, table.columns)))


def _fields(row: Mapping[str, Any], same: Mapping[str, Any], features: frozenset[str]) -> dict[str, Any]:
    given = {name: cell for name, cell in row.items() if not _empty(cell)}
    said = {name: cell for name, cell in given.items() if name in _FIELDS}
    if "entity_id" in said:
        said["entity_id"] = str(said["entity_id"])
    if found := {name: cell for name, cell in given.items() if name in features}:
        said["features"] = found
    if found := {name.removeprefix(_SEGMENT): str(cell) for name, cell in given.items() if name.startswith(_SEGMENT)}:
        said["segment"] = found
    return {"actual_value": None, **same, **said}


def _empty(cell: Any) -> bool:
    return cell is None or cell is pd.NaT or cell is pd.NA or cell != cell  # noqa: PLR0124  # only NaN differs from itself
