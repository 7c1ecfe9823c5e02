"""What experiments on other interventions tell about one: who responds, and how far the catalogue is off.

The same people respond to another campaign by the same moderators, so effects in subgroups teach those of all interventions.
A campaign that nobody has run borrows its base effect from tested ones by its own channel: how many times the catalogue's effect
they had. The catalogue is hardly off by the same factor for two kinds of campaigns, so a borrowed factor has the uncertainty of
the other one and :data:`BORROWED_SPREAD` beside; it is one more observation of the prior, and not an experiment. And it may tell
nothing (:data:`UNRELATED`): so the result is a mixture with what the catalogue says alone.

References:
    Schmidli, Gsteiger, Roychoudhury, O'Hagan, Spiegelhalter, Neuenschwander (2014), Robust meta-analytic-predictive priors in
    clinical trials with historical control information. Biometrics 70.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np

from engine.effects.base_effect import SCORES, with_quantiles
from engine.effects.effect_model import catalogue_prior
from engine.effects.effect_posterior import (
    NormalMixture,
    Observations,
    fit,
    mixture_quantiles,
    prior_components,
    without_experiments,
)
from engine.effects.experiment_fits import Inputs, ResponseFit, fit_responses, own_effects
from engine.effects.learned_parameters import Moments
from engine.effects.parameter_learning import Beliefs, OwnEffects, learn_from_subgroups, parameters_of, taught
from schemas.base import count_of
from schemas.effect_priors import SHIFTED, EffectPrior
from schemas.events import ExperimentResult
from schemas.interventions import INTERVENTIONS
from schemas.simulation_models import Reach

__all__ = ["BORROWED_SPREAD", "UNRELATED", "borrow", "effects_elsewhere"]

BORROWED_SPREAD = 0.5
"""Standard deviation of a campaign's factor on the catalogue's effect around that of a similar one, as a share of it (or of 1).

An assumption, a little wider than the catalogue's own uncertainty of 0.4: no set of trials of one company's campaigns is public.
"""

UNRELATED = 0.5
"""Probability that the factors of two kinds of campaigns have nothing in common: nobody knows, so as likely as not."""


def effects_elsewhere(
    reporting: Sequence[ExperimentResult], others: Sequence[ExperimentResult], reaches: Mapping[str, Reach]
) -> OwnEffects:
    """Posterior of the own effects of ``reporting``, each given all of ``others`` on its intervention; in their order."""
    moments = {
        result.experiment_id: moment
        for results, fits in _fits_by_type(others, reaches).values()
        for result, moment in zip(results, zip(*own_effects(fits), strict=True), strict=True)
    }
    rows = np.array([moments[result.experiment_id] for result in reporting]).reshape(-1, 2)
    return OwnEffects(rows[:, 0], rows[:, 1])


def borrow(prior: EffectPrior, others: Sequence[ExperimentResult], reaches: Mapping[str, Reach]) -> EffectPrior:
    """The prior of an intervention without experiments, given those on others; ``prior`` itself where they tell nothing.

    It stays one that no experiment has tested.
    """
    entry = INTERVENTIONS[prior.intervention_type]
    similar = [result for result in others if INTERVENTIONS[result.intervention.intervention_type].channel is entry.channel]
    borrowed = _with_borrowed_base(prior, similar, reaches) if similar and not prior.n_experiments else prior
    reporting = [result for result in others if result.subgroups]
    if not reporting:
        return borrowed
    parameters = parameters_of(prior.intervention_type, [], reporting, reaches)
    beliefs = learn_from_subgroups(parameters, reporting, reaches, effects_elsewhere(reporting, others, reaches))
    learned = taught(parameters, Moments(beliefs.mean, beliefs.covariance, np.zeros(len(beliefs.mean))), beliefs)
    return borrowed.model_copy(update={"learned": learned})


def _with_borrowed_base(prior: EffectPrior, similar: Sequence[ExperimentResult], reaches: Mapping[str, Reach]) -> EffectPrior:
    rows = []
    for kind, (_, fits) in _fits_by_type(similar, reaches).items():
        weight = np.concatenate([fit.weight * fit.posterior.weight for fit in fits])
        mean = np.concatenate([fit.posterior.mean for fit in fits])
        variance = np.concatenate([fit.posterior.variance for fit in fits])
        catalogue = catalogue_prior(kind)
        factor, sd = float(weight @ mean) / catalogue.mean, NormalMixture(weight, mean, np.sqrt(variance)).equivalent_sd
        rows.append(
            (factor * prior.mean, abs(prior.mean) * np.hypot(sd / abs(catalogue.mean), BORROWED_SPREAD * max(abs(factor), 1.0)))
        )
    effect, error = np.transpose(rows)
    always_told = np.full(len(rows), -np.inf)
    components = prior_components(prior.mean, prior.sd)
    posterior = fit(components, Observations(effect, error, always_told, np.arange(len(rows))))
    unrelated = without_experiments(prior.mean, prior.sd)
    following = _either(unrelated.next_campaign(), posterior.next_campaign())
    kinds = ", ".join(sorted({result.intervention.intervention_type for result in similar}))
    means = (NormalMixture(part.weight, part.mean, np.sqrt(part.variance)) for part in (unrelated, posterior))
    mean_only = _either(*means)
    sd = min(mean_only.equivalent_sd, following.equivalent_sd)
    source = f"{prior.source}; {SHIFTED}{count_of(len(similar), 'real experiment')} on other campaigns by its channel ({kinds})"
    return with_quantiles(
        prior.model_copy(
            update={
                "mean": float(mean_only.weight @ mean_only.mean),
                "sd": sd,
                "between_sd": float(np.sqrt(following.equivalent_sd**2 - sd**2)),
                "source": source,
            }
        ),
        tuple(mixture_quantiles(*following, SCORES).tolist()),
    )


def _either(unrelated: NormalMixture, related: NormalMixture) -> NormalMixture:
    """The mixture of what holds if the other campaigns tell nothing, and if they do."""
    weight = np.concatenate([UNRELATED * unrelated.weight, (1.0 - UNRELATED) * related.weight])
    return NormalMixture(weight, np.concatenate([unrelated.mean, related.mean]), np.concatenate([unrelated.sd, related.sd]))


def _fits_by_type(
    results: Sequence[ExperimentResult], reaches: Mapping[str, Reach]
) -> dict[str, tuple[list[ExperimentResult], list[ResponseFit]]]:
    """The experiments on each intervention, in the order of their variants, and their posterior from these alone."""
    by_type = groupby(
        sorted(
            results,
            key=lambda result: (
                result.intervention.intervention_type,
                result.variant is None,
                result.variant or "",
                result.experiment_id,
            ),
        ),
        key=lambda result: result.intervention.intervention_type,
    )
    fitted = {}
    for kind, group in by_type:
        prior, own = catalogue_prior(kind), [*group]
        if prior.sd > 0:
            inputs = Inputs(prior, own, reaches, parameters_of(kind, own, [], reaches))
            fitted[kind] = (own, fit_responses(inputs, Beliefs.of_catalogue(inputs.parameters)))
    return fitted
