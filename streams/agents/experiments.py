"""Updates the effect priors of a line from the results of real experiments, and publishes them, also those that a person chose."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from engine.effects import catalogue_prior
from schemas import EffectsEvent, ExperimentResult, catalogue_in_effect
from schemas.base import shorten, utc_time
from schemas.catalogue_in_effect import in_effect
from schemas.effect_priors import EFFECTS_METHOD
from sql.effects_store import lines_to_announce, publish_choice
from sql.erasure_store import NamesErased
from sql.experiment_store import (
    DifferentExperiment,
    effects_behind_catalogue,
    outdated_priors,
    renew_for_catalogue,
    renew_prior,
    unusable_experiments,
)
from streams.errors import describe_error, is_waited_for, require_clear
from streams.kafka import topic_of
from streams.kafka.app import TwinApp
from streams.kafka.dead_letters import KafkaRecord, start_refusal_counters
from streams.kafka.record_slices import RefusalSlice, process_slices
from streams.metrics import EXPERIMENT_WARNINGS
from streams.retries import any_error, process_event, report_failure, retry_transient
from streams.services import Services
from streams.simulation import (
    ImplausibleExperiment,
    SetAsideExperiment,
    calibrated_prior,
    require_observed,
    update_effects,
)

__all__ = ["attach"]

LOG = logging.getLogger(__name__)
_RENEW_S = 30.0
_ANNOUNCE_S = 5.0
_CATALOGUE_S = 5.0
_KINDS: dict[type[Exception], str] = {
    DifferentExperiment: "conflict",
    ImplausibleExperiment: "invalid",
    NamesErased: "erased",
    SetAsideExperiment: "set_aside",
}


def attach(app: TwinApp, services: Services) -> None:
    """Add the agent that learns from experiments."""

    async def experiments(results: Any) -> None:
        """Process result after result of each partition."""
        process = partial(_process, app, services)
        await process_slices(app, results, partial(RefusalSlice, app, process, _KINDS), _KINDS, group_of=_line_of)

    start_refusal_counters(topic_of(ExperimentResult), _KINDS.values())
    app.agent(app.batch_topic(topic_of(ExperimentResult)), name="experiments", concurrency=1)(experiments)

    async def renew_priors() -> None:
        await _renew(app, services)

    settled: dict[str, int] = {}

    async def follow_catalogue() -> None:
        """Compute the priors of lines again whose effects rest on an earlier catalogue."""
        await _follow_catalogue(app, services, settled)

    async def announce_choices() -> None:
        """Publish the choices that a command has stored and could not publish."""
        for line in await lines_to_announce(app.pool):
            await publish_choice(app.pool, line, catalogue_prior, partial(_publish, app))

    async def tell_unusable() -> None:
        await process_event(app, partial(_tell_unusable, app), partial(_report, app))

    app.run_every(_RENEW_S, renew_priors)
    app.run_every(_CATALOGUE_S, follow_catalogue)
    app.run_every(_ANNOUNCE_S, announce_choices)
    app.task(tell_unusable)


def _line_of(record: KafkaRecord) -> str | None:
    """The line of a result, None where it cannot be read."""
    try:
        return ExperimentResult.model_validate_json(record.value or b"").line
    except ValueError:
        return None


async def _renew(app: TwinApp, services: Services) -> None:
    """Compute the priors of an older method again, once.

    One that cannot be computed keeps no other from it, and is tried again at the next interval.
    """
    failures = []
    for line, intervention in await outdated_priors(app.pool, EFFECTS_METHOD):
        try:
            async with services.simulator.turns.of(line):
                effects = await renew_prior(app.pool, line, intervention, calibrated_prior, EFFECTS_METHOD)
            await _publish_new(app, effects)
        except Exception as error:
            if is_waited_for(error):
                raise
            failures.append(error)
    if failures:
        raise failures[0]


async def _follow_catalogue(app: TwinApp, services: Services, settled: dict[str, int]) -> None:
    """Let the priors of each line follow the catalogue in effect, once for each version of it: ``settled`` has the last one."""
    for line in await effects_behind_catalogue(app.pool):
        with in_effect(catalogue_in_effect()) as catalogue:  # one version from begin to end
            if settled.get(line) == catalogue.version:
                continue
            async with services.simulator.turns.of(line):
                events = await renew_for_catalogue(app.pool, line, calibrated_prior, partial(_publish, app))
            settled[line] = catalogue.version
        for effects in events:
            campaign = effects.prior.intervention_type
            await publish_choice(app.pool, line, catalogue_prior, partial(_publish, app), after=campaign)


async def _tell_unusable(app: TwinApp) -> None:
    for experiment_id, error in (await unusable_experiments(app.pool)).items():
        LOG.warning("experiment %s is stored and calibrates nothing: %s", shorten(experiment_id), describe_error(error))


async def _report(app: TwinApp, error: Exception) -> None:
    report_failure(app.role, "reading the stored experiments", error)


async def _publish(app: TwinApp, effects: EffectsEvent) -> None:
    await app.publish(effects, key=effects.key)


async def _publish_new(app: TwinApp, effects: EffectsEvent) -> None:
    """Publish a new version, and after it the prior that a person has chosen, where that holds.

    It is tried until it succeeds, whatever it raises: the version is stored and in effect, so its experiment is no bad record.
    """

    async def publish() -> None:
        await _publish(app, effects)
        campaign = effects.prior.intervention_type
        await publish_choice(app.pool, effects.line, catalogue_prior, partial(_publish, app), after=campaign)

    await retry_transient(publish, part="kafka", waits_for=any_error)


async def _process(app: TwinApp, services: Services, record: KafkaRecord) -> None:
    experiment = ExperimentResult.model_validate_json(require_clear(record.value))
    require_observed(experiment, utc_time(record.timestamp), app.settings.skew_s)
    async with services.simulator.turns.of(experiment.line):
        effects = await update_effects(app.pool, services.simulator, experiment)
    prior = effects.prior
    await _publish_new(app, effects)
    for warning in effects.warnings:
        LOG.warning("%s", warning)
        EXPERIMENT_WARNINGS.inc()
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
