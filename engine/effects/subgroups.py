"""Effects by subgroup, with small groups shrunk toward the whole."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.effects.intervals import interval
from schemas.columns import Levels
from schemas.simulation_models import SubgroupEffect

__all__ = ["Groups", "group_by_level", "shrinkage", "subgroup_effects", "sums_by_group"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Groups:
    """Which twin stands in which group: ``places`` of shape ``(n,)``, 1 for the first of ``labels``, 0 for none."""

    places: npt.NDArray[np.intp]
    labels: tuple[str, ...]

    def among(self, chosen: npt.NDArray[np.bool_]) -> Groups:
        """The groups of the chosen twins; those without any are gone."""
        if chosen.all():
            return self
        places = self.places[chosen]
        present = np.bincount(places, minlength=len(self.labels) + 1)[1:] > 0
        moved = np.concatenate([[0], np.cumsum(present)])
        return Groups(moved[places], tuple(np.array(self.labels, dtype=object)[present]))


def sums_by_group(groupings: Sequence[Groups], rows: Iterable[Array]) -> list[Array]:
    """Sums of ``k`` rows of ``n`` values each in the groups of each grouping: ``(k, groups)``.

    The twins are added up once, in the cells where all groupings cross, while there are fewer cells than twins.
    """
    sizes = tuple(len(groups.labels) + 1 for groups in groupings)
    cells, n = math.prod(sizes), len(groupings[0].places)
    if cells > n:
        found = [[np.bincount(groups.places, row, size) for groups, size in zip(groupings, sizes, strict=True)] for row in rows]
        return [np.array(each)[:, 1:] for each in zip(*found, strict=True)]
    crossed = _crossed(groupings, sizes)
    sums = np.array([np.bincount(crossed, row, cells) for row in rows]).reshape(-1, *sizes)
    axes = range(1, len(sizes) + 1)
    return [sums.sum(axis=tuple(other for other in axes if other != axis))[:, 1:] for axis in axes]


def _crossed(groupings: Sequence[Groups], sizes: Sequence[int]) -> npt.NDArray[np.intp]:
    """The cell of each twin, shape ``(n,)``."""
    crossed = groupings[0].places
    for groups, size in zip(groupings[1:], sizes[1:], strict=True):
        crossed = crossed * size + groups.places
    return crossed


def group_by_level(levels: Levels) -> Groups:
    """Groups of twins by level, in the order of numbers or of words; a missing value is in no group.

    Example:
        >>> import pandas as pd
        >>> from schemas.columns import encode_levels
        >>> found = group_by_level(encode_levels(pd.Series(["west", "north", None, "west"])))
        >>> found.labels, found.places.tolist()
        (('north', 'west'), [2, 1, 0, 2])
    """
    codes, found = levels
    order = sorted(range(len(found)), key=lambda code: _order(found[code]))
    place_of = np.zeros(len(found) + 1, dtype=np.intp)
    place_of[order] = np.arange(1, len(found) + 1)
    return Groups(place_of[codes], tuple(str(found[code]) for code in order))


def shrinkage(distance: Array, n: Array, within: Array) -> tuple[Array, Array]:
    """What a group of its size can tell apart from the whole: partial pooling in one dimension.

    A group keeps the share ``k = between / (between + within / n)`` of its distance from the whole and is uncertain by
    ``between * (1 - k)`` beside what all groups share.

    Args:
        distance: of the groups' own averages from that of the whole, shape ``(groups,)``.
        n: twins in each group.
        within: variance of twins' effects inside each group.

    Returns:
        The shares and the standard deviations, each ``(groups,)``.

    References:
        Searle, Casella, McCulloch (1992), Variance Components: the moment estimator between groups of unequal size.

    Example:
        >>> kept, left = shrinkage(np.array([-0.02, 0.0, 0.02]), np.array([500.0, 500.0, 5.0]), np.full(3, 0.001))
        >>> kept.round(2).tolist()
        [0.99, 0.99, 0.5]
    """
    total = n.sum()
    inside = float(n @ within / total)
    apart = float(n @ (distance - n @ distance / total) ** 2)
    usable = total - float(n @ n) / total
    between = max(0.0, (apart - (len(n) - 1) * inside) / usable) if usable > 0 else 0.0
    kept = between / (between + inside / n) if between > 0 else np.zeros(len(n))
    return kept, np.sqrt(between * (1.0 - kept))


def subgroup_effects(labels: Sequence[str], n: Array, draws: Array, confidence_level: float) -> tuple[SubgroupEffect, ...]:
    """Estimate and interval of each group's draws, shape ``(groups, n_draws)``.

    Example:
        >>> subgroup_effects(["north"], np.array([40]), np.array([[0.01, 0.02, 0.03]]), 0.5)[0].estimate
        0.02
    """
    lower, upper = interval(draws, confidence_level).tolist()
    return tuple(
        SubgroupEffect(group=label, estimate=estimate, ci_lower=low, ci_upper=high, n=int(count))
        for label, estimate, low, high, count in zip(labels, draws.mean(axis=1).tolist(), lower, upper, n, strict=True)
    )


def _order(label: Any) -> tuple[int, float, str]:
    return (0, float(label), "") if isinstance(label, int | float | np.number) else (1, 0.0, str(label))
