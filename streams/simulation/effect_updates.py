"""Updates the effect priors of a line from the results of real experiments."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from engine.effects import calibrate, catalogue_prior
from schemas import EffectPrior, EffectsEvent, ExperimentResult, Reach
from sql.database import Pool
from sql.experiment_store import add_experiment
from streams.simulation.simulator import Simulator

__all__ = ["ImplausibleExperiment", "calibrated_prior", "require_plausible", "update_effects"]

_LARGEST_EFFECT = 1000.0
_SMALLEST_ERROR, _LARGEST_ERROR = 1e-9, 1000.0
_SMALLEST_INTENSITY = 1e-6


class ImplausibleExperiment(ValueError):
    """A number of the result is too large or too small to calibrate an effect by."""


async def update_effects(pool: Pool, simulator: Simulator, experiment: ExperimentResult) -> EffectsEvent:
    """Store or withdraw an experiment, and return the prior of its intervention that follows.

    Raises:
        DifferentExperiment: when its id is stored with other content.
        ImplausibleExperiment: when the effect could not be calibrated by it, now or together with later ones.
    """
    if not experiment.withdrawn:
        require_plausible(experiment)
    return await add_experiment(pool, experiment, calibrated_prior, await simulator.reach(experiment))


def require_plausible(experiment: ExperimentResult) -> None:
    """Refuse a result that no experiment can have.

    Raises:
        ImplausibleExperiment: naming the field, its value and what is allowed.
    """
    intensity = experiment.intervention.intensity
    limits = (
        ("effect", experiment.effect, -_LARGEST_EFFECT, _LARGEST_EFFECT),
        ("standard_error", experiment.standard_error, _SMALLEST_ERROR, _LARGEST_ERROR),
        ("intervention.intensity", 1.0 if intensity is None else intensity, _SMALLEST_INTENSITY, math.inf),
    )
    for name, value, low, high in limits:
        if not low <= value <= high:
            allowed = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
            raise ImplausibleExperiment(f"{name}: must be {allowed}, not {value:g}")


def calibrated_prior(intervention: str, experiments: Sequence[ExperimentResult], reaches: Mapping[str, Reach]) -> EffectPrior:
    """The catalogue prior of an intervention, calibrated by the results of its experiments."""
    return calibrate(catalogue_prior(intervention), experiments, reaches)
