"""Whether what a model is asked about has moved away from what it learned from, before any outcome tells.

Columns are counted in the bins of the model's own training rows, so counts of different times and sources add up. Two samples of
one distribution differ too: without a change the population stability index is about a chi-squared variable times
``1/n + 1/m``, so what counts as moved depends on how many rows were seen.

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

from schemas.fidelity_models import ColumnShift, EstimatedFidelity
from schemas.twin_models import Baseline, Histogram

__all__ = ["PREDICTED", "bin_counts", "column_counts", "column_shifts", "estimate_fidelity", "histogram"]

Array = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

PREDICTED = "predicted"
"""The model's prediction, among its inputs."""

BINS = 10
MOST_LEVELS = 30
SMALLEST_SHIFT = 0.10
"""Population stability index below which a shift, however certain, is not worth a word: the usual limit of practice."""

FALSE_ALARMS = 0.01
"""Probability that any column at all is said to have moved while none has, in one look."""


def histogram(values: pd.Series) -> Histogram:
    """Bins of a training column, with its counts: tenths of the numbers, or the most frequent levels of a category.

    Example:
        >>> histogram(pd.Series(["a", "b", "a", None]))
        Histogram(edges=(), levels=('a', 'b'), counts=(2, 1, 1))
    """
    if pd.api.types.is_numeric_dtype(values):
        empty = Histogram(edges=_tenths(values.to_numpy(dtype=float)), counts=(0, 0))
    else:
        levels = values.dropna().map(str).value_counts().index[:MOST_LEVELS]
        empty = Histogram(levels=tuple(sorted(levels)), counts=(0, 0))
    return empty.model_copy(update={"counts": tuple(bin_counts(values, empty).tolist())})


def _tenths(numbers: Array) -> tuple[float, ...]:
    """Different tenths, all below the largest number, or the only number there is."""
    known = numbers[~np.isnan(numbers)]
    if not len(known):
        return (0.0,)
    tenths = np.unique(np.quantile(known, np.arange(1, BINS) / BINS))
    return tuple(tenths[tenths < known.max()].tolist()) or (float(known.max()),)


def bin_counts(values: pd.Series, bins: Histogram) -> Counts:
    """Rows in each bin; the last one holds what is missing, unknown, or no number: shape ``(bins,)``."""
    if bins.edges:
        numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=float)
        place = np.where(np.isnan(numbers), len(bins.edges) + 1, np.searchsorted(bins.edges, numbers))
        return np.bincount(place, minlength=len(bins.edges) + 2)
    counted = values.map(str).value_counts()
    known = [int(counted.get(level, 0)) for level in bins.levels]
    return np.array([*known, len(values) - sum(known)], dtype=np.int64)


def column_counts(features: pd.DataFrame, predicted: npt.ArrayLike, baseline: Baseline) -> dict[str, Counts]:
    """Rows in each bin of each input of the model; a feature that the frame lacks is missing in every row."""
    nothing = pd.Series([None] * len(features), dtype=object)
    columns = {name: features.get(name, nothing) for name in baseline.inputs} | {PREDICTED: pd.Series(np.asarray(predicted))}
    return {name: bin_counts(columns[name], bins) for name, bins in baseline.inputs.items()}


def column_shifts(counts: Mapping[str, npt.ArrayLike], baseline: Baseline) -> tuple[ColumnShift, ...]:
    """How far each column has moved from the rows that the model learned from, the furthest first; none without rows."""
    found = [
        _shift(name, np.asarray(seen, dtype=np.int64), baseline.inputs[name], len(counts))
        for name, seen in counts.items()
        if np.sum(seen) > 0
    ]
    return tuple(sorted(found, key=lambda shift: (-shift.psi / shift.limit, shift.name)))


def _shift(name: str, seen: Counts, bins: Histogram, n_columns: int) -> ColumnShift:
    learned = np.array(bins.counts)
    used = (learned > 0) | (seen > 0)
    n, m = int(seen.sum()), int(learned.sum())
    noise = float(chi2.isf(FALSE_ALARMS / n_columns, max(int(used.sum()) - 1, 1))) * (1 / n + 1 / m)
    psi, limit = _psi(seen[used], learned[used]), max(SMALLEST_SHIFT, noise)
    ks = _largest_distance(seen[:-1], learned[:-1]) if bins.edges else None
    ks_p = None if ks is None else float(kolmogorov(ks * np.sqrt(n * m / (n + m))))
    return ColumnShift(name=name, n=n, psi=psi, limit=limit, ks=ks, ks_p=ks_p, moved=psi > limit)


def _psi(seen: Counts, learned: Counts) -> float:
    """Half a row is added to each bin, so that an empty one has a logarithm."""
    p, q = ((counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in (seen, learned))
    return float(((p - q) * np.log(p / q)).sum())


def _largest_distance(seen: Counts, learned: Counts) -> float:
    if seen.sum() == 0 or learned.sum() == 0:
        return 0.0
    return float(np.abs(np.cumsum(seen) / seen.sum() - np.cumsum(learned) / learned.sum()).max())


def estimate_fidelity(
    features: pd.DataFrame, predicted: npt.ArrayLike, half_width: npt.ArrayLike, baseline: Baseline
) -> EstimatedFidelity:
    """What to expect of rows whose outcomes are not known yet.

    The width of a prediction interval is in proportion to how large errors of such rows used to be, so the expected error is the
    baseline's times how much wider intervals have become.

    Args:
        features: of the rows, as they were given to the model.
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


def _estimated_mae(half_width: Array, baseline: Baseline) -> float | None:
    known = half_width[np.isfinite(half_width)]
    if not len(known) or baseline.half_width is None:
        return None
    return float(baseline.mae * known.mean() / baseline.half_width)
