"""Updates the effect priors of a line from the results of real experiments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engine.effects import calibrate, catalogue_prior
from schemas import EffectPrior, EffectsEvent, ExperimentResult, Reach
from sql.database import Pool
from sql.experiment_store import add_experiment
from streams.simulation.simulator import Simulator

__all__ = ["calibrated_prior", "update_effects"]


async def update_effects(pool: Pool, simulator: Simulator, experiment: ExperimentResult) -> EffectsEvent:
    """Store or withdraw an experiment, and return the prior of its intervention that follows.

    Raises:
        DifferentExperiment: when its id is stored with other content.
    """
    return await add_experiment(pool, experiment, calibrated_prior, await simulator.reach(experiment))


def calibrated_prior(intervention: str, experiments: Sequence[ExperimentResult], reaches: Mapping[str, Reach]) -> EffectPrior:
    """The catalogue prior of an intervention, calibrated by the results of its experiments."""
    return calibrate(catalogue_prior(intervention), experiments, reaches)
