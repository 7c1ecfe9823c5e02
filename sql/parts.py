"""Cuts rows into parts that one statement each can handle.

A statement ends at its timeout, ``TWIN_POSTGRES_STATEMENT_TIMEOUT_S``, and would end there again whenever it is repeated: its size
must not grow with what comes in. One record can carry 50,000 outcomes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, overload

from schemas.arrays import Octets

__all__ = ["parts"]

Item = TypeVar("Item")

ROWS_A_STATEMENT = 5000


@overload
def parts(rows: Octets) -> Iterator[Octets]: ...
@overload
def parts(rows: Sequence[Item]) -> Iterator[Sequence[Item]]: ...
def parts(rows: Any) -> Iterator[Any]:
    """The rows in their order, in parts of at most ``ROWS_A_STATEMENT``; nothing for no rows.

    Example:
        >>> [len(part) for part in parts(range(12_000))]
        [5000, 5000, 2000]
    """
    for first in range(0, len(rows), ROWS_A_STATEMENT):
        yield rows[first : first + ROWS_A_STATEMENT]
