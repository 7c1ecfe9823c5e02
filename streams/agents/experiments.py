"""Learns from real experiments what interventions do, and says what is believed from now on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from pydantic import ValidationError

from engine.effects.calibration import calibrate
from engine.effects.effect_model import catalogue_prior
from schemas import EffectPrior, ExperimentResult, Reach
from sql.experiment_store import DifferentExperiment, add_experiment
from streams.errors import ContainsNul, describe_error, require_no_nul
from streams.kafka.app import TwinApp
from streams.kafka.dead_letters import KafkaRecord, send_to_dead_letters
from streams.kafka.topics import topic_of
from streams.retries import process_event
from streams.services import Services

__all__ = ["attach"]

LOG = logging.getLogger(__name__)


def attach(app: TwinApp, services: Services) -> None:
    """Let the app learn from experiments."""

    async def experiments(results: Any) -> None:
        """Learn from experiment after experiment."""
        async for event in results.events():
            record = event.message
            await process_event(app, partial(_learn, app, services, record), partial(_refuse, app, record))

    app.agent(app.raw_topic(topic_of(ExperimentResult)), name="experiments", concurrency=1)(experiments)


async def _learn(app: TwinApp, services: Services, record: KafkaRecord) -> None:
    experiment = ExperimentResult.model_validate_json(require_no_nul(record.value))
    reach = await services.simulator.reach(experiment)
    believed = await add_experiment(app.pool, experiment, _believed, reach)
    prior = believed.prior
    await app.publish(believed, key=f"{believed.line}:{prior.intervention_type}")
    LOG.info(
        "experiment %s %s: %s on %s is now believed to be %.4f +- %.4f, version %d, by %d experiments",
        experiment.experiment_id,
        "is withdrawn" if experiment.withdrawn else "is in",
        prior.intervention_type,
        believed.line,
        prior.mean,
        prior.sd,
        prior.version,
        prior.n_experiments,
    )


def _believed(intervention: str, known: Sequence[ExperimentResult], reaches: Mapping[str, Reach]) -> EffectPrior:
    return calibrate(catalogue_prior(intervention), known, reaches)


async def _refuse(app: TwinApp, record: KafkaRecord, error: Exception) -> None:
    if isinstance(error, ValidationError):
        await send_to_dead_letters(app, record, "invalid", describe_error(error), error)
    elif isinstance(error, DifferentExperiment):
        await send_to_dead_letters(app, record, "conflict", describe_error(error), error)
    elif isinstance(error, ContainsNul):
        await send_to_dead_letters(app, record, "json", describe_error(error), error)
    else:
        LOG.error("an experiment could not be learned from", exc_info=error)
        await send_to_dead_letters(app, record, "failed", f"{type(error).__name__}: {describe_error(error)}", error)
