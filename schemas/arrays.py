"""Types of arrays in signatures, whose shapes are in the docstrings, and the refusal of values that are no numbers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["Flags", "Floats", "Integers", "Octets", "Singles", "require_finite"]

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Octets = npt.NDArray[np.uint8]


def require_finite(name: str, values: npt.ArrayLike) -> None:
    """Check that all values, of shape ``(n,)``, are finite numbers.

    Raises:
        ValueError: when one is not; the message names the first, its position from 0, and how many there are.

    Example:
        >>> require_finite("results", [0.1, float("nan"), 0.2])
        Traceback (most recent call last):
        ValueError: results holds nan at position 1: 1 of 3 values is not a finite number
    """
    array = np.asarray(values, dtype=np.float64).ravel()
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        are = "is not a finite number" if len(bad) == 1 else "are not finite numbers"
        raise ValueError(f"{name} holds {array[bad[0]]:g} at position {bad[0]}: {len(bad):,} of {len(array):,} values {are}")
