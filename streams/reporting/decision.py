"""What would change a decision: the probability that a simulated effect reaches any value, from what a result stores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri

from streams.reporting.charts import Chart, Curve, ReferenceLine, ValueMarker, curves_chart
from streams.reporting.formatting import share

__all__ = ["EffectDistribution", "decision_changes", "distribution_chart", "effect_distribution"]

_POINTS = 41
_REACH = 3.0
_EVEN = 0.5


@dataclass(frozen=True)
class EffectDistribution:
    """A distribution of an effect through known quantiles, between which its normal scores are interpolated.

    Attributes:
        values: effects, ascending.
        scores: normal score of the probability that the effect is below each, ascending.
    """

    values: tuple[float, ...]
    scores: tuple[float, ...]

    def reaches(self, value: float) -> float:
        """Probability that the effect is at least a value.

        >>> round(EffectDistribution((0.0, 0.1), (-2.0, 2.0)).reaches(0.05), 3)
        0.5
        """
        return float(ndtr(-_interpolate(value, self.values, self.scores)))

    def reached_with(self, probability: float) -> float:
        """The value that the effect reaches with a probability.

        >>> round(EffectDistribution((0.0, 0.1), (-2.0, 2.0)).reached_with(0.5), 3)
        0.05
        """
        return _interpolate(float(ndtri(1.0 - probability)), self.scores, self.values)


def _interpolate(at: float, places: Sequence[float], values: Sequence[float]) -> float:
    """Linear between the places, and beyond them as between the two nearest."""
    index = int(np.clip(np.searchsorted(places, at) - 1, 0, len(places) - 2))
    slope = (values[index + 1] - values[index]) / (places[index + 1] - places[index])
    return values[index] + slope * (at - places[index])


def effect_distribution(results: Mapping[str, Any]) -> EffectDistribution | None:
    """The distribution of a result's effect: through its interval, and through the threshold with its probability.

    None where the interval has no width, or is not stored.
    """
    low, high, level = results.get("ate_ci_lower"), results.get("ate_ci_upper"), results.get("confidence_level", 0.95)
    if low is None or high is None or not low < high:
        return None
    tail = float(ndtri((1.0 + level) / 2.0))
    points = [(low, -tail), (high, tail)]
    threshold, worthwhile = results.get("min_effect_threshold"), results.get("probability_worthwhile")
    if threshold is not None and worthwhile is not None and 0.0 < worthwhile < 1.0:
        between = (threshold, -float(ndtri(worthwhile)))
        ordered = sorted([*points, between])
        rises = all(b[0] > a[0] and b[1] > a[1] for a, b in pairwise(ordered))
        points = ordered if rises else points
    return EffectDistribution(tuple(value for value, _ in points), tuple(score for _, score in points))


def distribution_chart(results: Mapping[str, Any], unit: str) -> Chart | None:
    """The probability that the effect reaches each value; None where the result has no distribution."""
    distribution = effect_distribution(results)
    threshold, needed = results.get("min_effect_threshold"), results.get("confidence_threshold")
    if distribution is None:
        return None
    ends = [distribution.reached_with(float(ndtr(score))) for score in (_REACH, -_REACH)]
    low, high = min(ends[0], threshold or ends[0]), max(ends[1], threshold or ends[1])
    values = np.linspace(low, high, _POINTS)
    lines = (
        []
        if needed is None
        else [
            ReferenceLine(needed, f"{needed:.0%} to deploy", "good"),
            ReferenceLine(1.0 - needed, f"{1.0 - needed:.0%} not to", "bad"),
        ]
    )
    return curves_chart(
        [Curve("probability", [100 * value for value in values], [distribution.reaches(value) for value in values])],
        title="Probability that the effect reaches a value",
        description=f"Distribution of the average effect, {unit}: through its interval and the probability of the threshold.",
        x_label="Effect, %",
        form=".0%",
        x_form=".1f",
        lines=lines,
        markers=[] if threshold is None else [ValueMarker(100 * threshold, f"threshold {threshold:.1%}")],
    )


def decision_changes(results: Mapping[str, Any], recommendation: str | None) -> list[str]:
    """What would change the recommendation of a completed simulation, a sentence each."""
    distribution = effect_distribution(results)
    threshold, needed = results.get("min_effect_threshold"), results.get("confidence_threshold")
    worthwhile = results.get("probability_worthwhile")
    if distribution is None or threshold is None or needed is None or worthwhile is None:
        return []
    return [
        *_threshold_changes(distribution, threshold, needed, recommendation),
        *_probability_changes(worthwhile, needed, recommendation),
        *_test_changes(results),
    ]


def _threshold_changes(
    distribution: EffectDistribution, threshold: float, needed: float, recommendation: str | None
) -> Iterator[str]:
    deploys_to, rejects_from = distribution.reached_with(needed), distribution.reached_with(1.0 - needed)
    now = f"now {share(threshold)}"
    if recommendation == "deploy":
        yield f"A test would be recommended if only an effect above {share(deploys_to)} were worth it ({now})."
    elif recommendation == "do_not_deploy":
        yield f"A test would be recommended if an effect of less than {share(rejects_from)} were worth it ({now})."
    elif deploys_to >= threshold:  # a doubt beside the probability asks for a test
        yield "The probability alone would be enough to deploy: what the reason names asks for a test."
    elif rejects_from <= threshold:
        yield "The probability alone would be enough not to deploy: what the reason names asks for a test."
    else:
        if deploys_to > 0:
            yield f"The recommendation would be to deploy if an effect of {share(deploys_to)} were worth it ({now})."
        yield f"The recommendation would be not to deploy if only an effect above {share(rejects_from)} were worth it."


def _probability_changes(worthwhile: float, needed: float, recommendation: str | None) -> Iterator[str]:
    certainty = max(worthwhile, 1.0 - worthwhile)
    if recommendation in {"deploy", "do_not_deploy"}:
        yield f"A test would be recommended if a decision needed a probability above {certainty:.1%} (now {needed:.0%})."
    elif _EVEN < certainty < needed:
        decision = "to deploy" if worthwhile > _EVEN else "not to deploy"
        yield f"The recommendation would be {decision} if a probability of {certainty:.0%} were enough (now {needed:.0%})."


def _test_changes(results: Mapping[str, Any]) -> Iterator[str]:
    sizing = results.get("required_sample_size") or {}
    if "n_treated_adjusted" in sizing:
        people = sizing["n_treated_adjusted"] + sizing["n_control_adjusted"]
        yield (
            f"A real experiment with {people:,} people detects an effect of {share(sizing['minimum_detectable_effect'])}"
            f" with probability {sizing['power']:.0%}, and its result calibrates the next simulation."
        )
