"""Which rows a challenger learns from, and which it is judged on.

What the challenger learns from decides everything: rows from before a change teach it the old world, and the rows since are few.
So it learns from both, the old ones carried over into the new world; the latest rows are kept apart for the gate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.ensemble import RandomForestRegressor

from engine.promotion.promotion_gate import GATE_ROWS
from engine.twins.forests import forest_mean
from engine.twins.twin_model import TwinModel
from schemas.twin_models import Baseline

__all__ = ["ENOUGH_NEW_ROWS", "MAX_HISTORY_ROWS", "MIN_NEW_ROWS", "RowSplit", "adjust_history", "estimate_onset", "split_rows"]

ENOUGH_NEW_ROWS = 1_000
"""New rows that need no history beside them; also the fewest rows that any model is trained on."""

MIN_NEW_ROWS = 200
"""New rows without which a challenger would learn the old world once more."""

MAX_HISTORY_ROWS = 10_000
"""Rows from before the change that are carried over, the latest: more teach hardly more, and who they are about gets old."""

_SMALLEST_SHIFT = 0.20  # rise of the loss over the baseline that matters: the limit of the rule that calls for a retrain
_LEAVES = (10, 30, 100)  # rows; the first is that of the outcome's forest
_GATE_SHARE = 4  # one in so many new rows goes to the gate when there are plenty


@dataclass(frozen=True)
class RowSplit:
    """How the rows since the change are divided, in the order of time.

    Attributes:
        learned: the first so many are learned from.
        judged: the rest, as many as these, is for the gate.
        history: the latest so many rows from before the change are carried over and learned from beside them.
    """

    learned: int
    judged: int
    history: int


def split_rows(n_since: int, n_before: int) -> RowSplit | None:
    """Divide ``n_since`` rows since the change, with ``n_before`` older ones at hand; None while they are too few.

    Example:
        >>> portion(1_500, 9_000)
        Portion(learned=1000, judged=500, history=9000)
        >>> portion(1_500, 0)
        Portion(learned=1000, judged=500, history=0)
        >>> portion(600, 9_000) is None, portion(1_400, 0) is None
        (True, True)
    """
    judged = max(GATE_ROWS, n_since // _GATE_SHARE)
    learned, history = n_since - judged, min(n_before, MAX_HISTORY_ROWS)
    if learned < MIN_NEW_ROWS or learned + history < ENOUGH_NEW_ROWS:
        return None
    return RowSplit(learned, judged, history)


def adjust_history(history: pd.DataFrame, since: pd.DataFrame, accused: TwinModel) -> pd.DataFrame:
    """Rows from before a change with the outcomes they would have had after it, as far as the rows since tell.

    What the accused model misses on the rows since is learned from their features, and added to the old outcomes. Where nothing
    has changed the old rows stay what they were, so a challenger forgets nothing there; where all is new they repeat what the rows
    since say. How finely a change is told follows from the rows themselves: of noisy ones large groups say more. Whole numbers stay
    whole, and no outcome leaves the range of those that were seen.

    Args:
        history: rows from before the change, features and target.
        since: rows since the change, which the accused model was not trained on.
        accused: champion of the time before.

    References:
        Pan, Yang (2010), A survey on transfer learning. IEEE Transactions on Knowledge and Data Engineering 22(10), section 3.1:
        instances of the old domain corrected for the new one.
    """
    target = accused.card.target
    old, new = (rows[target].to_numpy(dtype=float) for rows in (history, since))
    missed, encoded = new - accused.predict(since), accused.encoded(since)
    forests = [
        RandomForestRegressor(100, min_samples_leaf=leaf, oob_score=True, n_jobs=1, random_state=0).fit(encoded, missed)
        for leaf in _LEAVES
    ]
    correction = max(forests, key=lambda forest: forest.oob_score_)
    moved = np.clip(old + forest_mean(correction, accused.encoded(history)), *_range(old, new))
    whole = bool((np.rint(old) == old).all() and (np.rint(new) == new).all())
    return history.assign(**{target: np.rint(moved) if whole else moved})


def _range(old: npt.NDArray[np.float64], new: npt.NDArray[np.float64]) -> tuple[float, float]:
    return float(min(old.min(), new.min())), float(max(old.max(), new.max()))


def estimate_onset(absolute_error: npt.ArrayLike, baseline: Baseline) -> int:
    """Number of the first row after the estimated change; the rows are in the order of time, the errors in units of the target.

    The last minimum of the cumulative sum of clipped losses over a reference half way between the means before and after the
    change: the baseline's, and that of the rows after a first estimate, which takes the smallest rise that matters for granted.
    Without a change it points at one of the last rows.

    References:
        Page (1954), Continuous inspection schemes. Biometrika 41. Hinkley (1971), Inference about the change-point from cumulative
        sum tests. Biometrika 58.

    Example:
        >>> quiet = Baseline(n=99, mae=1, rmse=1, center=0, scale=1, clip=10, clipped_mean=0.1, clipped_sd=0.1)
        >>> onset([1.0] * 70 + [2.0] * 30, quiet)
        70
    """
    loss = np.minimum(np.asarray(absolute_error, dtype=float) / baseline.clip, 1.0)
    before = baseline.clipped_mean
    least = before * (1.0 + _SMALLEST_SHIFT / 2)
    first = _lowest(loss - least)
    return _lowest(loss - max(least, (before + loss[first:].mean()) / 2)) if first < len(loss) else first


def _lowest(steps: npt.NDArray[np.float64]) -> int:
    """Number of steps after which their running sum is lowest, the last such number."""
    sums = np.concatenate([[0.0], np.cumsum(steps)])
    return len(steps) - int(np.argmin(sums[::-1]))
