"""Draws of the effect of interventions: whatever concerns one intervention shares its draws of parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from engine.effects.base_effect import BaseEffect, draw_base_effect
from engine.effects.effect_draws import AverageDraws, EffectDraws
from engine.effects.effect_model import Design, catalogue_prior, dose_response, draw_dose
from engine.effects.learned_parameters import NOTHING_LEARNED, ParameterDraws, draw_parameters
from schemas.arrays import Floats
from schemas.base import require_one_of
from schemas.interventions import INTERVENTIONS
from schemas.simulation_models import EffectPrior, InterventionConfig

__all__ = ["InterventionDraws", "checked_priors", "learned_levels"]


@dataclass(frozen=True)
class InterventionDraws:
    """Draws effects of interventions on twins.

    Attributes:
        priors: by the type of intervention; for the others the prior of the catalogue in effect.
        n_draws: of each parameter.
        seed: of the draws.
    """

    priors: Mapping[str, EffectPrior]
    n_draws: int
    seed: int

    def prior(self, intervention: InterventionConfig) -> EffectPrior:
        """The prior of its effect."""
        return self.priors.get(intervention.intervention_type) or catalogue_prior(intervention.intervention_type)

    def learned(self, prior: EffectPrior) -> ParameterDraws:
        """Draws of what experiments taught; they depend on what all variants have in common only."""
        if prior.learned is None:
            return NOTHING_LEARNED
        return draw_parameters(prior.learned, draw_base_effect(prior, self.n_draws, self.seed).score, self.seed)

    def on_twins(self, design: Design, intervention: InterventionConfig) -> EffectDraws:
        """Draws of the effect on the twins of ``design``."""
        base = self._base(intervention)
        learned = draw_parameters(self.prior(intervention).learned, base.score, self.seed)
        return replace(self.by_dose(design, intervention, base, learned), seed=self.seed)

    def by_dose(
        self, design: Design, intervention: InterventionConfig, base: BaseEffect, learned: ParameterDraws = NOTHING_LEARNED
    ) -> EffectDraws:
        """The base effect at the dose of the intervention, on the twins of ``design``."""
        return EffectDraws(
            design.twin_factors(intervention.channel, learned),
            self._scale(intervention, base, learned),
            design.deviations(intervention.channel, self.n_draws, self.seed, learned),
        )

    def on_average(self, design: Design, intervention: InterventionConfig, sums: Floats, real_rows: float | None) -> AverageDraws:
        """Draws of the average effect on twins with these sums of moments ``(3 + p,)``, based on this number of real rows."""
        learned = self.learned(self.prior(intervention))
        scale = self._scale(intervention, self._base(intervention), learned)
        deviations = design.deviations(intervention.channel, self.n_draws, self.seed, learned)
        return AverageDraws(sums, scale, deviations, real_rows, self.seed)

    def _base(self, intervention: InterventionConfig) -> BaseEffect:
        return draw_base_effect(self.prior(intervention), self.n_draws, self.seed, intervention.variant)

    def _scale(self, intervention: InterventionConfig, base: BaseEffect, learned: ParameterDraws) -> Floats:
        """Draws of the base effect scaled to this dose ``(n_draws,)``; all doses of one intervention share their dose draws."""
        dose = draw_dose(intervention, self.n_draws, self.seed, base.contacts, base.weeks, base.intensity, learned)
        return np.asarray(base.effect * dose_response(intervention, dose))


def learned_levels(prior: EffectPrior) -> tuple[tuple[str, str], ...]:
    """Features and levels of which experiments reported effects."""
    return prior.learned.levels if prior.learned else ()


def checked_priors(priors: Mapping[str, EffectPrior]) -> dict[str, EffectPrior]:
    """The priors, each under the intervention that it is about.

    Raises:
        ValueError: for an unknown intervention, or a prior of another one.
    """
    for name, prior in priors.items():
        if require_one_of("intervention_type", name, INTERVENTIONS) != prior.intervention_type:
            raise ValueError(f"the prior of {name} is about {prior.intervention_type}")
    return dict(priors)
