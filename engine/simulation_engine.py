"""Simulate the effect of an intervention on a population of twins, with an interval for its uncertainty.

Twins are synthetic: a larger number of them adds no information. The uncertainty is that of the effect. Its parameters are drawn
from their priors, the effect is averaged over the twins for each draw, and the interval is that of these averages.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar
from uuid import UUID, uuid5

import numpy as np
import pandas as pd

from engine.effects import (
    AverageDraws,
    BaseEffect,
    Criteria,
    Design,
    EffectDraws,
    EmptyPopulation,
    InterventionDraws,
    LevelSums,
    PreparedTwins,
    TwinFactors,
    TwinSums,
    average_change,
    best_choice,
    better_alternative_text,
    build_design,
    change_sums,
    checked_priors,
    compare_alternatives,
    effect_text,
    effects_by_dimension,
    group_by_level,
    interval,
    is_moderated,
    learned_levels,
    level_spread,
    measure_reach,
    normal_draws,
    reading_of,
    realism_warnings,
    recommend,
    result_warnings,
    sample_size_for,
    select_twins,
    standard_deviation,
    summary,
    unknown_base,
)
from schemas.arrays import Flags, Floats, require_finite
from schemas.base import require_between
from schemas.catalogue import Catalogue
from schemas.catalogue_in_effect import MappingView, catalogue_in_effect, in_effect, under_own_catalogue
from schemas.columns import encode_levels
from schemas.filters import Filters, canonical_filters, conditions
from schemas.interventions import UNCALIBRATED_SPREAD
from schemas.simulation_models import (
    NO_MODERATOR,
    EffectHeterogeneity,
    EffectPrior,
    InterventionConfig,
    OutcomeChange,
    Reach,
    SimulationResult,
)
from schemas.twin_models import DigitalTwin, OutcomeSpread, TwinPopulation
from schemas.twin_types import TWIN_TYPES, Target

__all__ = ["EmptyPopulation", "SimulationEngine"]


_CHUNK = 1000  # twins whose draws are in memory at the same time


class SimulationEngine:
    """Simulates interventions on one population.

    Args:
        population: the twins; those that were prepared before are not prepared again.
        priors: prior effect of interventions by their type; for the others the catalogue's prior is used.
        min_effect_threshold: smallest effect worth a deployment, a fraction on the target's scale, in (0, 1).
        confidence_threshold: probability that a recommendation needs, in (0.5, 1).
        require_test: recommend no deployment of what no real experiment has tested.
        confidence_level: of the intervals, in (0, 1).
        n_draws: parameter draws, at least 100.
        seed: of the draws; by default that of the population. The same seed gives the same result, bit for bit.
        catalogue: with the campaigns, moderators and targets; by default the one in effect where a method is called.

    Raises:
        ValueError: for an argument out of its range, or priors of unknown interventions.

    References:
        Rubin (1974), Estimating causal effects of treatments in randomized and nonrandomized studies. Journal of Educational
        Psychology 66 (the average effect); Saltelli et al. (2008), Global Sensitivity Analysis, chapter 1 (uncertain parameters
        are drawn, and their uncertainty is propagated to the result).

    Example:
        >>> from engine.sample_tables import sample_hcps
        >>> from engine.twin_generator import TwinGenerator
        >>> generator = TwinGenerator("hcp", "kisqali", model_type="RandomForest", n_jobs=1)
        >>> _ = generator.train(sample_hcps(1000, np.random.default_rng(0)), "prescribing_change")
        >>> engine = SimulationEngine(generator.generate(2000, seed=1))
        >>> e_mails = InterventionConfig(
        ...     intervention_type="email_campaign", channel="email", frequency="weekly", duration_weeks=12
        ... )
        >>> result = engine.simulate(e_mails, {"min_decile": 6})
        >>> result.ate_ci_lower < result.ate < result.ate_ci_upper, str(result.recommendation)
        (True, 'test_further')
        >>> bool(np.isclose(engine.twin_effects(e_mails).mean(), engine.simulate(e_mails).ate, rtol=1e-12))
        True
    """

    INTERVENTION_EFFECTS: ClassVar[Mapping[str, float]] = MappingView(lambda catalogue: catalogue.base_effects)
    """Base effect of each intervention of the catalogue in effect."""

    def __init__(
        self,
        population: TwinPopulation | PreparedTwins,
        *,
        priors: Mapping[str, EffectPrior] | None = None,
        min_effect_threshold: float = 0.05,
        confidence_threshold: float = 0.90,
        require_test: bool = False,
        confidence_level: float = 0.95,
        n_draws: int = 1000,
        seed: int | None = None,
        catalogue: Catalogue | None = None,
    ) -> None:
        require_between("min_effect_threshold", min_effect_threshold, 0.0, 1.0)
        require_between("confidence_threshold", confidence_threshold, 0.5, 1.0)
        require_between("confidence_level", confidence_level, 0.0, 1.0)
        if n_draws < 100:
            raise ValueError(f"n_draws {n_draws} is too few for an interval: at least 100 are needed")
        self._twins = population if isinstance(population, PreparedTwins) else PreparedTwins(population)
        self.population = self._twins.population
        self.catalogue = catalogue
        if catalogue is not None:
            vars(self)["INTERVENTION_EFFECTS"] = catalogue.base_effects  # over the view of the class
        with in_effect(catalogue or catalogue_in_effect()):
            self.priors = checked_priors(priors or {})
        self.min_effect_threshold = min_effect_threshold
        self.confidence_threshold = confidence_threshold
        self.require_test = require_test
        self.confidence_level = confidence_level
        self.n_draws = n_draws
        self.seed = self.population.seed if seed is None else seed
        self._draws = InterventionDraws(self.priors, n_draws, self.seed)

    @under_own_catalogue
    def simulate(
        self,
        intervention: InterventionConfig,
        filters: Filters = None,
        *,
        alternatives: Sequence[InterventionConfig] = (),
        simulation_id: UUID | None = None,
    ) -> SimulationResult:
        """Estimate the effect of ``intervention`` on the twins that satisfy ``filters``.

        Without a ``simulation_id`` the id is derived from the arguments.

        Raises:
            EmptyPopulation: when no twin satisfies the filters.
            ValueError: for a filter that does not exist for this twin type.
        """
        sums = self.sum_twins([intervention, *alternatives], filters)
        return self.conclude(sums, intervention, filters, alternatives=alternatives, simulation_id=simulation_id)

    @under_own_catalogue
    def sum_twins(self, candidates: Sequence[InterventionConfig], filters: Filters = None) -> TwinSums:
        """The sums over the twins that satisfy ``filters``, from which the comparison of at least one candidate follows.

        Raises:
            EmptyPopulation, ValueError: as :meth:`simulate`.
        """
        mask = select_twins(self.population, filters)
        with np.errstate(over="ignore", invalid="ignore"):  # the summary handles draws that are not finite
            first, *others = (self._factors(candidate, mask) for candidate in candidates)
            reading = reading_of(self._draws.prior(candidates[0]).method)
            groupings = {name: groups.select(mask) for name, groups in self._twins.groups(reading).items()}
            per_effect = self._per_effect(mask)
            change, n_with_base = change_sums(first, per_effect)
            return TwinSums(
                n_twins=self.population.twin_count,
                totals=tuple(twins.totals for twins in (first, *others)),
                groups=first.sums_by_dimension(groupings),
                change=change,
                n_with_base=n_with_base,
                base=float(np.abs(per_effect)[np.isfinite(per_effect)].sum()),
                outcome_sd=self._outcome_sd(mask),
            )

    @under_own_catalogue
    def conclude(
        self,
        sums: TwinSums,
        intervention: InterventionConfig,
        filters: Filters = None,
        *,
        alternatives: Sequence[InterventionConfig] = (),
        simulation_id: UUID | None = None,
    ) -> SimulationResult:
        """The result that follows from the sums over twins, which may be many more than those of this population.

        Args:
            sums: of :meth:`sum_twins` for the intervention and the alternatives.
            intervention: as for :meth:`simulate`.
            filters: as for :meth:`simulate`.
            alternatives: as for :meth:`simulate`.
            simulation_id: as for :meth:`simulate`.
        """
        spread = self._spread(filters)
        rows = spread.n if spread and filters else self._real_rows(sums)
        with np.errstate(over="ignore", invalid="ignore"):
            draws = self._average_draws(intervention, sums.totals[0], rows)
            average = summary(draws.average, self.confidence_level)
        compared = () if average.robust else tuple(alternatives)
        others = [
            self._average_draws(alternative, total, rows).average
            for alternative, total in zip(compared, sums.totals[1:], strict=False)
        ]
        candidates = [intervention, *compared]
        prior = self._draws.prior(intervention)
        worthwhile = float(np.mean(draws.average >= self.min_effect_threshold))
        change = None if average.robust else self._change(draws, sums)
        criteria = Criteria(self.min_effect_threshold, self.confidence_threshold, self.require_test)
        advice = recommend(average.estimate, worthwhile, prior, intervention, criteria, self._target.effect_unit)
        factor = float(sums.totals[0][1] / sums.totals[0][0])
        return SimulationResult(
            simulation_id=simulation_id or self._derive_id(intervention, filters, alternatives),
            ate=average.estimate,
            ate_ci_lower=average.lower,
            ate_ci_upper=average.upper,
            effect_unit=self._target.effect_unit,
            change=change,
            heterogeneity=EffectHeterogeneity() if average.robust else self._heterogeneity(draws, sums.groups, prior),
            recommendation=advice.decision,
            recommendation_reason=f"{advice.reason}: {effect_text(prior, intervention, factor)}",
            rests_on_assumption=advice.rests_on_assumption,
            affected_twin_count=sums.n,
            confidence_level=self.confidence_level,
            probability_worthwhile=worthwhile,
            min_effect_threshold=self.min_effect_threshold,
            confidence_threshold=self.confidence_threshold,
            intervention=intervention,
            prior=prior,
            effects_version=prior.version,
            n_draws=self.n_draws,
            alternatives=compare_alternatives(draws.average, others, compared, self.confidence_level),
            best_alternative=better_alternative_text(draws.average, others, compared),
            best=best_choice([draws.average, *others], candidates, self.confidence_level) if compared else None,
            required_sample_size=sample_size_for(self.min_effect_threshold, sums, spread, self._target, self.confidence_level),
            warnings=(
                *result_warnings(average, change, prior, self._target, sums.n, rows),
                *realism_warnings(self.population),
            ),
        )

    @under_own_catalogue
    def estimate_treatment_effect(self, twin: DigitalTwin, intervention: InterventionConfig) -> float:
        """Expected effect on one twin, a fraction on the target's scale, positive = desired."""
        prior = self._draws.prior(intervention)
        design = build_design(pd.DataFrame([twin.features]), learned_levels(prior), reading_of(prior.method))
        return float(self._draws.on_twins(design, intervention).expected()[0])

    @under_own_catalogue
    def twin_effects(self, intervention: InterventionConfig) -> Floats:
        """Expected effect on each twin of the population, shape ``(n,)``; their mean is the average effect of a simulation."""
        return self._draw(intervention).expected()

    @under_own_catalogue
    def twin_effect_intervals(self, intervention: InterventionConfig) -> tuple[Floats, Floats]:
        """Ends of the interval of the effect on twins with the features of each, at ``confidence_level``, each ``(n,)``."""
        draws = self._draw(intervention)
        starts = range(0, len(draws.factors), _CHUNK)
        intervals = [interval(draws.by_twin(slice(start, start + _CHUNK)), self.confidence_level) for start in starts]
        lower, upper = np.concatenate(intervals, axis=1)
        return lower, upper

    @under_own_catalogue
    def average_change(self, intervention: InterventionConfig, per_effect: Floats) -> tuple[float, float, float]:
        """Average change of the outcome with its interval; an effect of 1 changes that of each twin by ``per_effect``, ``(n,)``.

        Twins whose ``per_effect`` is nan are left out.

        Raises:
            ValueError: when all are nan.
        """
        draws = self._draw(intervention)
        sums, n_with_base = change_sums(draws.twins, per_effect)
        average = average_change(replace(draws.over_twins, sums=sums), n_with_base, self.confidence_level)
        if average is None:
            raise ValueError(unknown_base(self._target))
        return average

    @under_own_catalogue
    def twin_changes(self, intervention: InterventionConfig) -> Floats:
        """Expected change of each twin's outcome, in units of the target with its own sign, shape ``(n,)``; nan where unknown."""
        return self.twin_effects(intervention) * self._twins.per_effect

    @under_own_catalogue
    def reach(self, intervention: InterventionConfig, filters: Filters = None, subgroups: Iterable[tuple[str, str]] = ()) -> Reach:
        """Share of its base effect that ``intervention`` reaches on the twins that satisfy ``filters``: dose times their factor.

        It converts the effect observed in an experiment, at its dose and in its population, to the reference and back. What an
        experiment has taught is not in it: that is learned with the base effect.

        Args:
            intervention: of the experiment.
            filters: of its population.
            subgroups: features and levels of which it reported effects; levels that no twin has are left out.

        Raises:
            EmptyPopulation, ValueError: as :meth:`simulate`.
        """
        mask = select_twins(self.population, filters)
        design = self._twins.design(()).select(mask)
        average = self._draws.by_dose(design, intervention, BaseEffect(np.ones(self.n_draws))).average
        return measure_reach(average, design, intervention.channel, self.population.columns, mask, subgroups)

    @under_own_catalogue
    def calculate_heterogeneity(self, results: Iterable[float], groups: Iterable[Any]) -> EffectHeterogeneity:
        """Effects by group from twins' effects and the group of each, both of length ``n``.

        The intervention is not an argument, so the intervals are as wide as those of an uncalibrated prior.

        Raises:
            ValueError: when the two differ in length, or a result is not a finite number.
        """
        effects, grouping = np.asarray(list(results), dtype=float), group_by_level(encode_levels(pd.Series(groups)))
        if len(effects) != len(grouping.codes):
            raise ValueError(f"{len(effects)} results and {len(grouping.codes)} groups: one group per result is needed")
        require_finite("results", effects)
        scale = 1.0 + UNCALIBRATED_SPREAD * normal_draws(1, self.n_draws, self.seed, "scale")[0]
        draws = EffectDraws(TwinFactors(effects, np.zeros((0, len(effects)))), scale, np.zeros((0, self.n_draws)))
        groups = draws.twins.sums_by_dimension({"group": grouping})
        return effects_by_dimension(groups, draws.over_twins, self.confidence_level, self.seed, lambda _dimension, _level: True)

    @property
    def _target(self) -> Target:
        return TWIN_TYPES[self.population.twin_type].target(self.population.target)

    def _draw(self, intervention: InterventionConfig) -> EffectDraws:
        return self._draws.on_twins(self._design(intervention), intervention)

    def _design(self, intervention: InterventionConfig) -> Design:
        prior = self._draws.prior(intervention)
        return self._twins.design(learned_levels(prior), reading_of(prior.method))

    def _factors(self, intervention: InterventionConfig, mask: Flags) -> TwinFactors:
        """The factors of the twins where ``mask`` ``(n,)`` is true."""
        learned = self._draws.learned(self._draws.prior(intervention))
        return self._design(intervention).select(mask).twin_factors(intervention.channel, learned)

    def _average_draws(self, intervention: InterventionConfig, sums: Floats, real_rows: float | None) -> AverageDraws:
        return self._draws.on_average(self._design(intervention), intervention, sums, real_rows)

    def _heterogeneity(self, draws: AverageDraws, groups: Mapping[str, LevelSums], prior: EffectPrior) -> EffectHeterogeneity:
        moderated = partial(is_moderated, learned=prior.learned, reading=reading_of(prior.method))
        spread = partial(level_spread, prior)
        effects = effects_by_dimension(groups, draws, self.confidence_level, self.seed, moderated, spread)
        absent = [name for name in TWIN_TYPES[self.population.twin_type].dimensions if name not in groups]
        same = [name for name, of_name in effects.by_dimension.items() if not any(group.moderated for group in of_name)]
        skipped = dict.fromkeys(absent, "these twins do not have this column")
        return effects.model_copy(update={"skipped": skipped, "unmoderated": dict.fromkeys(same, NO_MODERATOR)})

    def _spread(self, filters: Filters) -> OutcomeSpread | None:
        """Of the outcomes of the real rows within the filters; None where it is unknown."""
        return self.population.spread_within(conditions(self.population.twin_type, filters, self.population.own_features))

    def _per_effect(self, mask: Flags) -> Floats:
        """Change of each of these twins' outcome for an effect of 1; all twins have the same array at each call."""
        return self._twins.per_effect if mask.all() else self._twins.per_effect[mask]

    def _outcome_sd(self, mask: Flags) -> float | None:
        """Standard deviation of the drawn outcomes, in the unit of the target; None where these twins have none."""
        outcomes = self._twins.outcomes
        return self._twins.outcome_sd if outcomes is None or mask.all() else standard_deviation(outcomes[mask])

    def _change(self, draws: AverageDraws, sums: TwinSums) -> OutcomeChange | None:
        average = average_change(replace(draws, sums=sums.change), sums.n_with_base, self.confidence_level)
        if average is None:
            return None
        estimate, lower, upper = average
        unit = self._target.unit
        return OutcomeChange(estimate=estimate, ci_lower=lower, ci_upper=upper, unit=unit, outcome_sd=sums.outcome_sd)

    def _real_rows(self, sums: TwinSums) -> float | None:
        """About how many real rows are behind these twins; None where it is unknown."""
        rows = self.population.real_rows
        return None if rows is None else rows * float(sums.n) / sums.n_twins

    def _derive_id(self, intervention: InterventionConfig, filters: Filters, alternatives: Sequence[InterventionConfig]) -> UUID:
        arguments = {
            "intervention": intervention.model_dump(),
            "alternatives": [alternative.model_dump() for alternative in alternatives],
            "filters": canonical_filters(self.population.twin_type, filters),
            "priors": {name: prior.model_dump() for name, prior in sorted(self.priors.items())},
            "settings": [self.min_effect_threshold, self.confidence_threshold, self.confidence_level, self.n_draws, self.seed],
        }
        return uuid5(self.population.population_id, json.dumps(arguments, sort_keys=True))
