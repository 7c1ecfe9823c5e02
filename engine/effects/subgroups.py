"""Effects by subgroup, with small groups shrunk toward the overall effect (partial pooling)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from engine.effects.intervals import interval
from engine.effects.level_reading import AS_DECLARED, LevelReading
from schemas.arrays import Flags, Floats
from schemas.columns import Levels
from schemas.levels import level_text
from schemas.simulation_models import SubgroupEffect

__all__ = ["Groups", "LevelSums", "group_by_level", "group_levels", "shrinkage", "subgroup_effects", "sums_by_group"]


@dataclass(frozen=True)
class Groups:
    """The group of each twin.

    Attributes:
        codes: shape ``(n,)``: 1 for the first of ``labels``, 2 for the second, ..., 0 for no group.
        labels: names of the groups.
    """

    codes: npt.NDArray[np.intp]
    labels: tuple[str, ...]

    def select(self, mask: Flags) -> Groups:
        """The groups of the twins where ``mask`` ``(n,)`` is true, without empty ones."""
        if mask.all():
            return self
        codes = self.codes[mask]
        present = np.bincount(codes, minlength=len(self.labels) + 1)[1:] > 0
        renumbered = np.concatenate([[0], np.cumsum(present)])
        return Groups(renumbered[codes], tuple(np.array(self.labels, dtype=object)[present]))


class LevelSums(NamedTuple):
    """Sums over the twins of each group: names of the groups, and ``(k, 1 + groups)``, first those of the twins without a group."""

    labels: tuple[Any, ...]
    sums: Floats


def sums_by_group(groupings: Sequence[Groups], rows: Iterable[Floats]) -> list[Floats]:
    """Sums of ``k`` rows of ``n`` values each by the groups of each grouping: one array ``(k, 1 + groups)`` per grouping.

    The first column is of the twins without a group. While there are fewer cells of the cross table of all groupings than twins,
    the twins are summed once into these cells.
    """
    sizes = tuple(len(groups.labels) + 1 for groups in groupings)
    n_cells, n = math.prod(sizes), len(groupings[0].codes)
    if n_cells > n:
        sums_by_row = [
            [np.bincount(groups.codes, row, size) for groups, size in zip(groupings, sizes, strict=True)] for row in rows
        ]
        return [np.array(sums) for sums in zip(*sums_by_row, strict=True)]
    cells = _cells(groupings, sizes)
    sums = np.array([np.bincount(cells, row, n_cells) for row in rows]).reshape(-1, *sizes)
    axes = range(1, len(sizes) + 1)
    return [sums.sum(axis=tuple(k for k in axes if k != axis)) for axis in axes]


def _cells(groupings: Sequence[Groups], sizes: Sequence[int]) -> npt.NDArray[np.intp]:
    """The cell of each twin in the cross table of all groupings, shape ``(n,)``."""
    cells = groupings[0].codes
    for groups, size in zip(groupings[1:], sizes[1:], strict=True):
        cells = cells * size + groups.codes
    return cells


def group_by_level(levels: Levels, column: str = "", reading: LevelReading = AS_DECLARED) -> Groups:
    """Groups of twins by level, in ascending order of numbers or text; a missing value is in no group.

    Spellings of one level (``schemas.level_meaning``) are one group, named by the most frequent of them. ``column`` is the feature
    whose declared spellings are read by ``reading``.

    Example:
        >>> import pandas as pd
        >>> from schemas.columns import encode_levels
        >>> groups = group_by_level(encode_levels(pd.Series(["west", "north", None, "west"])))
        >>> groups.labels, groups.codes.tolist()
        (('north', 'west'), [2, 1, 0, 2])
    """
    codes, values = levels
    group_codes, labels = group_levels(np.bincount(codes[codes >= 0], minlength=len(values)).tolist(), values, column, reading)
    return Groups(group_codes[codes], labels)


def group_levels(
    counts: Sequence[int], values: Sequence[Any], column: str = "", reading: LevelReading = AS_DECLARED
) -> tuple[npt.NDArray[np.intp], tuple[str, ...]]:
    """The group of each level ``(levels + 1,)``, the last 0 for a missing value, and the labels, as :func:`group_by_level`."""
    spellings: dict[str, list[int]] = {}
    for code, value in enumerate(values):
        if (text := level_text(value)) is not None:
            spellings.setdefault(reading.key(column, text), []).append(code)
    usual = {max(alike, key=counts.__getitem__): alike for alike in spellings.values()}
    order = sorted(usual, key=lambda code: _sort_key(values[code]))
    group_codes = np.zeros(len(values) + 1, dtype=np.intp)
    for group, code in enumerate(order, start=1):
        group_codes[usual[code]] = group
    return group_codes, tuple(str(level_text(values[code])) for code in order)


def shrinkage(distance: Floats, n: Floats, within: Floats) -> tuple[Floats, Floats]:
    """Partial pooling of group averages in one dimension.

    The average of a group differs from the overall average by the share ``k = between / (between + within / n)`` of its observed
    distance; the remaining variance of the group is ``between * (1 - k)``, beside the uncertainty common to all groups.

    Args:
        distance: of the groups' averages from the overall average, shape ``(groups,)``.
        n: twins in each group, shape ``(groups,)``.
        within: variance of twins' effects inside each group, shape ``(groups,)``.

    Returns:
        The shares ``k`` and the remaining standard deviations, each ``(groups,)``.

    References:
        Searle, Casella, McCulloch (1992), Variance Components: the moment estimator between groups of unequal size.

    Example:
        >>> share, sd = shrinkage(np.array([-0.02, 0.0, 0.02]), np.array([500.0, 500.0, 5.0]), np.full(3, 0.001))
        >>> share.round(2).tolist()
        [0.99, 0.99, 0.5]
    """
    total = n.sum()
    pooled = float(n @ within / total)
    sum_of_squares = float(n @ (distance - n @ distance / total) ** 2)
    effective = total - float(n @ n) / total
    between = max(0.0, (sum_of_squares - (len(n) - 1) * pooled) / effective) if effective > 0 else 0.0
    share = between / (between + pooled / n) if between > 0 else np.zeros(len(n))
    return share, np.sqrt(between * (1.0 - share))


def subgroup_effects(
    labels: Sequence[str], moderated: Sequence[bool], n: Floats, draws: Floats, confidence_level: float
) -> tuple[SubgroupEffect, ...]:
    """Estimate and interval of each group's draws, shape ``(groups, n_draws)``; ``moderated`` where a moderator is about the group.

    Example:
        >>> subgroup_effects(["north"], [True], np.array([40]), np.array([[0.01, 0.02, 0.03]]), 0.5)[0].estimate
        0.02
    """
    lower, upper = interval(draws, confidence_level).tolist()
    rows = zip(labels, draws.mean(axis=1).tolist(), lower, upper, n, moderated, strict=True)
    return tuple(
        SubgroupEffect(group=label, estimate=estimate, ci_lower=low, ci_upper=high, n=int(count), moderated=is_moderated)
        for label, estimate, low, high, count, is_moderated in rows
    )


def _sort_key(label: Any) -> tuple[int, float, str]:
    return (0, float(label), "") if isinstance(label, int | float | np.number) else (1, 0.0, str(label))
