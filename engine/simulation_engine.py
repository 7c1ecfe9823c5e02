"""What an intervention would do to a population of twins, with an interval that means it.

Twins are synthetic: more of them add no knowledge. What is unknown is the effect itself, so its parameters are drawn, the average
over the twins is taken for each draw, and the interval is that of these averages.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from types import MappingProxyType
from typing import Any, ClassVar
from uuid import UUID, uuid5

import numpy as np
import numpy.typing as npt
import pandas as pd

from engine.effects.effect_model import (
    Design,
    build_design,
    catalogue_prior,
    dose_response,
    draw_dose,
    draw_effect,
    normal_draws,
    typical_dose,
    weighted_sum,
)
from engine.effects.intervals import Summary, interval, simultaneous_half_width, standard_deviation, summary
from engine.effects.population_filter import EmptyPopulation, select_twins
from engine.effects.sample_size import two_sample
from engine.effects.subgroups import Groups, group_by_level, shrinkage, subgroup_effects, sums_by_group
from schemas.base import require_one_of
from schemas.columns import encode_levels
from schemas.filters import Filters, canonical_filters
from schemas.interventions import INTERVENTIONS, UNCALIBRATED_SPREAD
from schemas.simulation_models import (
    Alternative,
    BestChoice,
    EffectHeterogeneity,
    EffectPrior,
    InterventionConfig,
    Reach,
    SimulationRecommendation,
    SimulationResult,
)
from schemas.twin_models import BEHAVIOUR, DigitalTwin, TwinPopulation
from schemas.twin_types import TWIN_TYPES, Target

__all__ = ["EmptyPopulation", "SimulationEngine"]

Array = npt.NDArray[np.float64]

UNREALISTIC = 0.50
FEW_ROWS = 100
TEST_POWER = 0.80
_AT_ONCE = 1000  # twins whose draws are in memory together


class SimulationEngine:
    """Simulates interventions on one population.

    Args:
        population: the twins.
        priors: what is believed of each intervention by its type; the catalogue speaks for those left out.
        min_effect_threshold: smallest effect worth a deployment, a fraction on the target's scale, in (0, 1).
        confidence_threshold: probability that a recommendation needs, in (0.5, 1).
        confidence_level: of the intervals, in (0, 1).
        n_draws: parameter draws, at least 100.
        seed: of the draws; the population's own without one. The same seed gives the same result, bit for bit.

    Raises:
        ValueError: for an argument out of its range, or priors of unknown interventions.

    References:
        Rubin (1974), Estimating causal effects of treatments in randomized and nonrandomized studies. Journal of Educational
        Psychology 66 (the average effect); Saltelli et al. (2008), Global Sensitivity Analysis, chapter 1 (what is unknown of a
        model's parameters is drawn, and carried through to the answer).

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

    INTERVENTION_EFFECTS: ClassVar[Mapping[str, float]] = MappingProxyType(
        {name: entry.effect.mean for name, entry in INTERVENTIONS.items()}
    )
    """Base effect of each known intervention: a view of the catalogue."""

    def __init__(
        self,
        population: TwinPopulation,
        *,
        priors: Mapping[str, EffectPrior] | None = None,
        min_effect_threshold: float = 0.05,
        confidence_threshold: float = 0.90,
        confidence_level: float = 0.95,
        n_draws: int = 1000,
        seed: int | None = None,
    ) -> None:
        _refuse_outside("min_effect_threshold", min_effect_threshold, 0.0, 1.0)
        _refuse_outside("confidence_threshold", confidence_threshold, 0.5, 1.0)
        _refuse_outside("confidence_level", confidence_level, 0.0, 1.0)
        if n_draws < 100:
            raise ValueError(f"n_draws {n_draws} is too few for an interval: at least 100 are needed")
        self.population = population
        self.priors = _checked(priors or {})
        self.min_effect_threshold = min_effect_threshold
        self.confidence_threshold = confidence_threshold
        self.confidence_level = confidence_level
        self.n_draws = n_draws
        self.seed = population.seed if seed is None else seed

    def simulate(
        self,
        intervention: InterventionConfig,
        filters: Filters = None,
        *,
        alternatives: Sequence[InterventionConfig] = (),
        simulation_id: UUID | None = None,
    ) -> SimulationResult:
        """Answer what ``intervention`` would do to the twins that satisfy ``filters``.

        Without a ``simulation_id`` the result gets one that follows from the question.

        Raises:
            EmptyPopulation: when no twin satisfies the filters.
            ValueError: for a filter that means nothing for this twin type.
        """
        chosen = select_twins(self.population, filters)
        design = self._design.among(chosen)
        with np.errstate(over="ignore", invalid="ignore"):  # draws that are no numbers are told apart by the summary
            drawn = self._drawn(design, intervention)
            average = summary(drawn.average, self.confidence_level)
        worthwhile = float(np.mean(drawn.average >= self.min_effect_threshold))
        prior = self._prior(intervention)
        recommendation, reason = self._recommend(average.estimate, worthwhile)
        compared = () if average.robust else tuple(alternatives)
        others = [self._drawn(design, other).average for other in compared]
        return SimulationResult(
            simulation_id=simulation_id or self._id_of(intervention, filters, alternatives),
            ate=average.estimate,
            ate_ci_lower=average.lower,
            ate_ci_upper=average.upper,
            heterogeneity=EffectHeterogeneity() if average.robust else self._heterogeneity(drawn, chosen),
            recommendation=recommendation,
            recommendation_reason=f"{reason}: {_drivers(prior, intervention, drawn.factors)}",
            affected_twin_count=int(chosen.sum()),
            confidence_level=self.confidence_level,
            probability_worthwhile=worthwhile,
            min_effect_threshold=self.min_effect_threshold,
            confidence_threshold=self.confidence_threshold,
            intervention=intervention,
            prior=prior,
            effects_version=prior.version,
            n_draws=self.n_draws,
            alternatives=self._compared(drawn.average, others, compared),
            best_alternative=_better(drawn.average, others, compared),
            best=self._best([drawn.average, *others], [intervention, *compared]) if compared else None,
            required_sample_size=self._required_sample_size(chosen),
            warnings=tuple(self._warnings(average, prior, chosen)),
        )

    def estimate_treatment_effect(self, twin: DigitalTwin, intervention: InterventionConfig) -> float:
        """Expected effect on one twin, a fraction on the target's scale, positive = desired."""
        design = build_design(pd.DataFrame([twin.features]))
        return float(self._expected(design, intervention)[0])

    def twin_effects(self, intervention: InterventionConfig) -> Array:
        """Expected effect on each twin of the population, shape ``(n,)``; their mean is the average effect of a simulation."""
        return self._expected(self._design, intervention)

    def twin_effect_intervals(self, intervention: InterventionConfig) -> tuple[Array, Array]:
        """Lower and upper end of the interval of the effect on twins like each, at ``confidence_level``, each ``(n,)``."""
        drawn = self._drawn(self._design, intervention)
        starts = range(0, len(drawn.factors), _AT_ONCE)
        found = [interval(drawn.of_twins(slice(start, start + _AT_ONCE)), self.confidence_level) for start in starts]
        lower, upper = np.concatenate(found, axis=1)
        return lower, upper

    def average_change(self, intervention: InterventionConfig, per_effect: Array) -> tuple[float, float, float]:
        """Average change of the outcome with its interval; an effect of 1 changes that of each twin by ``per_effect``, ``(n,)``."""
        drawn = self._drawn(self._design, intervention)
        changes = replace(drawn, factors=drawn.factors * per_effect).average
        lower, upper = interval(changes, self.confidence_level).tolist()
        return float(changes.mean()), lower, upper

    def twin_changes(self, intervention: InterventionConfig) -> Array:
        """Expected change of each twin's outcome, in units of the target with its own sign, shape ``(n,)``."""
        expected = self.population.frame[BEHAVIOUR].to_numpy(dtype=float)
        return self.twin_effects(intervention) * self._target.desired_change(expected)

    def reach(self, intervention: InterventionConfig, filters: Filters = None) -> Reach:
        """Share of its base effect that ``intervention`` reaches on the twins that satisfy ``filters``: dose times their factor.

        It brings what an experiment found on some people at some dose to the reference, and back.

        Raises:
            EmptyPopulation, ValueError: as :meth:`simulate`.
        """
        design = self._design.among(select_twins(self.population, filters))
        drawn = self._reached(design, intervention, np.ones(self.n_draws)).average
        return Reach(mean=float(drawn.mean()), sd=float(drawn.std()))

    def calculate_heterogeneity(self, results: Iterable[float], groups: Iterable[Any]) -> EffectHeterogeneity:
        """Effects by group from twins' effects and the group of each, both of length ``n``.

        Which intervention they belong to is not said, so the intervals are as wide as those of an uncalibrated prior.

        Raises:
            ValueError: when the two differ in length.
        """
        effects, found = np.asarray(list(results), dtype=float), group_by_level(encode_levels(pd.Series(groups)))
        if len(effects) != len(found.places):
            raise ValueError(f"{len(effects)} results and {len(found.places)} groups: one group a result is needed")
        scale = 1.0 + UNCALIBRATED_SPREAD * normal_draws(1, self.n_draws, self.seed, "scale")[0]
        drawn = _Drawn(effects, np.zeros((0, len(effects))), scale, np.zeros((0, self.n_draws)))
        return self._by_dimension({"group": found}, drawn)

    @cached_property
    def _design(self) -> Design:
        return build_design(self.population.columns)

    @cached_property
    def _groups(self) -> dict[str, Groups]:
        dimensions = TWIN_TYPES[self.population.twin_type].dimensions
        return {
            name: group_by_level(self.population.columns.levels(name)) for name in dimensions if name in self.population.columns
        }

    @property
    def _target(self) -> Target:
        return TWIN_TYPES[self.population.twin_type].target(self.population.model.target)

    def _prior(self, intervention: InterventionConfig) -> EffectPrior:
        return self.priors.get(intervention.intervention_type) or catalogue_prior(intervention.intervention_type)

    def _drawn(self, design: Design, intervention: InterventionConfig) -> _Drawn:
        return self._reached(design, intervention, draw_effect(self._prior(intervention), self.n_draws, self.seed))

    def _reached(self, design: Design, intervention: InterventionConfig, effect: Array) -> _Drawn:
        """What is left of draws of the base effect ``(n_draws,)`` at this dose; the doses of one intervention share their draws."""
        return _Drawn(
            design.factors(intervention.channel),
            design.terms,
            effect * dose_response(intervention, draw_dose(intervention, self.n_draws, self.seed)),
            design.deviations(intervention.channel, self.n_draws, self.seed),
        )

    def _expected(self, design: Design, intervention: InterventionConfig) -> Array:
        drawn = self._drawn(design, intervention)
        slopes = np.mean(drawn.deviations * drawn.scale, axis=1)
        return np.asarray(drawn.factors * (drawn.scale.mean() + weighted_sum(drawn.terms, slopes)))

    def _recommend(self, estimate: float, worthwhile: float) -> tuple[SimulationRecommendation, str]:
        threshold, needed = self.min_effect_threshold, self.confidence_threshold
        chance = f"the effect reaches {threshold:.1%} with probability {worthwhile:.0%}"
        if worthwhile >= needed and estimate > 0:
            return SimulationRecommendation.DEPLOY, f"{chance}; {needed:.0%} are enough to deploy"
        if 1.0 - worthwhile >= needed:
            return SimulationRecommendation.DO_NOT_DEPLOY, f"{chance}, so it stays below with at least the {needed:.0%} needed"
        return SimulationRecommendation.TEST_FURTHER, f"{chance}; {needed:.0%} either way are needed for a decision without a test"

    def _heterogeneity(self, drawn: _Drawn, chosen: npt.NDArray[np.bool_]) -> EffectHeterogeneity:
        told = self._by_dimension({name: groups.among(chosen) for name, groups in self._groups.items()}, drawn)
        lacking = [name for name in TWIN_TYPES[self.population.twin_type].dimensions if name not in self._groups]
        return told.model_copy(update={"skipped": dict.fromkeys(lacking, "these twins do not have it")})

    def _by_dimension(self, groupings: Mapping[str, Groups], drawn: _Drawn) -> EffectHeterogeneity:
        """Effects in the groups of each dimension, all their draws summarised at once."""
        found = {name: groups for name, groups in groupings.items() if groups.labels}
        if not found:
            return EffectHeterogeneity(by_dimension=dict.fromkeys(groupings, ()))
        n, draws = drawn.by_group(sums_by_group(list(found.values()), drawn.moments()), self.seed)
        labels = [label for groups in found.values() for label in groups.labels]
        told = subgroup_effects(labels, n, draws, self.confidence_level)
        of_dimension = iter(told)
        by_dimension = {name: tuple(islice(of_dimension, len(groups.labels))) for name, groups in groupings.items()}
        return EffectHeterogeneity(by_dimension=by_dimension, n_groups=len(told), warning=self._of_many(len(told)))

    def _of_many(self, looks: int) -> str:
        """What it means to look at many groups."""
        missed = looks * (1.0 - self.confidence_level)
        return (
            f"{looks} subgroups were looked at: about {missed:.1g} of their {self.confidence_level:.0%} intervals miss by chance,"
            " and the largest difference is likely the one that is most overstated"
        )

    def _compared(
        self, first: Array, others: Sequence[Array], alternatives: Sequence[InterventionConfig]
    ) -> tuple[Alternative, ...]:
        if not alternatives:
            return ()
        differences = np.array(others) - first
        reach = simultaneous_half_width(differences, self.confidence_level).tolist()
        wins = _wins([first, *others])[1:].tolist()
        told = [summary(draws, self.confidence_level) for draws in others]
        return tuple(map(_alternative, alternatives, told, differences.mean(axis=1).tolist(), reach, wins))

    def _best(self, draws: Sequence[Array], candidates: Sequence[InterventionConfig]) -> BestChoice:
        """The candidate with the largest effect; its interval holds whichever was chosen.

        References:
            Andrews, Kitagawa, McCloskey (2024), Inference on winners. Quarterly Journal of Economics 139 (projection).
        """
        means = np.mean(draws, axis=1)
        best, runner_up = np.argsort(-means, kind="stable")[:2].tolist()
        reach = float(simultaneous_half_width(np.array(draws), self.confidence_level)[best])
        lead = draws[best] - np.delete(draws, best, axis=0)
        spare = float(simultaneous_half_width(lead, self.confidence_level)[runner_up - (runner_up > best)])
        margin = float(means[best] - means[runner_up])
        return BestChoice(
            intervention=candidates[best],
            ate=means[best],
            ate_ci_lower=means[best] - reach,
            ate_ci_upper=means[best] + reach,
            probability_best=_wins(draws)[best],
            margin=margin,
            margin_ci_lower=margin - spare,
            margin_ci_upper=margin + spare,
        )

    def _required_sample_size(self, chosen: npt.NDArray[np.bool_]) -> dict[str, Any]:
        frame, target = self.population.frame, self._target
        if target.name not in frame:
            return {"missing": f"these twins have no drawn {target.name}, so its variance is unknown"}
        outcome_sd = standard_deviation(frame[target.name].to_numpy(dtype=float)[chosen])
        expected = frame[BEHAVIOUR].to_numpy(dtype=float)[chosen]
        change = self.min_effect_threshold * float(np.mean(np.abs(target.desired_change(expected))))
        if not outcome_sd > 0 or not change > 0:
            return {"missing": f"a change of {change:g} in outcomes with a deviation of {outcome_sd:g} cannot be planned for"}
        rho = self.population.model.baseline.correlation
        alpha = round(1.0 - self.confidence_level, 12)
        plain = two_sample(change, outcome_sd, alpha=alpha, power=TEST_POWER)
        adjusted = two_sample(change, outcome_sd, alpha=alpha, power=TEST_POWER, correlation=_usable(rho))
        return {
            "minimum_detectable_effect": self.min_effect_threshold,
            "minimum_detectable_change": change,
            "unit": target.unit,
            "outcome_sd": outcome_sd,
            "alpha": alpha,
            "power": TEST_POWER,
            "n_treated": plain.n_treated,
            "n_control": plain.n_control,
            "prediction_correlation": rho,
            "n_treated_adjusted": adjusted.n_treated,
            "n_control_adjusted": adjusted.n_control,
        }

    def _warnings(self, average: Summary, prior: EffectPrior, chosen: npt.NDArray[np.bool_]) -> Iterable[str]:
        kept = int(chosen.sum())
        if prior.n_experiments == 0:
            yield f"the effect of {prior.intervention_type} is a belief of the catalogue: no real experiment has calibrated it yet"
        if abs(average.estimate) > UNREALISTIC:
            yield f"an effect of {average.estimate:.0%} is unrealistic: check it in SimulationEngine.INTERVENTION_EFFECTS"
        if average.robust:
            yield (
                "some draws are no numbers or far off: the estimate is their median, the interval comes from their quartiles,"
                " subgroups and alternatives are left out"
            )
        if kept < FEW_ROWS:
            yield f"only {kept} twins are left by the filters"
        behind = self.population.real_rows
        if behind is not None and behind * kept / self.population.twin_count < FEW_ROWS:
            yield f"about {behind * kept / self.population.twin_count:.0f} real rows stand behind these twins"

    def _id_of(self, intervention: InterventionConfig, filters: Filters, alternatives: Sequence[InterventionConfig]) -> UUID:
        question = {
            "intervention": intervention.model_dump(),
            "alternatives": [other.model_dump() for other in alternatives],
            "filters": canonical_filters(self.population.twin_type, filters),
            "priors": {name: prior.model_dump() for name, prior in sorted(self.priors.items())},
            "settings": [self.min_effect_threshold, self.confidence_threshold, self.confidence_level, self.n_draws, self.seed],
        }
        return uuid5(self.population.population_id, json.dumps(question, sort_keys=True))


@dataclass(frozen=True)
class _Drawn:
    """Twins' factors ``(n,)`` and terms ``(p, n)``; scale ``(n_draws,)`` and deviations ``(p, n_draws)`` of the draws."""

    factors: Array
    terms: Array
    scale: Array
    deviations: Array

    def moments(self) -> Iterator[Array]:
        """Of each twin what averages of any kind need: 1, its factor, the square of it, its factor times each term.

        One array after another, the later ones in the same memory.
        """
        yield np.ones(len(self.factors))
        yield self.factors
        product = np.square(self.factors)
        yield product
        for term in self.terms:
            yield np.multiply(self.factors, term, out=product)

    @cached_property
    def average(self) -> Array:
        """Average effect under each draw, shape ``(n_draws,)``."""
        _, level, _, *slopes = [moment.mean() for moment in self.moments()]
        return np.asarray(self.scale * (level + weighted_sum(self.deviations, np.array(slopes))))

    def of_twins(self, rows: slice) -> Array:
        """Effect on each of some twins under each draw, shape ``(rows, n_draws)``."""
        own = self.terms[:, rows].T @ self.deviations
        own += 1.0
        own *= self.scale
        own *= self.factors[rows, None]
        return own

    def by_group(self, sums: Sequence[Array], seed: int) -> tuple[Array, Array]:
        """Twins in each group, shape ``(groups,)``, and draws of its average effect, shape ``(groups, n_draws)``.

        Args:
            sums: of the moments in the groups of each dimension; the groups of all dimensions follow each other.
            seed: of what partial pooling leaves uncertain.
        """
        n, level, squares, *slopes = np.concatenate(sums, axis=1)
        draws = self.scale * ((level[:, None] + np.transpose(slopes).reshape(len(n), -1) @ self.deviations) / n[:, None])
        draws -= self.average
        within = np.maximum(squares / n - (level / n) ** 2, 0.0) * self.scale.mean() ** 2
        ends = np.cumsum([each.shape[1] for each in sums])[:-1]
        of_dimension = zip(*(np.split(each, ends) for each in (draws.mean(axis=1), n, within)), strict=True)
        kept, left = np.concatenate([shrinkage(*each) for each in of_dimension], axis=1)
        draws *= kept[:, None]
        draws += left[:, None] * normal_draws(1, len(self.scale), seed, "subgroups")
        draws += self.average
        return n, draws


def _alternative(other: InterventionConfig, told: Summary, difference: float, reach: float, probability_best: float) -> Alternative:
    return Alternative(
        intervention=other,
        ate=told.estimate,
        ate_ci_lower=told.lower,
        ate_ci_upper=told.upper,
        difference=difference,
        difference_ci_lower=difference - reach,
        difference_ci_upper=difference + reach,
        probability_best=probability_best,
    )


def _wins(draws: Sequence[Array]) -> Array:
    """Share of the draws in which each row is the largest, shape ``(rows,)``."""
    return np.bincount(np.argmax(draws, axis=0), minlength=len(draws)) / len(draws[0])


def _better(first: Array, others: Sequence[Array], alternatives: Sequence[InterventionConfig]) -> str | None:
    """The alternative with the largest effect, if that is more than the first one's."""
    means = [float(draws.mean()) for draws in others]
    if not means or max(means) <= first.mean():
        return None
    said = alternatives[int(np.argmax(means))]
    strength = "" if said.intensity is None else f", intensity {said.intensity:g}"
    return f"{said.intervention_type} by {said.channel}, {said.frequency}, {said.duration_weeks} weeks{strength}"


def _drivers(prior: EffectPrior, intervention: InterventionConfig, factors: Array) -> str:
    """What an effect is made of."""
    ground = f"learned from {prior.n_experiments} experiments" if prior.n_experiments else "not yet tested by an experiment"
    spread = float(np.hypot(prior.sd, prior.between_sd))
    dose = float(dose_response(intervention, typical_dose(intervention)))
    return (
        f"a base effect of {prior.mean:.1%} ± {spread:.1%} ({ground}), of which this channel, frequency, duration and intensity"
        f" reach {dose:.0%}, and these twins {factors.mean():.0%} of that"
    )


def _usable(correlation: float | None) -> float:
    """A correlation that variance can be reduced by: none where it is unknown, and never all of it."""
    return min(max(correlation or 0.0, 0.0), 0.99)


def _checked(priors: Mapping[str, EffectPrior]) -> dict[str, EffectPrior]:
    for name, prior in priors.items():
        if require_one_of("intervention_type", name, INTERVENTIONS) != prior.intervention_type:
            raise ValueError(f"the prior of {name} is about {prior.intervention_type}")
    return dict(priors)


def _refuse_outside(name: str, value: float, low: float, high: float) -> None:
    if not low < value < high:
        raise ValueError(f"{name} {value} must lie between {low} and {high}")
