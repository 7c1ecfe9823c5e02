"""Agreement of simulations with the real experiments made after them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

from schemas.simulation_models import TrackRecord

__all__ = ["ComparedSimulation", "compute_track_record"]


class ComparedSimulation(NamedTuple):
    """A simulated effect with its interval at ``level``, and the effect of a real experiment with its ``standard_error``."""

    simulated: float
    lower: float
    upper: float
    level: float
    effect: float
    standard_error: float


def compute_track_record(compared: Sequence[ComparedSimulation]) -> TrackRecord:
    """Count the simulations whose interval holds the effect of the real experiment.

    Args:
        compared: one entry a simulation; effects are fractions on the target's scale.

    Example:
        >>> inside = ComparedSimulation(0.05, 0.01, 0.09, 0.95, effect=0.04, standard_error=0.01)
        >>> outside = ComparedSimulation(0.05, 0.01, 0.09, 0.95, effect=0.10, standard_error=0.01)
        >>> compute_track_record([inside, outside]).n_inside
        1
    """
    if not compared:
        return TrackRecord(n=0, n_inside=0, n_agreeing=0)
    simulated, lower, upper, level, effect, error = np.transpose(compared)
    nearer_end = np.where(effect > simulated, upper, lower)
    tolerance = np.hypot(nearer_end - simulated, ndtri((1.0 + level) / 2.0) * error)
    return TrackRecord(
        n=len(compared),
        n_inside=int(np.sum((lower <= effect) & (effect <= upper))),
        n_agreeing=int(np.sum(np.abs(effect - simulated) <= tolerance)),
        mean_error=float(np.mean(effect - simulated)),
    )
