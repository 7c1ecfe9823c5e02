"""Sequences of simulated experiments in worlds whose levels of features deviate from what moderators explain.

Truth is computed independently of the engine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from typing import NamedTuple

import numpy as np

from engine import SimulationEngine
from engine.effects import catalogue_prior
from engine.effects.calibration import calibrate
from engine.effects.parameter_learning import LEVEL_SDS, OWN_SHARE
from engine.experiments import EffectEstimate
from engine.sample_tables import sample_hcps
from schemas import INTERVENTIONS, ExperimentResult, InterventionConfig, Reach, SubgroupResult, TwinPopulation
from schemas.arrays import Flags, Floats, Integers
from tests.effect_worlds import COEFFICIENT_PRIORS, Terms, World, draw_campaigns, moderator_terms
from tests.evidence.part import seeded_rng
from tests.evidence.simulation import OUTCOME_SD, experiment, random_campaign
from tests.populations import population

__all__ = [
    "DIMENSIONS",
    "HIDDEN",
    "Campaigns",
    "Levels",
    "People",
    "Setting",
    "compared",
    "draw_people",
    "run_experiment",
    "sequence",
]

DIMENSIONS = ("specialty", "priority_tier", "region")
CHOICES = 3
_NEXT = 2  # campaigns that are simulated after each number of experiments
_FAR = 2.0
_MOST_TRIES = 40


class Levels(NamedTuple):
    """Levels of a feature, and the number of that of each person, ``(n,)``."""

    names: tuple[str, ...]
    codes: Integers


class People(NamedTuple):
    """People of simulated experiments: their twins, moderators ``(n,)`` each, and the levels of each dimension."""

    twins: TwinPopulation
    terms: Terms
    levels: Mapping[str, Levels]

    @property
    def n(self) -> int:
        """Their number."""
        return len(self.twins.frame)

    def groups(self) -> Iterator[tuple[str, str, Flags]]:
        """Each subgroup, and who is in it, ``(n,)``."""
        for dimension, (names, codes) in self.levels.items():
            for code, name in enumerate(names):
                yield dimension, name, codes == code


class Setting(NamedTuple):
    """What sequences of experiments are like.

    Attributes:
        name: of the setting, and seed of its worlds.
        is_promising: whether the most promising of three campaigns is tested, else any.
        only_successes: whether experiments without a significant effect are not told.
        sizes: smallest and largest number of people in an arm.
        counts: numbers of experiments after which other campaigns are simulated.
        is_far: whether each coefficient of a moderator is two standard deviations from what the catalogue believes.
        features: of how many features an experiment reports subgroups.
        reported: probability that it reports a subgroup of these.
        hides: whether one level of each feature is never reported.
    """

    name: str
    is_promising: bool = True
    only_successes: bool = False
    sizes: tuple[int, int] = (400, 5_000)
    counts: tuple[int, ...] = (0, 1, 2, 4, 8, 16)
    is_far: bool = False
    features: int = len(DIMENSIONS)
    reported: float = 1.0
    hides: bool = False


def draw_people(n: int, rng: np.random.Generator) -> People:
    """People of a generated table."""
    frame = sample_hcps(n, rng)
    levels = {}
    for name in DIMENSIONS:
        names, codes = np.unique(frame[name].astype(str).to_numpy(), return_inverse=True)
        levels[name] = Levels(tuple(names.tolist()), codes)
    twins = population(features=frame[[*DIMENSIONS, "decile", "adoption_stage", "digital_engagement_score"]])
    return People(twins, moderator_terms(frame), levels)


class Campaigns:
    """Campaigns of one type in a world in which levels of features deviate, in all campaigns alike and in each.

    Args:
        rng: of all draws.
        people: that campaigns are run on.
        spread: mean of the base effects of campaigns, and the standard deviation between them.
        is_far: whether each coefficient of a moderator is two standard deviations from what the catalogue believes.
    """

    def __init__(self, rng: np.random.Generator, people: People, spread: tuple[float, float], *, is_far: bool = False) -> None:
        self._rng, self._people, self._world, self._spread = rng, people, World(rng), spread
        if is_far:
            for term, prior in COEFFICIENT_PRIORS.items():
                self._world.coefficients[term] = prior.mean + _FAR * prior.sd * float(rng.choice([-1.0, 1.0]))
        self._sd = float(rng.choice([*LEVEL_SDS], p=[*LEVEL_SDS.values()]))
        self._shared = [self._deviations(levels, 1.0 - OWN_SHARE) for levels in people.levels.values()]

    def of_other_type(self, spread: tuple[float, float]) -> Campaigns:
        """Campaigns of another type on the same people in the same world."""
        other = copy(self)
        other._spread = spread
        return other

    def _deviations(self, levels: Levels, share: float) -> Floats:
        return self._rng.normal(0.0, math.sqrt(share) * self._sd, len(levels.names))

    def effects(self, config: InterventionConfig) -> Floats:
        """Effect of a new campaign on each person, ``(n,)``."""
        log = np.zeros(self._people.n)
        for levels, shared in zip(self._people.levels.values(), self._shared, strict=True):
            log += (shared + self._deviations(levels, OWN_SHARE))[levels.codes]
        base = float(self._rng.normal(*self._spread)) * self._world.dose(config)
        return np.asarray(base * self._world.factors(self._people.terms, config.channel) * np.exp(log))


def sequence(people: People, setting: Setting, number: int, *, reports: bool = True) -> list[list[tuple[float, ...]]]:
    """Estimate, interval and true effect of campaigns after each number of experiments of the setting.

    The rows of one number: all people, oncologists of the South, and each subgroup, of one campaign after the other.
    """
    rng = seeded_rng("subgroup sequences", setting.name, number)
    kind = str(rng.choice(sorted(INTERVENTIONS)))
    prior, spread = catalogue_prior(kind), draw_campaigns(rng, INTERVENTIONS[kind].effect)
    campaigns = Campaigns(rng, people, spread, is_far=setting.is_far)
    following = [random_campaign(rng, kind)[0] for _ in range(_NEXT)]
    results: list[ExperimentResult] = []
    reaches: dict[str, Reach] = {}
    rows = []
    for count in range(max(setting.counts) + 1):
        if count in setting.counts:
            engine = SimulationEngine(people.twins, priors={kind: calibrate(prior, results, reaches)})
            rows.append([row for config in following for row in compared(engine, people, config, campaigns.effects(config))])
        result = _told(str(count), setting, engine, campaigns, people, rng)
        results.append(result if reports else result.model_copy(update={"subgroups": ()}))
        groups = [(group.dimension, group.level) for group in results[-1].subgroups]
        reaches[str(count)] = engine.reach(result.intervention, subgroups=groups)
    return rows


def _told(
    name: str, setting: Setting, engine: SimulationEngine, campaigns: Campaigns, people: People, rng: np.random.Generator
) -> ExperimentResult:
    """The next experiment that is told; after some that are not, whatever comes."""
    kind = next(iter(engine.priors))
    for _ in range(_MOST_TRIES if setting.only_successes else 1):
        choices = [random_campaign(rng, kind)[0] for _ in range(CHOICES if setting.is_promising else 1)]
        config = choices[int(np.argmax([engine.twin_effects(choice).mean() for choice in choices]))] if choices[1:] else choices[0]
        n = int(np.exp(rng.uniform(*np.log(setting.sizes))))
        result = run_experiment(name, config, people, campaigns.effects(config), n, rng)
        if result.effect > 1.96 * result.standard_error:
            break
    return result.model_copy(update={"subgroups": tuple(_reported(result.subgroups, setting, rng))})


def _reported(groups: Sequence[SubgroupResult], setting: Setting, rng: np.random.Generator) -> Iterator[SubgroupResult]:
    dimensions = set(rng.permutation(DIMENSIONS)[: setting.features].tolist())
    hidden = HIDDEN if setting.hides else {}
    for group in groups:
        is_told = rng.random() < setting.reported
        if is_told and group.dimension in dimensions and group.level != hidden.get(group.dimension):
            yield group


HIDDEN: Mapping[str, str] = {"specialty": "oncology", "priority_tier": "1", "region": "south"}
"""Level of each feature that is never reported in settings that hide some."""


def compared(engine: SimulationEngine, people: People, config: InterventionConfig, truth: Floats) -> list[tuple[float, ...]]:
    """Estimate, interval and true effect: all people, oncologists of the South, each subgroup (nan where not reported)."""
    result = engine.simulate(config)
    selected = engine.simulate(config, {"specialty": ["oncology"], "region": ["south"]})
    masks = {(dimension, level): is_level for dimension, level, is_level in people.groups()}
    is_selected = masks["specialty", "oncology"] & masks["region", "south"]
    rows = [
        (result.ate, result.ate_ci_lower, result.ate_ci_upper, float(truth.mean())),
        (selected.ate, selected.ate_ci_lower, selected.ate_ci_upper, float(truth[is_selected].mean())),
    ]
    effects = {(name, group.group): group for name, groups in result.heterogeneity.by_dimension.items() for group in groups}
    for key, is_level in masks.items():
        effect = effects.get(key)
        values = (effect.estimate, effect.ci_lower, effect.ci_upper) if effect else (math.nan,) * 3
        rows.append((*values, float(truth[is_level].mean())))
    return rows


def run_experiment(
    name: str, config: InterventionConfig, people: People, effects: Floats, n: int, rng: np.random.Generator
) -> ExperimentResult:
    """An experiment on ``n`` people in each arm, whose outcomes are drawn one by one; with the effects of all subgroups."""
    rows, treated = rng.integers(len(effects), size=2 * n), np.repeat([True, False], n)
    outcome = rng.normal(effects[rows] * treated, OUTCOME_SD)
    groups = []
    for dimension, (names, codes) in people.levels.items():
        cell = codes[rows] + treated * len(names)
        count = np.bincount(cell, minlength=2 * len(names)).reshape(2, -1)
        total = np.bincount(cell, outcome, minlength=2 * len(names)).reshape(2, -1)
        for code in np.flatnonzero(count.min(axis=0) >= 2).tolist():
            (n_control, n_treated), (control, at_treated) = count[:, code].tolist(), (total[:, code] / count[:, code]).tolist()
            estimate = EffectEstimate(at_treated - control, _error(n_treated, n_control), n_treated, n_control)
            groups.append(SubgroupResult(dimension=dimension, level=names[code], **estimate._asdict()))
    return experiment(name, config, _difference(outcome, treated)).model_copy(update={"subgroups": tuple(groups)})


def _difference(outcome: Floats, treated: Flags) -> EffectEstimate:
    """Difference of the means of both arms, where the standard deviation of outcomes is known."""
    n_treated, n_control = int(treated.sum()), int((~treated).sum())
    effect = float(outcome[treated].mean() - outcome[~treated].mean())
    return EffectEstimate(effect, _error(n_treated, n_control), n_treated, n_control)


def _error(n_treated: int, n_control: int) -> float:
    return OUTCOME_SD * math.sqrt(1 / n_treated + 1 / n_control)
