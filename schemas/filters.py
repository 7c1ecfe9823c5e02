"""The filter language for generating, simulating and querying twins.

A value or a list means membership, ``min_x`` and ``max_x`` are inclusive bounds on ``x``; ``x`` is a feature of the twin type
or a filter name that its catalogue entry maps to a feature (``tier``, ``region``, ``specialty``, ``decile``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import pandas as pd
from pydantic import BaseModel, BeforeValidator, ConfigDict

from schemas.arrays import Flags
from schemas.base import Frozen, shorten
from schemas.twin_types import TWIN_TYPES, Feature, TwinType

__all__ = ["Condition", "Filters", "PopulationFilter", "canonical_filters", "conditions", "filter_values", "rows_matching"]


_LARGEST = 2**63  # numbers beyond it do not fit into a column
_KINDS = {
    "category": "a category, in words",
    "flag": "a flag, true or false",
    "integer": f"an integer between -{_LARGEST} and {_LARGEST}",
    "number": f"a number between -{_LARGEST} and {_LARGEST}",
}

Value = TypeVar("Value")
Listed = Annotated[list[Value], BeforeValidator(lambda value: [value] if isinstance(value, str | int) else value)]
"""A list of values; a single value is accepted as a list of one."""


class PopulationFilter(BaseModel):
    """The twins that a simulation uses.

    Any feature of the twin type may be added to the four declared fields; unknown features are refused by ``conditions``, where
    the twin type is available.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    specialty: Listed[str] | None = None
    tier: Listed[int] | None = None
    region: Listed[str] | None = None
    min_decile: int | None = None


Filters = PopulationFilter | Mapping[str, Any] | None


class Condition(Frozen):
    """One condition on one column: membership in ``values``, or an inclusive bound ``values[0]``."""

    column: str
    operator: Literal["in", "min", "max"]
    values: tuple[str | int | float | bool, ...]

    def mask(self, column: pd.Series[Any]) -> Flags:
        """Rows of ``column`` that satisfy this condition, shape ``(n,)``; a missing value satisfies none."""
        if self.operator == "in":
            return np.asarray(column.isin(list(self.values)), dtype=bool)
        bound = self.values[0]
        met = column >= bound if self.operator == "min" else column <= bound
        return np.asarray(met.fillna(value=False), dtype=bool)


def filter_values(filters: Filters) -> dict[str, Any]:
    """The fields of a filter that are set."""
    fields = filters.model_dump() if isinstance(filters, PopulationFilter) else dict(filters or {})
    return {key: value for key, value in fields.items() if value is not None}


def conditions(twin_type: TwinType, filters: Filters) -> tuple[Condition, ...]:
    """The filter as conditions on columns, in a fixed order.

    Raises:
        ValueError: for a key or a value that does not exist for this twin type; the message names the allowed ones.
    """
    return tuple(_condition(twin_type, key, value) for key, value in sorted(filter_values(filters).items()))


def canonical_filters(twin_type: TwinType, filters: Filters) -> dict[str, Any]:
    """The filter in canonical form: equal selections give equal dictionaries, for hashing and for storing as JSON."""
    canonical: dict[str, Any] = {}
    for condition in conditions(twin_type, filters):
        if condition.operator == "in":
            canonical[condition.column] = sorted(set(condition.values), key=str)
        else:
            canonical[f"{condition.operator}_{condition.column}"] = condition.values[0]
    return canonical


def rows_matching(frame: pd.DataFrame, required: Iterable[Condition]) -> Flags:
    """Rows of ``frame`` that satisfy every condition, shape ``(n,)``.

    Raises:
        ValueError: when a condition is on a column that the frame lacks.
    """
    mask = np.ones(len(frame), dtype=bool)
    for condition in required:
        if condition.column not in frame:
            raise ValueError(f"cannot filter on {condition.column!r}: these twins have {', '.join(map(str, frame))}")
        mask &= condition.mask(frame[condition.column])
    return mask


def _condition(twin_type: TwinType, key: str, value: Any) -> Condition:
    operator, name = _operator(twin_type, key)
    feature = _feature(twin_type, key, name)
    if operator == "in":
        listed = value if isinstance(value, Sequence | set | frozenset) and not isinstance(value, str) else [value]
        if not listed:
            raise ValueError(f"filter {shorten(key)} is an empty list: provide at least one value or leave it out")
        return Condition(column=feature.name, operator="in", values=tuple(_value(feature, key, v) for v in listed))
    if feature.kind not in ("integer", "number"):
        raise ValueError(f"filter {shorten(key)} is a bound, but {feature.name!r} is a {feature.kind}: list its values instead")
    return Condition(column=feature.name, operator=operator, values=(_value(feature, key, value),))


def _operator(twin_type: TwinType, key: str) -> tuple[Literal["in", "min", "max"], str]:
    if key in _filter_columns(twin_type):
        return "in", key
    if key.startswith("min_"):
        return "min", key.removeprefix("min_")
    if key.startswith("max_"):
        return "max", key.removeprefix("max_")
    return "in", key


def _filter_columns(twin_type: TwinType) -> dict[str, str]:
    """Filter name to column: all features, and the names that the catalogue maps to one."""
    entry = TWIN_TYPES[twin_type]
    return {**{name: name for name in entry.by_name}, **entry.filters}


def _feature(twin_type: TwinType, key: str, name: str) -> Feature:
    columns = _filter_columns(twin_type)
    if name not in columns:
        raise ValueError(
            f"{twin_type} twins cannot be filtered by {shorten(key)}: use {', '.join(sorted(columns))}, or min_/max_ of a number"
        )
    return TWIN_TYPES[twin_type].by_name[columns[name]]


def _value(feature: Feature, key: str, value: Any) -> str | int | float | bool:
    if feature.kind == "category" and isinstance(value, str):
        return value
    if feature.kind == "flag" and isinstance(value, bool | np.bool_):
        return bool(value)
    numeric = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if feature.kind in ("integer", "number") and numeric and -_LARGEST <= value <= _LARGEST:
        return int(value) if float(value).is_integer() else float(value)
    raise ValueError(f"filter {shorten(key)} got {shorten(value)}: {feature.name!r} is {_KINDS[feature.kind]}")
