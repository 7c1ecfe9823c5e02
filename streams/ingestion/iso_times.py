"""Reads times in ISO 8601 by columns: a hundredth of the time that an object for each would take."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from schemas.arrays import Flags, Integers, Octets

__all__ = ["parse_times"]

_SEPARATORS = {4: "-", 7: "-", 10: "T", 13: ":", 16: ":"}
_SECONDS_END = 19  # 2026-01-31T12:00:00
_MAX_FRACTION = 6
_ZONE_LENGTH = 6  # +01:00
_Digits: TypeAlias = Octets


def parse_times(characters: Octets) -> Integers | None:
    """Microseconds since 1970 of times with seconds and a zone.

    Args:
        characters: of times that are all of one length, shape ``(n, length)``: ``2026-01-31T12:00:00``, up to six digits of a
            second behind a point, and the zone: ``Z``, or hours and minutes such as ``+01:00``.

    Returns:
        Shape ``(n,)``, or None when a time is written otherwise, or does not exist.

    Example:
        >>> parse_times(np.frombuffer(b"1970-01-02T01:00:00.5+01:00", dtype=np.uint8).reshape(1, -1)).tolist()
        [86400500000]
    """
    length = characters.shape[1]
    by_name = bool(length) and (characters[:, -1] == ord("Z")).all()
    end = length - (1 if by_name else _ZONE_LENGTH)  # of the fraction
    n_digits = max(end - _SECONDS_END - 1, 0)
    if end < _SECONDS_END or end == _SECONDS_END + 1 or n_digits > _MAX_FRACTION:
        return None
    separators = {**_SEPARATORS, **({_SECONDS_END: "."} if n_digits else {}), **({} if by_name else {end + 3: ":"})}
    if not all((characters[:, place] == ord(sign)).all() for place, sign in separators.items()):
        return None
    signs = [] if by_name else [end]
    places = np.setdiff1d(np.arange(end if by_name else length), [*separators, *signs])
    digits = characters - ord("0")
    if (digits[:, places] > 9).any():  # octets below that of 0 are large numbers
        return None
    days, is_valid = _days(digits)
    hour, minute, second = (_number(digits, place, place + 2) for place in (11, 14, 17))
    is_valid &= (hour < 24) & (minute < 60) & (second < 60)
    fraction = _number(digits, _SECONDS_END + 1, end) * 10 ** (_MAX_FRACTION - n_digits) if n_digits else 0
    seconds = ((days * 24 + hour) * 60 + minute) * 60 + second
    if not by_name:
        ahead, is_zone = _zone(characters, digits, end)
        is_valid &= is_zone
        seconds = seconds - ahead
    return seconds * 1_000_000 + fraction if is_valid.all() else None


def _days(digits: _Digits) -> tuple[Integers, Flags]:
    """Days since 1970, and which of the dates exist."""
    year, month, day = (_number(digits, *span) for span in ((0, 4), (5, 7), (8, 10)))
    is_valid = (year >= 1) & (month >= 1) & (month <= 12) & (day >= 1)
    months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    first, following = (at.astype("datetime64[D]").astype(np.int64) for at in (months, months + 1))
    return first + day - 1, is_valid & (day <= following - first)


def _zone(characters: Octets, digits: _Digits, start: int) -> tuple[Integers, Flags]:
    """Seconds that each zone is ahead of UTC, and which of the zones exist."""
    is_behind = characters[:, start] == ord("-")
    hours, minutes = _number(digits, start + 1, start + 3), _number(digits, start + 4, start + 6)
    is_valid = (is_behind | (characters[:, start] == ord("+"))) & (hours < 24) & (minutes < 60)
    return np.where(is_behind, -1, 1) * (hours * 60 + minutes) * 60, is_valid


def _number(digits: _Digits, start: int, end: int) -> Integers:
    value = np.zeros(len(digits), dtype=np.int64)
    for place in range(start, end):
        value = value * 10 + digits[:, place]
    return value
