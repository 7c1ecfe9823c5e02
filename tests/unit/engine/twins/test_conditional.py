"""Trees of conditional distributions send rows to the leaves of scikit-learn."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.tree import DecisionTreeRegressor

from engine.twins.conditional import Tree


@settings(max_examples=30)
@given(rows=st.integers(20, 300), columns=st.integers(1, 6), leaf=st.integers(1, 20), seed=st.integers(0, 999))
def test_a_tree_sends_rows_to_the_same_leaves_as_scikit_learn(rows: int, columns: int, leaf: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    features = rng.integers(0, 9, (rows, columns)).astype(np.float32)
    estimator = DecisionTreeRegressor(min_samples_leaf=leaf, random_state=seed).fit(features, rng.normal(size=rows))
    unseen = rng.normal(4, 4, (500, columns)).astype(np.float32)
    np.testing.assert_array_equal(Tree.from_estimator(estimator).apply(np.ascontiguousarray(unseen.T)), estimator.apply(unseen))
