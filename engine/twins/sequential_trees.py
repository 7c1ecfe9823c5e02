"""Learn a table's joint distribution and draw new rows from it: sequential conditional trees with leaf donors.

Columns are drawn one after another. A regression tree per column, fitted on the columns before it, sends a new row to
a leaf, and the row takes the value of a real row (a donor) of that leaf. Because every value comes from a donor, gaps,
point masses, grids and odd shapes survive without being modelled, and a filter needs no rejection: only donors that
satisfy it are drawn from, and the share of them in the leaf is the row's weight.

A fitted model holds the training values of its donors: treat it as you treat the table it came from.

References:
    Reiter, "Using CART to generate partially synthetic public use microdata", Journal of Official Statistics 21 (2005).
    Doucet, Johansen, "A tutorial on particle filtering and smoothing" (2009), for weights and systematic resampling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from joblib import Parallel, delayed
from scipy.special import ndtri
from sklearn.metrics import r2_score
from sklearn.tree import DecisionTreeRegressor
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Singles = npt.NDArray[np.float32]
T = TypeVar("T")
Predicate = Callable[["pd.Series[Any]"], Any]

SMALL_LEAF = 10  # fewest rows per leaf of a continuous column
LARGE_LEAF = 100  # of a categorical or discrete one: same realism, less memorising
OUTCOME_COLUMNS = 5  # in a table of more columns, leaves of a continuous outcome are smaller in proportion: models learn from them
OUTCOME_TAIL = 0.01  # share of an outcome's values at either end that a split takes for the value where they begin
LOOSE_LEAF = 1_800  # of a continuous one: over (columns of the table)^1.5, times the share that the columns before leave open
LOOSE_FROM = 10_000  # rows of a table; of a smaller one such a leaf is so much smaller, else it would be half of the table
EXPLAINED_BY = 1_500  # rows from which that share is learned, and as many that judge it
DISCRETE_UP_TO = 40  # distinct values
ATOM_SHARE = 0.01  # a value of a continuous column this frequent is a point mass
GRID_SHARE = 0.5  # fewer distinct values than this share of the rows: the column lives on a grid
RESPONSE_LEVELS = 64  # levels of a categorical target that a tree is asked to tell apart
LONELY = 0.5  # a continuous column that goes with the others less than this share of what the most companionable one does
FEATURES_PER_SPLIT = 0.7  # share of the features that a split looks at: faster, and as real
MEAN_PRIOR = 5.0  # rows by which the mean of a level is drawn to the overall mean
RIDGE_FROM = 500  # rows that a linear prediction needs before it is worth a split
PARTICLES = 2_000  # fewest rows carried through a filter, so that a narrow one does not starve
TOP_UP_ROUNDS = 20


class EmptyFilter(ValueError):
    """No real row satisfies the filter.

    Attributes:
        columns: The filtered columns.
        rows_alone: Real rows that satisfy each column's condition by itself.
        rows_without: Real rows left when the one condition is dropped.
        available: Per column, the values found among the rows that satisfy all other conditions (or, when these
            leave nothing, among all rows): levels, most frequent first, or the smallest and largest number.
    """

    def __init__(
        self,
        rows_alone: Mapping[str, int],
        rows_without: Mapping[str, int],
        available: Mapping[str, Sequence[Any]],
    ) -> None:
        """Compose the message from the counts."""
        self.columns = tuple(rows_alone)
        self.rows_alone = dict(rows_alone)
        self.rows_without = dict(rows_without)
        self.available = dict(available)
        super().__init__(self._message())

    @property
    def relax(self) -> str | None:
        """The condition whose removal alone leaves the most real rows; None when none alone is enough."""
        best = max(self.rows_without, key=self.rows_without.__getitem__)
        return best if self.rows_without[best] else None

    def _message(self) -> str:
        if self.relax is None:
            impossible = [column for column, rows in self.rows_alone.items() if not rows] or list(self.columns)
            return "no real row matches the filter; " + "; ".join(f"{c}: {_listed(self.available[c])}" for c in impossible)
        return (
            f"no real row matches the filter on {', '.join(self.columns)}; without {self.relax} "
            f"{self.rows_without[self.relax]} rows match, where {self.relax} is {_listed(self.available[self.relax])}"
        )


def _listed(values: Sequence[Any]) -> str:
    if len(values) == 2 and not isinstance(values[0], str):
        return f"from {values[0]} to {values[1]}"
    return f"one of {', '.join(map(str, values[:10]))}" + (", ..." if len(values) > 10 else "")


@dataclass(frozen=True)
class Marginal:
    """One column by itself: the values it takes, and which of them each training row has.

    Attributes:
        support: Distinct values `(k,)` in ascending order; of a category 0, 1, ... for its levels. When the column has
            gaps, the first entry is NaN: missing is a value of its own, below all others.
        codes: Position in the support of each training row `(n,)`.
        scores: Normal score of each value `(k,)`.
        atoms: Which values are point masses `(k,)`.
        decimals: Decimal places that the training values use.
    """

    name: str
    dtype: str
    levels: tuple[str, ...]
    support: Floats
    codes: Ints
    scores: Floats
    atoms: Bools
    decimals: int

    @property
    def is_category(self) -> bool:
        """Whether the values are unordered levels."""
        return bool(self.levels)

    @property
    def is_continuous(self) -> bool:
        """Whether there are values beside the point masses."""
        return not self.atoms.all()

    @property
    def on_grid(self) -> bool:
        """Whether values repeat so much that new ones would stand out."""
        return len(self.support) < GRID_SHARE * len(self.codes)

    @property
    def has_gaps(self) -> bool:
        """Whether some training rows lack a value."""
        return bool(np.isnan(self.support[0]))

    def restore(self, values: Floats) -> pd.Series[Any]:
        """Values `(n,)` in the training frame's own words and dtype."""
        if self.is_category:
            return pd.Series(self._words.take(np.nan_to_num(values, nan=-1.0).astype(np.int64)), name=self.name)
        return _typed(pd.Series(values, name=self.name), self.dtype)

    @cached_property
    def _words(self) -> Any:
        """The levels in the training frame's dtype, and a gap at last."""
        return _typed(pd.Series(np.array([*self.levels, None], dtype=object)), self.dtype).array

    @cached_property
    def training(self) -> pd.Series[Any]:
        """The column as it was in the training frame."""
        return self.restore(self.support[self.codes])

    def rows_where(self, allowed: Predicate) -> Bools:
        """Training rows `(n,)` whose value satisfies a predicate, asked once per distinct value."""
        return _ask(allowed, self.restore(self.support))[self.codes]

    def only(self, rows: Ints) -> Marginal:
        """The same values, had by these training rows alone."""
        return replace(self, codes=self.codes[rows])

    def moved(self, values: Floats, by: Floats) -> Floats:
        """Values `(n,)` moved by so much, to where the column has values: in its range, on its grid; point masses and gaps stay."""
        seen = self.support[int(self.has_gaps) :]
        moved = np.clip(np.round(values + by, self.decimals), seen[0], seen[-1])
        moved = _nearest(seen, moved) if self.on_grid else moved
        return np.where(np.isnan(values) | np.isin(values, self.support[self.atoms]), values, moved)


def _nearest(support: Floats, values: Floats) -> Floats:
    return np.asarray(support[np.searchsorted((support[1:] + support[:-1]) / 2, values)])


def _typed(values: pd.Series[Any], dtype: str) -> pd.Series[Any]:
    """The same values in a dtype; `str` is whatever this version of pandas makes of text."""
    return values if dtype in (str(values.dtype), "str") else values.astype(pd.api.types.pandas_dtype(dtype))


def _ask(allowed: Predicate, values: pd.Series[Any]) -> Bools:
    return np.asarray(allowed(values), dtype=bool)


def marginal(column: pd.Series[Any], *, categorical: bool) -> Marginal:
    """Describe one column.

    Raises:
        ValueError: If it is not categorical and holds text or infinite values.

    Example:
        >>> column = marginal(pd.Series([2, 1, 2, 5], name="visits"), categorical=False)
        >>> column.support.tolist(), column.codes.tolist(), column.decimals
        ([1.0, 2.0, 5.0], [1, 0, 1, 2], 0)
    """
    categorical = categorical and not pd.api.types.is_bool_dtype(column.dtype)
    numbers, levels = _leveled(column) if categorical else (_numeric(column), ())
    support, codes, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    if np.isnan(support[-1]):  # numpy puts the gaps last, we put them first
        support, counts, codes = np.roll(support, 1), np.roll(counts, 1), (codes + 1) % len(support)
    return Marginal(
        name=str(column.name),
        dtype=str(column.dtype),
        levels=levels,
        support=support,
        codes=codes.astype(np.int64),
        scores=ndtri((np.cumsum(counts) - counts / 2) / counts.sum()),
        atoms=_atoms(support, counts, categorical=categorical),
        decimals=_decimals(support),
    )


def _leveled(column: pd.Series[Any]) -> tuple[Floats, tuple[str, ...]]:
    codes, levels = pd.factorize(column.astype(object).map(str, na_action="ignore"), sort=True)
    return np.where(codes < 0, np.nan, codes), tuple(levels)


def _numeric(column: pd.Series[Any]) -> Floats:
    if not (pd.api.types.is_numeric_dtype(column.dtype) or pd.api.types.is_bool_dtype(column.dtype)):
        raise ValueError(f"column {column.name!r} has dtype {column.dtype}: declare it categorical, or make it a number")
    numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
    if np.isinf(numbers).any():
        raise ValueError(f"column {column.name!r} holds {int(np.isinf(numbers).sum())} infinite values")
    return numbers


def _atoms(support: Floats, counts: Ints, *, categorical: bool) -> Bools:
    if categorical or len(support) <= DISCRETE_UP_TO:
        return np.ones(len(support), dtype=bool)
    return np.asarray((counts > ATOM_SHARE * counts.sum()) | np.isnan(support))


def _decimals(support: Floats, most: int = 6) -> int:
    seen = support[~np.isnan(support)]
    exact = (k for k in range(most) if np.allclose(np.round(seen, k), seen, rtol=0, atol=1e-9))
    return next(exact, 15)


@dataclass(frozen=True)
class Tree:
    """A fitted regression tree as plain arrays, one entry per node; a leaf is its own child."""

    children: Ints
    feature: Ints
    threshold: Floats
    depth: int

    @classmethod
    def stump(cls) -> Tree:
        """The tree that sends every row to one leaf."""
        return cls(np.zeros(2, np.int64), np.zeros(1, np.int64), np.zeros(1), 0)

    @classmethod
    def of(cls, estimator: DecisionTreeRegressor) -> Tree:
        """The arrays of a fitted scikit-learn tree."""
        fitted = estimator.tree_
        node = np.arange(fitted.node_count)
        leaf = fitted.children_left < 0
        children = np.column_stack([np.where(leaf, node, fitted.children_left), np.where(leaf, node, fitted.children_right)])
        return cls(children.ravel(), np.where(leaf, 0, fitted.feature), fitted.threshold, int(fitted.max_depth))

    def apply(self, features: Singles) -> Ints:
        """The leaf of each row.

        Args:
            features: One row per feature, `(p, n)`, single precision as scikit-learn compares it.
        """
        rows = features.shape[1]
        flat, row, start = features.ravel(), np.arange(rows), self.feature * rows
        node = np.zeros(rows, dtype=np.int64)
        for _ in range(self.depth):
            right = flat.take(start.take(node) + row) > self.threshold.take(node)
            node = self.children.take(2 * node + right)
        return node


@dataclass(frozen=True)
class Conditional:
    """One column given the columns before it.

    Attributes:
        orderings: Per earlier categorical column (by its position): places of its levels, `(1 or 2, levels)`, when levels
            are ordered by this column's response, and by what is left of it after the numeric columns, so that a plain tree
            can split on them.
        slopes: Coefficients of a ridge prediction that serves as one more feature `(1 + p,)`; empty for none.
        donors: Training rows `(n,)`, sorted by leaf and within a leaf by value.
        starts: Where each node's donors begin `(nodes + 1,)`.
    """

    orderings: Mapping[int, Floats]
    slopes: Floats
    tree: Tree
    donors: Ints
    starts: Ints

    def leaves(self, earlier: Sequence[Drawn], space: Singles) -> Ints:
        """The leaf of each row, given the columns drawn so far."""
        return self.tree.apply(_features(earlier, self.orderings, self.slopes, space))

    def leaves_of(self, earlier: Sequence[Marginal]) -> Ints:
        """The leaf of each row of the earlier columns."""
        return self.leaves([_as_drawn(each) for each in earlier], _space(len(earlier), len(earlier[0].codes)))


@dataclass(frozen=True)
class Drawn:
    """A column being drawn: donor rows, positions in the support, values and normal scores, each `(n,)`."""

    rows: Ints
    codes: Ints
    values: Floats
    scores: Floats

    def take(self, index: Ints) -> Drawn:
        """The chosen rows."""
        return Drawn(self.rows[index], self.codes[index], self.values[index], self.scores[index])

    def where(self, chosen: Bools, other: Drawn) -> Drawn:
        """These values where chosen, else the other's; donors are the same."""
        values, scores = np.where(chosen, self.values, other.values), np.where(chosen, self.scores, other.scores)
        return Drawn(self.rows, self.codes, values, scores)


def _as_drawn(column: Marginal) -> Drawn:
    """The training rows, as if they had been drawn."""
    codes = column.codes
    return Drawn(np.arange(len(codes)), codes, column.support[codes], column.scores[codes])


def _space(columns: int, rows: int) -> Singles:
    """Room for the features of any of the columns: a fresh array each time would cost more than what is written into it."""
    return np.empty((2 * columns + 1) * rows, dtype=np.float32)


def _features(earlier: Sequence[Drawn], orderings: Mapping[int, Floats], slopes: Floats, space: Singles) -> Singles:
    """One row per feature `(p, n)`, laid out in `space`."""
    plain = [row for k, drawn in enumerate(earlier) for row in _plain(drawn, orderings.get(k))]
    features = space[: (len(plain) + bool(len(slopes))) * len(plain[0])].reshape(-1, len(plain[0]))
    np.stack(plain, out=features[: len(plain)], casting="same_kind")
    if len(slopes):
        features[-1] = _linear(features[:-1], slopes)
    return features


def _plain(drawn: Drawn, orderings: Floats | None) -> list[Floats]:
    return [drawn.scores] if orderings is None else [ordering.take(drawn.codes) for ordering in orderings]


def _linear(features: Singles, slopes: Floats) -> Floats:
    total = np.full(features.shape[1], slopes[0])
    for slope, feature in zip(slopes[1:], features, strict=True):  # in a fixed order: a BLAS may differ in last digits
        total += slope * feature
    return total


def _response(column: Marginal) -> Floats:
    """What a tree is asked to explain: indicators of levels, or normal scores beside indicators of point masses."""
    if column.is_category:
        common = np.argsort(-np.bincount(column.codes, minlength=len(column.support)), kind="stable")
        common = common[: min(RESPONSE_LEVELS, max(1, len(common) - 1))]
        return np.asarray(column.codes[:, None] == common, dtype=np.float64)
    scores = column.scores[column.codes]
    if not column.is_continuous:
        return _scaled(scores)[:, None]
    masses = column.codes[:, None] == np.flatnonzero(column.atoms)
    return np.column_stack([_scaled(np.where(_free(column), scores, 0.0)), 2.0 * masses])


def _on_its_scale(column: Marginal) -> Floats:
    """The values beside their ranks: means, of which ranks know nothing, are what models of an outcome predict."""
    values = column.support[column.codes]
    values = np.where(np.isnan(values), np.nanmean(values), values)
    return _scaled(np.clip(values, *np.quantile(values, [OUTCOME_TAIL, 1.0 - OUTCOME_TAIL])))


def _scaled(values: Floats) -> Floats:
    return np.asarray(values / (values.std() + 1e-12))


def _orderings(earlier: Sequence[Marginal], column: Marginal, response: Floats) -> dict[int, Floats]:
    categories = [(k, each) for k, each in enumerate(earlier) if each.is_category]
    if column.is_category:
        return {k: _principal_direction(each, response)[None] for k, each in categories}
    scores, unexplained = column.scores[column.codes], _unexplained(earlier, column)
    return {k: np.stack([_level_means(each, scores, 0.0), _level_means(each, unexplained, MEAN_PRIOR)]) for k, each in categories}


def _level_means(predictor: Marginal, values: Floats, prior: float) -> Floats:
    """Mean of centred values per level, rare levels drawn to zero as if `prior` more rows had it; zero for a level without rows."""
    size = len(predictor.support)
    rows = np.bincount(predictor.codes, minlength=size) + prior
    return np.asarray(np.bincount(predictor.codes, values, size) / np.maximum(rows, 1.0))


def _principal_direction(predictor: Marginal, indicators: Floats) -> Floats:
    """Levels along the first principal direction of their response shares, which orders them well for a split."""
    share = np.column_stack([_level_means(predictor, each, 0.0) for each in (indicators - indicators.mean(axis=0)).T])
    weight = np.sqrt(np.bincount(predictor.codes, minlength=len(share)))
    return np.asarray(share @ np.linalg.svd(weight[:, None] * share, full_matrices=False)[2][0])


def _unexplained(earlier: Sequence[Marginal], column: Marginal) -> Floats:
    """Normal scores less their linear prediction from the numeric columns before; zero at point masses."""
    free = _free(column)
    design = np.column_stack([np.ones(len(free)), *(each.scores[each.codes] for each in earlier if not each.is_category)])
    scores = column.scores[column.codes]
    slopes = np.linalg.lstsq(design[free], scores[free], rcond=None)[0]
    return np.where(free, scores - design @ slopes, 0.0)


def _free(column: Marginal) -> Bools:
    """Training rows whose value is no point mass (every row of a discrete column)."""
    return ~column.atoms[column.codes] if column.is_continuous else np.ones(len(column.codes), dtype=bool)


def _ridge(features: Singles, column: Marginal) -> Floats:
    """Slopes of the normal scores of a continuous column on its predictors, point masses left out."""
    free = _free(column)
    if not column.is_continuous or free.sum() < RIDGE_FROM:
        return np.empty(0)
    design = np.column_stack([np.ones(len(free)), features.T.astype(np.float64)])
    penalty = 1e-3 * free.sum() * np.diag((design.std(axis=0) + 1e-9) ** 2)
    return np.linalg.solve(design[free].T @ design[free] + penalty, design[free].T @ column.scores[column.codes][free])


def _leaf_rows(column: Marginal, features: Singles, response: Floats, of_columns: int, seed: int) -> int:
    """Fewest rows per leaf.

    What the columns before explain well needs small leaves to be drawn right; what they do not explain, small leaves only copy,
    and in a table of few columns few copied values give a row away.
    """
    if not column.is_continuous:
        return LARGE_LEAF
    unexplained = 1.0 - _explained(features, response, seed)
    rows = min(1.0, len(response) / LOOSE_FROM)
    return int(np.clip(round(LOOSE_LEAF / of_columns**1.5 * unexplained * rows), SMALL_LEAF, LARGE_LEAF))


def _explained(features: Singles, response: Floats, seed: int) -> float:
    """Share of the response's variance, 0 to 1, that a tree explains on rows that it has not seen."""
    rows = np.random.default_rng(seed).permutation(len(response))[: 2 * EXPLAINED_BY]
    seen, judged = np.array_split(rows, 2)
    tree = _tree(2 * SMALL_LEAF, seed).fit(features.T[seen], response[seen])
    score = r2_score(response[judged], tree.predict(features.T[judged]), multioutput="variance_weighted")
    return float(np.clip(score, 0.0, 1.0))


def _tree(leaf: int, seed: int) -> DecisionTreeRegressor:
    return DecisionTreeRegressor(min_samples_leaf=leaf, max_features=FEATURES_PER_SPLIT, random_state=seed)


def in_threads(n_jobs: int, work: Iterable[tuple[Callable[..., T], tuple[Any, ...], dict[str, Any]]]) -> list[T]:
    """Results of delayed calls, side by side on so many threads, in the order of the calls."""
    with threadpool_limits(1, user_api="blas"):  # its threads spin while they wait, and would take the processors from ours
        return list(Parallel(n_jobs, prefer="threads", batch_size=1)(work))


def conditional(
    earlier: Sequence[Marginal], column: Marginal, seed: int, of_columns: int, *, is_outcome: bool = False
) -> Conditional:
    """Fit one column's tree on the columns before it, in a table of so many columns; the seed chooses what each split looks at."""
    if not earlier:
        return _with_donors({}, np.empty(0), Tree.stump(), np.zeros(len(column.codes), dtype=np.int64), column)
    response = _response(column)
    orderings = _orderings(earlier, column, response)
    drawn = [_as_drawn(each) for each in earlier]
    space = _space(len(earlier), len(column.codes))
    slopes = _ridge(_features(drawn, orderings, np.empty(0), space), column)
    features = _features(drawn, orderings, slopes, space)
    leaf = _leaf_rows(column, features, response, of_columns, seed)
    if is_outcome and column.is_continuous:
        leaf = max(SMALL_LEAF // 2, round(leaf * min(1.0, OUTCOME_COLUMNS / of_columns)))
        response = np.column_stack([response, _on_its_scale(column)])
    tree = Tree.of(_tree(leaf, seed).fit(features.T, response))
    return _with_donors(orderings, slopes, tree, tree.apply(features), column)


def _with_donors(orderings: Mapping[int, Floats], slopes: Floats, tree: Tree, leaves: Ints, column: Marginal) -> Conditional:
    counts = np.bincount(leaves, minlength=len(tree.threshold))
    donors = np.lexsort((column.codes, leaves))
    return Conditional(orderings, slopes, tree, donors, np.concatenate([[0], np.cumsum(counts)]))


@dataclass(frozen=True)
class Constraints:
    """What holds in every row, whatever is drawn; that values stay in their observed range needs no declaration.

    Attributes:
        upper_bounds: Column to the column that it never exceeds.
        ratios: Derived column to its (part, whole); it is computed, not drawn. 0 where the whole is 0.
    """

    upper_bounds: Mapping[str, str] = field(default_factory=dict)
    ratios: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def within(self, columns: Iterable[str]) -> Constraints:
        """Only the constraints whose columns all exist."""
        known = set(columns)
        return Constraints(
            {a: b for a, b in self.upper_bounds.items() if {a, b} <= known},
            {rate: parts for rate, parts in self.ratios.items() if {rate, *parts} <= known},
        )


def _share(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.where(np.isnan(part + whole), np.nan, 0.0), where=whole > 0)


@dataclass(frozen=True)
class SampledTable:
    """Drawn rows.

    Attributes:
        donors: Training row `(n,)` that the value of the last column comes from.
        real_rows: Training rows that satisfy the same filter.
    """

    frame: pd.DataFrame
    donors: Ints
    real_rows: int


@dataclass(frozen=True)
class JointModel:
    """A fitted joint distribution; `columns` and `conditionals` are in the order of drawing."""

    names: tuple[str, ...]
    columns: tuple[Marginal, ...]
    conditionals: tuple[Conditional, ...]
    constraints: Constraints
    ratio_dtypes: Mapping[str, str]

    @property
    def n_rows(self) -> int:
        """Training rows."""
        return len(self.columns[0].codes)

    def sample(self, n: int, *, rng: np.random.Generator, allowed: Mapping[str, Predicate] | None = None) -> SampledTable:
        """Draw rows of the training frame's columns, order and dtypes.

        Args:
            n: Rows to draw.
            rng: The only source of chance: the same state gives the same rows.
            allowed: Column to a predicate over values of that column; every drawn row satisfies all of them.

        Raises:
            EmptyFilter: If no training row satisfies them all.
            ValueError: If `n` is not positive or a filtered column is unknown.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, not {n}")
        allowed = allowed or {}
        masks = self._allowed_rows(allowed)
        matching = np.logical_and.reduce([np.ones(self.n_rows, dtype=bool), *masks.values()])
        if not matching.any():
            raise self._empty_filter(masks)
        frame, donors = self._satisfying(n, rng, allowed, masks)
        return SampledTable(frame, donors, int(matching.sum()))

    def _satisfying(
        self, n: int, rng: np.random.Generator, allowed: Mapping[str, Predicate], masks: Mapping[str, Bools]
    ) -> tuple[pd.DataFrame, Ints]:
        """Draw again the few rows that a bound or a ratio has moved out of the filter."""
        frame, donors = self._draw(n, rng, allowed, masks)
        for _ in range(TOP_UP_ROUNDS):
            kept = np.logical_and.reduce([np.ones(len(frame), bool), *(_ask(p, frame[c]) for c, p in allowed.items())])
            frame, donors = frame[kept], donors[kept]
            if len(frame) == n:
                break
            more, their_donors = self._draw(n - len(frame), rng, allowed, masks)
            frame, donors = pd.concat([frame, more]), np.concatenate([donors, their_donors])
        return frame.reset_index(drop=True), donors

    def _allowed_rows(self, allowed: Mapping[str, Predicate]) -> dict[str, Bools]:
        unknown = sorted(set(allowed) - set(self.names))
        if unknown:
            raise ValueError(f"unknown columns {unknown} in the filter; known are {sorted(self.names)}")
        return {name: self._rows_where(name, predicate) for name, predicate in allowed.items()}

    def _rows_where(self, name: str, allowed: Predicate) -> Bools:
        if name in self.constraints.ratios:
            return _ask(allowed, self.training(name))
        return self._column(name).rows_where(allowed)

    def _column(self, name: str) -> Marginal:
        return next(column for column in self.columns if column.name == name)

    def training(self, name: str) -> pd.Series[Any]:
        """A column's training values `(n_rows,)`, in the training frame's dtype."""
        if name not in self.constraints.ratios:
            return self._column(name).training
        part, whole = (self._column(each) for each in self.constraints.ratios[name])
        ratio = _share(part.support[part.codes], whole.support[whole.codes])
        return _typed(pd.Series(ratio, name=name), self.ratio_dtypes[name])

    def table(self) -> pd.DataFrame:
        """The training frame."""
        return pd.DataFrame({name: self.training(name) for name in self.names})

    def _empty_filter(self, masks: Mapping[str, Bools]) -> EmptyFilter:
        every = np.ones(self.n_rows, dtype=bool)
        others = {name: np.logical_and.reduce([every, *(mask for other, mask in masks.items() if other != name)]) for name in masks}
        return EmptyFilter(
            {name: int(mask.sum()) for name, mask in masks.items()},
            {name: int(rows.sum()) for name, rows in others.items()},
            {name: _available(self.training(name)[rows if rows.any() else every]) for name, rows in others.items()},
        )

    def _draw(
        self, n: int, rng: np.random.Generator, allowed: Mapping[str, Predicate], masks: Mapping[str, Bools]
    ) -> tuple[pd.DataFrame, Ints]:
        masks = self._on_drawn_columns(masks)
        filtered = [k for k, column in enumerate(self.columns) if column.name in masks]
        rows = max(n, PARTICLES) if filtered else n
        drawn: list[Drawn] = []
        space = _space(len(self.columns), rows)
        for k, (column, given) in enumerate(zip(self.columns, self.conditionals, strict=True)):
            mask = masks.get(column.name)
            leaves = given.leaves(drawn, space) if drawn else np.zeros(rows, dtype=np.int64)
            if mask is None:
                picked = given.donors[_systematic(leaves, given.starts, rng)]
            else:
                picked, weights = _filtered(given, leaves, mask, np.logical_and.reduce(list(masks.values())), rng)
                kept = _resample(weights, n if k == filtered[-1] else rows, rng)
                drawn, picked, rows = [each.take(kept) for each in drawn], picked[kept], len(kept)
            drawn.append(self._value(column, picked, drawn, allowed, rng))
        values = {column.name: each.values for column, each in zip(self.columns, drawn, strict=True)}
        return self._frame(values), drawn[-1].rows

    def _on_drawn_columns(self, masks: Mapping[str, Bools]) -> dict[str, Bools]:
        """A condition on a ratio becomes one on its part, which is drawn after the whole."""
        moved: dict[str, Bools] = {}
        for name, mask in masks.items():
            drawn = self.constraints.ratios[name][0] if name in self.constraints.ratios else name
            moved[drawn] = mask & moved.get(drawn, mask)
        return moved

    def _value(
        self,
        column: Marginal,
        picked: Ints,
        drawn: Sequence[Drawn],
        allowed: Mapping[str, Predicate],
        rng: np.random.Generator,
    ) -> Drawn:
        codes = column.codes[picked]
        exact = Drawn(picked, codes, column.support[codes], column.scores[codes])
        near = _between_neighbours(column, exact, rng) if column.is_continuous and not column.on_grid else exact
        if column.name in allowed and near is not exact:
            near = near.where(_ask(allowed[column.name], column.restore(near.values)), exact)
        return self._bounded(column, near, drawn, allowed) if column.name in self.constraints.upper_bounds else near

    def _bounded(
        self,
        column: Marginal,
        near: Drawn,
        drawn: Sequence[Drawn],
        allowed: Mapping[str, Predicate],
    ) -> Drawn:
        """Where the bound is exceeded (or a filter asks for the ratio), take the donor's ratio to it."""
        bound = self.constraints.upper_bounds[column.name]
        k = next(k for k, each in enumerate(self.columns) if each.name == bound)
        whole, limit = self.columns[k].support[self.columns[k].codes[near.rows]], drawn[k].values
        part = column.support[near.codes]
        ratio = np.where(whole > 0, np.clip(_share(part, whole), 0.0, 1.0), 1.0)
        asked = any(parts == (column.name, bound) and rate in allowed for rate, parts in self.constraints.ratios.items())
        scaled = np.where(limit > 0, np.round(ratio * limit, column.decimals), limit)
        values = np.where((near.values > limit) | (asked & ~np.isnan(limit + part)), scaled, near.values)
        values = np.where(values > limit, limit, values)
        return Drawn(near.rows, near.codes, values, _scores_at(column, values))

    def _frame(self, values: Mapping[str, Floats]) -> pd.DataFrame:
        restored = {column.name: column.restore(values[column.name]) for column in self.columns}
        for rate, (part, whole) in self.constraints.ratios.items():
            restored[rate] = _typed(pd.Series(_share(values[part], values[whole]), name=rate), self.ratio_dtypes[rate])
        return pd.DataFrame({name: restored[name] for name in self.names})

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The fitted state as plain arrays, for `from_arrays` together with `meta`."""
        return {
            f"{k}.{name}": array
            for k, pair in enumerate(zip(self.columns, self.conditionals, strict=True))
            for name, array in _column_arrays(*pair).items()
        }

    @property
    def meta(self) -> dict[str, Any]:
        """What `arrays` leaves out, as JSON types."""
        return {
            "names": list(self.names),
            "columns": [
                {
                    "name": column.name,
                    "dtype": column.dtype,
                    "levels": list(column.levels),
                    "decimals": column.decimals,
                    "depth": given.tree.depth,
                }
                for column, given in zip(self.columns, self.conditionals, strict=True)
            ],
            "upper_bounds": dict(self.constraints.upper_bounds),
            "ratios": {rate: list(parts) for rate, parts in self.constraints.ratios.items()},
            "ratio_dtypes": dict(self.ratio_dtypes),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], meta: Mapping[str, Any]) -> JointModel:
        """The model that `arrays` and `meta` were taken from: it draws the same rows, bit for bit."""
        pairs = [_column_from(k, described, arrays) for k, described in enumerate(meta["columns"])]
        ratios = {rate: (part, whole) for rate, (part, whole) in meta["ratios"].items()}
        return cls(
            names=tuple(meta["names"]),
            columns=tuple(column for column, _ in pairs),
            conditionals=tuple(given for _, given in pairs),
            constraints=Constraints(dict(meta["upper_bounds"]), ratios),
            ratio_dtypes=dict(meta["ratio_dtypes"]),
        )


def _available(values: pd.Series[Any]) -> tuple[Any, ...]:
    if pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype):
        return () if values.isna().all() else (values.min(), values.max())
    return tuple(values.value_counts().index)


def _systematic(leaves: Ints, starts: Ints, rng: np.random.Generator) -> Ints:
    """One donor position per row, the rows of a leaf spread evenly over its donors.

    Independent draws would add resampling noise to every leaf; even spacing gives each donor its share.
    """
    order = rng.permutation(len(leaves))
    keys = leaves.astype(np.min_scalar_type(len(starts)))  # short integers are sorted by radix
    order = order[np.argsort(keys[order], kind="stable")]
    leaf = leaves[order]
    rows = np.bincount(leaves, minlength=len(starts) - 1)
    rank = np.arange(len(leaf)) - (np.cumsum(rows) - rows)[leaf]
    donors = np.diff(starts)[leaf]
    step = np.floor((rank + rng.random(len(rows))[leaf]) / rows[leaf] * donors).astype(np.int64)
    picked = np.empty(len(leaf), dtype=np.int64)
    picked[order] = starts[leaf] + np.minimum(step, np.maximum(donors - 1, 0))
    return picked


def _filtered(given: Conditional, leaves: Ints, allowed: Bools, matching: Bools, rng: np.random.Generator) -> tuple[Ints, Floats]:
    """Donors among the allowed rows, and the allowed share of each row's leaf as its weight.

    When no row has come to a leaf with an allowed donor, the rows that satisfy the whole filter serve as one leaf.
    """
    kept = allowed[given.donors]
    starts = np.concatenate([[0], np.cumsum(kept)])[given.starts]
    weights = (np.diff(starts) / np.maximum(np.diff(given.starts), 1))[leaves]
    if not weights.any():
        whole = given.donors[matching[given.donors]]
        return whole[_systematic(np.zeros_like(leaves), np.array([0, len(whole)]), rng)], np.ones(len(leaves))
    donors = given.donors[kept]
    return donors[np.minimum(_systematic(leaves, starts, rng), len(donors) - 1)], weights


def _resample(weights: Floats, n: int, rng: np.random.Generator) -> Ints:
    """Systematic resampling: `n` row numbers in proportion to their weights, in random order."""
    cumulative = np.cumsum(weights)
    points = (np.arange(n) + rng.random()) / n * cumulative[-1]
    last = np.flatnonzero(weights)[-1]
    return rng.permutation(np.minimum(np.searchsorted(cumulative, points, side="right"), last))


def _between_neighbours(column: Marginal, exact: Drawn, rng: np.random.Generator) -> Drawn:
    """Move each value to a place between the midpoints to its neighbours; point masses stay."""
    first, codes = int(column.has_gaps), exact.codes
    seen = column.support[first:]
    middle = (seen[1:] + seen[:-1]) / 2
    low, high = np.concatenate([seen[:1], middle]), np.concatenate([middle, seen[-1:]])
    place = np.maximum(codes - first, 0)
    moved = np.round(low[place] + rng.random(len(codes)) * (high - low)[place], column.decimals)
    moved = np.clip(moved, seen[0], seen[-1])
    left = np.clip(place - (moved < seen[place]), 0, len(seen) - 2)
    part = (moved - seen[left]) / (seen[left + 1] - seen[left])
    scores = column.scores[first:]
    scores = scores[left] + part * (scores[left + 1] - scores[left])
    return Drawn(exact.rows, codes, moved, scores).where(~column.atoms[codes], exact)


def _scores_at(column: Marginal, values: Floats) -> Floats:
    """Normal scores of values anywhere in the observed range."""
    first = int(column.has_gaps)
    scores = np.interp(values, column.support[first:], column.scores[first:])
    return np.where(np.isnan(values), column.scores[0], scores)


def _column_arrays(column: Marginal, given: Conditional) -> dict[str, npt.NDArray[Any]]:
    orderings = {f"ordering.{predictor}": places for predictor, places in given.orderings.items()}
    return orderings | {
        "support": column.support,
        "codes": column.codes.astype(np.int32),
        "scores": column.scores,
        "atoms": column.atoms,
        "slopes": given.slopes,
        "children": given.tree.children.astype(np.int32),
        "feature": given.tree.feature.astype(np.int16),
        "threshold": given.tree.threshold,
        "donors": given.donors.astype(np.int32),
        "starts": given.starts.astype(np.int32),
    }


def _column_from(k: int, described: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> tuple[Marginal, Conditional]:
    own = {key.partition(".")[2]: array for key, array in arrays.items() if key.startswith(f"{k}.")}
    whole = {name: own[name].astype(np.int64) for name in ("codes", "children", "feature", "donors", "starts")}
    column = Marginal(
        name=described["name"],
        dtype=described["dtype"],
        levels=tuple(described["levels"]),
        support=own["support"],
        codes=whole["codes"],
        scores=own["scores"],
        atoms=own["atoms"],
        decimals=described["decimals"],
    )
    tree = Tree(whole["children"], whole["feature"], own["threshold"], described["depth"])
    orderings = {int(key.partition(".")[2]): places for key, places in own.items() if key.startswith("ordering.")}
    return column, Conditional(orderings, own["slopes"], tree, whole["donors"], whole["starts"])


def fit_joint(
    frame: pd.DataFrame,
    *,
    categorical: Sequence[str],
    first: Sequence[str] = (),
    last: str | None = None,
    constraints: Constraints | None = None,
    rng: np.random.Generator,
    n_jobs: int = 1,
) -> JointModel:
    """Learn the joint distribution of a table.

    Args:
        frame: Numbers, truth values and text; gaps are reproduced as gaps. It is not changed.
        categorical: Columns whose values are levels without an order.
        first: Columns drawn first: those that filters name, so that a filter is settled early.
        last: The column drawn last: the outcome, which depends on all others.
        constraints: What every drawn row must satisfy.
        rng: Chooses the features that each split looks at.
        n_jobs: Threads, -1 for all processors; the model does not depend on it.

    Raises:
        ValueError: If the frame is empty, or a column is neither numeric nor declared categorical, or holds
            infinite values.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> real = pd.DataFrame({"region": rng.choice(["north", "south"], 400), "visits": rng.poisson(3, 400)})
        >>> model = fit_joint(real.assign(sales=10.0 * real["visits"]), categorical=["region"], last="sales", rng=rng)
        >>> drawn = model.sample(1000, rng=rng, allowed={"region": lambda values: values == "north"})
        >>> drawn.frame["region"].unique().tolist(), drawn.real_rows == (real["region"] == "north").sum()
        (['north'], np.True_)
        >>> bool((drawn.frame["sales"] % 10 == 0).all())
        True
    """
    if frame.empty:
        raise ValueError("an empty frame has no distribution to learn")
    constraints = (constraints or Constraints()).within(frame.columns)
    described = {
        name: marginal(frame[name], categorical=name in categorical) for name in frame.columns if name not in constraints.ratios
    }
    order = _drawing_order(described, first, last, constraints.upper_bounds)
    columns = tuple(described[name] for name in order)
    seeds = rng.integers(2**31, size=len(columns)).tolist()
    fits = (
        delayed(conditional)(columns[:k], columns[k], seeds[k], len(columns), is_outcome=columns[k].name == last)
        for k in reversed(range(len(columns)))  # later columns take the longest
    )
    return JointModel(
        names=tuple(frame.columns),
        columns=columns,
        conditionals=tuple(reversed(in_threads(n_jobs, fits))),
        constraints=constraints,
        ratio_dtypes={rate: str(frame[rate].dtype) for rate in constraints.ratios},
    )


def _drawing_order(
    described: Mapping[str, Marginal], first: Sequence[str], last: str | None, bounds: Mapping[str, str]
) -> list[str]:
    """Filterable columns, then categories, discrete and continuous ones, the outcome last; bounds before the bounded.

    Of the continuous ones the lonely come first, whose tie to a category would be lost among many columns before them, and then
    those that go with most others: what follows has the more to go by.
    """
    company = _company([column for name, column in described.items() if column.is_continuous and name != last])
    lonely = {name for name, value in company.items() if value < LONELY * max(company.values())}

    def rank(name: str) -> tuple[bool, int, bool, bool, bool, float]:
        column = described[name]
        place = first.index(name) if name in first else len(first)
        among = company.get(name, 0.0) * (1.0 if name in lonely else -1.0)
        return name == last, place, not column.is_category, column.is_continuous, name not in lonely, among

    order: list[str] = []

    def place(name: str) -> None:
        if name in bounds and bounds[name] not in order:
            place(bounds[name])
        if name not in order:
            order.append(name)

    for name in sorted(described, key=rank):
        place(name)
    return order


def _company(columns: Sequence[Marginal]) -> dict[str, float]:
    """How much each of these goes with all others: the sum of its absolute correlations with them, in normal scores."""
    if len(columns) < 2:
        return {}
    scores = np.stack([column.scores[column.codes] for column in columns])
    return dict(zip([column.name for column in columns], np.abs(np.corrcoef(scores)).sum(axis=1).tolist(), strict=True))
