"""Marks of the records that a role has in work, in memory that its supervisor shares: they outlive the process of the role.

A computation that never returns keeps a role from telling anybody what it works on, and a role that runs out of memory is killed
without a word. The supervisor reads the marks after the end of the process, and passes them to the next one, which stores them.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableSequence, Sequence
from contextlib import contextmanager
from datetime import datetime
from multiprocessing.sharedctypes import RawArray

from sql.interrupted_work_store import InterruptedWork

__all__ = ["MARKS", "WorkMarks", "shared_slots"]

_SLOTS, _FIELDS = 256, 3  # the partition, the first offset and the end of each range; a free slot has the end 0


def shared_slots() -> MutableSequence[int]:
    """Memory for the marks of a role, which processes share."""
    slots: MutableSequence[int] = RawArray("q", _SLOTS * _FIELDS)
    return slots


class WorkMarks:
    """The marks of one process.

    Args:
        slots: where they are; by default in the memory of this process.

    Attributes:
        interrupted: what earlier processes of the role had in work when they ended, until it is stored.
    """

    def __init__(self, slots: MutableSequence[int] | None = None) -> None:
        self._slots = [0] * (_SLOTS * _FIELDS) if slots is None else slots
        self.interrupted: Sequence[InterruptedWork] = ()

    def share(self, slots: MutableSequence[int], interrupted: Sequence[InterruptedWork]) -> None:
        """Keep the marks in shared memory from now on, and take over what earlier processes have left."""
        self._slots, self.interrupted = slots, interrupted

    @contextmanager
    def mark(self, partition: int, first_offset: int, last_offset: int) -> Iterator[None]:
        """Mark offsets of a partition while the block runs; without a free slot they are not marked."""
        slots = self._slots
        start = next((start for start in range(0, len(slots) - _FIELDS, _FIELDS) if not slots[start + 2]), None)
        if start is None:
            yield
            return
        with self._mark_in(start, partition, first_offset, last_offset):
            yield

    @contextmanager
    def mark_opening(self, partition: int, first_offset: int, last_offset: int) -> Iterator[None]:
        """Mark a batch that the thread of the Kafka client opens while the block runs, as work of partition ``~partition``.

        It has a slot of its own, because another thread takes the others.
        """
        with self._mark_in(len(self._slots) - _FIELDS, ~partition, first_offset, last_offset):
            yield

    @contextmanager
    def _mark_in(self, start: int, partition: int, first_offset: int, last_offset: int) -> Iterator[None]:
        slots = self._slots
        slots[start], slots[start + 1] = partition, first_offset
        slots[start + 2] = last_offset + 1
        try:
            yield
        finally:
            slots[start + 2] = 0

    def take(self, at: datetime) -> list[InterruptedWork]:
        """Remove all marks, and return them as work that was interrupted at this time."""
        interrupted = []
        for start in range(0, len(self._slots), _FIELDS):
            partition, first_offset, end = self._slots[start : start + _FIELDS]
            if end:
                interrupted.append(InterruptedWork(partition, first_offset, end - 1, at))
                self._slots[start + 2] = 0
        return interrupted


MARKS = WorkMarks()
"""The marks of this process."""
