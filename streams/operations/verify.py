"""Recompute everything from the stored outcomes, in one snapshot of the database, and name all that does not agree exactly.

What only lags, a window that was not said yet in its present version, is waited for; whatever does not come is a mismatch.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition

from engine.fidelity.windows import pane_start, window_starts
from schemas import FidelityMetrics, FidelityWindow, PaneRow
from sql import audit_store as audit
from sql.dead_letter_store import unsent_refused_before
from streams.kafka.clients import open_consumer
from streams.kafka.topics import DEAD_LETTERS, TOPICS, topic_of
from streams.monitoring.window_state import SeriesKey, WindowKey
from streams.operations.recomputation import ExpectedWindow, Findings, Grids, recompute
from streams.operations.repair import repair_windows
from streams.settings import Settings

__all__ = ["VerificationReport", "WindowAudit", "verify"]

_GLANCE_S = 1.0
_MOST_COPIES = 1000
_KEPT = tuple(name for name in FidelityMetrics.model_fields if name not in {"intervals", "n_effective"})  # the rest follows
_SAID = next(topic for topic in TOPICS if topic.name == topic_of(FidelityWindow))


@dataclass(frozen=True)
class VerificationReport:
    """What an audit found.

    Attributes:
        mismatches: a sentence for each, of the first many of each kind.
        counts: how much was looked at, by its name.
        resent: messages that were sent again.
    """

    mismatches: tuple[str, ...]
    counts: Mapping[str, int]
    resent: int = 0

    def to_dict(self) -> dict[str, Any]:
        """For scripts."""
        return {"mismatches": list(self.mismatches), "counts": dict(self.counts), "resent": self.resent}

    def format_text(self) -> str:
        """For people."""
        looked = ", ".join(f"{count:,} {name}" for name, count in self.counts.items())
        verdict = f"{len(self.mismatches)} mismatches" if self.mismatches else "every count agrees"
        resent = [f"{self.resent} messages sent again"] if self.resent else []
        return "\n".join([f"{verdict}: {looked}", *resent, *self.mismatches])


async def verify(settings: Settings, *, repair: bool = False, patience_s: float = 150.0) -> VerificationReport:
    """Hold heads, panes, positions, windows and copies of refusals against what is stored of outcomes and refusals.

    Args:
        settings: where Postgres and Kafka are.
        repair: send again what windows that lag are made of, and refusals without a copy; the fidelity agent does the rest.
        patience_s: how long a window may take to reach the version that it has in the first look, and a refusal to be copied.
    """
    findings = Findings()
    dsn = settings.postgres_dsn.get_secret_value()
    found = await recompute(dsn, findings)
    windows = WindowAudit(found.windows, found.grids, findings)
    windows.check_kept(found.snapshots)
    resent = await repair_windows(settings, found.rows, windows.lags) if repair else 0
    ends = time.monotonic() + patience_s
    await _wait(settings, windows, ends)
    findings.counts["copies of refusals"] = await _check_copies(dsn, found.at, findings, ends)
    return VerificationReport(findings.all(), dict(findings.counts), resent)


@dataclass
class WindowAudit:
    """Windows as they have to be, held against snapshots and against what was said of them; ``behind`` tells what lags, and how."""

    expected: Mapping[tuple[str, WindowKey], ExpectedWindow]
    grids: Grids
    findings: Findings
    behind: dict[tuple[str, WindowKey], str] = field(default_factory=dict)

    def check_kept(self, rows: Iterable[asyncpg.Record]) -> None:
        """Snapshots say what their windows add up to; a window that ends before one that has a snapshot has one too."""
        kept = {_snapshot_key(row, self.grids): row for row in rows}
        self.findings.counts["snapshots"] = len(kept)
        for key, row in kept.items():
            self._check_snapshot(key, row)
        closed: defaultdict[str, float] = defaultdict(lambda: -math.inf)
        for line, window in kept:
            closed[line] = max(closed[line], window.start)
        for key in self.expected:
            if key not in kept:
                missing = "has no snapshot, though later windows have" if key[1].start <= closed[key[0]] else "was not said"
                self.behind[key] = missing

    def _check_snapshot(self, key: tuple[str, WindowKey], row: asyncpg.Record) -> None:
        expected = self.expected.get(key)
        if expected is None:
            if key[1].start + self.grids[key[0]]["window_s"] > (self.grids[key[0]]["floor"] or -math.inf):
                self.findings.say("snapshot", f"{_window_words(key)}: nothing adds up to it")
        elif row["version"] > expected.version:
            self.findings.say("snapshot", f"{_window_words(key)} has version {row['version']}, its panes have {expected.version}")
        elif row["version"] < expected.version:
            self.behind[key] = f"has a snapshot of version {row['version']} instead of {expected.version}"
        else:
            self._compare(key, "snapshot", _metrics(row))

    def _compare(self, key: tuple[str, WindowKey], kind: str, found: FidelityMetrics) -> None:
        expected = self.expected[key].metrics
        for name in _KEPT:
            if getattr(found, name) != getattr(expected, name):
                self.findings.say(kind, f"{name} of {_window_words(key)} is {getattr(found, name)}, not {getattr(expected, name)}")

    def lags(self, line: str, row: PaneRow) -> bool:
        """Whether a window of this row lags."""
        grid = self.grids[line]
        starts = window_starts(pane_start(row.pane, grid["pane_s"]), grid["pane_s"], grid["window_s"])
        return any((line, WindowKey(SeriesKey(row.model_id, row.segment), start)) in self.behind for start in starts)

    def hear(self, said: FidelityWindow) -> None:
        """What was said of a window settles it while it is open; from its first snapshot on it takes a snapshot."""
        if said.line not in self.grids:
            return
        series = SeriesKey(said.model_id, said.segment)
        key = said.line, _on_grid(series, said.window_start.timestamp(), said.line, self.grids)
        expected = self.expected.get(key)
        if expected is None or said.version < expected.version:
            return
        self.findings.counts["messages"] += 1
        if said.version == expected.version:
            self._compare(key, "message", said.metrics)
        if said.status == "open" and not self.behind.get(key, "").startswith("has"):
            self.behind.pop(key, None)

    def see(self, row: asyncpg.Record) -> None:
        """A snapshot that came since settles its window."""
        key = _snapshot_key(row, self.grids)
        if key in self.behind and row["version"] >= self.expected[key].version:
            del self.behind[key]
            if row["version"] == self.expected[key].version:
                self._compare(key, "snapshot", _metrics(row))


async def _wait(settings: Settings, windows: WindowAudit, ends: float) -> None:
    """Wait until what lags was said, or kept, in the version that it has to have or a later one."""
    async with _listening(settings) as consumer:
        while True:
            await _listen(consumer, windows.hear)
            if not windows.behind or time.monotonic() > ends:
                break
            await asyncio.sleep(_GLANCE_S)
            async with audit.snapshot(settings.postgres_dsn.get_secret_value()) as connection:
                async for row in audit.snapshots(connection):
                    windows.see(row)
    for key, why in windows.behind.items():
        windows.findings.say("window", f"{_window_words(key)} {why}")


async def _check_copies(dsn: str, before: datetime, findings: Findings, ends: float) -> int:
    """Every refusal that was there at the first look has its copy in the end."""
    while True:
        async with audit.snapshot(dsn) as connection:
            unsent, copies = await unsent_refused_before(connection, before, _MOST_COPIES), await audit.count_copies(connection)
        if not unsent or time.monotonic() > ends:
            break
        await asyncio.sleep(_GLANCE_S)
    for refused in unsent:
        where = f"{refused.source}, offset {refused.offset}, element {refused.element}"
        findings.say("refusal", f"{where} ({refused.kind}) has no copy on {DEAD_LETTERS}")
    return copies


async def _listen(consumer: AIOKafkaConsumer, hear: Callable[[FidelityWindow], None]) -> None:
    """Read what was said of windows up to now."""
    ends = await consumer.end_offsets(consumer.assignment())
    while any([await consumer.position(where) < end for where, end in ends.items()]):
        for records in (await consumer.getmany(timeout_ms=200)).values():
            for record in records:
                hear(FidelityWindow.model_validate_json(record.value))


def _snapshot_key(row: asyncpg.Record, grids: Grids) -> tuple[str, WindowKey]:
    return row["line"], _on_grid(SeriesKey(row["model_id"], row["segment"]), row["start"], row["line"], grids)


def _on_grid(series: SeriesKey, start: float, line: str, grids: Grids) -> WindowKey:
    pane_s = grids[line]["pane_s"]
    return WindowKey(series, round(start / pane_s) * pane_s)


def _window_words(key: tuple[str, WindowKey]) -> str:
    line, (series, start) = key
    return f"{line}, model {series.model_id}, {series.segment}, window from {datetime.fromtimestamp(start, UTC).isoformat()}"


def _metrics(row: asyncpg.Record) -> FidelityMetrics:
    return FidelityMetrics(**{name: row[name] for name in _KEPT})


@asynccontextmanager
async def _listening(settings: Settings) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer of everything that was ever said of windows."""
    async with open_consumer(settings) as consumer:
        made = _SAID.name in await consumer.topics()
        consumer.assign([TopicPartition(_SAID.name, partition) for partition in range(_SAID.partitions if made else 0)])
        yield consumer
