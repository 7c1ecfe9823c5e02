"""Bounds the series of a model line: the first values of a segment dimension get series of their own, all others share one.

Which values have their own series is stored in the transaction of the batch that brings them, and never changes back. Each head and
each outcome is stored with the series it is counted in, so a correction is taken out of these, whatever has been admitted since.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
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
        self._own: defaultdict[str, set[str]] = defaultdict(lambda: {ALL_ROWS})  # names of the series by line
        self._n_values: Counter[Dimension] = Counter()

    async def apply(self, connection: Connection, scored: ScoredBatch, rows: Integers) -> BoundedBatch:
        """Admit values of these rows while there is room, the most frequent first, and count all others in the series ``other``."""
        admitted: list[SegmentValue] = []
        counts = self._undecided(scored, rows)
        if counts:
            self.remember(await lock_segment_values(connection, {dimension.line for dimension, _ in counts}))
            admitted = self._admit(self._undecided(scored, rows))
        if admitted:
            await add_segment_values(connection, admitted)
        groups = self._bound(scored.scores.groups, {(value.dimension.line, _series(value)) for value in admitted})
        bounded = scored if groups == scored.scores.groups else replace(scored, scores=scored.scores.with_groups(groups))
        return BoundedBatch(bounded, admitted)

    def remember(self, values: Iterable[SegmentValue]) -> None:
        """Remember values whose transaction is committed."""
        for value in values:
            own, series = self._own[value.dimension.line], _series(value)
            self._n_values[value.dimension] += series not in own
            own.add(series)

    def _undecided(self, scored: ScoredBatch, rows: Integers) -> Counter[SegmentValue]:
        """Number of outcomes of each value that is not known to be admitted, in dimensions that may have room."""
        groups, counts = scored.scores.groups, Counter[SegmentValue]()
        new = [
            (index, value)
            for index, group in enumerate(groups)
            for value in map(partial(_value, group.line), self._foreign(group))
            if self._room(value.dimension)
        ]
        if new:
            n_outcomes = np.bincount(scored.scores.group_index[rows], minlength=len(groups)).tolist()
            for index, value in new:
                counts[value] += n_outcomes[index]
        return +counts

    def _admit(self, counts: Mapping[SegmentValue, int]) -> list[SegmentValue]:
        admitted: list[SegmentValue] = []
        n_admitted: Counter[Dimension] = Counter()
        for value in sorted(counts, key=lambda value: (-counts[value], value)):
            if n_admitted[value.dimension] < self._room(value.dimension):
                n_admitted[value.dimension] += 1
                admitted.append(value)
        return admitted

    def _room(self, dimension: Dimension) -> int:
        return max(self._max_values - self._n_values[dimension], 0)

    def _bound(self, groups: Sequence[OutcomeGroup], admitted: Collection[tuple[str, str]]) -> list[OutcomeGroup]:
        """The groups with the series that their outcomes are counted in; ``admitted`` are lines and series of this transaction."""
        bounded = list(groups)
        for index, group in enumerate(groups):
            foreign = [series for series in self._foreign(group) if (group.line, series) not in admitted]
            if foreign:
                names = (other_segment(name.partition("=")[0]) if name in foreign else name for name in group.segments)
                bounded[index] = group._replace(segments=tuple(names))
        return bounded

    def _foreign(self, group: OutcomeGroup) -> Sequence[str]:
        """Series of a group that are not known to have been admitted; nearly always none."""
        own = self._own[group.line]
        return () if own.issuperset(group.segments) else [series for series in group.segments if series not in own]


def _series(value: SegmentValue) -> str:
    return f"{value.dimension.name}={value.value}"  # as it was admitted


def _value(line: str, series: str) -> SegmentValue:
    name, _, value = series.partition("=")
    return SegmentValue(Dimension(line, name), value)


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
