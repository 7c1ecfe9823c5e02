"""The distribution of one column given the columns drawn before it: a regression tree whose leaves hold donor rows.

A tree of the training rows sends a new row to a leaf, and the row takes the value of a training row (a donor) of that leaf.

References:
    Reiter, "Using CART to generate partially synthetic public use microdata", Journal of Official Statistics 21 (2005).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from sklearn.metrics import r2_score
from sklearn.tree import DecisionTreeRegressor

from engine.twins.entities import cut, shuffle
from engine.twins.marginal import DrawnColumn, Marginal
from schemas.arrays import Flags, Floats, Integers, Singles

__all__ = ["Conditional", "Tree", "feature_buffer", "fit_conditional"]


SMALL_LEAF = 9  # fewest rows (of different entities) per leaf of a continuous column
LARGE_LEAF = 100  # fewest rows per leaf of a categorical or discrete one: as realistic, and it copies fewer rows
OUTCOME_LEAF = 5  # fewest rows per leaf of a continuous outcome
OUTCOME_COLUMNS = 5  # in a table of more columns, leaves of a continuous outcome are smaller in proportion: models learn from them
OUTCOME_TAIL = 0.01  # share of an outcome's values at either end that are clipped to the quantile where they begin
LEAF_SCALE = 18_000  # leaf of a continuous column: this over (columns of the table)^2.5, times the unexplained share of variance
LEAF_FULL_ROWS = 10_000  # in a table of fewer rows leaves are smaller in proportion, else one would hold half of the table
HOLDOUT_ROWS = 1_500  # rows that the unexplained share is learned from, and as many that it is measured on
RESPONSE_LEVELS = 64  # most frequent levels of a categorical column that its tree separates
TREES = 3  # per continuous column: a value goes through one of them at random, so that the edges of leaves do not show
FEATURES_PER_SPLIT = 0.7  # share of the features that a split considers: faster, and as realistic
MEAN_PRIOR = 5.0  # prior rows by which the mean of a level is shrunk to the overall mean
BLOCK_ROWS = 16_384  # whose features stay in the processor's cache while a tree sends them to their leaves
LEVELS_BETWEEN = 4  # levels of a tree after which rows in leaves are set aside: most leaves are half as deep as the deepest
RIDGE_ROWS = 500  # fewest rows from which a linear prediction helps as a feature


@dataclass(frozen=True)
class Tree:
    """A fitted regression tree as plain arrays, one entry per node; a leaf is its own child."""

    children: Integers
    feature: Integers
    threshold: Floats
    depth: int

    @classmethod
    def stump(cls) -> Tree:
        """The tree that sends every row to one leaf."""
        return cls(np.zeros(2, np.int64), np.zeros(1, np.int64), np.zeros(1), 0)

    @classmethod
    def from_estimator(cls, estimator: DecisionTreeRegressor) -> Tree:
        """The arrays of a fitted scikit-learn tree."""
        fitted = estimator.tree_
        node = np.arange(fitted.node_count)
        leaf = fitted.children_left < 0
        children = np.column_stack([np.where(leaf, node, fitted.children_left), np.where(leaf, node, fitted.children_right)])
        return cls(children.ravel(), np.where(leaf, 0, fitted.feature), fitted.threshold, int(fitted.max_depth))

    def apply(self, features: Singles) -> Integers:
        """The leaf of each row `(n,)`.

        Args:
            features: One row per feature, `(p, n)`, in single precision, in which scikit-learn compares them.
        """
        rows = features.shape[1]
        flat, start, leaf = features.ravel(), self.feature * rows, np.empty(rows, dtype=np.int64)
        is_inner = self.children[::2] != np.arange(len(self.threshold))
        for first in range(0, rows, BLOCK_ROWS):
            row = np.arange(first, min(first + BLOCK_ROWS, rows))
            node = np.zeros(len(row), dtype=np.int64)
            for level in range(1, self.depth + 1):
                right = flat.take(start.take(node) + row) > self.threshold.take(node)
                node = self.children.take(2 * node + right)
                if level % LEVELS_BETWEEN == 0:
                    leaf[row] = node
                    goes_on = np.flatnonzero(is_inner.take(node))
                    row, node = row.take(goes_on), node.take(goes_on)
            leaf[row] = node
        return leaf


@dataclass(frozen=True)
class Conditional:
    """One column given the columns before it.

    Attributes:
        orderings: Per earlier categorical column (by its position): places of its levels, `(1 or 2, levels)`, when levels
            are ordered by this column's response, and by its residual after the numeric columns, so that a plain tree
            can split on them.
        slopes: Coefficients of a ridge prediction that serves as one more feature `(1 + p,)`; empty for none.
        tree: Sends rows to leaves.
        donors: Training rows `(n,)`, sorted by leaf and within a leaf by value.
        starts: Where each node's donors begin `(nodes + 1,)`.
        siblings: The same with other trees; each row is sent through one of all these trees at random.
    """

    orderings: Mapping[int, Floats]
    slopes: Floats
    tree: Tree
    donors: Integers
    starts: Integers
    siblings: tuple[Conditional, ...] = ()

    def features(self, earlier: Sequence[DrawnColumn], buffer: Singles) -> Singles:
        """One row per feature `(p, n)`, given the columns drawn so far: a view of the buffer."""
        return _features(earlier, self.orderings, self.slopes, buffer)

    def leaves(self, earlier: Sequence[DrawnColumn], buffer: Singles) -> Integers:
        """The leaf of each row `(n,)`, given the columns drawn so far; features are written into the buffer."""
        return self.tree.apply(self.features(earlier, buffer))

    def training_leaves(self, earlier: Sequence[Marginal]) -> Integers:
        """The leaf of each training row of the earlier columns `(n,)`."""
        drawn = [DrawnColumn.from_training(column) for column in earlier]
        return self.leaves(drawn, feature_buffer(len(earlier), len(earlier[0].codes)))


def fit_conditional(
    earlier: Sequence[Marginal],
    column: Marginal,
    seed: int,
    n_columns: int,
    *,
    is_outcome: bool = False,
    entities: Integers | None = None,
) -> Conditional:
    """Fit the tree of one column on the columns before it.

    Args:
        earlier: Columns drawn before it.
        column: The column to draw.
        seed: Chooses the features that each split considers.
        n_columns: Columns of the whole table; leaves are larger in tables of few columns.
        is_outcome: Whether models learn from this column; its leaves are then smaller.
        entities: The entity of each row `(n,)`; by default every row is an entity of its own.
    """
    if not earlier:
        return _with_donors({}, np.empty(0), Tree.stump(), np.zeros(len(column.codes), dtype=np.int64), column)
    response = _response(column)
    orderings = _orderings(earlier, column, response)
    drawn = [DrawnColumn.from_training(predictor) for predictor in earlier]
    buffer = feature_buffer(len(earlier), len(column.codes))
    slopes = _ridge_slopes(_features(drawn, orderings, np.empty(0), buffer), column)
    features = _features(drawn, orderings, slopes, buffer)
    groups = np.arange(len(column.codes)) if entities is None else entities
    leaf = _leaf_entities(column, features, response, n_columns, seed, groups)
    if is_outcome and column.is_continuous:
        leaf = max(OUTCOME_LEAF, round(leaf * min(1.0, OUTCOME_COLUMNS / n_columns)))
        response = np.column_stack([response, _clipped_values(column)])
    smallest = round(leaf * _rows_each(groups))
    trees = [
        Tree.from_estimator(_regression_tree(smallest, seed + k).fit(features.T, response))
        for k in range(TREES if column.is_continuous else 1)
    ]
    fitted, *siblings = (_with_donors(orderings, slopes, tree, tree.apply(features), column) for tree in trees)
    return replace(fitted, siblings=tuple(siblings))


def feature_buffer(columns: int, rows: int) -> Singles:
    """Memory for the features of any column; allocating an array per column costs more than writing its values."""
    return np.empty((2 * columns + 1) * rows, dtype=np.float32)


def _features(earlier: Sequence[DrawnColumn], orderings: Mapping[int, Floats], slopes: Floats, buffer: Singles) -> Singles:
    """One row per feature `(p, n)`, a view of the buffer."""
    plain = [row for k, drawn in enumerate(earlier) for row in _column_features(drawn, orderings.get(k))]
    features = buffer[: (len(plain) + bool(len(slopes))) * len(plain[0])].reshape(-1, len(plain[0]))
    np.stack(plain, out=features[: len(plain)], casting="same_kind")
    if len(slopes):
        features[-1] = _linear_prediction(features[:-1], slopes)
    return features


def _column_features(drawn: DrawnColumn, orderings: Floats | None) -> list[Floats]:
    return [drawn.scores] if orderings is None else [ordering.take(drawn.codes) for ordering in orderings]


def _linear_prediction(features: Singles, slopes: Floats) -> Floats:
    total = np.full(features.shape[1], slopes[0])
    for slope, feature in zip(slopes[1:], features, strict=True):  # in a fixed order: a BLAS may differ in last digits
        total += slope * feature
    return total


def _response(column: Marginal) -> Floats:
    """The response of the tree `(n, r)`: indicators of levels, or normal scores and indicators of point masses."""
    if column.is_category:
        common = np.argsort(-np.bincount(column.codes, minlength=len(column.support)), kind="stable")
        common = common[: min(RESPONSE_LEVELS, max(1, len(common) - 1))]
        return np.asarray(column.codes[:, None] == common, dtype=np.float64)
    if not column.is_continuous:
        return _unit_variance(column.training_scores)[:, None]
    masses = column.codes[:, None] == np.flatnonzero(column.atoms)
    return np.column_stack([_unit_variance(np.where(_off_point_masses(column), column.training_scores, 0.0)), 2.0 * masses])


def _clipped_values(column: Marginal) -> Floats:
    """Values on their own scale, tails clipped: models of an outcome predict means, which ranks do not contain."""
    values = column.training_values
    values = np.where(np.isnan(values), np.nanmean(values), values)
    return _unit_variance(np.clip(values, *np.quantile(values, [OUTCOME_TAIL, 1.0 - OUTCOME_TAIL])))


def _unit_variance(values: Floats) -> Floats:
    return np.asarray(values / (values.std() + 1e-12))


def _orderings(earlier: Sequence[Marginal], column: Marginal, response: Floats) -> dict[int, Floats]:
    categories = [(k, predictor) for k, predictor in enumerate(earlier) if predictor.is_category]
    if column.is_category:
        return {k: _principal_direction(predictor, response)[None] for k, predictor in categories}
    scores, residuals = column.training_scores, _linear_residuals(earlier, column)
    return {
        k: np.stack([_level_means(predictor, scores, 0.0), _level_means(predictor, residuals, MEAN_PRIOR)])
        for k, predictor in categories
    }


def _level_means(predictor: Marginal, values: Floats, prior: float) -> Floats:
    """Mean of centred values per level, shrunk to zero as by `prior` more rows; zero for a level without rows."""
    size = len(predictor.support)
    rows = np.bincount(predictor.codes, minlength=size) + prior
    return np.asarray(np.bincount(predictor.codes, values, size) / np.maximum(rows, 1.0))


def _principal_direction(predictor: Marginal, indicators: Floats) -> Floats:
    """Levels along the first principal direction of their response shares, which orders them well for a split."""
    share = np.column_stack([_level_means(predictor, centred, 0.0) for centred in (indicators - indicators.mean(axis=0)).T])
    weight = np.sqrt(np.bincount(predictor.codes, minlength=len(share)))
    return np.asarray(share @ np.linalg.svd(weight[:, None] * share, full_matrices=False)[2][0])


def _linear_residuals(earlier: Sequence[Marginal], column: Marginal) -> Floats:
    """Normal scores less their linear prediction from the numeric columns before; zero at point masses."""
    free, scores = _off_point_masses(column), column.training_scores
    numeric = (predictor.training_scores for predictor in earlier if not predictor.is_category)
    design = np.column_stack([np.ones(len(free)), *numeric])
    slopes = np.linalg.lstsq(design[free], scores[free], rcond=None)[0]
    return np.where(free, scores - design @ slopes, 0.0)


def _off_point_masses(column: Marginal) -> Flags:
    """Training rows whose value is no point mass (every row of a discrete column)."""
    return ~column.atoms[column.codes] if column.is_continuous else np.ones(len(column.codes), dtype=bool)


def _ridge_slopes(features: Singles, column: Marginal) -> Floats:
    """Slopes of the normal scores of a continuous column on its predictors, point masses left out."""
    free = _off_point_masses(column)
    if not column.is_continuous or free.sum() < RIDGE_ROWS:
        return np.empty(0)
    design = np.column_stack([np.ones(len(free)), features.T.astype(np.float64)])
    penalty = 1e-3 * free.sum() * np.diag((design.std(axis=0) + 1e-9) ** 2)
    return np.linalg.solve(design[free].T @ design[free] + penalty, design[free].T @ column.training_scores[free])


def _rows_each(groups: Integers) -> float:
    """Mean number of rows of an entity: a leaf of ten rows of one entity would only copy it."""
    return len(groups) / len(np.unique(groups))


def _leaf_entities(column: Marginal, features: Singles, response: Floats, n_columns: int, seed: int, groups: Integers) -> int:
    """Fewest entities per leaf: rows, where each row is an entity of its own.

    A column that the earlier columns explain well needs small leaves to be drawn accurately. Unexplained variation is only copied
    by small leaves, and in a table of few columns few copied values identify a row.
    """
    if not column.is_continuous:
        return LARGE_LEAF
    unexplained = 1.0 - _explained_variance(features, response, seed, groups)
    fraction = min(1.0, len(response) / _rows_each(groups) / LEAF_FULL_ROWS)
    return int(np.clip(round(LEAF_SCALE / n_columns**2.5 * unexplained * fraction), SMALL_LEAF, LARGE_LEAF))


def _explained_variance(features: Singles, response: Floats, seed: int, groups: Integers) -> float:
    """Share of the response's variance, 0 to 1, that a tree explains on held-out rows of other entities."""
    rows = shuffle(groups, np.random.default_rng(seed))[: 2 * HOLDOUT_ROWS]
    middle = cut(groups[rows], (len(rows) + 1) // 2)
    train, test = rows[:middle], rows[middle:]
    tree = _regression_tree(round(2 * SMALL_LEAF * _rows_each(groups)), seed).fit(features.T[train], response[train])
    score = r2_score(response[test], tree.predict(features.T[test]), multioutput="variance_weighted")
    return float(np.clip(score, 0.0, 1.0))


def _regression_tree(leaf: int, seed: int) -> DecisionTreeRegressor:
    return DecisionTreeRegressor(min_samples_leaf=leaf, max_features=FEATURES_PER_SPLIT, random_state=seed)


def _with_donors(orderings: Mapping[int, Floats], slopes: Floats, tree: Tree, leaves: Integers, column: Marginal) -> Conditional:
    counts = np.bincount(leaves, minlength=len(tree.threshold))
    donors = np.lexsort((column.codes, leaves))
    return Conditional(orderings, slopes, tree, donors, np.concatenate([[0], np.cumsum(counts)]))
