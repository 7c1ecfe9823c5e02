"""What it costs to predict rows of a level that a model has never seen, such as prescribers of another state.

Rows of new levels are not exchangeable with the training rows, so that intervals cover fewer of their outcomes than stated. How
many fewer is measured by leaving whole levels out: the outcome model is fitted without them, predicts their rows, and the intervals
are those of rows with an unknown level. Intervals of such rows are widened by the factor that covers 95 % of the rows of a new
level, where every level has the same weight. A new level that differs from the learned ones by more than they differ from each
other is not covered by any such factor.

References:
    Lee, Barber, Willett (2023), Distribution-free inference with hierarchical data (arXiv:2306.06342), for a new level as one draw
    from the levels. Roberts et al. (2017), Cross-validation strategies for data with temporal, spatial, hierarchical, or
    phylogenetic structure. Ecography 40, for leaving whole levels out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from engine.twins.conformal import Conformal, conformal_quantile
from engine.twins.entities import entity_weights, folds
from engine.twins.outcome_model import encode_features, predict_outcome
from engine.twins.training_table import TrainingTable
from schemas.arrays import Flags, Floats, Integers
from schemas.twin_models import NewLevels

__all__ = ["FEWEST_TRAINING_ROWS", "left_out_level_names", "measure_new_levels", "new_level_sentences", "widening"]

Fit = Callable[[TrainingTable], Pipeline]

FEWEST_TRAINING_ROWS = 2000
"""Rows below which nothing is measured: levels have too few rows each."""

_LEVEL = 0.95
_FOLDS = 4
_MOST_FEATURES = 2
_MOST_ROWS = 4000  # that a model without some levels learns from: its errors are those of many more rows, at a part of the time
_FEWEST_ROWS = 20  # of a level that is left out
_FEWEST_NAMED = 100  # rows of the level that is told as the worst
_NO_LEVEL = "\0"  # written by nobody, thus unknown to every encoder


def left_out_level_names(table: TrainingTable, segments: Sequence[str]) -> list[str]:
    """The categories whose levels are left out in turn, at most two: declared segments first, then those with most levels.

    Example:
        >>> frame = pd.DataFrame({"state": list("abcd") * 25, "gender": list("mf") * 50, "region": list("nsnw") * 25})
        >>> kinds = {"state": "category", "gender": "category", "region": "category"}
        >>> left_out_level_names(TrainingTable(frame, np.zeros(100), kinds, 0, ()), ["region"])
        ['region', 'state']
    """
    n_levels = {name: int((table.features[name].value_counts() >= _FEWEST_ROWS).sum()) for name in table.categorical}
    eligible = [name for name, n in n_levels.items() if n >= 3]
    return sorted(eligible, key=lambda name: (name not in segments, -n_levels[name]))[:_MOST_FEATURES]


def measure_new_levels(
    table: TrainingTable,
    selected: Sequence[str],
    outcome: Pipeline,
    conformal: Conformal,
    fit: Fit,
    segments: Sequence[str],
    seed: int,
) -> dict[str, NewLevels]:
    """Measure the coverage of new levels of each feature of :func:`left_out_level_names`, by feature.

    Args:
        table: the rows that the model is evaluated on.
        selected: the features from which the outcome is predicted.
        outcome: the model, which knows all levels.
        conformal: widths of its intervals.
        fit: fits an outcome model to some of the rows.
        segments: the twin type's segments.
        seed: of the folds.
    """
    if len(table) < FEWEST_TRAINING_ROWS:
        return {}
    measured, fitted = {}, table.select(selected)
    for name in left_out_level_names(fitted, segments):
        unknown = table.features.assign(**{name: _NO_LEVEL})
        widths = conformal.widths(encode_features(outcome, unknown), unknown, _LEVEL)
        errors = table.target - _predict_left_out(fitted, name, fit, seed)
        size = np.where(errors < 0, -errors / np.maximum(widths.below, 1e-300), errors / np.maximum(widths.above, 1e-300))
        measured[name] = _summarise(size, table.features[name])
    return measured


def widening(measured: Mapping[str, NewLevels], unseen: Flags) -> Floats:
    """Factors of the width of intervals, ``(n,)``, of rows that have an unseen level where ``unseen``, ``(n, len(measured))``.

    Example:
        >>> state = NewLevels(levels=50, rows=5000, coverage=0.93, widening=1.2)
        >>> region = NewLevels(levels=4, rows=5000, coverage=0.9, widening=1.5)
        >>> widening({"state": state, "region": region}, np.array([[True, False], [True, True], [False, False]])).tolist()
        [1.2, 1.5, 1.0]
    """
    factors = np.array([of_feature.widening for of_feature in measured.values()])
    return np.asarray(np.where(unseen, factors, 1.0).max(axis=1, initial=1.0))


def new_level_sentences(measured: Mapping[str, NewLevels]) -> Iterator[str]:
    """A sentence about each feature whose new levels are covered less than stated."""
    for name, of_feature in measured.items():
        if of_feature.widening > 1.005:
            worst = f", of {of_feature.worst!r} {of_feature.worst_coverage:.0%}" if of_feature.worst is not None else ""
            yield (
                f"of outcomes with a {name} left out of training, intervals of 95 % cover {of_feature.coverage:.1%}{worst}:"
                f" where the {name} is new they are made {of_feature.widening:.2f} times as wide"
            )


def _predict_left_out(table: TrainingTable, name: str, fit: Fit, seed: int) -> Floats:
    """Prediction of each row by a model without the rows of its level and of its entity."""
    levels, rng = pd.factorize(table.features[name])[0], np.random.default_rng(seed)
    predicted = np.empty(len(table))
    for train, test in folds(levels, min(_FOLDS, len(np.unique(levels))), seed):
        others = train[~np.isin(table.groups[train], table.groups[test])]
        sample = others if len(others) <= _MOST_ROWS else np.sort(rng.choice(others, _MOST_ROWS, replace=False))
        model = fit(table.take(sample))
        predicted[test] = predict_outcome(model, encode_features(model, table.features.iloc[test]))
    return predicted


def _summarise(size: Floats, levels: pd.Series[str]) -> NewLevels:
    """Errors in widths of the interval, by level."""
    counts = levels.value_counts()
    rows = levels.isin(counts.index[counts >= _FEWEST_ROWS]).to_numpy()
    size, levels = size[rows], levels[rows]
    inside = pd.Series(size <= 1).groupby(levels.to_numpy())
    coverage = inside.mean()[inside.size() >= _FEWEST_NAMED]
    codes: Integers = pd.factorize(levels)[0]
    weights = entity_weights(codes)
    factor = conformal_quantile(size, _LEVEL, weights * (len(size) / weights.sum()))
    return NewLevels(
        levels=int(codes.max()) + 1,
        rows=len(size),
        coverage=float((size <= 1).mean()),
        worst=str(coverage.idxmin()) if len(coverage) else None,
        worst_coverage=float(coverage.min()) if len(coverage) else None,
        widening=max(1.0, float(factor)),
    )
