"""Selects the rows that a challenger is trained on, and carries rows from before a change over into the time after it.

Rows from before a change teach the old relation of features and outcome, and the rows since are few. So a challenger is trained on
both: the old rows with outcomes adjusted to the change, and the new ones. The latest rows are held out for the promotion gate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.ensemble import RandomForestRegressor

from engine.promotion.promotion_gate import GATE_ROWS
from engine.twins import MIN_SAMPLES, TwinModel, forest_mean
from schemas.arrays import Floats, require_finite
from schemas.twin_models import Baseline

__all__ = [
    "ENOUGH_NEW_ROWS",
    "MAX_HISTORY_ROWS",
    "MIN_NEW_ROWS",
    "RowSplit",
    "adjust_history",
    "estimate_onset",
    "estimate_onset_of_bias",
    "estimate_onset_of_misses",
    "split_rows",
]

ENOUGH_NEW_ROWS = MIN_SAMPLES
"""Number of new rows that need no history beside them; also the minimum number of rows that any model is trained on."""

MIN_NEW_ROWS = 200
"""Minimum number of new training rows: with fewer, the old rows would dominate the challenger."""

MAX_HISTORY_ROWS = 10_000
"""Maximum number of rows from before the change, the latest: more hardly improve a model, and their features are older."""

_SMALLEST_SHIFT = 0.20  # smallest relative rise of the loss that matters: the limit of the drift rule
_SMALLEST_BIAS = 0.05  # smallest mean error that matters, in half widths, and smallest rise of the share of misses
_MIN_LEAF_ROWS = (10, 30, 100)  # candidates; the first is that of the outcome's forest
_GATE_FRACTION = 4  # one in so many new rows is held out for the gate, when there are plenty


@dataclass(frozen=True)
class RowSplit:
    """Numbers of rows for training and gate, in the order of time.

    Attributes:
        n_training: the first rows since the change, for training.
        n_gate: the remaining rows since the change, held out for the gate.
        n_carried: the latest rows from before the change, carried over and added to the training rows.
    """

    n_training: int
    n_gate: int
    n_carried: int


def split_rows(n_since: int, n_before: int) -> RowSplit | None:
    """Split ``n_since`` rows since a change, with ``n_before`` rows from before it; None while they are too few.

    Example:
        >>> split_rows(1_500, 9_000)
        RowSplit(n_training=1000, n_gate=500, n_carried=9000)
        >>> split_rows(1_500, 0)
        RowSplit(n_training=1000, n_gate=500, n_carried=0)
        >>> split_rows(600, 9_000) is None, split_rows(1_400, 0) is None
        (True, True)
    """
    n_gate = max(GATE_ROWS, n_since // _GATE_FRACTION)
    n_training, n_carried = n_since - n_gate, min(n_before, MAX_HISTORY_ROWS)
    if n_training < MIN_NEW_ROWS or n_training + n_carried < ENOUGH_NEW_ROWS:
        return None
    return RowSplit(n_training, n_gate, n_carried)


def adjust_history(history: pd.DataFrame, since: pd.DataFrame, incumbent: TwinModel) -> pd.DataFrame:
    """Rows from before a change, with the outcomes that the rows since the change suggest for them.

    A forest learns the incumbent's residuals on the rows since the change from their features. Its prediction is added to the old
    outcomes. Where nothing has changed the old rows keep their outcomes, so a challenger does not forget them. The leaf size with
    the best out-of-bag score is used: noisy residuals need large leaves. Whole numbers stay whole, and no outcome leaves the
    observed range.

    Args:
        history: rows from before the change, features and target.
        since: rows since the change, which the incumbent was not trained on.
        incumbent: the champion, trained before the change.

    References:
        Pan, Yang (2010), A survey on transfer learning. IEEE Transactions on Knowledge and Data Engineering 22(10), section 3.1:
        instances of the old domain corrected for the new one.
    """
    target = incumbent.card.target
    old, new = (rows[target].to_numpy(dtype=float) for rows in (history, since))
    residuals, encoded = new - incumbent.predict(since), incumbent.encoded(since)
    forests = [
        RandomForestRegressor(100, min_samples_leaf=leaf, oob_score=True, n_jobs=1, random_state=0).fit(encoded, residuals)
        for leaf in _MIN_LEAF_ROWS
    ]
    correction = max(forests, key=lambda forest: forest.oob_score_)
    adjusted = np.clip(old + forest_mean(correction, incumbent.encoded(history)), *_range(old, new))
    is_whole = bool((np.rint(old) == old).all() and (np.rint(new) == new).all())
    return history.assign(**{target: np.rint(adjusted) if is_whole else adjusted})


def _range(old: Floats, new: Floats) -> tuple[float, float]:
    return float(min(old.min(), new.min())), float(max(old.max(), new.max()))


def estimate_onset(absolute_error: npt.ArrayLike, baseline: Baseline) -> int:
    """Index of the first row after the estimated change; the rows are in the order of time, the errors in units of the target.

    It is the last minimum of the cumulative sum of clipped losses over a reference half way between the mean before the change, the
    baseline's, and the mean after it. A first estimate with the smallest rise that matters gives the mean after the change. Without
    a change the index is that of one of the last rows.

    References:
        Page (1954), Continuous inspection schemes. Biometrika 41. Hinkley (1971), Inference about the change-point from cumulative
        sum tests. Biometrika 58.

    Example:
        >>> baseline = Baseline(n=99, mae=1, rmse=1, center=0, scale=1, clip=10, clipped_mean=0.1, clipped_sd=0.1)
        >>> estimate_onset([1.0] * 70 + [2.0] * 30, baseline)
        70
    """
    require_finite("absolute_error", absolute_error)
    loss = np.minimum(np.asarray(absolute_error, dtype=float) / baseline.clip, 1.0)
    return _onset(loss, baseline.clipped_mean, baseline.clipped_mean * _SMALLEST_SHIFT)


def estimate_onset_of_bias(scaled_error: npt.ArrayLike) -> int:
    """The same for errors that have become too high: in half widths of the interval, in the direction of the change."""
    require_finite("scaled_error", scaled_error)
    return _onset(np.clip(np.asarray(scaled_error, dtype=float), -1.0, 1.0), 0.0, _SMALLEST_BIAS)


def estimate_onset_of_misses(misses: npt.ArrayLike, coverage: float) -> int:
    """The same for outcomes outside of their interval (0 or 1), given the coverage of the baseline."""
    return _onset(np.asarray(misses, dtype=float), 1.0 - coverage, max(1.0 - coverage, _SMALLEST_BIAS))


def _onset(loss: Floats, before: float, smallest_rise: float) -> int:
    min_reference = before + smallest_rise / 2
    first_estimate = _last_minimum(loss - min_reference)
    if first_estimate == len(loss):
        return first_estimate
    return _last_minimum(loss - max(min_reference, (before + loss[first_estimate:].mean()) / 2))


def _last_minimum(steps: Floats) -> int:
    """Number of steps after which their cumulative sum is lowest; the last such number."""
    sums = np.concatenate([[0.0], np.cumsum(steps)])
    return len(steps) - int(np.argmin(sums[::-1]))
