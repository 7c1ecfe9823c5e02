"""Compare the simulated effects of several interventions on the same twins and the same parameter draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.effects.intervals import Summary, simultaneous_half_width, summary
from schemas.arrays import Floats
from schemas.simulation_models import Alternative, BestChoice, InterventionConfig

__all__ = ["best_choice", "better_alternative_text", "compare_alternatives"]


def compare_alternatives(
    first: Floats, others: Sequence[Floats], alternatives: Sequence[InterventionConfig], confidence_level: float
) -> tuple[Alternative, ...]:
    """Effect of each alternative, and its difference from the first intervention with simultaneous intervals.

    Args:
        first: draws of the average effect of the first intervention, ``(n_draws,)``.
        others: the same of each alternative.
        alternatives: their configurations.
        confidence_level: of all intervals.
    """
    if not alternatives:
        return ()
    differences = np.array(others) - first
    half_widths = simultaneous_half_width(differences, confidence_level).tolist()
    probabilities = _probability_best([first, *others])[1:].tolist()
    summaries = [summary(draws, confidence_level) for draws in others]
    return tuple(map(_alternative, alternatives, summaries, differences.mean(axis=1).tolist(), half_widths, probabilities))


def best_choice(draws: Sequence[Floats], candidates: Sequence[InterventionConfig], confidence_level: float) -> BestChoice:
    """The candidate with the largest effect; its interval is valid whichever candidate is selected.

    Args:
        draws: of the average effect of each candidate, ``(n_draws,)`` each.
        candidates: at least two configurations.
        confidence_level: of the intervals.

    References:
        Andrews, Kitagawa, McCloskey (2024), Inference on winners. Quarterly Journal of Economics 139 (projection).
    """
    means = np.mean(draws, axis=1)
    best, runner_up = np.argsort(-means, kind="stable")[:2].tolist()
    half_width = float(simultaneous_half_width(np.array(draws), confidence_level)[best])
    lead = draws[best] - np.delete(draws, best, axis=0)
    margin_half_width = float(simultaneous_half_width(lead, confidence_level)[runner_up - (runner_up > best)])
    margin = float(means[best] - means[runner_up])
    return BestChoice(
        intervention=candidates[best],
        ate=means[best],
        ate_ci_lower=means[best] - half_width,
        ate_ci_upper=means[best] + half_width,
        probability_best=_probability_best(draws)[best],
        margin=margin,
        margin_ci_lower=margin - margin_half_width,
        margin_ci_upper=margin + margin_half_width,
    )


def better_alternative_text(first: Floats, others: Sequence[Floats], alternatives: Sequence[InterventionConfig]) -> str | None:
    """The alternative with the largest average effect in words; None where none exceeds the first intervention."""
    means = [float(draws.mean()) for draws in others]
    if not means or max(means) <= first.mean():
        return None
    best = alternatives[int(np.argmax(means))]
    intensity = "" if best.intensity is None else f", intensity {best.intensity:g}"
    variant = "" if best.variant is None else f" variant {best.variant}"
    return f"{best.intervention_type}{variant} by {best.channel}, {best.frequency}, {best.duration_weeks} weeks{intensity}"


def _alternative(
    config: InterventionConfig, effect: Summary, difference: float, half_width: float, probability_best: float
) -> Alternative:
    return Alternative(
        intervention=config,
        ate=effect.estimate,
        ate_ci_lower=effect.lower,
        ate_ci_upper=effect.upper,
        difference=difference,
        difference_ci_lower=difference - half_width,
        difference_ci_upper=difference + half_width,
        probability_best=probability_best,
    )


def _probability_best(draws: Sequence[Floats]) -> Floats:
    """Share of the draws in which each row is the largest, shape ``(rows,)``."""
    return np.bincount(np.argmax(draws, axis=0), minlength=len(draws)) / len(draws[0])
