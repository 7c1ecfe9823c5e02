"""What the rules say of a series' figures, and where the series therefore stands."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from schemas.fidelity_models import DRIFT_RULES, DriftRule, DriftState, FidelityMetrics, Verdict

__all__ = ["N_MIN", "Reference", "judge", "state_of"]

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


def state_of(verdicts: Iterable[Verdict], evidence_ratio: float | None, metrics: FidelityMetrics, n_min: int = N_MIN) -> DriftState:
    """Where a series stands: an alarm takes a rule that calls for a retrain and sequential evidence; either alone is a warning."""
    if metrics.n < n_min:
        return DriftState.INSUFFICIENT
    fired = {verdict.action for verdict in verdicts if verdict.fired}
    evident = evidence_ratio is not None and evidence_ratio >= 1.0
    if "retrain" in fired and evident:
        return DriftState.ALARM
    return DriftState.WARNING if fired or evident else DriftState.OK


def _verdict(rule: DriftRule, metrics: FidelityMetrics, baseline: Reference, n_min: int) -> Verdict:
    value, before = getattr(metrics, rule.metric), getattr(baseline, rule.metric)
    limit = _limit(rule, before)
    n = metrics.n_interval if rule.metric == "coverage_95pct" else metrics.n
    standing = not rule.relative and before is not None and _breaks(rule, before, rule.limit)
    silent = _silence(rule, metrics, limit, n, n_min)
    fired = not silent and not standing and _breaks(rule, value, limit)
    return Verdict(
        rule=rule.name,
        action=rule.action,
        fired=fired,
        value=value,
        limit=limit,
        baseline=before,
        n=n,
        standing=standing,
        reason=silent or _words(rule, value, limit, before, standing=standing, fired=fired),
    )


def _limit(rule: DriftRule, before: float | None) -> float | None:
    if not rule.relative:
        return rule.limit
    change = rule.limit if rule.direction == "above" else -rule.limit
    return None if before is None else before * (1.0 + change)


def _breaks(rule: DriftRule, value: float, limit: float | None) -> bool:
    return limit is not None and (value > limit if rule.direction == "above" else value < limit)


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
