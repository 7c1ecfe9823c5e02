"""Effects as changes of the outcome, in the unit of the target."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from engine.effects.effect_draws import EffectDraws
from engine.effects.intervals import interval
from schemas.arrays import Floats
from schemas.columns import Columns
from schemas.twin_models import BEHAVIOUR
from schemas.twin_types import Target

__all__ = ["average_change", "change_per_effect", "unknown_base"]


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


def average_change(draws: EffectDraws, per_effect: Floats, confidence_level: float) -> tuple[float, float, float] | None:
    """Average change of the outcome with its interval, over the twins whose change is known; None where none is.

    Args:
        draws: of the effect on ``n`` twins.
        per_effect: change of each twin's outcome for an effect of 1, ``(n,)``; nan where unknown.
        confidence_level: of the interval.
    """
    has_base = np.isfinite(per_effect)
    if not has_base.any():
        return None
    changes = replace(draws, twins=draws.twins.times(per_effect)).average / has_base.mean()
    lower, upper = interval(changes, confidence_level).tolist()
    return float(changes.mean()), lower, upper


def unknown_base(target: Target) -> str:
    """Why a change is unknown, and what makes it known."""
    return f"effects on {target.name} are a share of {target.share_of or 'the expected outcome'}, which these rows do not have"
