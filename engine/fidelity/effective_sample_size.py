"""Effective sample size of outcomes that are correlated within a segment or an entity, such as those of one territory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from engine.fidelity.error_sums import QUANTUM, moments_in
from schemas.arrays import Floats, Integers
from schemas.twin_models import Baseline

__all__ = ["effective_n", "effective_rows"]


def effective_n(segments: Mapping[str, Sequence[int]], baseline: Baseline) -> float | None:
    """Compute the number of independent outcomes that would estimate the mean absolute error equally well.

    Correlation within segments shows in how much further the segments of one dimension have moved from their own baselines than
    their sizes explain. It is measured by the intraclass correlation of a one-way analysis of variance, which gives Kish's design
    effect. The dimension with the largest effect counts.

    Args:
        segments: sums in the order of ``SUM_FIELDS``, by ``dimension=level``; those without a baseline of their own are ignored.
        baseline: of the model.

    Returns:
        At most the number of outcomes; None when no dimension has two levels to compare.

    References:
        Kish (1965), Survey Sampling, section 5.4. Donner (1986), A review of inference procedures for the intraclass correlation
        coefficient in the one-way random effects model. International Statistical Review 54.
    """
    by_dimension: dict[str, list[tuple[float, float, float]]] = {}
    for name, sums in segments.items():
        moments = moments_in(sums)
        if (errors := baseline.segment(name)) is not None and moments.n > 0:
            unit = QUANTUM * baseline.scale
            mean = unit * (moments.absolute_error / moments.n)
            squares = unit**2 * moments.error_squared
            by_dimension.setdefault(name.partition("=")[0], []).append(
                (moments.n, mean - errors.mae, squares - moments.n * mean**2)
            )
    effective = [_effective(np.array(groups)) for groups in by_dimension.values() if len(groups) > 1]
    return min(effective) if effective else None


def effective_rows(values: Floats, entities: Integers) -> float:
    """Number of independent rows that would estimate the mean of ``values`` ``(n,)`` equally well as these rows of ``entities``.

    References:
        As for :func:`effective_n`.

    Example:
        >>> effective_rows(np.array([1.0, 1.0, 5.0, 5.0, 9.0, 9.0]), np.array([0, 0, 1, 1, 2, 2]))
        3.0
    """
    codes = np.unique(entities, return_inverse=True)[1]
    n = np.bincount(codes)
    means = np.bincount(codes, values) / n
    return _effective(np.column_stack([n, means, np.bincount(codes, (values - means[codes]) ** 2)]))


def _effective(groups: np.ndarray) -> float:
    """Effective number of outcomes.

    ``groups`` has shape ``(groups, 3)``: size, change of the mean, and sum of squares within the group.
    """
    n, change, squares_within = groups.T
    total, k = n.sum(), len(n)
    within = squares_within.sum() / max(total - k, 1)
    between = (n * (change - (n * change).sum() / total) ** 2).sum() / (k - 1)
    mean_size = (total - (n**2).sum() / total) / (k - 1)
    spread = between + (mean_size - 1) * within
    correlation = max(between - within, 0.0) / spread if spread > 0 else 0.0
    return float(total / (1 + ((n**2).sum() / total - 1) * correlation))
