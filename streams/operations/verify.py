"""Recomputes all counts from the stored outcomes, and reports everything that does not agree exactly.

Windows whose present version was not published yet only lag: they are waited for, and become a mismatch when they do not arrive.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas import FidelityWindow
from sql import audit_store
from sql.dead_letter_store import unsent_refused_before
from sql.park_store import count_parked, pending_park_requests
from streams.bounds import BoundSettings
from streams.kafka import DEAD_LETTERS, count_partitions, open_consumer, topic_of
from streams.operations.findings import Findings
from streams.operations.foreign_records import foreign_record
from streams.operations.recomputation import recompute
from streams.operations.repair import repair as repair_lagging
from streams.operations.wait_notices import Notify, WaitNotices, no_notices
from streams.operations.window_audit import WindowAudit
from streams.settings import Settings

__all__ = ["PATIENCE_S", "VerificationReport", "verify"]

_POLL_S = 1.0
_LISTED_REFUSALS = 1000
_LISTED_FOREIGN = 50
_WINDOWS = topic_of(FidelityWindow)


@dataclass(frozen=True)
class VerificationReport:
    """The result of a verification.

    Attributes:
        mismatches: a sentence for each; of each kind the first 50, and the number of the others.
        counts: how many rows or messages were checked, by their name.
        resent: messages that the repair published again.
        parked: number of parked records and elements, by topic.
        park_requests: positions of records that an operator wants to be parked and no role has read yet.
        foreign: positions and reasons of records on ``fidelity-windows`` that the service did not write; they change no count.
    """

    mismatches: tuple[str, ...]
    counts: Mapping[str, int]
    resent: int = 0
    parked: Mapping[str, int] = field(default_factory=dict)
    park_requests: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON."""
        return {
            "mismatches": list(self.mismatches),
            "counts": dict(self.counts),
            "resent": self.resent,
            "parked": dict(self.parked),
            "park_requests": list(self.park_requests),
            "foreign": list(self.foreign),
        }

    def format_text(self) -> str:
        """The report as text: the verdict with all counts, then a line for each mismatch."""
        counts = ", ".join(f"{count:,} {name}" for name, count in self.counts.items())
        verdict = f"{n:,} mismatch{'' if n == 1 else 'es'}" if (n := len(self.mismatches)) else "every count agrees"
        resent = [f"{self.resent} messages published again"] if self.resent else []
        return "\n".join([f"{verdict}: {counts}", *resent, *self._parked_text(), *self._foreign_text(), *self.mismatches])

    def _foreign_text(self) -> list[str]:
        hint = [f"and {n:,} more; twinstream dlq scan refuses them"] if (n := len(self.foreign) - _LISTED_FOREIGN) > 0 else []
        return [*(f"no message of the service: {text}" for text in self.foreign[:_LISTED_FOREIGN]), *hint]

    def _parked_text(self) -> list[str]:
        parked = [f"{count:,} parked on {topic}: twinstream dlq list --kind parked" for topic, count in self.parked.items()]
        return [*parked, *(f"to be parked when its role reads it: {position}" for position in self.park_requests)]


PATIENCE_S = 150.0
"""How long :func:`verify` waits for what lags, by default."""


async def verify(
    settings: Settings, *, repair: bool = False, patience_s: float = PATIENCE_S, notify: Notify = no_notices
) -> VerificationReport:
    """Compare heads, panes, positions, windows and dead letters with the stored outcomes and refused records.

    Args:
        settings: where Postgres and Kafka are.
        repair: publish the panes of lagging windows and missing dead letters again; the fidelity agent does the rest.
        patience_s: how long to wait until windows reach the version that they have at the start, and refused records have a copy.
        notify: is given a line about each step, and about what is waited for, every ten seconds.
    """
    findings = Findings()
    dsn = settings.read_dsn
    notify("recomputing the sums and windows from the stored outcomes")
    state = await recompute(dsn, findings)
    windows = WindowAudit(state.windows, state.grids, findings)
    windows.check_snapshots(state.snapshots)
    resent = await repair_lagging(settings, windows.lagging_panes(state.panes)) if repair else 0
    notify(f"comparing {len(windows.expected):,} windows with the messages about them")
    notices = WaitNotices(notify, patience_s)
    foreign = await _wait_for_windows(settings, windows, notices)
    findings.counts["foreign messages"] = len(foreign)
    findings.counts["copies of refusals"] = await _check_dead_letters(dsn, state.at, findings, notices)
    async with audit_store.snapshot(dsn) as connection:
        parked, requests = await count_parked(connection), await pending_park_requests(connection)
    positions = tuple(f"{request.topic}:{request.partition}:{request.offset}" for request in requests)
    return VerificationReport(findings.mismatches(), dict(findings.counts), resent, parked, positions, foreign)


async def _wait_for_windows(settings: Settings, windows: WindowAudit, notices: WaitNotices) -> tuple[str, ...]:
    """Wait until no window lags any more; those that lag at the deadline are mismatches.

    Returns:
        The records on the topic that are no messages of the service.
    """
    dsn = settings.read_dsn
    foreign: list[str] = []
    async with _window_consumer(settings) as consumer:
        while True:
            foreign += await _read_to_end(consumer, windows.on_message, settings)
            if not windows.lagging or notices.is_over:
                break
            notices.update("windows", windows.describe_lag())
            await asyncio.sleep(_POLL_S)
            async with audit_store.snapshot(dsn) as connection:
                async for row in audit_store.snapshots(connection):
                    windows.on_snapshot(row)
    windows.add_lagging_to_findings()
    return tuple(foreign)


async def _check_dead_letters(dsn: str, before: datetime, findings: Findings, notices: WaitNotices) -> int:
    """Wait until every record refused before the start has a copy on ``dead-letters``.

    Returns:
        The number of refused records with a copy.
    """
    while True:
        async with audit_store.snapshot(dsn) as connection:
            unsent = await unsent_refused_before(connection, before, _LISTED_REFUSALS)
            copies = await audit_store.count_copies(connection)
        if not unsent or notices.is_over:
            break
        notices.update("copies", f"the copies of {len(unsent):,} refused records on {DEAD_LETTERS}")
        await asyncio.sleep(_POLL_S)
    for refused in unsent:
        position = f"{refused.source}, offset {refused.offset}, element {refused.element}"
        findings.add("refusal", f"{position} ({refused.kind}) has no copy on {DEAD_LETTERS}")
    return copies


@asynccontextmanager
async def _window_consumer(settings: Settings) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer of all messages about windows, from the beginning; of no partition while the topic does not exist."""
    partitions = await count_partitions(settings, _WINDOWS)
    async with open_consumer(settings) as consumer:
        consumer.assign([TopicPartition(_WINDOWS, partition) for partition in range(partitions)])
        yield consumer


async def _read_to_end(
    consumer: AIOKafkaConsumer, on_message: Callable[[FidelityWindow], None], bounds: BoundSettings
) -> list[str]:
    """Read the messages that are on the topic now; returns position and reason of each record that is none."""
    foreign = []
    ends = await consumer.end_offsets(consumer.assignment())
    while any([await consumer.position(tp) < end for tp, end in ends.items()]):
        for records in (await consumer.getmany(timeout_ms=200)).values():
            for record in records:
                if (refused := foreign_record(record, bounds)) is None:
                    on_message(FidelityWindow.model_validate_json(record.value))
                else:
                    foreign.append(f"{refused.position} ({refused.reason})")
    return foreign
