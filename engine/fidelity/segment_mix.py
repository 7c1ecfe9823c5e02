"""Finds whether outcomes are nearly all of one segment, unlike the rows of the baseline, as in a file that is sorted by a segment.

What such outcomes show is the segment's own. It is compared with the segment's own baseline, and with nothing else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from schemas.twin_models import Baseline

__all__ = ["dominating_segment"]

_FARTHEST_MIX = 0.5
"""Distance of two mixes (half the sum of differences of shares, 0 to 1) beyond which they have little in common."""


def dominating_segment(counts: Mapping[str, int], n: int, baseline: Baseline) -> str | None:
    """The segment that has most of ``n`` outcomes beyond its share in the baseline; None where the mix is like the baseline's.

    Levels without a baseline of their own had at most the rows of their dimension that no other level had, so that nothing is said
    of a dimension without any.

    Args:
        counts: outcomes of each segment, by ``dimension=level``.
        n: outcomes of all rows.
        baseline: of the model.
    """
    by_dimension: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for name, count in counts.items():
        by_dimension[_dimension(name)][name] = count / n
    candidates = [
        _farthest(shares, _remaining_share(dimension, baseline), baseline)
        for dimension, shares in by_dimension.items()
        if sum(shares.values()) * 2 > 1
    ]
    segment, distance = max(candidates, key=lambda pair: pair[1], default=("", 0.0))
    return segment if distance > _FARTHEST_MIX else None


def _dimension(name: str) -> str:
    return name.replace(":", "=").partition("=")[0]


def _remaining_share(dimension: str, baseline: Baseline) -> float:
    """Share of the baseline's rows whose level of the dimension has no baseline of its own."""
    rows = sum(errors.n for name, errors in baseline.segments.items() if _dimension(name) == dimension)
    return max(0.0, 1.0 - rows / baseline.n)


def _farthest(shares: Mapping[str, float], remaining: float, baseline: Baseline) -> tuple[str, float]:
    """The level with the largest excess, and the distance of the mixes: what some levels have too much, others lack."""
    of_baseline = {name: errors.n / baseline.n for name in shares if (errors := baseline.segment(name)) is not None}
    excess = {name: share - of_baseline.get(name, remaining) for name, share in shares.items()}
    new = sum(share for name, share in shares.items() if name not in of_baseline)
    distance = sum(max(0.0, excess[name]) for name in of_baseline) + max(0.0, new - remaining)
    return max(excess, key=lambda name: excess[name]), distance
