"""What to doubt about the result of a simulation."""

from __future__ import annotations

from collections.abc import Iterator

from engine.effects.effect_draws import FEW_REAL_ROWS
from engine.effects.intervals import Summary
from engine.effects.outcome_changes import unknown_base
from schemas.simulation_models import EffectPrior, OutcomeChange
from schemas.twin_models import TwinPopulation
from schemas.twin_types import Target

__all__ = ["FAR_DEVIATIONS", "FEW_ROWS", "UNREALISTIC", "realism_warnings", "result_warnings"]

UNREALISTIC = 0.50
"""Effect beyond which a result is doubted, a fraction."""

FAR_DEVIATIONS = 3.0
"""Standard deviations of the outcome beyond which an average change is doubted."""

_TELLS_BORROWED = 4  # method: answers of earlier ones are repeated as they were

FEW_ROWS = 100
"""Twins below which a result is doubted."""


def result_warnings(
    average: Summary, change: OutcomeChange | None, prior: EffectPrior, target: Target, n_twins: int, real_rows: float | None
) -> Iterator[str]:
    """Warnings about a result, a sentence each.

    Args:
        average: of the effect.
        change: the same in the unit of the target; None where it is unknown.
        prior: of the intervention.
        target: of the line.
        n_twins: that the result is about.
        real_rows: that these twins are based on; None where the number is unknown.
    """
    if prior.n_experiments == 0:
        shifted = f", {prior.borrowed}" if prior.borrowed and prior.method >= _TELLS_BORROWED else ""
        assumption = f"the effect of {prior.intervention_type} is an assumption of the catalogue{shifted}"
        yield f"{assumption}: no real experiment has calibrated it"
    if abs(average.estimate) > UNREALISTIC:
        yield f"an effect of {average.estimate:.0%} is unrealistic: check it in SimulationEngine.INTERVENTION_EFFECTS"
    if average.robust:
        yield (
            "some draws are not finite or extreme: the estimate is their median, the interval comes from their quartiles,"
            " subgroups, alternatives and the change of the outcome are left out"
        )
    elif change is None:
        yield f"the change of the outcome is unknown: {unknown_base(target)}"
    elif change.deviations is not None and change.deviations > FAR_DEVIATIONS:
        yield (
            f"a change of {change.estimate:.3g} ({change.unit}) is {change.deviations:.1f} standard deviations of the outcome"
            f" ({change.outcome_sd:.3g}), more than {FAR_DEVIATIONS:g}: check the unit of {target.name} and the base effect"
        )
    if n_twins < FEW_ROWS:
        yield f"the filters leave only {n_twins} twins"
    if real_rows is not None and real_rows < FEW_REAL_ROWS:
        yield f"these twins are based on about {real_rows:.0f} real rows, fewer than {FEW_REAL_ROWS}: intervals are widened for it"


def realism_warnings(population: TwinPopulation) -> Iterator[str]:
    """Warnings about the twins: by their own realism, else by that of all twins of their model."""
    of_model = population.model.metrics.realism if population.model else None
    if population.realism is not None:
        yield from population.realism.verdict.warnings
    elif population.unassessed is not None:
        yield f"these twins were not compared with real rows: {population.unassessed}"
    elif of_model is not None:
        yield from (f"{warning} (of twins of the model without filters)" for warning in of_model.verdict.warnings)
