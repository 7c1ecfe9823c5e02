"""The filter language for generating, simulating and querying twins.

A value or a list means membership, ``min_x`` and ``max_x`` are inclusive bounds on ``x``; ``x`` is a feature of the twin type,
a filter name that its catalogue entry maps to a feature (``tier``, ``region``, ``specialty``, ``decile``), or a column of a model's
own. A value means what it means as a feature (:mod:`schemas.levels`): a code is a level, in any spelling, and the text of a number
is a number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from schemas.arrays import Flags
from schemas.base import Frozen, Whole, refuse_flags, shorten
from schemas.catalogue_in_effect import catalogue_in_effect
from schemas.level_meaning import declared_level, meaning_key
from schemas.levels import level_key, level_text, levels_of, numbers_among
from schemas.twin_types import TWIN_TYPES, Kind, TwinType

__all__ = ["Condition", "Filters", "PopulationFilter", "canonical_filters", "conditions", "filter_values", "rows_matching"]


_LARGEST = 2**63  # numbers beyond it do not fit into a column
_KINDS = {
    "category": "a category, in words",
    "flag": "a flag, true or false",
    "integer": f"an integer between -{_LARGEST} and {_LARGEST}",
    "number": f"a number between -{_LARGEST} and {_LARGEST}",
    "own number": f"a number between -{_LARGEST} and {_LARGEST}, or a flag",
    "own": f"a level, a flag, or a number between -{_LARGEST} and {_LARGEST}",
}
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


def _to_level(value: Any) -> Any:
    """A level as text; what is none is left to the validation of the field."""
    if not isinstance(value, str | int | float):
        return value
    level = level_text(value)
    if level is None:
        raise ValueError(f"{shorten(value)} is no level")
    return level


Value = TypeVar("Value")
Listed = Annotated[list[Value], BeforeValidator(lambda value: [value] if isinstance(value, str | int | float) else value)]
"""A list of values; a single value is accepted as a list of one."""
Level = Annotated[str, BeforeValidator(_to_level)]
Bound = Annotated[
    int | float,
    BeforeValidator(refuse_flags),
    AfterValidator(lambda value: int(value) if isinstance(value, float) and value.is_integer() else value),
]


class PopulationFilter(BaseModel):
    """The twins that a simulation uses.

    Any feature of the twin type may be added to the four declared fields; unknown features are refused by ``conditions``, where
    the twin type is available.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    specialty: Listed[Level] | None = None
    tier: Listed[Whole] | None = None
    region: Listed[Level] | None = None
    min_decile: Bound | None = None


Filters = PopulationFilter | Mapping[str, Any] | None


class Condition(Frozen):
    """One condition on one column: membership in ``values``, or an inclusive bound ``values[0]``."""

    column: str
    operator: Literal["in", "min", "max"]
    values: tuple[str | int | float | bool, ...]

    def mask(self, column: pd.Series[Any]) -> Flags:
        """Rows of ``column`` that satisfy this condition, shape ``(n,)``; a missing value satisfies none."""
        if self.operator == "in":
            return _members(column, self.values)
        bound = self.values[0]
        met = column >= bound if self.operator == "min" else column <= bound
        return np.asarray(met.fillna(value=False), dtype=bool)


def _members(column: pd.Series[Any], values: Sequence[str | int | float | bool]) -> Flags:
    """Rows with one of the values: by number in a column of numbers, else by level."""
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        texts = numbers_among(pd.Series([value for value in values if isinstance(value, str)], dtype=object))
        numbers = [int(value) if isinstance(value, bool) else value for value in values if not isinstance(value, str)]
        return np.asarray(column.isin([*numbers, *texts[~np.isnan(texts)].tolist()]), dtype=bool)
    key_of = partial(meaning_key, str(column.name))
    keys, levels = set(map(key_of, values)), levels_of(column)
    return np.array([*(key_of(text) in keys for text in levels.values), False])[levels.codes]


def filter_values(filters: Filters) -> dict[str, Any]:
    """The fields of a filter that are set."""
    fields = filters.model_dump() if isinstance(filters, PopulationFilter) else dict(filters or {})
    return {key: value for key, value in fields.items() if value is not None}


def conditions(twin_type: TwinType, filters: Filters, own: Mapping[str, Kind] | None = None) -> tuple[Condition, ...]:
    """The filter as conditions on columns, in a fixed order.

    Args:
        twin_type: of the twins.
        filters: to translate.
        own: columns of the model's own beyond the features of the twin type, with their kinds. Without them the model is not known
            yet, and any name that no twin type has may be such a column.

    Raises:
        ValueError: for a key or a value that does not exist for this twin type; the message names the allowed ones.
    """
    return tuple(_condition(twin_type, key, value, own) for key, value in sorted(filter_values(filters).items()))


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


class _Column(NamedTuple):
    """A column that can be filtered. An ``own number`` may be a flag; ``own`` is any column of a model that is not known yet."""

    name: str
    kind: str


def _condition(twin_type: TwinType, key: str, value: Any, own: Mapping[str, Kind] | None) -> Condition:
    operator, column = _find_column(twin_type, key, value, own)
    if operator == "in":
        listed = value if isinstance(value, Sequence | set | frozenset) and not isinstance(value, str) else [value]
        if not listed:
            raise ValueError(f"filter {shorten(key)} is an empty list: provide at least one value or leave it out")
        return Condition(column=column.name, operator="in", values=tuple(_value(column, key, v) for v in listed))
    if column.kind not in ("integer", "number", "own number"):
        raise ValueError(f"filter {shorten(key)} is a bound, but {column.name!r} is a {column.kind}: list its values instead")
    return Condition(column=column.name, operator=operator, values=(_value(column, key, value),))


def _find_column(
    twin_type: TwinType, key: str, value: Any, own: Mapping[str, Kind] | None
) -> tuple[Literal["in", "min", "max"], _Column]:
    columns = _filter_columns(twin_type, own or {})
    if key in columns:
        return "in", columns[key]
    operators: tuple[tuple[Literal["min", "max"], str], ...] = (("min", "min_"), ("max", "max_"))
    for operator, prefix in operators:
        name = key.removeprefix(prefix)
        if name != key and name in columns:
            return operator, columns[name]
        if name != key and _may_be_own(name, own) and (_number(value) is not None or not _may_be_own(key, own)):
            return operator, _Column(name, "number")
    if _may_be_own(key, own):
        return "in", _Column(key, "own")
    raise ValueError(
        f"{twin_type} twins cannot be filtered by {shorten(key)}: use {', '.join(sorted(columns))}, or min_/max_ of a number"
    )


def _filter_columns(twin_type: TwinType, own: Mapping[str, Kind]) -> dict[str, _Column]:
    """Filter name to column: all features, the names that the catalogue maps to one, and the model's own columns."""
    entry = TWIN_TYPES[twin_type]
    declared = {name: _Column(name, feature.kind) for name, feature in entry.by_name.items()}
    mapped = {name: declared[column] for name, column in entry.filters.items()}
    of_model = {name: _Column(name, "own number" if kind == "number" else kind) for name, kind in own.items()}
    return {**of_model, **declared, **mapped}


def _may_be_own(name: str, own: Mapping[str, Kind] | None) -> bool:
    """Whether a name may be a column of a model that is not known yet: the names of the catalogue mean what they mean there."""
    return own is None and name not in catalogue_in_effect().column_names


def _value(column: _Column, key: str, value: Any) -> str | int | float | bool:
    converted = _CONVERSIONS[column.kind](value)
    if isinstance(converted, str):
        converted = declared_level(column.name, converted)
    if converted is None:
        raise ValueError(f"filter {shorten(key)} got {shorten(value)}: {column.name!r} is {_KINDS[column.kind]}")
    return converted


def _level(value: Any) -> str | None:
    return level_text(value) if isinstance(value, str | int | float | bool | np.bool_ | np.integer | np.floating) else None


def _flag(value: Any) -> bool | None:
    level = _level(value)
    return None if level is None else _FLAGS.get(level_key(level))


def _number(value: Any) -> int | float | None:
    number = pd.to_numeric(value.strip(), errors="coerce") if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int | float | np.integer | np.floating):
        return None
    if not -_LARGEST <= number <= _LARGEST:
        return None
    return int(number) if float(number).is_integer() else float(number)


def _own_number(value: Any) -> int | float | bool | None:
    is_word = isinstance(value, bool | np.bool_) or (isinstance(value, str) and level_key(value) in ("true", "false"))
    return _flag(value) if is_word else _number(value)


def _own(value: Any) -> str | int | float | bool | None:
    if isinstance(value, bool | np.bool_):
        return bool(value)
    return _level(value) if isinstance(value, str) else _number(value)


_CONVERSIONS: Mapping[str, Callable[[Any], str | int | float | bool | None]] = MappingProxyType(
    {"category": _level, "flag": _flag, "integer": _number, "number": _number, "own number": _own_number, "own": _own}
)
