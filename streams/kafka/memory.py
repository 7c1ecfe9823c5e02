"""Returns the memory of large records to the system when they are processed.

Values of finished work are held by reference cycles, such as those of tasks, until the garbage collector runs, which is rare in a
role. Of small values that is little; a few of the largest would fill the memory of a container.
"""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

__all__ = ["LARGE_BYTES", "release_after", "trim"]

LARGE_BYTES = 8 * 1024 * 1024
"""Bytes of values from which on work is large; a usual poll batch has less than a megabyte."""


def release_after(n_bytes: int) -> None:
    """Return the memory of finished work with values of this size, if it was large."""
    if n_bytes < LARGE_BYTES:
        return
    gc.collect()
    trim()


def trim() -> None:
    """Return freed memory to the system; only glibc keeps it, and has a function for it."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
