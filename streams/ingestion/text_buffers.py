"""The octets of a column of texts."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from schemas.arrays import Integers, Octets

__all__ = ["text_buffers"]


def text_buffers(column: pa.StringArray) -> tuple[Octets, Integers]:
    """The octets of all texts of a column, and where each begins; the last number is the end."""
    _, offsets, data = column.buffers()
    first = column.offset
    octets = np.frombuffer(data or b"", dtype=np.uint8)
    return octets, np.frombuffer(offsets, dtype=np.int32)[first : first + len(column) + 1].astype(np.int64)
