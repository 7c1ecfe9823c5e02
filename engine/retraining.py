"""Which rows a challenger learns from, and which it is judged on.

What the challenger learns from decides everything: rows from before a change teach it the old world. So it learns from the rows
since the change when there are enough of them, else from these and some history; the latest rows are kept apart for the gate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.gate import GATE_ROWS
from schemas.twin_models import Baseline

__all__ = ["ENOUGH_NEW", "FEWEST_NEW", "Portion", "onset", "portion"]

ENOUGH_NEW = 1_000
"""New rows that need no history beside them; also the fewest rows that any model is trained on."""

FEWEST_NEW = 200
"""New rows without which a challenger would learn the old world once more."""

_SMALLEST_SHIFT = 0.20  # rise of the loss over the baseline that matters: the limit of the rule that calls for a retrain
_GATE_SHARE = 4  # one in so many new rows goes to the gate when there are plenty


@dataclass(frozen=True)
class Portion:
    """How the rows since the change are divided, in the order of time.

    Attributes:
        learned: the first so many are learned from.
        judged: the rest, as many as these, is for the gate.
        history: rows from before the change to learn from beside them.
    """

    learned: int
    judged: int
    history: int

    @property
    def fresh(self) -> bool:
        """Whether the challenger learns from new rows alone."""
        return self.history == 0


def portion(n_since: int, n_before: int) -> Portion | None:
    """Divide ``n_since`` rows since the change, with ``n_before`` older ones at hand; None while they are too few.

    Example:
        >>> portion(1_500, 9_000)
        Portion(learned=1000, judged=500, history=0)
        >>> portion(900, 9_000)
        Portion(learned=400, judged=500, history=600)
        >>> portion(600, 9_000) is None
        True
    """
    judged = max(GATE_ROWS, n_since // _GATE_SHARE)
    learned = n_since - judged
    history = max(0, ENOUGH_NEW - learned)
    if learned < FEWEST_NEW or n_before < history:
        return None
    return Portion(learned, judged, history)


def onset(absolute_error: npt.ArrayLike, baseline: Baseline) -> int:
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
