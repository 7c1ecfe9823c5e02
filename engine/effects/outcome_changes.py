"""Effects as changes of the outcome, in the unit of the target."""

from __future__ import annotations

import numpy as np
import pandas as pd

from engine.effects.effect_draws import AverageDraws
from engine.effects.intervals import interval
from engine.effects.twin_factors import TwinFactors
from schemas.arrays import Floats
from schemas.columns import Columns
from schemas.twin_models import BEHAVIOUR
from schemas.twin_types import Target

__all__ = ["average_change", "change_per_effect", "change_sums", "unknown_base"]


def change_per_effect(target: Target, frame: pd.DataFrame) -> Floats:
    """Change of each row's outcome for an effect of 1, in the unit of the target with its own sign, ``(n,)``.

    nan where the value that an effect is a share of is missing, or ``frame`` does not have its column.

    Example:
        >>> from schemas.twin_types import TWIN_TYPES, TwinType
        >>> territories = pd.DataFrame({"market_share": [0.2, None], "baseline_behavior": [0.01, 0.01]})
        >>> change_per_effect(TWIN_TYPES[TwinType.TERRITORY].target(), territories).tolist()
        [0.2, nan]
    """
    base = target.share_of or BEHAVIOUR
    return np.asarray(target.desired_change(Columns(frame).numbers(base) if base in frame else np.full(len(frame), np.nan)))


def change_sums(twins: TwinFactors, per_effect: Floats) -> tuple[Floats, int]:
    """Sums of the moments ``(3 + p,)`` of ``n`` twins with their factors multiplied by their changes, and how many are known.

    Args:
        twins: ``n`` of them.
        per_effect: change of each twin's outcome for an effect of 1, ``(n,)``; nan where unknown.
    """
    has_base = np.isfinite(per_effect)
    return twins.times(per_effect).totals, int(has_base.sum())


def average_change(draws: AverageDraws, n_with_base: int, confidence_level: float) -> tuple[float, float, float] | None:
    """Average change of the outcome with its interval, over the twins whose change is known; None where none is.

    Args:
        draws: of the average, from the sums of :func:`change_sums`.
        n_with_base: twins whose change is known.
        confidence_level: of the interval.
    """
    if not n_with_base:
        return None
    changes = draws.average / (n_with_base / draws.sums[0])
    lower, upper = interval(changes, confidence_level).tolist()
    return float(changes.mean()), lower, upper


def unknown_base(target: Target) -> str:
    """Why a change is unknown, and what makes it known."""
    return f"effects on {target.name} are a share of {target.share_of or 'the expected outcome'}, which these rows do not have"
