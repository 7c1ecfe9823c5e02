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

    Args:
        counts: outcomes of each segment, by ``dimension=level``.
        n: outcomes of all rows.
        baseline: of the model.
    """
    by_dimension: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for name, count in counts.items():
        errors = baseline.segment(name)
        excess = count / n - (0.0 if errors is None else errors.n / baseline.n)
        by_dimension[name.replace(":", "=").partition("=")[0]][name] = excess
    candidates = [
        (max(levels, key=lambda name: levels[name]), _distance(levels))
        for levels in by_dimension.values()
        if sum(count for name, count in counts.items() if name in levels) * 2 > n
    ]
    farthest = max(candidates, key=lambda pair: pair[1], default=None)
    return farthest[0] if farthest is not None and farthest[1] > _FARTHEST_MIX else None


def _distance(excess: Mapping[str, float]) -> float:
    """Distance of two mixes, given the excess of each level that has outcomes: what these have too much, the others lack."""
    return sum(value for value in excess.values() if value > 0)
