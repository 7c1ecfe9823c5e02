"""Drift of a model's inputs away from its training rows, which is visible before any outcome arrives.

Columns are counted in the bins of the model's training rows, so that counts of different times and sources add up. Two samples of
the same distribution differ as well: without a change the population stability index is about a chi-squared variable times
``1/n + 1/m``, so that the limit above which a column counts as moved depends on the number of rows.

No library serves: packages for data drift compare two tables in memory, while the rows here are counted once, as they arrive.

References:
    Yurdakul, Naranjo (2020), Statistical properties of the population stability index. Journal of Risk Model Validation 14.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import kolmogorov
from scipy.stats import chi2

from schemas.arrays import Floats, Integers
from schemas.fidelity_models import ColumnShift, EstimatedFidelity
from schemas.levels import KnownLevels, levels_of, numbers_among
from schemas.twin_models import Baseline, Histogram

__all__ = ["PREDICTED", "bin_counts", "column_counts", "column_shifts", "estimate_fidelity", "histogram"]


PREDICTED = "predicted"
"""Name of the column of predictions among the inputs."""

BINS = 10
MOST_LEVELS = 30
SMALLEST_SHIFT = 0.10
"""Population stability index below which a shift is not reported even if it is certain: the usual limit in practice."""

FALSE_ALARMS = 0.01
"""Probability that any column is reported as moved in one evaluation although none has."""


def histogram(values: pd.Series) -> Histogram:
    """Compute the bins of a training column and its counts: deciles of numbers, or the most frequent levels of a category.

    Example:
        >>> histogram(pd.Series(["a", "b", "a", None]))
        Histogram(edges=(), levels=('a', 'b'), counts=(2, 1, 1))
    """
    if pd.api.types.is_numeric_dtype(values):
        empty = Histogram(edges=_deciles(values.to_numpy(dtype=float)), counts=(0, 0))
    else:
        levels = levels_of(values).texts().dropna().value_counts().index[:MOST_LEVELS]
        empty = Histogram(levels=tuple(sorted(levels)), counts=(0, 0))
    return empty.model_copy(update={"counts": tuple(bin_counts(values, empty).tolist())})


def _deciles(numbers: Floats) -> tuple[float, ...]:
    """Distinct deciles below the largest number; the largest number itself when there are none."""
    present = numbers[~np.isnan(numbers)]
    if not len(present):
        return (0.0,)
    deciles = np.unique(np.quantile(present, np.arange(1, BINS) / BINS))
    return tuple(deciles[deciles < present.max()].tolist()) or (float(present.max()),)


def bin_counts(values: pd.Series, bins: Histogram, name: str | None = None) -> Integers:
    """Count the rows in each bin, shape ``(bins,)``; the last one holds missing values, unknown levels and non-numbers.

    Levels of the feature ``name`` are known in every spelling that the catalogue declares.
    """
    if bins.edges:
        numbers = numbers_among(values)
        positions = np.where(np.isnan(numbers), len(bins.edges) + 1, np.searchsorted(bins.edges, numbers))
        return np.bincount(positions, minlength=len(bins.edges) + 2)
    levels, vocabulary = levels_of(values), KnownLevels(bins.levels, name)
    counted = levels.texts(vocabulary.spellings(levels.values)).value_counts()
    by_level = [int(counted.get(level, 0)) for level in bins.levels]
    return np.array([*by_level, len(values) - sum(by_level)], dtype=np.int64)


def column_counts(features: pd.DataFrame, predicted: npt.ArrayLike, baseline: Baseline) -> dict[str, Integers]:
    """Count the rows in each bin of each input of the model; a feature that the frame lacks counts as missing in every row."""
    missing = pd.Series([None] * len(features), dtype=object)
    columns = {name: features.get(name, missing) for name in baseline.inputs} | {PREDICTED: pd.Series(np.asarray(predicted))}
    return {name: bin_counts(columns[name], bins, name) for name, bins in baseline.inputs.items()}


def column_shifts(counts: Mapping[str, npt.ArrayLike], baseline: Baseline) -> tuple[ColumnShift, ...]:
    """Measure how far each column has moved from the training rows, the furthest first; columns without rows are left out."""
    shifts = [
        _shift(name, np.asarray(observed, dtype=np.int64), baseline.inputs[name], len(counts))
        for name, observed in counts.items()
        if np.sum(observed) > 0
    ]
    return tuple(sorted(shifts, key=lambda shift: (-shift.psi / shift.limit, shift.name)))


def _shift(name: str, observed: Integers, bins: Histogram, n_columns: int) -> ColumnShift:
    trained = np.array(bins.counts)
    used = (trained > 0) | (observed > 0)
    n, m = int(observed.sum()), int(trained.sum())
    noise = float(chi2.isf(FALSE_ALARMS / n_columns, max(int(used.sum()) - 1, 1))) * (1 / n + 1 / m)
    psi, limit = _psi(observed[used], trained[used]), max(SMALLEST_SHIFT, noise)
    ks = _largest_distance(observed[:-1], trained[:-1]) if bins.edges else None
    ks_p = None if ks is None else float(kolmogorov(ks * np.sqrt(n * m / (n + m))))
    return ColumnShift(name=name, n=n, psi=psi, limit=limit, ks=ks, ks_p=ks_p, moved=psi > limit)


def _psi(observed: Integers, trained: Integers) -> float:
    """Population stability index; half a row is added to each bin, so that the logarithm of an empty bin is defined."""
    p, q = ((counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in (observed, trained))
    return float(((p - q) * np.log(p / q)).sum())


def _largest_distance(observed: Integers, trained: Integers) -> float:
    if observed.sum() == 0 or trained.sum() == 0:
        return 0.0
    return float(np.abs(np.cumsum(observed) / observed.sum() - np.cumsum(trained) / trained.sum()).max())


def estimate_fidelity(
    features: pd.DataFrame, predicted: npt.ArrayLike, half_width: npt.ArrayLike, baseline: Baseline
) -> EstimatedFidelity:
    """Estimate the mean absolute error of rows whose outcomes are pending.

    The width of a prediction interval is proportional to the size of past errors of similar rows. The expected error is that of
    the baseline times the factor by which intervals have become wider.

    Args:
        features: of the rows, as passed to the model.
        predicted: of the rows, shape ``(n,)``.
        half_width: of their prediction intervals, shape ``(n,)``, NaN where there is none.
        baseline: of the model.
    """
    return EstimatedFidelity(
        n=len(features),
        mae=_estimated_mae(np.asarray(half_width, dtype=float), baseline),
        baseline_mae=baseline.mae,
        columns=column_shifts(column_counts(features, predicted, baseline), baseline),
    )


def _estimated_mae(half_width: Floats, baseline: Baseline) -> float | None:
    widths = half_width[np.isfinite(half_width)]
    if not len(widths) or baseline.half_width is None:
        return None
    return float(baseline.mae * widths.mean() / baseline.half_width)
