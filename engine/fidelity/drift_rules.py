"""Evaluates the drift rules on the fidelity metrics of a series, and derives the state of the series."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from enum import StrEnum
from typing import Protocol

from schemas.fidelity_models import BUILT_IN_RULES, DRIFT_RULES, DriftRule, DriftState, FidelityMetrics, Verdict

__all__ = [
    "BIAS_RULE",
    "N_MIN",
    "Detection",
    "Reference",
    "comparison_text",
    "evaluate_rules",
    "next_state",
    "requests_retrain",
    "rule_limit",
    "standing_texts",
]

N_MIN = 200
"""Outcomes that a rule needs before it can fire."""


BIAS_RULE = "bias_shift"
"""Verdict on the mean signed error: no rule of the catalogue, but what its evidence needs beside it (see ``bias``)."""


class Reference(Protocol):
    """Metrics to compare with: a model's ``Baseline``, or ``FidelityMetrics`` of an earlier time, from ``n`` outcomes."""

    @property
    def n(self) -> int: ...  # noqa: D102
    @property
    def mae(self) -> float | None: ...  # noqa: D102
    @property
    def rmse(self) -> float | None: ...  # noqa: D102
    @property
    def correlation(self) -> float | None: ...  # noqa: D102
    @property
    def coverage_95pct(self) -> float | None: ...  # noqa: D102


def evaluate_rules(
    metrics: FidelityMetrics, baseline: Reference, rules: Iterable[DriftRule] = DRIFT_RULES, n_min: int = N_MIN
) -> tuple[Verdict, ...]:
    """Return the verdict of every rule, fired or not, each with its reason.

    A rule with an absolute limit that the baseline already breaks is ``standing``: that it is broken again shows no change, so the
    limit of :func:`rule_limit` takes its place.
    """
    return tuple(_verdict(rule, metrics, baseline, n_min) for rule in rules)


def rule_limit(rule: DriftRule, baseline: Reference) -> float | None:
    """Value beyond which a rule fires for a model with this baseline; None where the baseline lacks the metric that it needs.

    Where the baseline breaks an absolute limit already, the limit is a deterioration of the baseline instead: a correlation that
    is a fifth lower (the proportion of the rule about the error), or twice the misses of the baseline's coverage (the limit of
    90 % is twice the misses of a coverage of 95 %), less two standard errors of the baseline.
    """
    reference: float | None = getattr(baseline, rule.metric)
    if rule.relative:
        return None if reference is None else _changed(rule, reference, rule.limit)
    if reference is None or not _breaks(rule, reference, rule.limit):
        return rule.limit
    if rule.direction == "below" and rule.metric in _DETERIORATIONS:
        return _DETERIORATIONS[rule.metric](reference, baseline.n)
    return _changed(rule, reference, _PROPORTION)


def _changed(rule: DriftRule, reference: float, proportion: float) -> float:
    """The value that is worse than a reference by a proportion of it."""
    return reference + (proportion if rule.direction == "above" else -proportion) * abs(reference)


def _lower_correlation(baseline: float, n: int) -> float:
    """A fifth below a correlation, less two standard errors on Fisher's scale."""
    limit = baseline - _PROPORTION * abs(baseline)
    return math.tanh(math.atanh(max(limit, -0.999)) - 2.0 / math.sqrt(max(n - 3, 1)))


def _lower_coverage(baseline: float, n: int) -> float:
    """Twice the misses of a coverage, less two standard errors."""
    return max(1.0 - 2.0 * (1.0 - baseline) - 2.0 * math.sqrt(baseline * (1.0 - baseline) / max(n, 1)), 0.0)


# Of the built-in rules: a process that imports this under a catalogue of its own judges as every other.
_PROPORTION = next(rule.limit for rule in BUILT_IN_RULES if rule.name == "mae_increase")
_DETERIORATIONS = {"correlation": _lower_correlation, "coverage_95pct": _lower_coverage}


def standing_texts(baseline: Reference, rules: Iterable[DriftRule] = DRIFT_RULES) -> tuple[str, ...]:
    """For each limit that a baseline breaks already: a sentence that says so, and by what limit its model is judged instead."""
    return tuple(
        f"{_NAMES[rule.metric]} is {_value_text(rule, getattr(baseline, rule.metric))} on unseen rows, already {_side(rule)}"
        f" {_value_text(rule, rule.limit)}: a limitation of this model and no drift, which is told {_side(rule)}"
        f" {_value_text(rule, rule_limit(rule, baseline))}"
        for rule in rules
        if _is_standing(rule, getattr(baseline, rule.metric))
    )


class Detection(StrEnum):
    """Result of the sequential detector for one series."""

    NONE = "none"
    CHANGE = "change"
    """The detector raised its alarm. It stays raised until the model is replaced."""
    SUPPRESSED = "suppressed"
    """The series exceeds its own limit, but not that of false-discovery control over all segments."""
    CARRIED = "carried"
    """The series exceeds its limit on outcomes that are nearly all of one other segment, unlike the training rows."""


def next_state(
    verdicts: Iterable[Verdict],
    detection: Detection,
    metrics: FidelityMetrics,
    previous: DriftState = DriftState.INSUFFICIENT,
    n_min: int = N_MIN,
    carriers: Collection[str] = (),
) -> DriftState:
    """Return the state of a series, given its ``previous`` one.

    An alarm needs both a fired rule that calls for a retrain and a detected change; either alone is a warning. A detected change
    needs no rule to be a warning, and so no ``n_min`` outcomes. A warning ends only when every metric is back within its limit by a
    standard error, so that a metric near its limit does not toggle the state. An alarm is final.

    Args:
        verdicts: of the rules.
        detection: of the detector.
        metrics: that the rules were evaluated on.
        previous: state.
        n_min: outcomes that a rule needs.
        carriers: losses whose evidence has reached the limit by itself, see :func:`requests_retrain`.
    """
    if previous is DriftState.ALARM:
        return previous
    changed = detection in (Detection.CHANGE, Detection.CARRIED)
    if metrics.n < n_min:
        return DriftState.WARNING if changed else DriftState.INSUFFICIENT
    verdicts = tuple(verdicts)
    if detection in _STATES and any(requests_retrain(verdict, carriers) for verdict in verdicts):
        return _STATES[detection]
    fired = any(verdict.fired for verdict in verdicts)
    lingers = previous in (DriftState.WARNING, DriftState.SUPPRESSED) and any(verdict.close for verdict in verdicts)
    return DriftState.WARNING if fired or lingers or changed else DriftState.OK


_STATES = {
    Detection.CHANGE: DriftState.ALARM,
    Detection.SUPPRESSED: DriftState.SUPPRESSED,
    Detection.CARRIED: DriftState.WARNING,
}


def requests_retrain(verdict: Verdict, carriers: Collection[str]) -> bool:
    """Whether a fired rule calls for a retrain, given the losses whose evidence has reached the limit by itself.

    The rule on the coverage does so when the misses carry the evidence, and that on the bias when the signed error does.
    """
    if not verdict.fired:
        return False
    if verdict.rule == BIAS_RULE:
        return "over" in carriers or "under" in carriers
    return verdict.action == "retrain" or (verdict.rule == _COVERAGE_RULE and "misses" in carriers)


_MAE_RULE = next(rule.name for rule in BUILT_IN_RULES if rule.metric == "mae")
_COVERAGE_RULE = next(rule.name for rule in BUILT_IN_RULES if rule.metric == "coverage_95pct")


def comparison_text(verdicts: Iterable[Verdict], detection: Detection, carriers: Collection[str] = ()) -> str:
    """Explain in one sentence why rule and detector agree or disagree.

    The rule compares the latest outcomes with a limit. The detector tests over all outcomes since the model was promoted whether
    the error has grown at all.
    """
    verdicts = tuple(verdicts)
    if detection is Detection.CARRIED:
        return "the change is that of one segment, which nearly all of these outcomes belong to: it calls for no retrain of all"
    confirmed = [verdict for verdict in verdicts if verdict.rule != _MAE_RULE and requests_retrain(verdict, carriers)]
    if confirmed and detection is Detection.CHANGE:
        return f"rule and detector agree: {confirmed[0].rule} fires, and all outcomes together show that change"
    rule = next((verdict for verdict in verdicts if verdict.action == "retrain" and verdict.rule != BIAS_RULE), None)
    if detection is Detection.CHANGE and rule is not None and "too few" in rule.reason:
        return f"all outcomes together show a change; the rule cannot be evaluated yet: {rule.reason}"
    if rule is None or rule.value is None or rule.limit is None or "too few" in rule.reason:
        return f"the rule cannot be evaluated yet: {rule.reason if rule else 'no rule calls for a retrain'}"
    if _BY_OUTLIERS in rule.reason:
        return f"the rule does not fire: {rule.reason}"
    return _COMPARISONS[rule.fired, detection].format(limit=f"{rule.limit:.4g}")


_BY_OUTLIERS = "by outliers only"

_COMPARISONS = {
    (True, Detection.CHANGE): "rule and detector agree: the error has grown beyond its limit, and not by chance",
    (False, Detection.NONE): "rule and detector agree: the error is within its limit, and there is no evidence that it has grown",
    (True, Detection.NONE): (
        "rule and detector disagree: the error of the latest outcomes is beyond its limit of {limit}, which can happen by chance "
        "with so few; all outcomes together do not show yet that the error has grown"
    ),
    (False, Detection.CHANGE): (
        "rule and detector disagree: all outcomes together show that the error has changed, but on the latest outcomes its size is "
        "within its limit of {limit}; the change is smaller than the rule requires, of another kind, or it is over"
    ),
    (True, Detection.SUPPRESSED): (
        "rule and detector disagree: the error of the latest outcomes is beyond its limit of {limit} and the segment taken alone "
        "shows a change, but among so many segments one can do so by chance"
    ),
    (False, Detection.SUPPRESSED): (
        "rule and detector disagree: the segment taken alone shows a change, but among so many segments one can do so by chance; "
        "on the latest outcomes the error is within its limit of {limit}"
    ),
}


def _verdict(rule: DriftRule, metrics: FidelityMetrics, baseline: Reference, n_min: int) -> Verdict:
    value, reference = getattr(metrics, rule.metric), getattr(baseline, rule.metric)
    limit = rule_limit(rule, baseline)
    n = metrics.n_interval if rule.metric == "coverage_95pct" else metrics.n
    blocked = _blocked_reason(rule, metrics, limit, n, n_min)
    outlying = not blocked and _breaks(rule, value, limit) and _by_outliers(rule, metrics, baseline, limit)
    fired = not blocked and not outlying and _breaks(rule, value, limit)
    close = not blocked and not fired and _is_close(rule, metrics, limit)
    return Verdict(
        rule=rule.name,
        action=rule.action,
        fired=fired,
        value=value,
        limit=limit,
        baseline=reference,
        n=n,
        standing=_is_standing(rule, reference),
        close=close,
        reason=blocked or _outlier_reason(rule, metrics, value, limit)
        if outlying
        else blocked or _reason(rule, value, limit, reference, fired=fired),
    )


def _by_outliers(rule: DriftRule, metrics: FidelityMetrics, baseline: Reference, limit: float | None) -> bool:
    """Whether the MAE breaks its limit by a few outliers only: the robust one, where it is defined, does not."""
    if rule.metric != "mae" or metrics.mae_robust is None:
        return False
    robust_reference = getattr(baseline, "mae_robust", None)
    return not _breaks(
        rule, metrics.mae_robust, limit if robust_reference is None else _changed(rule, robust_reference, rule.limit)
    )


def _outlier_reason(rule: DriftRule, metrics: FidelityMetrics, value: float, limit: float | None) -> str:
    return (
        f"{_NAMES[rule.metric]} {_value_text(rule, value)} is {_side(rule)} {_value_text(rule, limit)} {_BY_OUTLIERS}"
        f" ({metrics.n_outliers:,} beyond 3 standard deviations): counted up to a bound, the error is"
        f" {_value_text(rule, metrics.mae_robust)}"
    )


def _is_standing(rule: DriftRule, reference: float | None) -> bool:
    return not rule.relative and reference is not None and _breaks(rule, reference, rule.limit)


def _breaks(rule: DriftRule, value: float, limit: float | None) -> bool:
    return limit is not None and (value > limit if rule.direction == "above" else value < limit)


def _is_close(rule: DriftRule, metrics: FidelityMetrics, limit: float | None) -> bool:
    """Whether the metric is less than its standard error away from its limit."""
    error = metrics.standard_errors.get(rule.metric)
    return error is not None and limit is not None and abs(getattr(metrics, rule.metric) - limit) < error


_NAMES = {"mae": "MAE", "rmse": "RMSE", "correlation": "correlation", "coverage_95pct": "coverage"}


def _blocked_reason(rule: DriftRule, metrics: FidelityMetrics, limit: float | None, n: int, n_min: int) -> str:
    """Why a rule cannot be evaluated; empty when it can."""
    if getattr(metrics, rule.metric) is None:
        return f"{_NAMES[rule.metric]} is not defined: {metrics.missing.get(rule.metric, 'not given')}"
    if limit is None:
        return f"the baseline has no {_NAMES[rule.metric]} to compare with"
    return f"{n:,} outcomes are too few to judge, {n_min:,} are needed" if n < n_min else ""


def _reason(rule: DriftRule, value: float, limit: float | None, reference: float | None, *, fired: bool) -> str:
    verb = "is" if fired else "is not"
    compared = f"{_NAMES[rule.metric]} {_value_text(rule, value)} {verb} {_side(rule)} {_value_text(rule, limit)}"
    if rule.relative:
        return f"{compared} ({rule.relative_change:+.0%} on the baseline's {_value_text(rule, reference)})"
    if _is_standing(rule, reference):
        return (
            f"{compared} (the baseline's {_value_text(rule, reference)} is already {_side(rule)} {_value_text(rule, rule.limit)})"
        )
    return compared


def _value_text(rule: DriftRule, value: float | None) -> str:
    """A value of the rule's metric; coverage is a percentage."""
    if value is None:
        return "not defined"
    return f"{value:.1%}" if rule.metric == "coverage_95pct" else f"{value:.4g}"


def _side(rule: DriftRule) -> str:
    return "above" if rule.direction == "above" else "below"
