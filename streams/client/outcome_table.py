"""Reads the rows of a table as outcome events."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import pandas as pd

from schemas import TWIN_TYPES, OutcomeEvent, TwinType
from streams.client.outcome_ids import NO_ID, OutcomeIds
from streams.errors import describe_error
from streams.tables import TableOptions, outcome_columns, read_frame

__all__ = ["outcome_events", "read_rows"]

_FIELDS = frozenset(OutcomeEvent.model_fields)
_SEGMENT = "segment."
_OBJECTS = ("features", "segment")  # fields that hold a mapping


def outcome_events(
    table: pd.DataFrame, constants: Mapping[str, Any] | None = None, own_features: Collection[str] = ()
) -> Iterator[OutcomeEvent]:
    """Yield the rows of ``table`` as events; an empty cell is left out, an empty ``actual_value`` means a missing outcome.

    A row without ``event_id`` has the one that follows from its content, see :mod:`streams.client.outcome_ids`.

    Args:
        table: columns are fields of an OutcomeEvent, ``segment.DIMENSION``, and features of the twin type.
        constants: fields that are the same for every row, such as ``twin_type`` and ``brand``.
        own_features: features of the line's models beyond those of the twin type.

    Raises:
        ValueError: for an unknown column, a cell that is not of the kind of its column, and a row that is not an outcome; it names
            the column or the row, which counts from 0.
    """
    ids = OutcomeIds()
    for number, event in enumerate(read_rows(_in_kinds(table, constants or {}), constants, own_features)):
        if isinstance(event, str):
            raise ValueError(f"row {number} is not an outcome: {event}")  # noqa: TRY004  # the row is wrong, not a type
        yield event.model_copy(update={"event_id": ids.id_of(event, has_time=True)})


def read_rows(
    table: pd.DataFrame, constants: Mapping[str, Any] | None = None, own_features: Collection[str] = ()
) -> Iterator[OutcomeEvent | str]:
    """Yield each row of ``table`` as an event, with ``NO_ID`` where it has no id, or why it is none.

    Raises:
        ValueError: for an unknown column.
    """
    shared = {"event_id": NO_ID, **(constants or {})}
    features = _feature_columns(table, shared, own_features)
    for row in table.to_dict("records"):
        try:
            yield OutcomeEvent.model_validate(_event_fields({str(name): cell for name, cell in row.items()}, shared, features))
        except ValueError as error:
            yield describe_error(error)


def _in_kinds(table: pd.DataFrame, shared: Mapping[str, Any]) -> pd.DataFrame:
    """The table in the kinds of its columns, as the commands read files.

    Raises:
        TableRefused: for a cell that cannot be read, and a column that can be read in two ways.
    """
    values = [shared["twin_type"]] if "twin_type" in shared else table.get("twin_type", pd.Series()).tolist()
    twin_type = next((TwinType(value) for value in values if value in set(TwinType)), TwinType.HCP)
    objects = [name for name in _OBJECTS if name in table]
    flat = read_frame(table.drop(columns=objects), outcome_columns(twin_type), TableOptions(strict=True)).frame
    return flat.assign(**{name: table[name].tolist() for name in objects})


def _feature_columns(table: pd.DataFrame, shared: Mapping[str, Any], own_features: Collection[str]) -> frozenset[str]:
    """Columns of the table that are features of its twin types, or of the models' own; fields of an outcome are never features.

    Raises:
        ValueError: for columns that are neither fields, segments nor features.
    """
    values = [shared["twin_type"]] if "twin_type" in shared else table.get("twin_type", pd.Series()).unique()
    features = {name for twin_type in map(TwinType, values) for name in TWIN_TYPES[twin_type].by_name} | set(own_features)
    columns = list(map(str, table.columns))
    unknown = [name for name in columns if name not in _FIELDS | features and not name.startswith(_SEGMENT)]
    if unknown:
        feature_names = ", ".join(sorted(features)) or "unknown without a twin_type"
        raise ValueError(
            f"unknown columns {', '.join(unknown)}: use {_SEGMENT}DIMENSION, fields of an outcome"
            f" ({', '.join(sorted(_FIELDS))}) or features of the twin type ({feature_names})"
        )
    return frozenset(features.intersection(columns) - _FIELDS)


def _event_fields(row: Mapping[str, Any], shared: Mapping[str, Any], features: frozenset[str]) -> dict[str, Any]:
    cells = {name: cell for name, cell in row.items() if not _is_empty(cell)}
    fields = {name: cell for name, cell in cells.items() if name in _FIELDS}
    if "entity_id" in fields:
        fields["entity_id"] = str(fields["entity_id"])
    if feature_cells := {name: cell for name, cell in cells.items() if name in features}:
        fields["features"] = feature_cells
    if segment := {name.removeprefix(_SEGMENT): str(cell) for name, cell in cells.items() if name.startswith(_SEGMENT)}:
        fields["segment"] = segment
    return {"actual_value": None, **shared, **fields}


def _is_empty(cell: Any) -> bool:
    return cell is None or cell is pd.NaT or cell is pd.NA or cell != cell  # noqa: PLR0124  # only NaN differs from itself
