"""Suspects of leakage: features that know the target better than something that is known before it should.

A feature is tested alone, on rows that its small model has not learned (rows of one entity stay together), and against all other
features together. A suspect is not a proof: a volume of last year may well predict that of this year. It is what a person should
look at before a model is believed.

References:
    Kaufman, Rosset, Perlich, Stitelman (2012), Leakage in data mining: formulation, detection, and avoidance. ACM TKDD 6(4).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.metrics import roc_auc_score
from sklearn.tree import DecisionTreeRegressor
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

from engine.twins.entities import folds
from engine.twins.training_table import TrainingTable
from schemas.arrays import Flags, Floats, Integers

__all__ = ["FeatureKnowledge", "copied_columns", "feature_knowledge", "near_copies", "refuse_copies"]

COPY = 0.98
"""Absolute rank correlation with the target from which a feature is nearly the target itself."""

ALONE = 0.5
"""Score of one feature alone from which it is compared with all others."""

AGAINST_OTHERS = 2.0
"""A feature whose score alone is more than this many times that of all others together is a suspect."""

_FOLDS = 5
_MOST_ROWS = 20_000
_FIRST_ROWS = 1_000
"""Rows on which pairs of columns are compared first; only those that are alike there are compared on all."""

_PAIR = 0.995
"""Absolute rank correlation with the target from which two columns together make it."""

_LESS_UNKNOWN = 0.25
"""Two columns make the target when their correlation lacks at most this share of what that of the better one alone lacks."""

_ABSENCE = 0.9
"""2 AUC - 1 of the target from which rows without a value are those with a high, or a low, target."""

_FREQUENT = 0.1
"""Share of the rows from which one value of the target is left out of the comparison of pairs."""

_MIN_ABSENT = 20
_MOST_DECIMALS = 6
_LEAVES = 32
_TOLERANCE = 1e-6
_EQUAL_SHARE = 0.99
_MIN_ROWS = 50
_MOST_COLUMNS = 60
_MIN_VALUES = 10  # fewest values of a target whose order no other column has by chance


class FeatureKnowledge(NamedTuple):
    """What one feature knows of the target.

    Attributes:
        name: of the feature.
        alone: score of the feature alone on rows that were not learned: R2, or 2 AUC - 1 where the target has two values.
        others: the same of all other features together, less those that may know the target too; None where it was not needed
            or there are none.
        correlation: absolute rank correlation of a number with the target; 0 for levels.
        absence: how well the rows without a value of the feature are told from the others by the target, 2 AUC - 1; 0 for few.
    """

    name: str
    alone: float
    others: float | None
    correlation: float
    absence: float = 0.0

    @property
    def is_copy(self) -> bool:
        """Whether the feature is nearly the target."""
        return self.correlation >= COPY or self.alone >= COPY

    @property
    def is_suspect(self) -> bool:
        """Whether a person should look at the feature."""
        return self.is_copy or self.is_absent_by_target or self._is_alone

    @property
    def is_absent_by_target(self) -> bool:
        """Whether a value is missing where the target is low, or high, and there alone."""
        return self.absence >= _ABSENCE

    @property
    def _is_alone(self) -> bool:
        return self.alone >= ALONE and self.others is not None and self.alone > AGAINST_OTHERS * max(self.others, 0.0)

    @property
    def suspicion(self) -> str:
        """Why a person should look at a suspect."""
        if self.is_copy:
            return f"{self.name!r} is nearly the target: rank correlation {self.correlation:.2f}, R2 {self.alone:.2f} by it alone"
        if self.is_absent_by_target:
            return (
                f"{self.name!r} is missing where the target is at one end, and there alone (2 AUC - 1 of {self.absence:.2f}): is it"
                " known before the outcome?"
            )
        return (
            f"{self.name!r} alone predicts the target with R2 {self.alone:.2f}, all features that are no suspects together with"
            f" {self.others:.2f}"
        )


def feature_knowledge(table: TrainingTable, seed: int = 0) -> list[FeatureKnowledge]:
    """What each feature knows of the target, the most first; of a large table some rows are drawn.

    Example:
        >>> from engine.twins.training_table import build_training_table
        >>> from schemas.twin_types import TwinType
        >>> rng = np.random.default_rng(0)
        >>> frame = pd.DataFrame({"decile": rng.integers(1, 11, 1500), "prescribing_change": rng.normal(0, 0.1, 1500)})
        >>> frame["seen_later"] = frame["prescribing_change"] * 100 + 3
        >>> knowledge = feature_knowledge(build_training_table(frame, TwinType.HCP, "prescribing_change"))
        >>> [item.name for item in knowledge if item.is_suspect]
        ['seen_later']
    """
    if len(table) > _MOST_ROWS:
        table = table.take(np.sort(np.random.default_rng(seed).choice(len(table), _MOST_ROWS, replace=False)))
    numbers = {name: _numbers(table, name) for name in table.kinds}
    single = [
        FeatureKnowledge(
            name,
            _score(table, [name], numbers, seed),
            None,
            0.0 if name in table.categorical else _rank_correlation(numbers[name], table.target),
            _absence(table.features[name].isna().to_numpy(dtype=bool), table.target),
        )
        for name in table.kinds
    ]
    return sorted(_against_others(single, table, numbers, seed), key=lambda item: (-max(item.alone, item.correlation), item.name))


def _against_others(
    single: Sequence[FeatureKnowledge], table: TrainingTable, numbers: dict[str, Floats], seed: int
) -> list[FeatureKnowledge]:
    """What each feature knows, with the score of the others where it is needed.

    Two features that know the target would hide each other: what is strong alone, or together with another column, is none of the
    others. Where nothing else is left, the others are all but the feature itself.
    """
    strong = {item.name for item in single if item.alone >= ALONE}
    suspects = {item.name for item in single if item.is_copy or item.is_absent_by_target}
    rows = np.random.default_rng(seed).permutation(len(table))
    counts = {name: column[rows] for name, column in numbers.items() if name not in table.categorical}
    pairs = {name for pair in _pairs(counts, table.target[rows]) for name in (pair.first, pair.second)} if strong else set[str]()
    rest = [name for name in table.kinds if name not in strong | suspects | pairs]
    score = _score(table, rest, numbers, seed) if strong and rest else None

    def others(name: str) -> float | None:
        peers = [peer for peer in table.kinds if peer != name]
        return _score(table, peers, numbers, seed) if score is None and peers else score

    return [item._replace(others=others(item.name)) if item.name in strong else item for item in single]


def _absence(absent: Flags, target: Floats) -> float:
    """How well the target tells rows without a value from those with one, 2 AUC - 1 without its sign; 0 where either are few."""
    if min(absent.sum(), (~absent).sum()) < _MIN_ABSENT:
        return 0.0
    return float(abs(2 * roc_auc_score(absent, target) - 1))


def _numbers(table: TrainingTable, name: str) -> Floats:
    """A feature as numbers, levels as codes."""
    column = table.features[name]
    if name in table.categorical:
        return pd.factorize(column)[0].astype(np.float64)
    return column.to_numpy(dtype=np.float64, na_value=np.nan)


def _score(table: TrainingTable, names: Sequence[str], numbers: dict[str, Floats], seed: int) -> float:
    """How well some features predict the target of rows that were not learned."""
    predicted = np.full(len(table), np.nan)
    for train, test in folds(table.groups, _FOLDS, seed):
        columns = [_encoded(table, name, numbers[name], train) for name in names]
        features = np.column_stack(columns)
        with threadpool_limits(1, user_api="openmp"):
            model = _model(len(train), n_features=len(names), seed=seed).fit(features[train], table.target[train])
            predicted[test] = model.predict(features[test])
    return _goodness(predicted, table.target)


def _model(n: int, *, n_features: int, seed: int) -> Any:
    if n_features == 1:
        return DecisionTreeRegressor(max_leaf_nodes=_LEAVES, min_samples_leaf=max(5, n // 200), random_state=seed)
    return HistGradientBoostingRegressor(max_iter=60, max_leaf_nodes=15, random_state=seed)


def _encoded(table: TrainingTable, name: str, numbers: Floats, train: Integers) -> Floats:
    """Numbers as they are; levels as the mean target of their rows in the training part, shrunk towards the mean of all."""
    if name not in table.categorical:
        return numbers
    codes = numbers.astype(np.int64) + 1
    mean = float(table.target[train].mean())
    counts = np.bincount(codes[train], minlength=codes.max() + 1)
    sums = np.bincount(codes[train], weights=table.target[train], minlength=codes.max() + 1)
    return np.asarray(((sums + 10 * mean) / (counts + 10))[codes], dtype=np.float64)


def _goodness(predicted: Floats, target: Floats) -> float:
    values = np.unique(target)
    if len(values) == 2:
        return float(2 * roc_auc_score(target == values[1], predicted) - 1)
    return float(1 - ((target - predicted) ** 2).mean() / target.var())


def _rank_correlation(numbers: Floats, target: Floats) -> float:
    return abs(_signed_rank_correlation(numbers, target))


def _signed_rank_correlation(numbers: Floats, target: Floats) -> float:
    present = np.isfinite(numbers)
    if present.sum() < _MIN_ROWS or not np.ptp(numbers[present]) or not np.ptp(target[present]):
        return 0.0
    return float(np.corrcoef(rankdata(numbers[present]), rankdata(target[present]))[0, 1])


def refuse_copies(table: TrainingTable, target: str) -> None:
    """Refuse features that are the target itself in another form, such as in percent or as a rank.

    Raises:
        ValueError: when the order of a feature's values is exactly that of the target's, or the opposite.

    Example:
        >>> from engine.twins.training_table import build_training_table
        >>> from schemas.twin_types import TwinType
        >>> frame = pd.DataFrame({"prescribing_change": np.linspace(-0.2, 0.3, 1200)})
        >>> frame["growth"] = frame["prescribing_change"] ** 3
        >>> refuse_copies(build_training_table(frame, TwinType.HCP, "prescribing_change"), "prescribing_change")
        Traceback (most recent call last):
        ValueError: 'growth' is the target 'prescribing_change' in another form, as it has its order in all rows: leave it out
    """
    for name, correlation in _rank_correlations(table):
        if correlation >= 1 - _TOLERANCE**2 and len(np.unique(table.target)) >= _MIN_VALUES:
            raise ValueError(f"{name!r} is the target {target!r} in another form, as it has its order in all rows: leave it out")


def near_copies(table: TrainingTable) -> Iterator[str]:
    """Warnings about features that are nearly the target."""
    for name, correlation in _rank_correlations(table):
        if correlation >= COPY:
            yield f"{name!r} is nearly the target, rank correlation {correlation:.3f}: is it known before the outcome?"


def _rank_correlations(table: TrainingTable) -> Iterator[tuple[str, float]]:
    """Each number with its absolute rank correlation with the target."""
    for name in table.kinds:
        if name not in table.categorical:
            yield name, _rank_correlation(_numbers(table, name), table.target)


def copied_columns(frame: pd.DataFrame, target: str, seed: int = 0) -> Iterator[str]:
    """Sentences on pairs of numbers whose ratio or difference is the target, or has its order.

    Looks at the first 60 columns of numbers, and of a large table at some rows that are drawn. Ratios are rounded as the target is
    written; where the columns are rounded too, the order of the rows shows it.

    Example:
        >>> frame = pd.DataFrame({"before": np.arange(1, 101.0), "after": np.arange(2, 102.0)})
        >>> list(copied_columns(frame.assign(change=frame["after"] / frame["before"] - 1), "change"))
        ["'after' / 'before' - 1 is the target: leave 'after' out"]
    """
    outcome = frame[target].to_numpy(dtype=float, na_value=np.nan)
    rows = np.flatnonzero(np.isfinite(outcome))
    rows = np.random.default_rng(seed).permutation(rows)[:_MOST_ROWS]
    names = [str(name) for name in frame.select_dtypes("number") if name != target][:_MOST_COLUMNS]
    columns = {name: frame[name].to_numpy(dtype=float, na_value=np.nan)[rows] for name in names}
    for pair in _pairs(columns, outcome[rows]):
        yield f"{pair.sentence}: leave {pair.first!r} out"


class _Pair(NamedTuple):
    """Two columns that make the target, and how."""

    first: str
    second: str
    sentence: str


def _pairs(columns: Mapping[str, Floats], outcome: Floats) -> Iterator[_Pair]:
    """Pairs of columns whose ratio or difference is the target, or has its order; the rows are in no order."""
    values, counts = np.unique(outcome, return_counts=True)
    if len(values) < _MIN_VALUES:
        return
    if counts.max() >= _FREQUENT * len(outcome):  # such as 0 where nothing was sold: most columns tell it from all else
        others = outcome != values[counts.argmax()]
        outcome, columns = outcome[others], {name: column[others] for name, column in columns.items()}
    decimals = _decimals(outcome)
    alone = {name: _rank_correlation(column, outcome) for name, column in columns.items()}
    for earlier, later in combinations(columns, 2):
        best = max(alone[earlier], alone[later])
        for first, second in ((earlier, later), (later, earlier)):
            pair = _pair(first, second, columns, outcome, decimals, best)
            if pair is not None:
                yield pair
                break


def _pair(
    first: str, second: str, columns: Mapping[str, Floats], outcome: Floats, decimals: int | None, alone: float
) -> _Pair | None:
    """What two columns make of the target in this order; None where it is nothing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        formulas = {" / ": columns[first] / columns[second], " - ": columns[first] - columns[second]}
    for sign, formula in formulas.items():
        values = formula if decimals is None else np.round(formula, decimals)
        if abs(_signed_rank_correlation(values[:_FIRST_ROWS], outcome[:_FIRST_ROWS])) < COPY:
            continue
        name = f"{first!r}{sign}{second!r}"
        if _is_equal(formula, outcome, decimals):
            return _Pair(first, second, f"{name} is the target")
        if sign == " / " and _is_equal(formula - 1, outcome, decimals):
            return _Pair(first, second, f"{name} - 1 is the target")
        correlation = _signed_rank_correlation(values, outcome)
        if alone < COPY and correlation >= _PAIR and 1 - correlation <= _LESS_UNKNOWN * (1 - alone):
            return _Pair(first, second, f"{name} has the order of the target, rank correlation {correlation:.4f}")
    return None


def _decimals(outcome: Floats) -> int | None:
    """The decimals that all values are written with; None where they are more than are written by hand."""
    written = (n for n in range(_MOST_DECIMALS + 1) if np.allclose(outcome, np.round(outcome, n), rtol=0, atol=1e-9))
    return next(written, None)


def _is_equal(formula: Floats, outcome: Floats, decimals: int | None) -> bool:
    present = np.isfinite(formula) & np.isfinite(outcome)
    if present.sum() < _MIN_ROWS or not np.ptp(outcome[present]):
        return False
    rounding = 0.0 if decimals is None else 0.5 * 10.0**-decimals
    close = np.isclose(formula[present], outcome[present], rtol=_TOLERANCE, atol=_TOLERANCE + rounding)
    return bool(close.mean() >= _EQUAL_SHARE)
