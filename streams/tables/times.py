"""Reads columns of times.

Nothing is assumed: a number is a time only in a stated unit, a time without its zone only in a stated zone, and a date such as
01/02/2026 only in an order that the column itself or the user settles.

A local time that a zone skips or has twice, when its clocks change, is refused: which moment is meant cannot be known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from schemas.arrays import Flags
from schemas.base import shorten
from streams.tables.conversion import MISSING_NUMBERS, Converted, Unsettled, Wrong, as_flags, missing_note, trimmed
from streams.tables.options import DateOrder, TableOptions, TimeUnit
from streams.tables.raw import is_text

__all__ = ["convert_times"]

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
_UNITS = {TimeUnit.SECONDS: 1.0, TimeUnit.MILLISECONDS: 1e3, TimeUnit.MICROSECONDS: 1e6, TimeUnit.NANOSECONDS: 1e9}
_EXCEL_EPOCH = pd.Timestamp("1899-12-30")
_PLAUSIBLE = (pd.Timestamp("1990-01-01"), pd.Timestamp("2100-01-01"))
"""Numbers that stand for other times have another unit than the one stated."""
_UTC: Any = "datetime64[us, UTC]"
_NAIVE: Any = "datetime64[us]"
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
        times = _text_times(cells.to_pylist(), options) if is_text(cells) else _typed_times(cells, options)
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
    return [f"{name}: times without a zone read as times of {options.timezone}"] if times.local.notna().any() else []


# -- typed cells


def _typed_times(cells: pa.Array, options: TableOptions) -> _Times:
    times = _Times.of(len(cells))
    if pa.types.is_timestamp(cells.type) and cells.type.tz is not None:
        times.moments = pd.Series(pc.cast(cells, pa.timestamp("us", "UTC"), safe=False).to_pandas()).astype(_UTC)
    elif pa.types.is_timestamp(cells.type) or pa.types.is_date(cells.type):
        times.local = pd.Series(pc.cast(cells, pa.timestamp("us"), safe=False).to_pandas()).astype(_NAIVE)
    elif pa.types.is_integer(cells.type) or pa.types.is_floating(cells.type) or pa.types.is_decimal(cells.type):
        _read_numbers(times, {place: float(cell) for place, cell in enumerate(cells.to_pylist())}, options)
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
    if options.time_unit is None:
        place, first = next(iter(numbers.items()))
        units = "|".join(TimeUnit)
        raise Unsettled(f"{first:.15g} is a number, not a time: {_FORM}, or state its unit (--time-unit {units})", place)
    for place, number in numbers.items():
        at = _numbered_time(number, options.time_unit)
        if at is None:
            times.reasons[place] = f"is no time in the unit {options.time_unit}"
        elif not _PLAUSIBLE[0] <= at < _PLAUSIBLE[1]:
            times.reasons[place] = f"is {at:%Y-%m-%d} in the unit {options.time_unit}: state another one"
        elif options.time_unit in _UNITS:
            times.moments[place] = at.tz_localize("UTC")
        else:
            times.local[place] = at


def _numbered_time(number: float, unit: TimeUnit) -> pd.Timestamp | None:
    try:
        if unit is TimeUnit.DATE:
            text = f"{number:.0f}"
            return pd.Timestamp(pd.to_datetime(text, format="%Y%m%d")) if number % 1 == 0 and len(text) == 8 else None
        if unit is TimeUnit.EXCEL:
            return _EXCEL_EPOCH + pd.Timedelta(seconds=round(number * 86_400_000) / 1000)
        return pd.Timestamp(0) + pd.Timedelta(microseconds=round(number / _UNITS[unit] * 1e6))
    except (ValueError, OverflowError):
        return None


# -- cells of text


def _text_times(cells: Sequence[str], options: TableOptions) -> _Times:
    """Sort the distinct cells of a column by their form, and read each form."""
    times = _Times.of(len(cells))
    texts = [_ZONE.sub("", cell) if ":" in cell or "T" in cell else cell for cell in cells]
    zones = {place: _ZONE.search(cell).group(1) for place, cell in enumerate(cells) if texts[place] != cell}  # type: ignore[union-attr]  # it matched
    iso = [place for place, text in enumerate(texts) if _ISO.fullmatch(text)]
    _set(times, iso, pd.to_datetime(pd.Series([texts[place] for place in iso], dtype=object), format="ISO8601", errors="coerce"))
    numbers = {place: float(text.replace(",", ".")) for place, text in enumerate(texts) if _NUMBER.fullmatch(text)}
    _read_numbers(times, numbers, options)
    dates = {place: match for place, text in enumerate(texts) if place not in set(iso) and (match := _DATE.fullmatch(text))}
    _read_dates(times, dates, options)
    rest = [place for place in range(len(texts)) if place not in numbers and place not in dates and place not in set(iso)]
    _set(times, rest, _named_months([texts[place] for place in rest]))
    _apply_zones(times, zones)
    return times


def _set(times: _Times, places: Sequence[int], values: Any) -> None:
    values = pd.Series(values).astype(_NAIVE)
    for place, bad in zip(places, values.isna(), strict=True):
        if bad:
            times.reasons[place] = "is no time"
    times.local.iloc[list(places)] = values.to_numpy()


def _apply_zones(times: _Times, zones: dict[int, str]) -> None:
    """Make moments of the local times that are written with their offset from UTC."""
    if not zones:
        return
    places = list(zones)
    offsets = pd.Series([_offset(zone) for zone in zones.values()])
    local = times.local.iloc[places].reset_index(drop=True)
    times.moments.iloc[places] = (local - offsets).dt.tz_localize("UTC").array
    times.local.iloc[places] = pd.NaT


def _offset(zone: str) -> pd.Timedelta:
    if zone[0] not in "+-":
        return pd.Timedelta(0)
    digits = zone[1:].replace(":", "").ljust(4, "0")
    return pd.Timedelta(minutes=int(f"{zone[0]}1") * (60 * int(digits[:2]) + int(digits[2:])))


def _named_months(texts: Sequence[str]) -> pd.Series[Any]:
    remaining = pd.Series(texts, dtype=object)
    values: pd.Series[Any] = pd.Series(pd.NaT, index=range(len(texts)), dtype=_NAIVE)
    for form in _NAMED_MONTHS:
        todo = values.isna()
        if not todo.any():
            break
        values[todo] = pd.to_datetime(remaining[todo], format=form, errors="coerce").astype(_NAIVE)
    return values


def _read_dates(times: _Times, dates: dict[int, re.Match[str]], options: TableOptions) -> None:
    """Read dates of three numbers in the one order that all of them allow.

    Raises:
        Unsettled: when several orders are possible.
    """
    if not dates:
        return
    order = options.date_order or _only_order(dates)
    wrong = f"is no time in the order {order}" if order else "is no time"
    for place, match in dates.items():
        at = _date(match, order) if order else None
        if at is None:
            times.reasons[place] = wrong
        else:
            times.local[place] = at


def _only_order(dates: Mapping[int, re.Match[str]]) -> DateOrder | None:
    """The one order in which all dates exist, those aside that exist in none; None where no date exists."""
    possible = {place: {order for order in DateOrder if _date(date, order) is not None} for place, date in dates.items()}
    shared = set(DateOrder).intersection(*filter(None, possible.values()))
    if len(shared) == 1 or not any(possible.values()):
        return next(iter(shared)) if len(shared) == 1 else None
    place = max(possible, key=lambda place: len(possible[place]))
    date, orders = shorten(dates[place].group(0)), "|".join(DateOrder)
    raise Unsettled(f"{date} does not say which number is the day: settle it with --date-order {orders}", place)


def _date(match: re.Match[str], order: DateOrder) -> pd.Timestamp | None:
    """The time of a date in an order, None where there is no such date; a year of two digits is of this century."""
    parts = dict(zip(order.value, (match.group(1), match.group(3), match.group(4)), strict=True))
    if len(parts["y"]) not in {2, 4} or len(parts["d"]) > 2 or len(parts["m"]) > 2:
        return None
    year = int(parts["y"]) if len(parts["y"]) == 4 else 2000 + int(parts["y"])
    try:
        day = pd.Timestamp(year=year, month=int(parts["m"]), day=int(parts["d"]))
    except ValueError:
        return None
    clock = _clock(match.group(5))
    return None if clock is None else day + clock


def _clock(text: str | None) -> pd.Timedelta | None:
    if not text:
        return pd.Timedelta(0)
    for form in _CLOCKS:
        at = pd.to_datetime(text.strip().upper(), format=form, errors="coerce")
        if not pd.isna(at):
            return pd.Timestamp(at) - pd.Timestamp(at).normalize()
    return None


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
