"""Effects by subgroup, with small groups shrunk toward the whole."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from engine.intervals import interval
from schemas.simulation_models import SubgroupEffect

__all__ = ["Groups", "groups_of", "pooled", "subgroup_effects"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Groups:
    """Which twin stands in which group: ``places`` of shape ``(n,)``, 1 for the first of ``labels``, 0 for none."""

    places: npt.NDArray[np.intp]
    labels: tuple[str, ...]

    def among(self, chosen: npt.NDArray[np.bool_]) -> Groups:
        """The groups of the chosen twins; those without any are gone."""
        places = self.places[chosen]
        present = np.bincount(places, minlength=len(self.labels) + 1)[1:] > 0
        moved = np.concatenate([[0], np.cumsum(present)])
        return Groups(moved[places], tuple(np.array(self.labels, dtype=object)[present]))

    def sums(self, values: Array) -> Array:
        """Sums of ``values``, shape ``(k, n)``, in each group: ``(k, groups)``."""
        return np.array([np.bincount(self.places, row, len(self.labels) + 1)[1:] for row in values])


def groups_of(labels: Iterable[Hashable]) -> Groups:
    """Groups of twins by label, in the order of numbers or of words; a missing label is no group."""
    codes, levels = pd.factorize(pd.Series(labels))
    found = levels.tolist()
    order = sorted(range(len(found)), key=lambda code: _order(found[code]))
    place_of = np.zeros(len(found) + 1, dtype=np.intp)
    place_of[order] = np.arange(1, len(found) + 1)
    return Groups(place_of[codes], tuple(str(found[code]) for code in order))


def pooled(raw: Array, n: Array, within: Array, noise: Array) -> Array:
    """Draws of group averages, shrunk toward the whole by what a group of that size can tell apart.

    A group keeps the share ``k = between / (between + within / n)`` of its distance from the whole and is uncertain by
    ``between * (1 - k)`` beside what all groups share.

    Args:
        raw: draws of the groups' own averages, shape ``(groups, n_draws)``.
        n: twins in each group.
        within: variance of twins' effects inside each group.
        noise: standard normal draws, shape ``(groups, n_draws)``.

    References:
        Searle, Casella, McCulloch (1992), Variance Components: the moment estimator between groups of unequal size.
    """
    total = n.sum()
    whole, center = (n @ raw) / total, raw.mean(axis=1)
    inside = float(n @ within / total)
    distance = float(n @ (center - n @ center / total) ** 2)
    usable = total - float(n @ n) / total
    between = max(0.0, (distance - (len(n) - 1) * inside) / usable) if usable > 0 else 0.0
    kept = between / (between + inside / n) if between > 0 else np.zeros(len(n))
    return np.asarray(whole + kept[:, None] * (raw - whole) + np.sqrt(between * (1.0 - kept))[:, None] * noise)


def subgroup_effects(groups: Groups, n: Array, draws: Array, confidence_level: float) -> tuple[SubgroupEffect, ...]:
    """Estimate and interval of each group's draws, shape ``(groups, n_draws)``."""
    lower, upper = interval(draws, confidence_level).tolist()
    return tuple(
        SubgroupEffect(group=label, estimate=estimate, ci_lower=low, ci_upper=high, n=int(count))
        for label, estimate, low, high, count in zip(groups.labels, draws.mean(axis=1).tolist(), lower, upper, n, strict=True)
    )


def _order(label: Any) -> tuple[int, float, str]:
    return (0, float(label), "") if isinstance(label, int | float | np.number) else (1, 0.0, str(label))
