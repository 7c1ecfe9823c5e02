"""Reads columns of times.

Nothing is assumed: a number is a time only in a stated unit, a time without its zone only in a stated zone, and a date such as
01/02/2026 only in an order that the column itself or the user settles.

A local time that a zone skips or has twice, when its clocks change, is refused: which moment is meant cannot be known.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from schemas.arrays import Flags, Floats, Integers
from schemas.base import shorten
from streams.tables.conversion import MISSING_NUMBERS, Converted, Unsettled, Wrong, as_flags, matches, missing_note, trimmed
from streams.tables.options import DateOrder, TableOptions, TimeUnit
from streams.tables.raw import is_text

__all__ = ["convert_times"]

_CLEAR = r"^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:\d{2})$"
_ISO = re.compile(r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}(?::?\d{2}(?::?\d{2}(?:[.,]\d+)?)?)?)?|\d{8}T\d{4,6}(?:[.,]\d+)?", re.IGNORECASE)
_ZONE = re.compile(r"\s*(Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)$", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?\d+(?:[.,]\d+)?(?:[eE][+-]?\d+)?")
_DATE = re.compile(r"(\d{1,4})([/.-])(\d{1,2})\2(\d{1,4})\.?(?:[T ,]+(.+))?")
_CLOCKS = ("%H:%M:%S.%f", "%H:%M:%S", "%H:%M", "%I:%M:%S %p", "%I:%M %p", "%I:%M:%S%p", "%I:%M%p")
_NAMED_MONTHS = tuple(
    f"{day}{clock}"
    for day in ("%d-%b-%Y", "%d %b %Y", "%d %B %Y", "%d-%B-%Y", "%d%b%Y", "%b %d %Y", "%B %d %Y", "%b %d, %Y", "%B %d, %Y")
    for clock in ("", *(f" {clock}" for clock in _CLOCKS))
)
_UNITS = {TimeUnit.SECONDS: 1e6, TimeUnit.MILLISECONDS: 1e3, TimeUnit.MICROSECONDS: 1.0, TimeUnit.NANOSECONDS: 1e-3}
"""Microseconds of each unit."""
_EXCEL_EPOCH_DAYS = 25_569  # from 1899-12-30, day 0 of a spreadsheet, to 1970-01-01
_MAX_MICROSECONDS = 1e17
_PLAUSIBLE = (pd.Timestamp("1990-01-01"), pd.Timestamp("2100-01-01"))
"""Numbers that stand for other times have another unit than the one stated."""
_UTC: Any = "datetime64[us, UTC]"
_NAIVE: Any = "datetime64[us]"
_PERIODS = {
    re.compile(r"\d{4}[-/.]\d{1,2}|\d{1,2}[-/.]\d{4}|[A-Za-z]{3,9}[ -]\d{4}"): "a month",
    re.compile(r"\d{4}-?W\d{1,2}|[WK]+\d{1,2}[-/ ]\d{4}", re.IGNORECASE): "a week",
    re.compile(r"\d{4}-?W\d{1,2}-?\d", re.IGNORECASE): "a day of a week by its number",
    re.compile(r"\d{4}[- ]?Q\d|Q\d[- /]?\d{4}", re.IGNORECASE): "a quarter",
}
"""Forms of periods that are no times."""
_FORM = "give times with their zone, such as 2026-01-31T12:00:00Z"


@dataclass
class _Times:
    """Distinct cells of a column: the moments and local times among them, and what is wrong with the others.

    Attributes:
        moments: times in UTC, NaT where a cell has no zone.
        local: times without a zone, NaT elsewhere.
        reasons: what is wrong, empty for cells that can be read.
    """

    moments: pd.Series[Any]
    local: pd.Series[Any]
    reasons: list[str]

    @classmethod
    def of(cls, n: int) -> _Times:
        return cls(pd.Series(pd.NaT, index=range(n), dtype=_UTC), pd.Series(pd.NaT, index=range(n), dtype=_NAIVE), [""] * n)


def convert_times(column: pa.Array, name: str, options: TableOptions) -> Converted:
    """Times in UTC, to the microsecond.

    Raises:
        Unsettled: for numbers without a stated unit, times without a zone or a stated one, and dates in an order that is not clear;
            it names the first such value and the option.
    """
    encoded = (trimmed(column) if is_text(column) else column).dictionary_encode()
    cells, codes = encoded.dictionary, encoded.indices.fill_null(-1).to_numpy()
    marks = np.zeros(len(cells) + 1, dtype=np.bool_)
    if is_text(cells):
        marks[:-1] = as_flags(pc.is_in(pc.utf8_lower(cells), pa.array(sorted(MISSING_NUMBERS))))
    try:
        times = _text_times(cells, options) if is_text(cells) else _typed_times(cells, options)
        _localize(times, cells, options)
    except Unsettled as error:
        raise Unsettled(str(error), int(np.argmax(codes == error.place))) from None
    times.reasons = ["" if mark else reason for mark, reason in zip(marks, times.reasons, strict=False)]
    values = pd.concat([times.moments, pd.Series([pd.NaT], dtype=_UTC)], ignore_index=True).take(codes).reset_index(drop=True)
    notes = [*missing_note(marks[codes], name), *_notes(times, name, options)]
    return Converted(values, tuple(_wrong(times.reasons, codes)), tuple(notes))


def _wrong(reasons: Sequence[str], codes: Any) -> list[Wrong]:
    by_cell = np.array([*reasons, ""], dtype=object)[codes]
    return [Wrong(by_cell == reason, reason) for reason in dict.fromkeys(reasons) if reason]


def _notes(times: _Times, name: str, options: TableOptions) -> list[str]:
    notes = [f"{name}: times without a zone read as times of {options.timezone}"] if times.local.notna().any() else []
    moments = times.moments.dt.tz_localize(None)
    if (far := (moments < _PLAUSIBLE[0]) | (moments >= _PLAUSIBLE[1])).any():
        days = ", ".join(f"{moment:%Y-%m-%d}" for moment in moments[far][:3])
        notes.append(f"{name}: {days} may stand for a missing time: --missing makes its text one")
    return notes


# -- typed cells


def _typed_times(cells: pa.Array, options: TableOptions) -> _Times:
    times = _Times.of(len(cells))
    if pa.types.is_timestamp(cells.type) and cells.type.tz is not None:
        times.moments = pd.Series(pc.cast(cells, pa.timestamp("us", "UTC"), safe=False).to_pandas()).astype(_UTC)
    elif pa.types.is_timestamp(cells.type) or pa.types.is_date(cells.type):
        times.local = pd.Series(pc.cast(cells, pa.timestamp("us"), safe=False).to_pandas()).astype(_NAIVE)
    elif pa.types.is_integer(cells.type) or pa.types.is_floating(cells.type) or pa.types.is_decimal(cells.type):
        _read_numbers(times, dict(enumerate(map(float, cells.to_pylist()))), options)
    else:
        times.reasons = ["is no time"] * len(cells)
    return times


def _read_numbers(times: _Times, numbers: dict[int, float], options: TableOptions) -> None:
    """Read numbers by their stated unit.

    Raises:
        Unsettled: without one.
    """
    if not numbers:
        return
    unit = options.time_unit
    if unit is None:
        place, first = next(iter(numbers.items()))
        units = "|".join(TimeUnit)
        raise Unsettled(f"{first:.15g} is a number, not a time: {_FORM}, or state its unit (--time-unit {units})", place)
    values = _numbered_times(np.fromiter(numbers.values(), dtype=np.float64), unit)
    is_plausible = (values >= _PLAUSIBLE[0]) & (values < _PLAUSIBLE[1])
    for place, value in zip(itertools.compress(numbers, ~is_plausible), values[~is_plausible], strict=True):
        what = "no time" if pd.isna(value) else f"{value:%Y-%m-%d}"
        times.reasons[place] = f"is {what} in the unit {unit}" + ("" if pd.isna(value) else ": state another one")
    places = list(itertools.compress(numbers, is_plausible))
    if unit in _UNITS:
        times.moments.iloc[places] = values[is_plausible].dt.tz_localize("UTC").array
    else:
        times.local.iloc[places] = values[is_plausible].array


def _numbered_times(numbers: Floats, unit: TimeUnit) -> pd.Series[Any]:
    """Times without a zone, NaT where a number is none in the unit or far away from all plausible times."""
    if unit is TimeUnit.DATE:
        texts = pd.Series([f"{number:.0f}" if number % 1 == 0 else "" for number in numbers], dtype=object)
        return pd.to_datetime(texts.where(texts.str.len() == 8), format="%Y%m%d", errors="coerce").astype(_NAIVE)
    if unit is TimeUnit.EXCEL:
        microseconds = np.round((numbers - _EXCEL_EPOCH_DAYS) * 86_400_000) * 1e3
    else:
        microseconds = np.round(numbers * _UNITS[unit])
    near = np.abs(microseconds) < _MAX_MICROSECONDS
    return pd.Series(np.where(near, microseconds, 0).astype(np.int64).astype("datetime64[us]")).where(near)


# -- cells of text


def _text_times(cells: pa.Array, options: TableOptions) -> _Times:
    """Sort the distinct cells of a column by their form, and read each form."""
    times = _Times.of(len(cells))
    is_clear = matches(cells, _CLEAR)
    _set_moments(times, np.flatnonzero(is_clear), cells.filter(pa.array(is_clear)))
    texts: dict[str, dict[int, str]] = {"iso": {}, "number": {}, "date": {}, "named": {}}
    zones: dict[int, str] = {}
    rest = np.flatnonzero(~is_clear)
    for place, cell in zip(rest.tolist(), cells.take(pa.array(rest)).to_pylist(), strict=True):
        zone = _ZONE.search(cell) if ":" in cell or "T" in cell else None
        if zone:
            zones[place] = zone.group(1)
        text = cell[: zone.start()] if zone else cell
        texts[_form(text)][place] = text
    iso, dates, named = texts["iso"], texts["date"], texts["named"]
    _set_local(
        times, iso, pd.to_datetime(pd.Series(list(iso.values()), dtype=object), format="ISO8601", errors="coerce"), "is no time"
    )
    _read_numbers(times, {place: float(text.replace(",", ".")) for place, text in texts["number"].items()}, options)
    _read_dates(times, dates, options)
    _set_local(times, named, _in_forms(list(named.values()), _NAMED_MONTHS), "is no time")
    for place, text in named.items():
        if times.reasons[place] and (period := next((what for form, what in _PERIODS.items() if form.fullmatch(text)), None)):
            times.reasons[place] = f"is {period}, not a time: write the day that is meant, such as 2026-01-31"
    _apply_zones(times, zones)
    return times


def _form(text: str) -> str:
    if _ISO.fullmatch(text):
        return "iso"
    if _NUMBER.fullmatch(text):
        return "number"
    return "date" if _DATE.fullmatch(text) else "named"


def _set_moments(times: _Times, places: Integers, cells: pa.Array) -> None:
    """Read times in ISO 8601 with their offset."""
    values = pd.to_datetime(pd.Series(cells.to_pandas(), dtype=object), utc=True, format="ISO8601", errors="coerce").astype(_UTC)
    for place in places[values.isna().to_numpy()].tolist():
        times.reasons[place] = "is no time"
    times.moments.iloc[places] = values.array


def _set_local(times: _Times, places: Collection[int], values: pd.Series[Any], reason: str) -> None:
    values = values.astype(_NAIVE)
    for place in itertools.compress(places, values.isna()):
        times.reasons[place] = reason
    times.local.iloc[list(places)] = values.array


def _apply_zones(times: _Times, zones: dict[int, str]) -> None:
    """Make moments of the local times that are written with their offset from UTC."""
    places = list(zones)
    offsets = pd.Series([_offset(zone) for zone in zones.values()], dtype="timedelta64[us]")
    local = times.local.iloc[places].reset_index(drop=True)
    times.moments.iloc[places] = (local - offsets).dt.tz_localize("UTC").array
    times.local.iloc[places] = pd.NaT


def _offset(zone: str) -> pd.Timedelta:
    if zone[0] not in "+-":
        return pd.Timedelta(0)
    digits = zone[1:].replace(":", "").ljust(4, "0")
    return pd.Timedelta(minutes=int(f"{zone[0]}1") * (60 * int(digits[:2]) + int(digits[2:])))


def _in_forms(texts: Sequence[str], forms: Sequence[str]) -> pd.Series[Any]:
    """Each text as a time in the first of the forms that it has, NaT where it has none."""
    remaining = pd.Series(texts, dtype=object)
    values: pd.Series[Any] = pd.Series(pd.NaT, index=range(len(texts)), dtype=_NAIVE)
    for form in forms:
        todo = values.isna()
        if not todo.any():
            break
        values[todo] = pd.to_datetime(remaining[todo], format=form, errors="coerce").astype(_NAIVE)
    return values


def _read_dates(times: _Times, dates: Mapping[int, str], options: TableOptions) -> None:
    """Read dates of three numbers in the one order that all of them allow.

    Raises:
        Unsettled: when several orders are possible.
    """
    if not dates:
        return
    parts = pd.Series(list(dates.values()), dtype="str").str.extract(_DATE)
    clocks = _clocks(parts[4])
    by_order = {order: _days(parts, order) + clocks for order in DateOrder}
    order = options.date_order or _only_order(by_order, dates)
    values = by_order[order or DateOrder.YMD]
    _set_local(times, dates, values, f"is no time in the order {order}" if order else "is no time")


def _only_order(by_order: Mapping[DateOrder, pd.Series[Any]], dates: Mapping[int, str]) -> DateOrder | None:
    """The one order in which all dates exist, those aside that exist in none; None where no date exists.

    Raises:
        Unsettled: when there are several, or none for all.
    """
    exists = np.array([by_order[order].notna().to_numpy() for order in DateOrder])
    if not exists.any():
        return None
    shared = exists[:, exists.any(axis=0)].all(axis=1)
    if shared.sum() == 1:
        return list(DateOrder)[int(np.argmax(shared))]
    place, date = list(dates.items())[int(np.argmax(exists.sum(axis=0)))]
    orders = "|".join(DateOrder)
    raise Unsettled(f"{shorten(date)} does not say which number is the day: settle it with --date-order {orders}", place)


def _days(parts: pd.DataFrame, order: DateOrder) -> pd.Series[Any]:
    """Dates in an order, NaT where there is no such date; a year of two digits is of this century."""
    numbers = dict(zip(order.value, (parts[0], parts[2], parts[3]), strict=True))
    digits = {name: column.str.len() for name, column in numbers.items()}
    can_be = digits["y"].isin([2, 4]) & (digits["d"] <= 2) & (digits["m"] <= 2)
    year, month, day = (numbers[name].where(can_be, "1").astype("int64") for name in "ymd")
    year = year.where(digits["y"] != 2, year + 2000)
    return pd.to_datetime({"year": year, "month": month, "day": day}, errors="coerce").astype(_NAIVE).where(can_be)


def _clocks(texts: pd.Series[Any]) -> pd.Series[Any]:
    """Times of the day behind dates, zero where there is none and NaT for one that does not exist."""
    codes, distinct = pd.factorize(texts.str.strip().str.upper())
    at = _in_forms(list(distinct), _CLOCKS)
    clocks: pd.Series[Any] = pd.concat(
        [at - at.dt.normalize(), pd.Series([pd.Timedelta(0)], dtype="timedelta64[us]")], ignore_index=True
    )
    return clocks.take(codes).reset_index(drop=True)  # without a time of the day the code is -1, which selects the last


# -- local times


def _localize(times: _Times, cells: pa.Array, options: TableOptions) -> None:
    """Make moments of local times in the stated zone; those that it skips or has twice are wrong.

    Raises:
        Unsettled: without a stated zone.
    """
    is_local: Flags = times.local.notna().to_numpy()
    if not is_local.any():
        return
    if options.timezone is None:
        place = int(np.argmax(is_local))
        first = str(cells[place].as_py())
        raise Unsettled(f"{shorten(first)} has no zone: {_FORM}, or state it (--timezone Europe/Berlin)", place)
    local = times.local[is_local]
    once = local.dt.tz_localize(options.timezone, ambiguous="NaT", nonexistent="NaT")
    shifted = local.dt.tz_localize(options.timezone, ambiguous="NaT", nonexistent="shift_forward")
    for place in once.index[once.isna()]:
        what = "occurs twice" if pd.isna(shifted[place]) else "does not exist"
        times.reasons[place] = f"{what} in {options.timezone}, when its clocks change: write it with its offset from UTC"
    times.moments[is_local] = once.dt.tz_convert("UTC").astype(_UTC)
