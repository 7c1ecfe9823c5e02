"""How often simulations of a kind were right, once real experiments had answered them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

from schemas.simulation_models import TrackRecord

__all__ = ["ComparedSimulation", "track_record"]


class ComparedSimulation(NamedTuple):
    """A simulation and what a real experiment found: the interval at ``level``, the effect with its ``standard_error``."""

    simulated: float
    lower: float
    upper: float
    level: float
    effect: float
    standard_error: float


def track_record(answered: Sequence[ComparedSimulation]) -> TrackRecord:
    """The record of simulations with a real answer.

    Example:
        >>> right, wrong = Answered(0.05, 0.01, 0.09, 0.95, 0.04, 0.01), Answered(0.05, 0.01, 0.09, 0.95, 0.10, 0.01)
        >>> track_record([right, wrong]).n_inside
        1
    """
    if not answered:
        return TrackRecord(n=0, n_inside=0, n_agreeing=0)
    simulated, lower, upper, level, effect, error = np.transpose(answered)
    end = np.where(effect > simulated, upper, lower)
    allowed = np.hypot(end - simulated, ndtri((1.0 + level) / 2.0) * error)
    return TrackRecord(
        n=len(answered),
        n_inside=int(np.sum((lower <= effect) & (effect <= upper))),
        n_agreeing=int(np.sum(np.abs(effect - simulated) <= allowed)),
        mean_error=float(np.mean(effect - simulated)),
    )
