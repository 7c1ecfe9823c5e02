"""Measure how closely synthetic rows resemble held-out real rows, and how close they come to the training rows (privacy).

All comparisons use held-out rows: compared with its own training rows, a generator that only copies would look perfect.

References:
    Bergsma, "A bias-correction for Cramer's V and Tschuprow's T", Journal of the Korean Statistical Society 42 (2013).
    Kelley, "An unbiased correlation ratio measure", PNAS 21 (1935).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import ks_2samp, rankdata
from sklearn.metrics import pairwise_distances_argmin_min

from engine.twins.detection import CLASSIFIERS, QUICK, detection_aucs
from schemas.arrays import Floats, Integers, Singles
from schemas.realism import RealismReport

__all__ = ["association", "closeness", "column_score", "exact_copies", "measure_realism"]


MAX_ROWS = 10_000
FEWEST_FOR_ALL = 2_000  # held-out rows from which every classifier is tried: with fewer they find no more and take long
NEAR_QUANTILE = 0.05


def measure_realism(
    draws: Sequence[pd.DataFrame],
    *,
    held_out: pd.DataFrame,
    training: pd.DataFrame,
    categorical: Sequence[str],
    rng: np.random.Generator,
    entities: Integers | None = None,
    classifiers: Sequence[str] = (),
    outcome: str | None = None,
) -> RealismReport:
    """Compare synthetic rows with held-out and training rows of the same columns.

    At most 10,000 rows of each table are used, except that exact copies are searched among all training rows.

    Args:
        draws: tables of synthetic rows, each drawn separately; they are the folds of the classifier, see ``detection_aucs``.
        held_out: real rows that the generator was not trained on.
        training: real rows that it was trained on; with ``entities`` the rows of each are side by side, entities in random order.
        categorical: columns whose values are levels.
        rng: of samples and folds.
        entities: the entity of each held-out row, ``(n,)``; by default every row is an entity of its own.
        classifiers: names of those that are tried; by default all with 2,000 held-out rows, which takes most of a minute, and the
            quick ones with fewer.
        outcome: the column whose means are compared; by default none is.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> real = pd.DataFrame({"visits": rng.gamma(2.0, 3.0, 600), "sales": rng.normal(size=600)})
        >>> copied = measure_realism([real.head(200)], held_out=real.tail(200), training=real.head(400), categorical=[], rng=rng)
        >>> copied.exact_copies, copied.near_copies, copied.auc < 0.6
        (1.0, 1.0, True)
    """
    names = list(held_out.columns)
    training_rows = _sample(len(training), MAX_ROWS, rng)
    if entities is not None:  # side by side again, so that as many rows are of as many entities as among the held-out ones
        training_rows = np.sort(training_rows)
    trained = training[names].iloc[training_rows].reset_index(drop=True)
    held_out_rows = _sample(len(held_out), MAX_ROWS, rng)
    unseen = held_out[names].iloc[held_out_rows].reset_index(drop=True)
    groups = None if entities is None else entities[held_out_rows]
    samples = [_random_rows(draw[names], MAX_ROWS // len(draws), rng) for draw in draws]
    twins = pd.concat(samples, ignore_index=True)
    levels = [name for name in names if name in categorical]
    scores = {name: column_score(twins[name], unseen[name], categorical=name in levels) for name in names}
    near, closer = closeness(twins, trained, unseen, levels)
    names_of_classifiers = classifiers or (tuple(CLASSIFIERS) if len(unseen) >= FEWEST_FOR_ALL else QUICK)
    aucs = detection_aucs(samples, unseen, levels, rng, groups, names_of_classifiers)
    return RealismReport(
        auc=max(aucs.values()),
        aucs=aucs,
        marginal_score=float(np.mean(list(scores.values()))),
        association_error=_association_error(twins, unseen, levels),
        exact_copies=exact_copies(twins, training[names]),
        real_copies=exact_copies(unseen, training[names]),
        near_copies=near,
        closer_to_training=closer,
        n_synthetic=len(twins),
        n_held_out=len(unseen),
        columns=scores,
        **({} if outcome is None else _mean_outcomes(twins[outcome], unseen[outcome])),
    )


def _mean_outcomes(twins: pd.Series[Any], unseen: pd.Series[Any]) -> dict[str, float]:
    return {
        "mean_outcome": float(twins.mean()),
        "real_mean_outcome": float(unseen.mean()),
        "real_mean_error": float(unseen.std() / np.sqrt(len(unseen))) if len(unseen) > 1 else 0.0,
    }


def _random_rows(frame: pd.DataFrame, limit: int, rng: np.random.Generator) -> pd.DataFrame:
    return frame.iloc[_sample(len(frame), limit, rng)].reset_index(drop=True)


def _sample(n: int, limit: int, rng: np.random.Generator) -> Integers:
    return rng.choice(n, size=min(n, limit), replace=False)


def column_score(synthetic: pd.Series[Any], real: pd.Series[Any], *, categorical: bool) -> float:
    """One minus the total variation distance of levels, or the Kolmogorov-Smirnov distance of numbers; missing is its own value.

    >>> column_score(pd.Series(["a", "a", "b", "b"]), pd.Series(["a", "b", "b", "b"]), categorical=True)
    0.75
    """
    if categorical:
        codes, _ = pd.factorize(pd.concat([synthetic, real]).astype(object))
        shares = [np.bincount(part + 1, minlength=codes.max() + 2) / len(part) for part in np.split(codes, [len(synthetic)])]
        return float(1.0 - np.abs(shares[0] - shares[1]).sum() / 2)
    return float(1.0 - ks_2samp(_numbers(synthetic), _numbers(real), method="asymp").statistic)


def _numbers(column: pd.Series[Any]) -> Floats:
    """Values with missing ones below all others."""
    values: Floats = column.to_numpy(dtype=np.float64, na_value=np.nan)
    return np.where(np.isnan(values), -np.inf, values)


def association(frame: pd.DataFrame, categorical: Sequence[str]) -> dict[tuple[str, str], float]:
    """Association of each pair of columns: Spearman's correlation, correlation ratio, or Cramer's V, corrected for small samples.

    >>> frame = pd.DataFrame({"x": [1.0, 2.0, 3.0, 4.0], "y": [8.0, 6.0, 4.0, 2.0]})
    >>> association(frame, categorical=[])
    {('x', 'y'): -1.0}
    """
    coded = {name: _codes(frame[name]) if name in categorical else rankdata(_numbers(frame[name])) for name in frame}
    return {
        (str(a), str(b)): _association(coded[a], coded[b], a in categorical, b in categorical)
        for a, b in combinations(frame.columns, 2)
    }


def _codes(column: pd.Series[Any]) -> Integers:
    return pd.factorize(column.astype(object), use_na_sentinel=False)[0].astype(np.int64)


def _association(a: npt.NDArray[Any], b: npt.NDArray[Any], a_levels: bool, b_levels: bool) -> float:
    if a_levels and b_levels:
        return _cramers_v(a, b)
    if a_levels or b_levels:
        return _correlation_ratio(*((a, b) if a_levels else (b, a)))
    return float(np.corrcoef(a, b)[0, 1]) if a.std() and b.std() else 0.0


def _correlation_ratio(levels: Integers, values: Floats) -> float:
    counts = np.bincount(levels)
    n, k = len(levels), len(counts)
    if not values.std() or n <= k:
        return 0.0
    means = np.bincount(levels, values) / counts
    within = float(((values - means[levels]) ** 2).sum() / values.var() / n)
    return float(np.sqrt(max(0.0, 1.0 - within * (n - 1) / (n - k))))


def _cramers_v(a: Integers, b: Integers) -> float:
    table = pd.crosstab(a, b).to_numpy(dtype=np.float64)
    n, (rows, columns) = table.sum(), table.shape
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / n
    phi = max(0.0, ((table - expected) ** 2 / expected).sum() / n - (rows - 1) * (columns - 1) / (n - 1))
    smaller = min(rows - (rows - 1) ** 2 / (n - 1), columns - (columns - 1) ** 2 / (n - 1)) - 1
    return float(np.sqrt(phi / smaller)) if smaller > 0 else 0.0


def _association_error(synthetic: pd.DataFrame, real: pd.DataFrame, categorical: Sequence[str]) -> float:
    of_synthetic, of_real = association(synthetic, categorical), association(real, categorical)
    return float(np.mean([abs(of_synthetic[pair] - of_real[pair]) for pair in of_synthetic])) if of_synthetic else 0.0


def closeness(
    synthetic: pd.DataFrame, training: pd.DataFrame, held_out: pd.DataFrame, categorical: Sequence[str]
) -> tuple[float, float]:
    """Shares of synthetic rows that are close to training rows.

    Rows are compared by the ranks of their numbers and by their levels, each column with the same weight.

    Returns:
        The share of near copies: rows nearer to a training row than the nearest 5 % of held-out rows are (0.05 is no excess). And
        the share nearer to a training row than to a held-out row, with equally many of each so that density does not matter (0.5
        means no memorisation).

    Example:
        >>> rng = np.random.default_rng(0)
        >>> real = pd.DataFrame(rng.normal(size=(400, 2)), columns=["x", "y"])
        >>> closeness(real.head(100), real.head(200), real.tail(200), [])
        (1.0, 1.0)
    """
    twins, trained, unseen = np.split(
        _embedded(pd.concat([synthetic, training, held_out], ignore_index=True), categorical),
        np.cumsum([len(synthetic), len(training)]),
    )
    limit = np.quantile(_nearest_distance(unseen, trained), NEAR_QUANTILE)
    rows = min(len(trained), len(unseen))
    to_trained, to_unseen = _nearest_distance(twins, trained[:rows]), _nearest_distance(twins, unseen[:rows])
    closer = np.mean(to_trained < to_unseen) + np.mean(to_trained == to_unseen) / 2
    return float(np.mean(_nearest_distance(twins, trained) < limit)), float(closer)


def _embedded(frame: pd.DataFrame, categorical: Sequence[str]) -> Singles:
    return np.column_stack([_coordinates(frame[name], name in categorical) for name in frame]).astype(np.float32)


def _coordinates(column: pd.Series[Any], categorical: bool) -> Floats:
    """Coordinates of one column, scaled so that the mean squared distance between random rows is the same for every column."""
    codes = _codes(column)
    raw = (codes[:, None] == np.arange(codes.max() + 1)) * 1.0 if categorical else rankdata(_numbers(column))[:, None]
    spread = np.sqrt(raw.var(axis=0).sum())
    return cast("Floats", raw / spread if spread else raw * 0.0)


def _nearest_distance(rows: Singles, among: Singles) -> Floats:
    return np.asarray(pairwise_distances_argmin_min(rows, among)[1], dtype=np.float64)


def exact_copies(synthetic: pd.DataFrame, training: pd.DataFrame) -> float:
    """Share of synthetic rows that equal a training row in every column.

    >>> training = pd.DataFrame({"x": [1, 2, 3], "y": [1, 1, 1]})
    >>> exact_copies(pd.DataFrame({"x": [3, 4], "y": [1, 1]}), training)
    0.5
    """
    hashes = pd.util.hash_pandas_object(training, index=False)
    return float(pd.util.hash_pandas_object(synthetic, index=False).isin(hashes).mean())
