"""Heads, panes and positions, recomputed from the stored outcomes and held against what is stored of them."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import numpy as np

from engine.fidelity.error_sums import add_sums, contributions, fidelity_metrics, negate
from schemas import FidelityMetrics, PaneRow
from schemas.events import SUM_FIELDS
from schemas.twin_models import Baseline
from sql import audit_store as audit
from sql.database import Connection
from sql.model_card_rows import UnknownModel, load_card
from sql.outcome_store import Head
from sql.pane_store import pane_row
from streams.ingestion.revisions import cell_of
from streams.monitoring.window_state import SeriesKey, WindowKey, WindowState

__all__ = ["ExpectedWindow", "Findings", "Grids", "RecomputedState", "recompute"]

Grids = Mapping[str, Mapping[str, Any]]

_BATCH = 5000
_MOST_TOLD = 50


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


class ExpectedWindow(NamedTuple):
    """What a window adds up to, and what it therefore looks like."""

    version: int
    metrics: FidelityMetrics


@dataclass(frozen=True)
class RecomputedState:
    """One moment of the database.

    Attributes:
        grids: of each line, ``pane_s``, ``window_s`` and ``floor``.
        windows: what each window above the floor has to look like, by line.
        rows: of ``fidelity_panes``, with line and source.
        snapshots: as they are stored.
        at: the moment.
    """

    grids: Grids
    windows: Mapping[tuple[str, WindowKey], ExpectedWindow]
    rows: Sequence[tuple[str, str, PaneRow]]
    snapshots: Sequence[asyncpg.Record]
    at: datetime


async def recompute(dsn: str, findings: Findings) -> RecomputedState:
    """Recompute everything in one snapshot of the database, and note what does not agree."""
    async with audit.snapshot(dsn) as connection:
        grids = await audit.line_grids(connection)
        books = Recomputation(connection, grids, findings)
        await books.check_sources()
        await books.check_events()
        await books.check_panes()
        await books.check_floors()
        windows = await books.expected_windows()
        snapshots = [row async for row in audit.snapshots(connection)]
        return RecomputedState(grids, windows, books.rows, snapshots, await audit.snapshot_time(connection))


class _Cell(NamedTuple):
    line: str
    series: SeriesKey
    pane: float
    width_s: float
    source: str


class Recomputation:
    """The stored outcomes of one snapshot, and what follows from them."""

    def __init__(self, connection: Connection, grids: Grids, findings: Findings) -> None:
        self._connection = connection
        self._grids = grids
        self._findings = findings
        self._baselines: dict[UUID, Baseline | None] = {}
        self._cells: dict[_Cell, tuple[int, ...]] = {}
        self.rows: list[tuple[str, str, PaneRow]] = []

    async def check_sources(self) -> None:
        """Every element has its row, every offset its record or its gap, and positions say how far that goes."""
        said = {row["source"]: row async for row in audit.positions(self._connection)}
        found = {row["source"]: row async for row in audit.source_coverage(self._connection)}
        for source in sorted(said.keys() | found.keys()):
            if source not in said:
                self._findings.say("source", f"{source} has rows but no position")
            else:
                self._check_source(source, said[source], found.get(source))
        for source in _passed_over(said.values()):
            self._findings.say("source", f"{source} has no position, though a later one of its topic has")
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
        async for batch in _batches(audit.counted_revisions(self._connection), lambda row: row["event_id"]):
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
        sums = head.contribution if sign > 0 else negate(head.contribution)
        for segment in head.segments:
            place = cell_of(head, segment, self._grids[head.line]["pane_s"])
            cell = _Cell(head.line, SeriesKey(head.model_id, segment), *place, source)
            self._cells[cell] = add_sums([self._cells[cell], sums]) if cell in self._cells else tuple(sums)

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
        """Each cell of each source is in ``fidelity_panes``, with these sums.

        A cell that adds up to nothing may have no row: a slice that brings two revisions of an event adds the last one only. Where
        such a row was there and is lost, the versions of its windows tell.
        """
        expected = dict(self._cells)
        async for record in audit.panes(self._connection):
            row, source, line = pane_row(record), record["source"], record["line"]
            self.rows.append((line, source, row))
            cell = _Cell(line, SeriesKey(row.model_id, row.segment), row.pane, row.width_s, source)
            sums = expected.pop(cell, None)
            if sums is None:
                self._findings.say("pane", f"{_words(cell)}: no outcome belongs there")
            elif sums != row.sums:
                told = {name: (one, other) for name, one, other in zip(SUM_FIELDS, row.sums, sums, strict=True) if one != other}
                self._findings.say("pane", f"{_words(cell)}: (stored, recomputed) differ in {told}")
        for cell, sums in expected.items():
            if any(sums):
                self._findings.say("pane", f"{_words(cell)} is missing")
        self._findings.counts["panes"] = len(self.rows)

    async def check_floors(self) -> None:
        """Of each series with cells below the floor of its line, the detector's value there is kept, and of no other floor."""
        floors = {line: grid["floor"] for line, grid in self._grids.items() if grid["floor"] is not None}
        kept = {
            (row["line"], row["model_id"], row["segment"]): row["floor"] async for row in audit.detector_floors(self._connection)
        }
        due = {(line, row.model_id, row.segment) for line, _, row in self.rows if row.pane < floors.get(line, -math.inf)}
        for line, model_id, segment in due - kept.keys():
            self._findings.say("floor", f"{line}, model {model_id}, {segment}: where its detector stood at the floor is missing")
        for (line, model_id, segment), floor in kept.items():
            self._findings.compare(
                "floor", f"that of {line}, model {model_id}, {segment}", round(floor, 6), round(floors.get(line, math.inf), 6)
            )
        self._findings.counts["floors"] = len(kept)

    async def expected_windows(self) -> dict[tuple[str, WindowKey], ExpectedWindow]:
        """What every window has to look like."""
        views: dict[str, WindowState] = {}
        for line, source, row in self.rows:
            if line not in views:
                views[line] = WindowState(self._grids[line]["pane_s"], self._grids[line]["window_s"])
            views[line].apply(source, row)
        found = {}
        for line, view in views.items():
            floor = self._grids[line]["floor"] or -math.inf
            for window in view.windows():
                baseline = await self._baseline(window.series.model_id)
                if baseline is not None and window.start + view.window_s > floor:
                    version, sums = view.window(window)
                    found[line, window] = ExpectedWindow(version, fidelity_metrics(sums, baseline))
        self._findings.counts["windows"] = len(found)
        return found


def _passed_over(positions: Iterable[asyncpg.Record]) -> list[str]:
    """Sources below the highest partition of their topic, or the highest incarnation of their partition, that are not there."""
    begun = {(row["topic"], row["partition"], row["incarnation"]) for row in positions}
    newest: dict[tuple[str, int], int] = {}
    for topic, partition, incarnation in begun:
        newest[topic, partition] = max(incarnation, newest.get((topic, partition), 0))
        for lower in range(partition):
            newest.setdefault((topic, lower), 0)
    due = {(*where, incarnation) for where, highest in newest.items() for incarnation in range(highest + 1)}
    return sorted(f"{topic}:{partition}:{incarnation}" for topic, partition, incarnation in due - begun)


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
