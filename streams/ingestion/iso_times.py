"""Reads times in ISO 8601 by columns, with pyarrow."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from schemas.arrays import Integers
from streams.ingestion.text_buffers import text_buffers

__all__ = ["parse_times"]

_SHORTEST = len("2026-01-31T12:00Z")


def parse_times(texts: pa.StringArray) -> Integers | None:
    """Microseconds since 1970 of times with minutes and a zone, ``(n,)``; None when one is written otherwise, or does not exist.

    The zone is ``Z``, or hours and minutes such as ``+01:00``. Times and zones of hours alone, which the model refuses, are none.

    Example:
        >>> parse_times(pa.array(["1970-01-02T01:00:00.5+01:00"])).tolist()
        [86400500000]
    """
    characters, offsets = text_buffers(texts)
    starts, ends = offsets[:-1], offsets[1:]
    if (ends - starts < _SHORTEST).any():
        return None
    has_minutes = characters[starts + 13] == ord(":")
    has_zone = (characters[ends - 1] == ord("Z")) | (
        (characters[ends - 3] == ord(":")) & np.isin(characters[ends - 6], (ord("+"), ord("-")))
    )
    if not (has_minutes & has_zone).all():
        return None
    try:
        return np.asarray(texts.cast(pa.timestamp("us", "UTC")).cast(pa.int64()))
    except pa.ArrowInvalid:
        return None
