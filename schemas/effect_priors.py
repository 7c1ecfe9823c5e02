"""Prior distributions of the base effects of interventions, as simulations draw from them and as they are stored."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from schemas.base import Finite, Frozen, Whole
from schemas.interventions import MODERATORS
from schemas.level_meaning import meaning_key, moderating_level

__all__ = [
    "EFFECTS_METHOD",
    "QUANTILE_SCORES",
    "SHIFTED",
    "EffectPrior",
    "EffectScenario",
    "LearnedParameters",
    "TestedDose",
    "VariantEffect",
]

EFFECTS_METHOD = 4
"""Version of the method by which priors are computed, drawn from and judged.

1: a normal prior, one dose response. 2: tails of priors that no experiment has tested, several responses to dose, variants. 3:
coefficients of moderators, factors of channels, doses of half the maximal response and effects in subgroups are learned with the
base effect. 4: every spelling of a level that the catalogue declares is that level.
"""

SHIFTED = "shifted by "
"""Begins the part of the source of a prior that was shifted by experiments on other campaigns."""

QUANTILE_SCORES: tuple[float, ...] = tuple(i / 4 for i in range(-13, 14))
"""Normal scores of the quantiles of an :class:`EffectScenario`."""


class EffectScenario(Frozen):
    """The base effect of the next campaign if the response to dose has a certain shape.

    Attributes:
        weight: probability of this shape.
        contacts, weeks, intensity: factors of the catalogue's doses of half the maximal response: below 1 more contacts (weeks,
            intensity) hardly add to the effect, far above 1 it is nearly proportional to them.
        quantiles: of the base effect at ``QUANTILE_SCORES``, ascending.
    """

    weight: Finite = Field(gt=0, le=1)
    contacts: Finite = Field(gt=0)
    weeks: Finite = Field(gt=0)
    intensity: Finite = Field(gt=0)
    quantiles: tuple[Finite, ...] = Field(min_length=len(QUANTILE_SCORES), max_length=len(QUANTILE_SCORES))


class VariantEffect(Frozen):
    """The base effect of the next campaign with one variant, such as a message or a creative, that experiments have tested.

    Attributes:
        quantiles: of the base effect at ``QUANTILE_SCORES``, for each scenario of the prior.
        correlation: of the normal score of this effect with what all variants have in common.
    """

    quantiles: tuple[tuple[Finite, ...], ...]
    correlation: Finite = Field(ge=0, le=1)


class TestedDose(Frozen):
    """A dose that an experiment has tested: contacts over the whole duration, weeks, and intensity."""

    contacts: Finite = Field(gt=0)
    weeks: Finite = Field(gt=0)
    intensity: Finite = Field(gt=0)


class LearnedParameters(Frozen):
    """Joint normal distribution of what experiments have taught beside the base effect; all else is as in the catalogue.

    Draws are ``mean + shared * score + factor @ z``, where ``score`` is the normal score of the base effect and ``z`` is standard
    normal, one for each parameter.

    Attributes:
        names: of the parameters. ``feature`` and ``feature=level``: coefficient of a moderator. ``channel:name``: logarithm of the
            factor of a channel. ``contacts``, ``weeks``, ``intensity``: logarithm of the dose of half the maximal response over
            that in the catalogue.
        levels: parameters that follow these: logarithm of the factor in a level of a feature, beyond what moderators explain.
        mean, shared: of each parameter.
        factor: rows of a lower triangular matrix, without the zeros.
        dimensions: features of whose levels experiments have reported effects.
        spread: standard deviation of a level's deviation in one campaign around that in all.
        unseen: the same for a level of these features that no experiment has reported, around what moderators explain.
    """

    names: tuple[str, ...] = ()
    levels: tuple[tuple[str, str], ...] = ()
    mean: tuple[Finite, ...]
    shared: tuple[Finite, ...]
    factor: tuple[tuple[Finite, ...], ...]
    dimensions: tuple[str, ...] = ()
    spread: Finite = Field(default=0.0, ge=0)
    unseen: Finite = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        n = len(self.names) + len(self.levels)
        if not len(self.mean) == len(self.shared) == len(self.factor) == n:
            raise ValueError(f"{n} parameters need as many means, shares and rows of the factor")
        if [len(row) for row in self.factor] != [*range(1, n + 1)]:
            raise ValueError("row i of the factor has i numbers")
        return self

    @property
    def repeats_levels(self) -> bool:
        """Whether two of the parameters are about one level by the catalogue in effect: its spellings were declared later."""
        keys = [(column, meaning_key(column, level)) for column, level in self.levels]
        terms = {
            f"{moderator.column}={listed}"
            for moderator in MODERATORS
            for column, level in self.levels
            if column == moderator.column and (listed := moderating_level(moderator, level)) is not None
        }
        return len({*keys}) < len(keys) or not terms.isdisjoint(self.names)


class EffectPrior(Frozen):
    """Prior distribution of an intervention's base effect, and its source.

    Attributes:
        mean, sd: mean effect at the reference dose and its standard deviation, fractions on the target's scale.
        between_sd: standard deviation of true effects between experiments.
        version: 0 for the catalogue, otherwise the number of the calibrated version.
        n_experiments: number of real experiments that it was calibrated by.
        source: origin of the numbers.
        method: version of the method that it follows (``EFFECTS_METHOD``); 1 where it was stored before there were others.
        scenarios: distribution of the base effect by the shape of the response to dose; without any it is normal.
        variants: effects of tested variants by their name.
        correlation: of the normal score of a new variant's effect with what all variants have in common.
        tested: doses of its experiments.
        contradicted: an experiment is far from what the catalogue expects of it.
        learned: what its experiments taught beside the base effect; None where the catalogue's parameters hold.
    """

    intervention_type: str
    mean: Finite
    sd: Finite = Field(ge=0)
    between_sd: Finite = Field(default=0.0, ge=0)
    version: Whole = Field(default=0, ge=0)
    n_experiments: Whole = Field(default=0, ge=0)
    source: str = ""
    method: Whole = Field(default=1, ge=1)
    scenarios: tuple[EffectScenario, ...] = ()
    variants: dict[str, VariantEffect] = Field(default_factory=dict)
    correlation: Finite = Field(default=1.0, ge=0, le=1)
    tested: tuple[TestedDose, ...] = ()
    contradicted: bool = False
    learned: LearnedParameters | None = None

    @property
    def borrowed(self) -> str | None:
        """What the effect owes to experiments on other campaigns; None where it owes them nothing."""
        _, shift, sources = self.source.partition(SHIFTED)
        return f"{shift}{sources}" if shift else None

    def is_outdated(self, method: int) -> bool:
        """Whether it has to be computed again: by a newer method, or since levels that it tells apart were declared to be one."""
        return self.method < method or (self.learned is not None and self.learned.repeats_levels)

    @model_validator(mode="after")
    def _variants_have_all_scenarios(self) -> Self:
        for name, variant in self.variants.items():
            if len(variant.quantiles) != len(self.scenarios):
                raise ValueError(f"variant {name} has {len(variant.quantiles)} of {len(self.scenarios)} scenarios")
        return self
