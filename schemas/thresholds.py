"""Thresholds of a model line: what a recommendation needs, and from what value the drift rules fire."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from schemas.base import Finite, Frozen, Whole, refuse_flags, require_one_of
from schemas.fidelity_models import DRIFT_RULES, DriftRule

__all__ = ["DEFAULT_THRESHOLDS", "LIMIT_RANGES", "ConfidenceThreshold", "EffectThreshold", "LineThresholds"]

EffectThreshold = Annotated[float, Field(ge=0.0001, lt=1.0), BeforeValidator(refuse_flags)]
"""Smallest effect worth a deployment, a fraction on the target's scale."""

ConfidenceThreshold = Annotated[float, Field(gt=0.5, lt=1.0), BeforeValidator(refuse_flags)]
"""Probability that a recommendation to deploy, or not to deploy, needs."""

LIMIT_RANGES = {"mae": (0.0, 10.0), "rmse": (0.0, 10.0), "correlation": (-1.0, 1.0), "coverage_95pct": (0.0, 1.0)}


class LineThresholds(Frozen):
    """The thresholds of one line.

    Attributes:
        version: counts the changes of a line; 0 are the thresholds of a line that nobody has changed.
        min_effect_threshold, confidence_threshold: of recommendations.
        require_test: no deployment is recommended of what no real experiment has tested.
        drift_limits: limits of drift rules by their name; a rule without one has its limit of the catalogue.
        catalogue_limits: limits that the catalogue in effect has for this line and its brand.
    """

    version: Whole = Field(default=0, ge=0)
    min_effect_threshold: EffectThreshold = 0.05
    confidence_threshold: ConfidenceThreshold = 0.90
    require_test: bool = False
    drift_limits: dict[str, Finite] = Field(default_factory=dict)
    catalogue_limits: dict[str, Finite] = Field(default_factory=dict, exclude=True, repr=False)

    @model_validator(mode="after")
    def _limits_are_possible(self) -> Self:
        for name, limit in self.drift_limits.items():
            rules = {rule.name: rule for rule in DRIFT_RULES}
            low, high = LIMIT_RANGES[rules[require_one_of("drift rule", name, rules)].metric]
            if not low < limit < high:
                raise ValueError(f"the limit {limit:g} of {name} must lie between {low:g} and {high:g}")
        return self

    @property
    def rules(self) -> tuple[DriftRule, ...]:
        """The drift rules with the limits of this line."""
        limits = {**self.catalogue_limits, **self.drift_limits}
        return tuple(rule.model_copy(update={"limit": limits.get(rule.name, rule.limit)}) for rule in DRIFT_RULES)

    def rule(self, name: str) -> DriftRule:
        """One drift rule with the limit of this line."""
        return next(rule for rule in self.rules if rule.name == name)


DEFAULT_THRESHOLDS = LineThresholds()
"""The built-in thresholds; ``Catalogue.thresholds_of`` has those of a line."""
