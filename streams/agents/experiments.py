"""Updates the effect priors of a line from the results of real experiments, and publishes them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from engine.effects import calibrate, catalogue_prior
from schemas import EffectPrior, ExperimentResult, Reach
from sql.experiment_store import DifferentExperiment, add_experiment
from streams.errors import require_no_nul
from streams.kafka.app import TwinApp
from streams.kafka.dead_letters import KafkaRecord, refuse
from streams.kafka.topics import topic_of
from streams.retries import process_event
from streams.services import Services

__all__ = ["attach"]

LOG = logging.getLogger(__name__)


def attach(app: TwinApp, services: Services) -> None:
    """Add the agent that learns from experiments."""

    async def experiments(results: Any) -> None:
        """Process result after result."""
        async for event in results.events():
            record = event.message
            refuse_record = partial(refuse, app, record, kinds={DifferentExperiment: "conflict"})
            await process_event(app, partial(_update_prior, app, services, record), refuse_record)

    app.agent(app.raw_topic(topic_of(ExperimentResult)), name="experiments", concurrency=1)(experiments)


async def _update_prior(app: TwinApp, services: Services, record: KafkaRecord) -> None:
    experiment = ExperimentResult.model_validate_json(require_no_nul(record.value))
    reach = await services.simulator.reach(experiment)
    effects = await add_experiment(app.pool, experiment, _calibrate, reach)
    prior = effects.prior
    await app.publish(effects, key=f"{effects.line}:{prior.intervention_type}")
    LOG.info(
        "experiment %s is %s: the effect of %s on %s is now %.4f +- %.4f, version %d, from %d experiments",
        experiment.experiment_id,
        "withdrawn" if experiment.withdrawn else "stored",
        prior.intervention_type,
        effects.line,
        prior.mean,
        prior.sd,
        prior.version,
        prior.n_experiments,
    )


def _calibrate(intervention: str, experiments: Sequence[ExperimentResult], reaches: Mapping[str, Reach]) -> EffectPrior:
    return calibrate(catalogue_prior(intervention), experiments, reaches)
