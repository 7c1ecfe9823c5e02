"""Updates the effect priors of a line from the results of real experiments."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from engine.effects import calibrate, catalogue_prior, surprise
from engine.experiments import sample_ratio_warning
from schemas import TWIN_TYPES, EffectPrior, EffectsEvent, ExperimentResult, Reach
from schemas.base import EARLIEST
from schemas.twin_types import filter_hint
from sql.database import Pool
from sql.experiment_store import StoredExperiment, add_experiment, experiments
from streams.simulation.level_warnings import level_warnings
from streams.simulation.simulator import Simulator

__all__ = [
    "ImplausibleExperiment",
    "SetAsideExperiment",
    "calibrated_prior",
    "check_result",
    "doubts",
    "require_meant",
    "require_observed",
    "require_plausible",
    "update_effects",
]

_LARGEST_EFFECT = 1000.0
_SMALLEST_ERROR, _LARGEST_ERROR = 1e-9, 1000.0
_SMALLEST_INTENSITY = 1e-6
_SURPRISING = 3.0  # predictive standard deviations


class ImplausibleExperiment(ValueError):
    """A number or the time of the result is none that an experiment can have."""


class SetAsideExperiment(ValueError):
    """A number of the result is beyond the plausible scale of its target: it waits until somebody confirms it."""


def require_observed(experiment: ExperimentResult, arrived_at: datetime, skew_s: float) -> None:
    """Refuse a result that was observed more than ``skew_s`` after its record arrived, or before 1900, as an outcome is.

    One that is withdrawn may have any time: it may be stored since before this rule.

    Raises:
        ImplausibleExperiment: naming the time and what is allowed.
    """
    observed = experiment.observed_at
    if experiment.withdrawn or (observed >= EARLIEST and observed - timedelta(seconds=skew_s) <= arrived_at):
        return
    allowed = f"from {EARLIEST:%Y-%m-%d} to {skew_s:g} s (TWIN_SKEW_S) after the record arrived at {arrived_at.isoformat()}"
    raise ImplausibleExperiment(f"observed_at: must be {allowed}, not {observed.isoformat()}")


async def update_effects(pool: Pool, simulator: Simulator, experiment: ExperimentResult) -> EffectsEvent:
    """Store or withdraw an experiment, and return the prior of its intervention that follows.

    A surprising result is taken as any other, and the event says that it is.

    Raises:
        DifferentExperiment: when its id is stored with other content.
        ImplausibleExperiment: when the effect could not be calibrated by it, now or together with later ones.
        SetAsideExperiment: when it is hardly meant as it is, and not confirmed.
    """
    check_result(experiment)
    reach = await simulator.reach(experiment)
    effects = await add_experiment(pool, experiment, calibrated_prior, reach)
    is_apart = not experiment.withdrawn and not experiment.measures_target
    if not is_apart and experiment.experiment_id not in effects.experiments:
        return effects
    distance, warnings = await doubts(pool, experiment, reach)
    return effects.model_copy(update={"predictive_z": distance, "warnings": warnings})


async def doubts(pool: Pool, experiment: ExperimentResult, reach: Reach | None) -> tuple[float | None, tuple[str, ...]]:
    """Distance of a result from the prediction of all others, in its standard deviations, and what to doubt about it.

    The distance is None for one that measured something else than the target.
    """
    if not experiment.measures_target:
        return None, (_apart_warning(experiment),)
    others = await _others(pool, experiment)

    def predict() -> tuple[EffectPrior, float]:
        prior = _prior_of(experiment.intervention.intervention_type, others)
        return prior, surprise(prior, experiment, reach)

    before, distance = await asyncio.to_thread(predict)
    return distance, (*_warnings(experiment, before, distance), *level_warnings(experiment, reach))


def check_result(experiment: ExperimentResult) -> None:
    """Refuse or set aside a result that is not to be taken as it is; a withdrawal is taken with any numbers.

    Raises:
        ImplausibleExperiment, SetAsideExperiment: as :func:`require_plausible` and :func:`require_meant`.
    """
    if not experiment.withdrawn:
        require_plausible(experiment)
        require_meant(experiment)


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
    entry = TWIN_TYPES[experiment.twin_type]
    features = entry.by_name
    unknown = [group.dimension for group in experiment.subgroups if group.dimension not in features]
    if unknown:
        raise ImplausibleExperiment(
            f"subgroups: {unknown[0]!r} is no feature of {experiment.twin_type.value} twins:"
            f" {filter_hint(unknown[0], entry.filters)}use {', '.join(features)}"
        )


def require_meant(experiment: ExperimentResult) -> None:
    """Set a result aside that is likely in another unit, unless it is confirmed.

    Raises:
        SetAsideExperiment: naming the field, its value, what is plausible, the likely unit and how to confirm it.
    """
    if experiment.confirmed:
        return
    target = TWIN_TYPES[experiment.twin_type].target(experiment.target)
    for name in ("effect", "standard_error"):
        doubt = target.implausible_effect(getattr(experiment, name))
        if doubt is not None:
            raise SetAsideExperiment(
                f"{name}: {doubt}; set aside until it is corrected, or confirmed by the same result with confirmed true or by"
                " twinstream dlq replay ID --accept"
            )


def calibrated_prior(
    intervention: str,
    experiments: Sequence[ExperimentResult],
    reaches: Mapping[str, Reach],
    others: Sequence[ExperimentResult] = (),
) -> EffectPrior:
    """The catalogue prior of an intervention, calibrated by the results of its experiments and of those on other interventions."""
    return calibrate(catalogue_prior(intervention), experiments, reaches, others)


async def _others(pool: Pool, experiment: ExperimentResult) -> list[StoredExperiment]:
    """All other valid experiments on the intervention, so that a repeated result is as surprising as at first."""
    rows = await experiments(pool, experiment.line, experiment.intervention.intervention_type)
    return [row for row in rows if not row.experiment.withdrawn and row.experiment.experiment_id != experiment.experiment_id]


def _prior_of(intervention: str, stored: Sequence[StoredExperiment]) -> EffectPrior:
    reaches = {row.experiment.experiment_id: row.reach for row in stored if row.reach is not None}
    return calibrated_prior(intervention, [row.experiment for row in stored], reaches)


def _apart_warning(experiment: ExperimentResult) -> str:
    target = TWIN_TYPES[experiment.twin_type].target(experiment.target)
    measured = [f"{name} {value}" for name in ("outcome", "unit", "population") if (value := getattr(experiment, name)) is not None]
    return (
        f"experiment {experiment.experiment_id} is stored and calibrates nothing: its {', '.join(measured)} differ from"
        f" {target.name} of {experiment.twin_type.value} ({target.effect_unit})"
    )


def _warnings(experiment: ExperimentResult, before: EffectPrior, distance: float) -> Iterator[str]:
    """What to doubt about an experiment that is stored."""
    if abs(distance) > _SURPRISING:
        unit = TWIN_TYPES[experiment.twin_type].target(experiment.target).effect_unit
        yield (
            f"experiment {experiment.experiment_id} is surprising: its effect of {experiment.effect:.1%} {unit} is"
            f" {abs(distance):.1f} standard deviations {'above' if distance > 0 else 'below'} the prediction from a base effect of"
            f" {before.mean:.1%}; it is taken"
        )
    if experiment.control_ratio is not None:
        mismatch = sample_ratio_warning(experiment.n_treated, experiment.n_control, experiment.control_ratio)
        if mismatch is not None:
            yield f"experiment {experiment.experiment_id}: {mismatch}"
