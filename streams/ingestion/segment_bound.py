"""Bounds the series of a model line: the first values of a segment dimension get series of their own, all others share one.

Which values have their own series is stored in the transaction of the batch that brings them, and never changes back. Each head and
each outcome is stored with the series it is counted in, so a correction is taken out of these, whatever has been admitted since.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from schemas.arrays import Integers
from schemas.twin_types import ALL_ROWS, dimension_of_other, other_segment
from sql.database import Connection
from sql.outcome_store import OutcomeGroup
from sql.segment_store import Dimension, SegmentValue, add_segment_values, lock_segment_values
from streams.ingestion.revisions import ResolvedBatch
from streams.ingestion.scoring import ScoredBatch

__all__ = ["BoundedBatch", "SegmentBound", "count_in_other"]


class BoundedBatch(NamedTuple):
    """A scored batch whose outcomes are counted in bounded series, and the values that it gave series of their own."""

    scored: ScoredBatch
    admitted: Sequence[SegmentValue]


class SegmentBound:
    """Decides which segment values have series of their own: in the order of arrival, at most ``max_values`` a line and dimension.

    Values that are admitted are remembered, so that a batch without a new value reads nothing.
    """

    def __init__(self, max_values: int) -> None:
        self._max_values = max_values
        self._followed: defaultdict[Dimension, set[str]] = defaultdict(set)

    async def apply(self, connection: Connection, scored: ScoredBatch, rows: Integers) -> BoundedBatch:
        """Admit values of these rows while there is room, the most frequent first, and count all others in the series ``other``."""
        admitted: list[SegmentValue] = []
        counts = self._undecided(scored, rows)
        if counts:
            stored = await lock_segment_values(connection, {dimension.line for dimension, _ in counts})
            for dimension, values in stored.items():
                self._followed[dimension] |= values
            admitted = self._admit(self._undecided(scored, rows))
        if admitted:
            await add_segment_values(connection, admitted)
        groups = [self._bounded(group, set(admitted)) for group in scored.scores.groups]
        if groups == scored.scores.groups:
            return BoundedBatch(scored, admitted)
        return BoundedBatch(replace(scored, scores=scored.scores.with_groups(groups)), admitted)

    def remember(self, admitted: Iterable[SegmentValue]) -> None:
        """Remember values whose transaction is committed."""
        for dimension, value in admitted:
            self._followed[dimension].add(value)

    def _undecided(self, scored: ScoredBatch, rows: Integers) -> Counter[SegmentValue]:
        """Number of outcomes of each value that is not known to be admitted, in dimensions that may have room."""
        groups, counts = scored.scores.groups, Counter[SegmentValue]()
        new = [
            (index, value)
            for index, group in enumerate(groups)
            for value in _values(group)
            if value.value not in self._followed[value.dimension] and self._room(value.dimension)
        ]
        if new:
            n_outcomes = np.bincount(scored.scores.group_index[rows], minlength=len(groups)).tolist()
            for index, value in new:
                counts[value] += n_outcomes[index]
        return +counts

    def _admit(self, counts: Mapping[SegmentValue, int]) -> list[SegmentValue]:
        admitted: list[SegmentValue] = []
        room: dict[Dimension, int] = {}
        for value in sorted(counts, key=lambda value: (-counts[value], value)):
            left = room.setdefault(value.dimension, self._room(value.dimension))
            if left:
                room[value.dimension] = left - 1
                admitted.append(value)
        return admitted

    def _room(self, dimension: Dimension) -> int:
        return max(self._max_values - len(self._followed[dimension]), 0)

    def _bounded(self, group: OutcomeGroup, admitted: set[SegmentValue]) -> OutcomeGroup:
        shared = {
            value.dimension.name
            for value in _values(group)
            if value.value not in self._followed[value.dimension] and value not in admitted
        }
        if not shared:
            return group
        names = (other_segment(name) if (name := segment.partition("=")[0]) in shared else segment for segment in group.segments)
        return group._replace(segments=tuple(names))


def _values(group: OutcomeGroup) -> Iterator[SegmentValue]:
    for segment in group.segments:
        if segment != ALL_ROWS:
            name, _, value = segment.partition("=")
            yield SegmentValue(Dimension(group.line, name), value)


def count_in_other(scored: ScoredBatch, resolved: ResolvedBatch) -> dict[Dimension, int]:
    """Number of outcomes of a bounded batch that are counted in the series ``other``, by line and dimension."""
    others = {
        index: [Dimension(group.line, name) for segment in group.segments if (name := dimension_of_other(segment))]
        for index, group in enumerate(scored.scores.groups)
    }
    if not any(others.values()):
        return {}
    counts: Counter[Dimension] = Counter()
    pairs = zip(scored.scores.group_index[resolved.rows].tolist(), resolved.fates, strict=True)
    for (index, fate), n in Counter(pairs).items():
        if fate == "counted":
            counts.update(dict.fromkeys(others[index], n))
    return dict(counts)
