"""What the columns of a table hold: the features and targets of the catalogue, and the fields of an outcome."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from schemas.twin_types import TWIN_TYPES, Feature, Target, TwinType

__all__ = ["Column", "Kind", "entity_columns", "outcome_columns"]

Kind = Literal["id", "category", "integer", "number", "flag", "time", "text"]


@dataclass(frozen=True)
class Column:
    """A column whose content is declared.

    Attributes:
        kind: an ``id`` is text that stays as it is written; ``category`` is a level; ``text`` is left to its reader.
        low, high: inclusive bounds of numbers.
        is_fraction: whether the unit is a fraction, so that 12 % is 0.12.
        is_named: whether the caller asks for this very column, so that a mapping that leaves it out does not.
        levels: what texts of the column stand for, in any case; the kind reads that in their place.
        is_declared: false for a column of the user's own, whose kind was concluded from its cells.
    """

    name: str
    kind: Kind
    low: float | None = None
    high: float | None = None
    is_fraction: bool = False
    is_declared: bool = True
    is_named: bool = False
    levels: Mapping[str, str] = field(default_factory=dict, hash=False)


ID_COLUMNS = ("entity_id", "id", "hcp_id", "patient_id", "territory_id", "npi")
"""Names of the column that identifies the entity of a row, the first that a table has."""

_TIME = "observed_at"
_OUTCOME_TEXTS = ("event_id", "model_id", "simulation_id", "twin_id", "twin_type", "brand", "metric_type")
_PREDICTIONS = ("actual_value", "predicted_value", "predicted_lower", "predicted_upper")


def entity_columns(twin_type: TwinType) -> dict[str, Column]:
    """Columns of a table with one row per entity: ids, time, features and targets of a twin type."""
    entry = TWIN_TYPES[twin_type]
    return _by_name(
        [
            *(Column(name, "id") for name in ID_COLUMNS),
            Column(_TIME, "time"),
            *map(_feature_column, entry.features),
            *map(_target_column, entry.targets),
        ]
    )


def outcome_columns(twin_type: TwinType) -> dict[str, Column]:
    """Columns of a table with one row per outcome: fields of an outcome, segments, and features.

    Rows may name a twin type of their own; the given one is that of the others, and says what a percentage is.
    """
    entry = TWIN_TYPES[twin_type]
    entries = [*(item for item in TWIN_TYPES.values() if item is not entry), entry]
    is_fraction = all(target.is_fraction for target in entry.targets)
    return _by_name(
        [
            *(Column(name, "text") for name in _OUTCOME_TEXTS),
            *(Column(name, "number", is_fraction=is_fraction) for name in _PREDICTIONS),
            *(Column(name, "id") for name in ID_COLUMNS),
            Column(_TIME, "time"),
            Column("revision", "integer", 0),
            Column("schema_version", "integer", 1),
            Column("treated", "flag"),
            *(Column(f"segment.{name}", "category") for entry in entries for name in entry.segments),
            *(_feature_column(feature) for entry in entries for feature in entry.features),
            *(_target_column(target) for entry in entries for target in entry.targets),
        ]
    )


def _by_name(columns: Iterable[Column]) -> dict[str, Column]:
    return {column.name: column for column in columns}


def _feature_column(feature: Feature) -> Column:
    return Column(feature.name, feature.kind, feature.low, feature.high, feature.is_fraction)


def _target_column(target: Target) -> Column:
    return Column(target.name, "number", is_fraction=target.is_fraction)
