"""Reads a table by a mapping: headers become declared names before the conversion, and rules are applied to what it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from schemas.arrays import Floats
from streams.tables.declared import Column
from streams.tables.headers import header_key
from streams.tables.mapping import ColumnUse, TableMapping
from streams.tables.raw import RawTable
from streams.tables.regions import other_regions_notes, regions_of_states
from streams.tables.report import TableReading, TableRefused, count_of

__all__ = ["MappedTable", "apply_rules", "cut_values", "map_headers", "quantile_cuts"]

_OUTCOME = "actual_value"
_SOURCE_KINDS = {"us_region": "category", "days_before": "time"}


class MappedTable(NamedTuple):
    """A table with the names of the mapping.

    Attributes:
        raw: columns that a rule reads are named by ``_source``.
        declared: what its columns hold.
        uses: by name of the feature, those whose rule is to be applied.
    """

    raw: RawTable
    declared: Mapping[str, Column]
    uses: Mapping[str, ColumnUse]


def map_headers(raw: RawTable, declared: Mapping[str, Column], mapping: TableMapping) -> MappedTable:
    """Name the columns of a table by a mapping; columns that it does not name are read where they have declared names.

    Raises:
        TableRefused: when the table has no column of the mapping, or two columns of one of its names.
    """
    places = _places(raw, mapping)
    if not places:
        raise TableRefused(
            raw.name,
            [f"none of its columns is in the mapping {mapping.name!r}: it expects {', '.join(dict.fromkeys(mapping.headers()))}"],
        )
    columns: dict[str, pa.Array] = {}
    kinds = dict(declared)
    uses: dict[str, ColumnUse] = {}
    absent: list[str] = []
    for name, use in mapping.columns.items():
        missing = [column for column in use.columns if column not in places]
        if missing:
            absent += missing
            continue
        final = _declared_name(name, mapping, declared)
        if use.rule.name == "value":
            columns[final] = raw.columns[places[use.column]]
            if use.levels:
                kinds[final] = replace(kinds.get(final, Column(final, "category", is_declared=False)), levels=use.levels)
            continue
        uses[final] = use
        for column in use.columns:
            source = _source(final, column)
            columns[source] = raw.columns[places[column]]
            kinds[source] = replace(_source_column(source, use, declared.get(final)), levels=use.levels)
    notes = [f"read by the mapping {mapping.name!r}"]
    if absent:
        notes.append(f"columns of the mapping that the table lacks: {', '.join(dict.fromkeys(absent))}")
    columns, more_notes = _with_declared_columns(raw, declared, mapping, columns, set(places.values()), uses)
    return MappedTable(raw.with_columns(columns, [*notes, *more_notes]), kinds, uses)


def _places(raw: RawTable, mapping: TableMapping) -> dict[str, int]:
    """Place in the table of each column of the mapping that it has."""
    by_header: dict[str, list[int]] = {}
    for place, header in enumerate(raw.headers):
        by_header.setdefault(header, []).append(place)
        if header_key(header) != header:
            by_header.setdefault(f"\0{header_key(header)}", []).append(place)
    places: dict[str, int] = {}
    for column in dict.fromkeys(mapping.headers()):
        same = by_header.get(column) or by_header.get(f"\0{header_key(column)}") or by_header.get(header_key(column), [])
        if len(same) > 1:
            raise TableRefused(raw.name, [f"several columns are {column!r} of the mapping {mapping.name!r}"])
        if same:
            places[column] = same[0]
    return places


def _declared_name(name: str, mapping: TableMapping, declared: Mapping[str, Column]) -> str:
    """Name of a feature or target; the target of a table of outcomes is what was observed."""
    return _OUTCOME if name in mapping.targets and _OUTCOME in declared else name


def _source(name: str, column: str) -> str:
    return f"{name} from {column!r}"


def _source_column(source: str, use: ColumnUse, target: Column | None) -> Column:
    """What the cells of a column are that a rule reads; the bounds of the feature are those of the cells, in their unit."""
    rule = use.rule
    low, high = (target.low, target.high) if target else (None, None)
    if rule.name == "percent":
        return Column(source, "number", None if low is None else low * 100, None if high is None else high * 100)
    if rule.name == "years_before":
        year = int(rule.argument)
        return Column(source, "integer", None if high is None else year - high, year if low is None else year - low)
    if rule.name == "change":
        return Column(source, "number", 0)
    kind: Any = _SOURCE_KINDS.get(rule.name, "number")
    return Column(source, kind)


def _with_declared_columns(
    raw: RawTable,
    declared: Mapping[str, Column],
    mapping: TableMapping,
    columns: dict[str, pa.Array],
    used_places: set[int],
    uses: Mapping[str, ColumnUse],
) -> tuple[dict[str, pa.Array], list[str]]:
    """The columns with those that the mapping does not name but that have a declared name, and a note on the others."""
    names = {header_key(name): name for name in declared}
    unused = set(map(header_key, mapping.left_out))
    others = []
    for place, header in enumerate(raw.headers):
        name = names.get(header_key(header))
        is_named = name is not None and declared[name].is_named
        if place in used_places and not is_named:
            continue
        if name is None or (header_key(header) in unused and not is_named) or name in columns or name in uses:
            others += [] if place in used_places else [header]
        else:
            columns[name] = raw.columns[place]
    others = [header for header in others if header.strip()]
    return columns, [f"left out by the mapping: {', '.join(others)}"] if others else []


def apply_rules(reading: TableReading, uses: Mapping[str, ColumnUse]) -> TableReading:
    """The reading with the features that rules compute in place of the columns that they read."""
    frame, notes = reading.frame, list(reading.notes)
    for name, use in uses.items():
        sources = [_source(name, column) for column in use.columns]
        values, note = _values(name, use, [frame[source] for source in sources])
        frame = frame.assign(**{name: values})
        notes += [f"{name}: {note}"] if note else []
    read = {_source(name, column) for name, use in uses.items() for column in use.columns}
    return replace(reading, frame=frame.drop(columns=[source for source in read if source in frame]), notes=tuple(notes))


def _values(name: str, use: ColumnUse, sources: list[pd.Series[Any]]) -> tuple[pd.Series[Any], str]:
    """Values of a feature, and a note on what is missing for a reason of the rule."""
    column, rule = sources[0], use.rule
    if rule.name == "us_region":
        return regions_of_states(column, name), "; ".join(other_regions_notes(column, name))
    return _APPLIED[rule.name](use, column, sources[-1])


def _decile(use: ColumnUse, column: pd.Series[Any], _before: pd.Series[Any]) -> tuple[pd.Series[Any], str]:
    return _whole(cut_values(column.to_numpy(dtype=float), use.cuts or quantile_cuts(column, 10)), column), ""


def _tier(use: ColumnUse, column: pd.Series[Any], _before: pd.Series[Any]) -> tuple[pd.Series[Any], str]:
    return _whole(6 - cut_values(column.to_numpy(dtype=float), use.cuts or quantile_cuts(column, 5)), column), ""


def _percent(_use: ColumnUse, column: pd.Series[Any], _before: pd.Series[Any]) -> tuple[pd.Series[Any], str]:
    return column / 100, ""


def _years_before(use: ColumnUse, column: pd.Series[Any], _before: pd.Series[Any]) -> tuple[pd.Series[Any], str]:
    return int(use.rule.argument) - column, ""


def _days_before(use: ColumnUse, column: pd.Series[Any], _before: pd.Series[Any]) -> tuple[pd.Series[Any], str]:
    """Days from a time to a date; a time after it is of the future, and missing."""
    days = (pd.Timestamp(date.fromisoformat(use.rule.argument), tz="UTC") - column).dt.days
    late = int((days < 0).sum())
    return days.where(~(days < 0)), f"{count_of(late, 'row')} left missing, not before {use.rule.argument}" if late else ""


def _change(use: ColumnUse, column: pd.Series[Any], before: pd.Series[Any]) -> tuple[pd.Series[Any], str]:
    usable = before > 0
    missing = int((~usable & column.notna() & before.notna()).sum())
    note = f"{count_of(missing, 'row')} without a change, as {use.rule.before} is 0" if missing else ""
    return column.where(usable) / before.where(usable) - 1, note


_APPLIED = {
    "decile": _decile,
    "tier": _tier,
    "percent": _percent,
    "years_before": _years_before,
    "days_before": _days_before,
    "change": _change,
}


def _whole(values: Floats, like: pd.Series[Any]) -> pd.Series[Any]:
    series = pd.Series(values, index=like.index)
    return series if series.isna().any() else series.astype("int64")


def quantile_cuts(column: pd.Series[Any], n: int) -> tuple[float, ...]:
    """Upper limits of all but the last of ``n`` equally large groups of numbers; none for a column without numbers."""
    numbers = column.to_numpy(dtype=float, na_value=np.nan)
    numbers = numbers[np.isfinite(numbers)]
    return tuple(np.quantile(numbers, np.arange(1, n) / n, method="inverted_cdf").tolist()) if len(numbers) else ()


def cut_values(numbers: Floats, cuts: tuple[float, ...]) -> Floats:
    """The group of each number, from 1; NaN stays.

    >>> cut_values(np.array([1.0, 2.0, 9.0, np.nan]), (1.0, 2.0)).tolist()
    [1.0, 2.0, 3.0, nan]
    """
    return np.where(np.isnan(numbers), np.nan, np.searchsorted(cuts, numbers) + 1.0)
