"""What the rules say of a series' figures, and where the series therefore stands."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Protocol

from schemas.fidelity_models import DRIFT_RULES, DriftRule, DriftState, FidelityMetrics, Verdict

__all__ = ["N_MIN", "Detected", "Reference", "compared", "judge", "state_of"]

N_MIN = 200


class Reference(Protocol):
    """Figures to hold others against: a model's ``Baseline``, or ``FidelityMetrics`` of an earlier time."""

    @property
    def mae(self) -> float | None: ...  # noqa: D102
    @property
    def rmse(self) -> float | None: ...  # noqa: D102
    @property
    def correlation(self) -> float | None: ...  # noqa: D102
    @property
    def coverage_95pct(self) -> float | None: ...  # noqa: D102


def judge(
    metrics: FidelityMetrics, baseline: Reference, rules: Iterable[DriftRule] = DRIFT_RULES, n_min: int = N_MIN
) -> tuple[Verdict, ...]:
    """The verdict of every rule, fired or not, each with its reason.

    A limit that the baseline itself breaks says nothing about a change: such a rule is ``standing`` and never fires.
    """
    return tuple(_verdict(rule, metrics, baseline, n_min) for rule in rules)


class Detected(StrEnum):
    """What the detector has found in a series."""

    NOTHING = "nothing"
    CHANGE = "change"
    """Its alarm was raised, and stays so until the model is replaced."""
    CHANCE = "chance"
    """By itself it would be one, but one among so many segments is to be expected by chance: it is held back."""


def state_of(
    verdicts: Iterable[Verdict],
    detected: Detected,
    metrics: FidelityMetrics,
    before: DriftState = DriftState.INSUFFICIENT,
    n_min: int = N_MIN,
) -> DriftState:
    """Where a series stands.

    An alarm takes a rule that calls for a retrain and the detector; either alone is a warning. A warning ends only when every
    figure is back within its limit by a standard error, so that a figure at its limit does not come and go. An alarm stays.
    """
    if before is DriftState.ALARM:
        return before
    if metrics.n < n_min:
        return DriftState.INSUFFICIENT
    said = tuple(verdicts)
    fired = {verdict.action for verdict in said if verdict.fired}
    if "retrain" in fired and detected is not Detected.NOTHING:
        return DriftState.ALARM if detected is Detected.CHANGE else DriftState.SUPPRESSED
    lingers = before in (DriftState.WARNING, DriftState.SUPPRESSED) and any(verdict.close for verdict in said)
    return DriftState.WARNING if fired or lingers or detected is Detected.CHANGE else DriftState.OK


def compared(verdicts: Iterable[Verdict], detected: Detected) -> str:
    """Why rule and detector agree, or why they do not, as a sentence.

    The rule looks at the latest outcomes alone and asks whether their error is larger than it may be; the detector has looked at
    every outcome since the model began, and asks whether the error has grown at all.
    """
    rule = next((verdict for verdict in verdicts if verdict.action == "retrain"), None)
    if rule is None or rule.value is None or rule.limit is None or "too few" in rule.reason:
        return f"the rule cannot speak yet: {rule.reason if rule else 'no rule calls for a retrain'}"
    return _COMPARED[rule.fired, detected].format(limit=f"{rule.limit:.4g}")


_COMPARED = {
    (True, Detected.CHANGE): "rule and detector agree: the error has grown beyond its limit, and not by chance",
    (False, Detected.NOTHING): "rule and detector agree: the error is within its limit, and nothing shows that it has grown",
    (True, Detected.NOTHING): (
        "they differ: the latest outcomes are beyond the limit of {limit}, which so few can be by chance; "
        "all outcomes together do not show yet that the error has grown"
    ),
    (False, Detected.CHANGE): (
        "they differ: all outcomes together show that the error has grown, but on the latest ones it keeps the limit of {limit}; "
        "the rise is smaller than the rule asks for, or it has passed"
    ),
    (True, Detected.CHANCE): (
        "they differ: the latest outcomes are beyond the limit of {limit} and the segment by itself shows a change, "
        "but one among so many segments can do so by chance"
    ),
    (False, Detected.CHANCE): (
        "they differ: the segment by itself shows a change, which one among so many can do by chance; "
        "on the latest outcomes the error keeps the limit of {limit}"
    ),
}


def _verdict(rule: DriftRule, metrics: FidelityMetrics, baseline: Reference, n_min: int) -> Verdict:
    value, before = getattr(metrics, rule.metric), getattr(baseline, rule.metric)
    limit = _limit(rule, before)
    n = metrics.n_interval if rule.metric == "coverage_95pct" else metrics.n
    standing = not rule.relative and before is not None and _breaks(rule, before, rule.limit)
    silent = _silence(rule, metrics, limit, n, n_min)
    fired = not silent and not standing and _breaks(rule, value, limit)
    close = not silent and not standing and not fired and _is_close(rule, metrics, limit)
    return Verdict(
        rule=rule.name,
        action=rule.action,
        fired=fired,
        value=value,
        limit=limit,
        baseline=before,
        n=n,
        standing=standing,
        close=close,
        reason=silent or _words(rule, value, limit, before, standing=standing, fired=fired),
    )


def _limit(rule: DriftRule, before: float | None) -> float | None:
    if not rule.relative:
        return rule.limit
    change = rule.limit if rule.direction == "above" else -rule.limit
    return None if before is None else before * (1.0 + change)


def _breaks(rule: DriftRule, value: float, limit: float | None) -> bool:
    return limit is not None and (value > limit if rule.direction == "above" else value < limit)


def _is_close(rule: DriftRule, metrics: FidelityMetrics, limit: float | None) -> bool:
    """Whether the figure is less than its standard error away from its limit."""
    error = metrics.standard_errors.get(rule.metric)
    return error is not None and limit is not None and abs(getattr(metrics, rule.metric) - limit) < error


def _silence(rule: DriftRule, metrics: FidelityMetrics, limit: float | None, n: int, n_min: int) -> str:
    """Why a rule cannot speak, empty when it can."""
    if getattr(metrics, rule.metric) is None:
        return f"{rule.metric} is not defined: {metrics.missing.get(rule.metric, 'not given')}"
    if limit is None:
        return f"the baseline has no {rule.metric} to compare with"
    return f"{n} outcomes are too few to judge, {n_min} are needed" if n < n_min else ""


def _words(rule: DriftRule, value: float, limit: float | None, before: float | None, *, standing: bool, fired: bool) -> str:
    if standing:
        return f"{rule.metric} was {before:.4g} at the baseline already, {_side(rule)} {limit:.4g}: a limit of the model, no drift"
    verb = "is" if fired else "is not"
    return f"{rule.metric} {value:.4g} {verb} {_side(rule)} {limit:.4g}" + (
        f" ({rule.limit:+.0%} on the baseline's {before:.4g})" if rule.relative else ""
    )


def _side(rule: DriftRule) -> str:
    return "above" if rule.direction == "above" else "below"
