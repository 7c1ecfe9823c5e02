"""Publishes results of experiments, and waits until the service has stored or refused each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

from engine.effects import catalogue_prior
from schemas import EffectPrior, ExperimentResult, Reach
from sql.database import Pool
from sql.effects_store import ExperimentRow, UnknownExperiment, find_experiment, refusal_at
from sql.experiment_store import content_digest, current_version, newest_version, priors_at_version
from streams.client.twin_client import TwinClient
from streams.kafka import event_headers, event_value, topic_of
from streams.reporting.experiments import prior_text, widening_reason
from streams.settings import Settings
from streams.simulation import doubts

__all__ = ["ExperimentReceipt", "publish_results", "revised_result"]

_TOPIC = topic_of(ExperimentResult)
_POLL_S = 0.2
_CLOCKS = timedelta(minutes=5)  # between this machine and that of Postgres

State = Literal["counted", "apart", "withdrawn", "refused", "waiting"]


class ExperimentReceipt(NamedTuple):
    """What became of a published result.

    Attributes:
        state: ``apart`` is stored and calibrates nothing; ``waiting`` was published, and not processed within the time.
        before, after: the line's newest effects version when it was published, and when it was stored.
        in_effect: the version that simulations take, another one than the newest while a person has chosen it.
        prior_before, prior: of the campaign's effect in these versions.
        warnings: what to doubt about it.
        reason: of a refusal.
    """

    experiment: ExperimentResult
    state: State
    before: int
    after: int
    in_effect: int
    prior_before: EffectPrior
    prior: EffectPrior
    warnings: tuple[str, ...] = ()
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The receipt as data for a program."""
        priors = {"prior_before": self.prior_before, "prior": self.prior}
        return {
            "experiment_id": self.experiment.experiment_id,
            "line": self.experiment.line,
            "intervention": self.experiment.intervention.intervention_type,
            "state": self.state,
            "effects_version_before": self.before,
            "effects_version": self.after,
            "effects_version_in_effect": self.in_effect,
            **{name: {"mean": prior.mean, "sd": prior.sd, "n_experiments": prior.n_experiments} for name, prior in priors.items()},
            "warnings": [*self.warnings],
            "reason": self.reason or None,
        }

    def format_text(self) -> str:
        """What became of the result: its state, the versions, and the effect before and after."""
        if self.state in ("refused", "waiting"):
            return f"refused: {self.reason}" if self.state == "refused" else "published, and not processed yet"
        state = {"counted": "stored", "apart": "stored, and calibrates nothing", "withdrawn": "withdrawn"}[self.state]
        lines = [f"{state}: effects version {self.before} -> {self.after}"]
        if self.after == self.before:
            lines = [f"{state}: effects version {self.after}, unchanged"]
        else:
            lines.append(f"  base effect: {prior_text(self.prior_before)} -> {prior_text(self.prior)}")
            lines += [f"  {reason}" for reason in [widening_reason(self.prior_before, self.prior)] if reason]
        if self.in_effect != self.after:
            undo = f"twinstream effects rollback {self.experiment.line} --undo"
            lines.append(f"  simulations still take version {self.in_effect}: {undo} ends that")
        return "\n".join([*lines, *(f"  warning: {warning}" for warning in self.warnings)])


def revised_result(row: ExperimentRow, *, withdrawn: bool, decided_by: str, reason: str = "") -> ExperimentResult:
    """The event that withdraws a stored experiment, or takes its withdrawal back; by whom and why are stored with it.

    Raises:
        ValueError: when it is in that state already.
    """
    if (row.withdrawn_at is not None) == withdrawn:
        raise ValueError(f"experiment {row.experiment_id!r} is {'withdrawn already' if withdrawn else 'not withdrawn'}")
    revision = row.revision if withdrawn else row.revision + 1
    state = {"withdrawn": withdrawn, "revision": revision, "decided_by": decided_by, "reason": reason or None}
    return ExperimentResult.model_validate(row.body | state | {"confirmed": True})


async def publish_results(
    settings: Settings, pool: Pool, results: Sequence[ExperimentResult], timeout_s: float
) -> list[ExperimentReceipt]:
    """Publish results one after another, and wait for the receipt of each.

    Raises:
        KafkaUnavailable: when a result is not acknowledged.
    """
    receipts: list[ExperimentReceipt] = []
    end = time.monotonic() + timeout_s
    async with TwinClient(settings, name="command line") as client:
        for result in results:
            before = await newest_version(pool, result.line)
            published_at = datetime.now(UTC)
            partition, offset = await client.publish_bytes(
                _TOPIC, result.line.encode(), event_value(result), event_headers(result, "command line")
            )
            state, reason = await _await_end(pool, result, (partition, offset), published_at - _CLOCKS, end)
            receipts.append(await _receipt(pool, result, before, state, reason))
    return receipts


async def _await_end(
    pool: Pool, result: ExperimentResult, position: tuple[int, int], since: datetime, end: float
) -> tuple[State, str]:
    """Wait until the result at a position is stored or refused, and return its state and the reason of a refusal."""
    while True:
        if await _is_stored(pool, result):
            return ("withdrawn" if result.withdrawn else "counted" if result.measures_target else "apart"), ""
        refusal = await refusal_at(pool, _TOPIC, *position, since)
        if refusal is not None:
            return "refused", refusal[1]
        if time.monotonic() > end:
            return "waiting", ""
        await asyncio.sleep(_POLL_S)


async def _is_stored(pool: Pool, result: ExperimentResult) -> bool:
    try:
        row = await find_experiment(pool, result.experiment_id)
    except UnknownExperiment:
        return False
    return row.digest == content_digest(result) and row.state >= (result.revision, result.withdrawn)


async def _receipt(pool: Pool, result: ExperimentResult, before: int, state: State, reason: str) -> ExperimentReceipt:
    campaign = result.intervention.intervention_type
    after = await newest_version(pool, result.line)
    prior_before, prior = [
        (await priors_at_version(pool, result.line, version)).get(campaign) or catalogue_prior(campaign)
        for version in (before, after)
    ]
    in_effect = await current_version(pool, result.line)
    warnings: tuple[str, ...] = ()
    if state in ("counted", "apart"):
        row = await find_experiment(pool, result.experiment_id)
        _, warnings = await doubts(pool, result, Reach.model_validate(row.reach) if row.reach else None)
    return ExperimentReceipt(result, state, before, after, in_effect, prior_before, prior, warnings, reason)
