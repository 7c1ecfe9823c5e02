"""Recompute everything from the stored outcomes, in one snapshot of the database, and name all that does not agree exactly.

What only lags, a window that was not said yet in its present version, is waited for; whatever does not come is a mismatch.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import numpy as np
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from engine.sums import contributions, figures, negative, total
from schemas import FidelityErrors, FidelityMetrics, FidelityWindow, PaneRow, SourceId
from schemas.events import SUM_FIELDS
from schemas.twin_models import Baseline
from sql import audit_store as audit
from sql.database import Connection
from sql.model_rows import UnknownModel, load_card
from sql.outcome_store import Head, pane_row
from streams.fidelity_view import LineView, Series, Window
from streams.judging import cell_of
from streams.kafka import event_headers, event_value, kafka_security
from streams.settings import Settings
from streams.topics import TOPICS, topic_of

__all__ = ["Report", "verify"]

_BATCH = 5000
_GLANCE_S = 1.0
_MOST_TOLD = 50
_SAID = next(topic for topic in TOPICS if topic.name == topic_of(FidelityWindow))


@dataclass(frozen=True)
class Report:
    """What an audit found.

    Attributes:
        mismatches: a sentence for each, of the first many of each kind.
        counts: how much was looked at, by its name.
        resent: messages that were sent again.
    """

    mismatches: tuple[str, ...]
    counts: Mapping[str, int]
    resent: int = 0

    def as_data(self) -> dict[str, Any]:
        """For scripts."""
        return {"mismatches": list(self.mismatches), "counts": dict(self.counts), "resent": self.resent}

    def in_words(self) -> str:
        """For people."""
        looked = ", ".join(f"{count:,} {name}" for name, count in self.counts.items())
        verdict = f"{len(self.mismatches)} mismatches" if self.mismatches else "every count agrees"
        resent = [f"{self.resent} messages sent again"] if self.resent else []
        return "\n".join([f"{verdict}: {looked}", *resent, *self.mismatches])


class Findings:
    """Collects counts and mismatches."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._told: defaultdict[str, list[str]] = defaultdict(list)
        self._more: Counter[str] = Counter()

    def say(self, kind: str, mismatch: str) -> None:
        """Note a mismatch; of each kind the first many are told in full."""
        if len(self._told[kind]) < _MOST_TOLD:
            self._told[kind].append(f"{kind}: {mismatch}")
        else:
            self._more[kind] += 1

    def compare(self, kind: str, what: str, found: Any, expected: Any) -> None:
        """Note a mismatch unless both are equal."""
        if found != expected:
            self.say(kind, f"{what} is {found}, the outcomes say {expected}")

    def all(self) -> tuple[str, ...]:
        """Every mismatch."""
        more = [f"{kind}: and {count} more" for kind, count in self._more.items()]
        return tuple([mismatch for told in self._told.values() for mismatch in told] + more)


async def verify(settings: Settings, *, repair: bool = False, patience_s: float = 150.0) -> Report:
    """Hold heads, panes, positions and windows against the stored outcomes.

    Args:
        settings: where Postgres and Kafka are.
        repair: send again what windows that lag are made of; nothing is ever changed in the database.
        patience_s: how long a window may take to reach the version that it has in the first look.
    """
    findings, grids = Findings(), {}
    async with audit.snapshot(settings.postgres_dsn.get_secret_value()) as connection:
        grids = await audit.line_grids(connection)
        books = _Books(connection, grids, findings)
        await books.check_sources()
        await books.check_events()
        await books.check_panes()
        windows = await books.expected_windows()
        kept = [row async for row in audit.snapshots(connection)]
    looked = _Windows(settings, windows, grids, findings)
    looked.check_kept(kept)
    resent = await looked.resend(books.rows) if repair else 0
    await looked.wait(patience_s)
    return Report(findings.all(), dict(findings.counts), resent)


class _Cell(NamedTuple):
    line: str
    series: Series
    pane: float
    width_s: float
    source: str


class _Expected(NamedTuple):
    """What a window adds up to, and what it therefore looks like."""

    version: int
    metrics: FidelityMetrics


class _Books:
    """The stored outcomes of one snapshot, and what follows from them."""

    def __init__(self, connection: Connection, grids: Mapping[str, Mapping[str, Any]], findings: Findings) -> None:
        self._connection = connection
        self._grids = grids
        self._findings = findings
        self._baselines: dict[UUID, Baseline | None] = {}
        self._cells: dict[_Cell, tuple[int, ...]] = {}
        self.rows: list[tuple[str, str, PaneRow]] = []

    async def check_sources(self) -> None:
        """Every element has its row, every offset its record or its gap, and positions say how far that goes."""
        said = {row["source"]: row async for row in audit.positions(self._connection)}
        found = {row["source"]: row async for row in audit.coverage(self._connection)}
        for source in sorted(said.keys() | found.keys()):
            if source not in said:
                self._findings.say("source", f"{source} has rows but no position")
            else:
                self._check_source(source, said[source], found.get(source))
        self._findings.counts["sources"] = len(said)

    def _check_source(self, source: str, said: asyncpg.Record, found: asyncpg.Record | None) -> None:
        compare = self._findings.compare
        compare("source", f"elements of {source}", said["elements"], found["elements"] if found else 0)
        self._findings.counts["elements"] += said["elements"]
        if found is None:
            compare("source", f"last offset of {source}", said["last_offset"], -1)
            return
        for name in ("last_offset", "last_time", "watermark"):
            compare("source", f"{name} of {source}", said[name], found[name])
        compare("source", f"offsets of {source} that left no row and no gap", said["last_offset"] + 1 - found["covered"], 0)

    async def check_events(self) -> None:
        """Each event's head is its highest claim, and the cells hold what became of the claims one after another."""
        heads = aiter(audit.heads(self._connection))
        head = await anext(heads, None)
        async for batch in _batches(audit.claims(self._connection), lambda row: row["event_id"]):
            scored = await self._scored(batch)
            for event, claims in groupby(scored, lambda claim: claim[0].event_id):
                while head is not None and head["event_id"] < event:
                    self._findings.say("head", f"of event {head['event_id']}: no outcome says so")
                    head = await anext(heads, None)
                self._follow(event, list(claims), head if head is not None and head["event_id"] == event else None)
                if head is not None and head["event_id"] == event:
                    head = await anext(heads, None)
        while head is not None:
            self._findings.say("head", f"of event {head['event_id']}: no outcome says so")
            head = await anext(heads, None)

    def _follow(self, event: UUID, claims: Sequence[tuple[Head, str, str]], head: asyncpg.Record | None) -> None:
        counted = [(claim, source) for claim, fate, source in claims if fate == "counted"]
        self._findings.counts["outcomes"] += len(claims)
        self._findings.counts["events"] += 1
        highest = claims[-1]
        if highest[1] != "counted":
            self._findings.say("outcome", f"the highest revision of event {event} is {highest[1]}")
        if head is None:
            self._findings.say("head", f"of event {event} is missing")
        else:
            self._compare_head(head, highest[0])
        before: Head | None = None
        for claim, source in counted:
            for taken, sign in ((before, -1), (claim, 1)):
                if taken is not None and taken.contribution is not None:
                    self._add(taken, source, sign)
            before = claim

    def _compare_head(self, found: asyncpg.Record, expected: Head) -> None:
        said = Head(**{**found, "segments": tuple(found["segments"])})
        for name, one, other in zip(Head._fields, said, expected, strict=True):
            if (tuple(one) if isinstance(one, list) else one) != other:
                self._findings.say("head", f"{name} of event {said.event_id} is {one}, the outcomes say {other}")

    def _add(self, head: Head, source: str, sign: int) -> None:
        if head.contribution is None or head.model_id is None:
            return
        sums = head.contribution if sign > 0 else negative(head.contribution)
        for segment in head.segments:
            place = cell_of(head, segment, self._grids[head.line]["pane_s"])
            cell = _Cell(head.line, Series(head.model_id, segment), *place, source)
            self._cells[cell] = total([self._cells[cell], sums]) if cell in self._cells else tuple(sums)

    async def _scored(self, rows: Sequence[asyncpg.Record]) -> list[tuple[Head, str, str]]:
        """Each row as the head that it would be, with its fate and source."""
        made: list[tuple[int, ...] | None] = [None] * len(rows)
        by_model: defaultdict[UUID, list[int]] = defaultdict(list)
        for number, row in enumerate(rows):
            if row["pane"] is not None:
                by_model[row["model_id"]].append(number)
        for model_id, numbers in by_model.items():
            baseline = await self._baseline(model_id)
            if baseline is not None:
                predicted, actual, lower, upper = (
                    np.array([rows[number][name] for number in numbers], dtype=float) for name in _PREDICTION
                )
                for number, sums in zip(numbers, contributions(predicted, actual, lower, upper, baseline).tolist(), strict=True):
                    made[number] = tuple(sums)
        return [(_head(row, sums), row["fate"], row["source"]) for row, sums in zip(rows, made, strict=True)]

    async def _baseline(self, model_id: UUID) -> Baseline | None:
        if model_id not in self._baselines:
            try:
                self._baselines[model_id] = (await load_card(self._connection, model_id)).baseline
            except UnknownModel as error:
                self._baselines[model_id] = None
                self._findings.say("model", str(error))
        return self._baselines[model_id]

    async def check_panes(self) -> None:
        """Each cell of each source is in ``fidelity_panes``, with these sums."""
        expected = dict(self._cells)
        async for record in audit.panes(self._connection):
            row, source, line = pane_row(record), record["source"], record["line"]
            self.rows.append((line, source, row))
            cell = _Cell(line, Series(row.model_id, row.segment), row.pane, row.width_s, source)
            sums = expected.pop(cell, None)
            if sums is None:
                self._findings.say("pane", f"{_words(cell)}: no outcome belongs there")
            elif sums != row.sums:
                told = {name: (one, other) for name, one, other in zip(SUM_FIELDS, row.sums, sums, strict=True) if one != other}
                self._findings.say("pane", f"{_words(cell)}: (stored, recomputed) differ in {told}")
        for cell in expected:
            self._findings.say("pane", f"{_words(cell)} is missing")
        self._findings.counts["panes"] = len(self.rows)

    async def expected_windows(self) -> dict[tuple[str, Window], _Expected]:
        """What every window has to look like."""
        views: dict[str, LineView] = {}
        for line, source, row in self.rows:
            if line not in views:
                views[line] = LineView(self._grids[line]["pane_s"], self._grids[line]["window_s"])
            views[line].apply(source, row)
        found = {}
        for line, view in views.items():
            floor = self._grids[line]["floor"] or -math.inf
            for window in view.windows():
                baseline = await self._baseline(window.series.model_id)
                if baseline is not None and window.start + view.window_s > floor:
                    version, sums = view.window(window)
                    found[line, window] = _Expected(version, figures(sums, baseline))
        self._findings.counts["windows"] = len(found)
        return found


_PREDICTION = ("predicted_value", "actual_value", "predicted_lower", "predicted_upper")


def _head(row: asyncpg.Record, contribution: tuple[int, ...] | None) -> Head:
    names = ("event_id", "revision", "digest", "line", "model_id", "pane", "width_s")
    return Head(**{name: row[name] for name in names}, segments=tuple(row["segments"]), contribution=contribution)


def _words(cell: _Cell) -> str:
    at = datetime.fromtimestamp(cell.pane, UTC).isoformat()
    return f"{cell.line}, model {cell.series.model_id}, {cell.series.segment}, {cell.width_s:g} s from {at}, source {cell.source}"


async def _batches(rows: AsyncIterator[asyncpg.Record], key: Any) -> AsyncIterator[list[asyncpg.Record]]:
    """Rows in batches that never part two of one key."""
    batch: list[asyncpg.Record] = []
    async for row in rows:
        if len(batch) >= _BATCH and key(row) != key(batch[-1]):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


@dataclass
class _Windows:
    """Windows as they have to be, held against snapshots and against what was said of them."""

    settings: Settings
    expected: Mapping[tuple[str, Window], _Expected]
    grids: Mapping[str, Mapping[str, Any]]
    findings: Findings
    behind: dict[tuple[str, Window], str] = field(default_factory=dict)

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

    def _check_snapshot(self, key: tuple[str, Window], row: asyncpg.Record) -> None:
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

    def _compare(self, key: tuple[str, Window], kind: str, found: FidelityMetrics) -> None:
        expected = self.expected[key].metrics
        for name in FidelityMetrics.model_fields:
            if getattr(found, name) != getattr(expected, name):
                self.findings.say(kind, f"{name} of {_window_words(key)} is {getattr(found, name)}, not {getattr(expected, name)}")

    async def resend(self, rows: Iterable[tuple[str, str, PaneRow]]) -> int:
        """Send the rows of windows that lag again."""
        due: defaultdict[tuple[str, str], list[PaneRow]] = defaultdict(list)
        for line, source, row in rows:
            if any(key in self.behind for key in self._windows_of(line, row)):
                due[line, source].append(row)
        producer = AIOKafkaProducer(bootstrap_servers=self.settings.kafka_bootstrap, acks="all", **kafka_security(self.settings))
        await producer.start()
        try:
            for (line, source), found in due.items():
                topic, partition, incarnation = source.rsplit(":", 2)
                where = SourceId(topic=topic, partition=int(partition), incarnation=int(incarnation))
                said = FidelityErrors(line=line, source=where, watermark=None, rows=tuple(found))
                value, headers = event_value(said), event_headers(said, "verify")
                await producer.send_and_wait(topic_of(FidelityErrors), value, key=line.encode(), headers=headers)
        finally:
            await producer.stop()
        return len(due)

    def _windows_of(self, line: str, row: PaneRow) -> list[tuple[str, Window]]:
        view = LineView(self.grids[line]["pane_s"], self.grids[line]["window_s"])
        return [(line, window) for window in view.apply("", row)]

    async def wait(self, patience_s: float) -> None:
        """Wait until what lags was said, or kept, in the version that it has to have or a later one."""
        ends = time.monotonic() + patience_s
        async with _listening(self.settings) as consumer:
            while True:
                await self._listen(consumer)
                if not self.behind or time.monotonic() > ends:
                    break
                await asyncio.sleep(_GLANCE_S)
                await self._look_again()
        for key, why in self.behind.items():
            self.findings.say("window", f"{_window_words(key)} {why}")

    async def _listen(self, consumer: AIOKafkaConsumer) -> None:
        """Read what was said of windows up to now."""
        ends = await consumer.end_offsets(consumer.assignment())
        while any([await consumer.position(where) < end for where, end in ends.items()]):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                for record in records:
                    self._hear(FidelityWindow.model_validate_json(record.value))

    def _hear(self, said: FidelityWindow) -> None:
        if said.line not in self.grids:
            return
        series = Series(said.model_id, said.segment)
        key = said.line, _on_grid(series, said.window_start.timestamp(), said.line, self.grids)
        expected = self.expected.get(key)
        if expected is None or said.version < expected.version:
            return
        self.findings.counts["messages"] += 1
        if said.version == expected.version:
            self._compare(key, "message", said.metrics)
        if said.status == "open" and not self.behind.get(key, "").startswith("has"):
            self.behind.pop(key, None)

    async def _look_again(self) -> None:
        """A snapshot that came since settles its window."""
        async with audit.snapshot(self.settings.postgres_dsn.get_secret_value()) as connection:
            async for row in audit.snapshots(connection):
                key = _snapshot_key(row, self.grids)
                if key in self.behind and row["version"] >= self.expected[key].version:
                    del self.behind[key]
                    if row["version"] == self.expected[key].version:
                        self._compare(key, "snapshot", _metrics(row))


def _snapshot_key(row: asyncpg.Record, grids: Mapping[str, Mapping[str, Any]]) -> tuple[str, Window]:
    return row["line"], _on_grid(Series(row["model_id"], row["segment"]), row["start"], row["line"], grids)


def _on_grid(series: Series, start: float, line: str, grids: Mapping[str, Mapping[str, Any]]) -> Window:
    pane_s = grids[line]["pane_s"]
    return Window(series, round(start / pane_s) * pane_s)


def _window_words(key: tuple[str, Window]) -> str:
    line, (series, start) = key
    return f"{line}, model {series.model_id}, {series.segment}, window from {datetime.fromtimestamp(start, UTC).isoformat()}"


def _metrics(row: asyncpg.Record) -> FidelityMetrics:
    return FidelityMetrics(**{name: row[name] for name in FidelityMetrics.model_fields})


@asynccontextmanager
async def _listening(settings: Settings) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer of everything that was ever said of windows."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        **kafka_security(settings),
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(_SAID.name, partition) for partition in range(_SAID.partitions)])
        yield consumer
    finally:
        await consumer.stop()
