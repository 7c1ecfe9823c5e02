"""Recomputes heads, panes, floors and windows from the stored outcomes, and compares them with what is stored."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby, pairwise
from typing import NamedTuple
from uuid import UUID

import asyncpg

from engine.fidelity import add_sums, fidelity_metrics, negate
from schemas import FidelityMetrics, PaneRow
from schemas.base import utc_time
from schemas.events import SUM_FIELDS, padded_sums
from sql import audit_store
from sql.audit_store import AuditedLine
from sql.database import Connection
from sql.outcome_store import Head
from sql.pane_store import pane_row
from streams.ingestion import cell_of
from streams.monitoring import SeriesKey, WindowKey, WindowState
from streams.operations.findings import Findings
from streams.operations.rescoring import Rescorer, ScoredRevision
from streams.operations.source_audit import check_sources

__all__ = ["ExpectedWindow", "LineWindow", "RecomputedState", "StoredPane", "recompute"]

_BATCH = 5000

_HELD = ("counted", "missing")
"""Fates of revisions that became the head of their event."""


class LineWindow(NamedTuple):
    """A window of one series of a model line."""

    line: str
    window: WindowKey

    def __str__(self) -> str:
        series, start = self.window
        return f"{self.line}, model {series.model_id}, {series.segment}, window from {_iso(start)}"


class ExpectedWindow(NamedTuple):
    """Version and metrics of a window, recomputed from its panes."""

    version: int
    metrics: FidelityMetrics


class StoredPane(NamedTuple):
    """A row of ``fidelity_panes``."""

    line: str
    source: str
    row: PaneRow


@dataclass(frozen=True)
class RecomputedState:
    """One state of the database.

    Attributes:
        grids: pane and window lengths, and the floor, of each line.
        windows: every window above the floor of its line, as its panes define it.
        panes: all rows of ``fidelity_panes``.
        snapshots: all rows of ``fidelity_snapshots``.
        at: time of the database snapshot.
    """

    grids: Mapping[str, AuditedLine]
    windows: Mapping[LineWindow, ExpectedWindow]
    panes: Sequence[StoredPane]
    snapshots: Sequence[asyncpg.Record]
    at: datetime


async def recompute(dsn: str, findings: Findings) -> RecomputedState:
    """Recompute everything in one snapshot of the database, and add what does not agree to the findings."""
    async with audit_store.snapshot(dsn) as connection:
        await check_sources(connection, findings)
        recomputation = Recomputation(connection, await audit_store.line_grids(connection), findings)
        await recomputation.check_events()
        await recomputation.check_panes()
        await recomputation.check_segments()
        await recomputation.check_aged()
        await recomputation.check_floors()
        return RecomputedState(
            grids=recomputation.grids,
            windows=await recomputation.expected_windows(),
            panes=recomputation.panes,
            snapshots=[row async for row in audit_store.snapshots(connection)],
            at=await audit_store.snapshot_time(connection),
        )


class _Cell(NamedTuple):
    """A cell of a series, as one source fills it."""

    line: str
    series: SeriesKey
    pane: float
    width_s: float
    source: str

    def __str__(self) -> str:
        model_id, segment = self.series
        return f"{self.line}, model {model_id}, {segment}, {self.width_s:g} s from {_iso(self.pane)}, source {self.source}"


class Recomputation:
    """The cells that follow from the stored outcomes, and their comparison with what is stored.

    The methods are called in the order of their definition: each uses what the ones before it computed or read.

    Attributes:
        grids: pane and window lengths, and the floor, of each line.
        panes: all rows of ``fidelity_panes``, filled by :meth:`check_panes`.
    """

    def __init__(self, connection: Connection, grids: Mapping[str, AuditedLine], findings: Findings) -> None:
        self.grids = grids
        self.panes: list[StoredPane] = []
        self._connection = connection
        self._findings = findings
        self._rescorer = Rescorer(connection, findings)
        self._cells: dict[_Cell, tuple[int, ...]] = {}

    async def check_events(self) -> None:
        """Compare each head with the highest revision of its event, and add up the cells.

        Heads and revisions are both ordered by event id, so that one pass over each is enough.
        """
        heads = _HeadReader(audit_store.heads(self._connection))
        async for batch in _batches(audit_store.counted_revisions(self._connection)):
            scored = await self._rescorer.score(batch)
            for event, revisions in groupby(scored, key=lambda revision: revision.head.event_id):
                self._add_orphans(await heads.read_before(event))
                self._check_event(event, list(revisions), await heads.read(event))
        self._add_orphans(await heads.read_before(None))

    def _add_orphans(self, heads: Sequence[asyncpg.Record]) -> None:
        for head in heads:
            self._findings.add("head", f"of event {head['event_id']}: no outcome belongs to it")

    def _check_event(self, event: UUID, revisions: Sequence[ScoredRevision], head: asyncpg.Record | None) -> None:
        self._findings.counts["outcomes"] += len(revisions)
        self._findings.counts["events"] += 1
        highest = revisions[-1]
        if highest.fate not in _HELD:
            self._findings.add("outcome", f"the highest revision of event {event} is {highest.fate}")
        if head is None:
            self._findings.add("head", f"of event {event} is missing")
        else:
            self._compare_head(head, highest.head)
        self._add_to_cells([revision for revision in revisions if revision.fate in _HELD])

    def _compare_head(self, row: asyncpg.Record, expected: Head) -> None:
        for name, value in zip(Head._fields, expected, strict=True):
            stored = tuple(row[name]) if isinstance(row[name], list) else row[name]
            if name == "contribution" and stored is not None:
                stored = padded_sums(stored)
            self._findings.compare("head", f"{name} of event {expected.event_id}", stored, value)

    def _add_to_cells(self, counted: Sequence[ScoredRevision]) -> None:
        """Each revision replaces the one before it, in the cells of the source that brought the new one."""
        for before, after in pairwise([None, *counted]):
            if after is None:
                continue
            if before is not None:
                self._add_to_cell(before.head, after.source, sign=-1)
            self._add_to_cell(after.head, after.source, sign=1)

    def _add_to_cell(self, head: Head, source: str, sign: int) -> None:
        if head.contribution is None or head.model_id is None:
            return
        sums = tuple(head.contribution) if sign > 0 else negate(head.contribution)
        for segment in head.segments:
            pane, width_s = cell_of(head, segment, self.grids[head.line].pane_s)
            cell = _Cell(head.line, SeriesKey(head.model_id, segment), pane, width_s, source)
            self._cells[cell] = add_sums([self._cells[cell], sums]) if cell in self._cells else sums

    async def check_panes(self) -> None:
        """Compare each row of ``fidelity_panes`` with its recomputed cell.

        A cell whose sums are all zero may have no row: a batch that brings two revisions of an event adds only the last one. If
        such a row existed and was lost, the versions of its windows show it. Cells below the horizon of ageing have lost outcomes:
        :meth:`check_aged` compares them.
        """
        missing = {cell: sums for cell, sums in self._cells.items() if cell.pane >= self.grids[cell.line].horizon}
        async for record in audit_store.panes(self._connection):
            pane = StoredPane(record["line"], record["source"], pane_row(record))
            self.panes.append(pane)
            cell = _cell_of_pane(pane)
            if cell.pane >= self.grids[cell.line].horizon:
                self._compare_pane(cell, pane.row, missing.pop(cell, None))
        for cell, sums in missing.items():
            if any(sums):
                self._findings.add("pane", f"{cell} is missing")
        self._findings.counts["panes"] = len(self.panes)

    def _compare_pane(self, cell: _Cell, row: PaneRow, sums: tuple[int, ...] | None) -> None:
        if sums is None:
            self._findings.add("pane", f"{cell}: no outcome belongs there")
        elif sums != row.sums:
            pairs = zip(SUM_FIELDS, row.sums, sums, strict=True)
            differences = {name: (stored, recomputed) for name, stored, recomputed in pairs if stored != recomputed}
            self._findings.add("pane", f"{cell}: (stored, recomputed) differ in {differences}")

    async def check_segments(self) -> None:
        """Check that each segment value with panes of its own was admitted: a restart would count it elsewhere."""
        rows = [row async for row in audit_store.segment_values(self._connection)]
        admitted = {(row["line"], f"{row['dimension']}={row['value']}") for row in rows}
        segments = {(pane.line, pane.row.segment) for pane in self.panes if "=" in pane.row.segment}
        for line, segment in sorted(segments - admitted):
            self._findings.add("segment", f"{line}, {segment}: it has a series of its own and was not admitted")
        self._findings.counts["segment values"] = len(rows)

    async def check_aged(self) -> None:
        """Check that panes below the horizon of ageing are as they were when it was raised, and that no aged event is missing."""
        events = 0
        for row in await audit_store.aged_lines(self._connection):
            events += row["events"]
            name = f"of {row['line']} below the horizon of ageing"
            self._findings.compare("aged", f"number of panes {name}", row["panes"], row["stored_panes"])
            if row["panes"] == row["stored_panes"]:
                self._findings.compare("aged", f"digest of the panes {name}", row["pane_digest"], row["stored_digest"])
        stored, with_heads = await audit_store.aged_events(self._connection)
        self._findings.compare("aged", "number of events that have aged out", events, stored)
        self._findings.compare("aged", "number of aged events with a head", with_heads, 0)

    async def check_floors(self) -> None:
        """Check that each series with panes below the floor of its line has a detector value at that floor, and at no other."""
        floors = {line: grid.floor for line, grid in self.grids.items() if grid.floor is not None}
        rows = [row async for row in audit_store.detector_floors(self._connection)]
        stored = {(row["line"], row["model_id"], row["segment"]): row["floor"] for row in rows}
        below = [pane for pane in self.panes if pane.row.pane < floors.get(pane.line, -math.inf)]
        expected = {(pane.line, pane.row.model_id, pane.row.segment) for pane in below}
        for line, model_id, segment in expected - stored.keys():
            self._findings.add("floor", f"{line}, model {model_id}, {segment}: the detector's value at the floor is missing")
        for (line, model_id, segment), floor in stored.items():
            name = f"that of {line}, model {model_id}, {segment}"
            self._findings.compare("floor", name, round(floor, 6), round(floors.get(line, math.inf), 6))
        self._findings.counts["floors"] = len(stored)

    async def expected_windows(self) -> dict[LineWindow, ExpectedWindow]:
        """Version and metrics of every window above the floor of its line."""
        expected = {}
        for line, state in self._window_states().items():
            floor = self.grids[line].floor or -math.inf
            for window in state.windows():
                baseline = await self._rescorer.baseline(window.series.model_id)
                if baseline is not None and window.start + state.window_s > floor:
                    version, sums = state.window_sums(window)
                    expected[LineWindow(line, window)] = ExpectedWindow(version, fidelity_metrics(sums, baseline))
        self._findings.counts["windows"] = len(expected)
        return expected

    def _window_states(self) -> dict[str, WindowState]:
        states: dict[str, WindowState] = {}
        for line, source, row in self.panes:
            if line not in states:
                states[line] = WindowState(self.grids[line].pane_s, self.grids[line].window_s)
            states[line].apply_row(source, row)
        return states


class _HeadReader:
    """Reads heads in the order of their event ids, beside another sequence in the same order."""

    def __init__(self, rows: AsyncIterator[asyncpg.Record]) -> None:
        self._rows = rows
        self._next: asyncpg.Record | None = None
        self._is_started = False

    async def read_before(self, event: UUID | None) -> list[asyncpg.Record]:
        """Read the heads below this event, or all that are left."""
        heads = []
        while (head := await self._peek()) is not None and (event is None or head["event_id"] < event):
            heads.append(head)
            await self._advance()
        return heads

    async def read(self, event: UUID) -> asyncpg.Record | None:
        """Read the next head if it is that of the event."""
        head = await self._peek()
        if head is None or head["event_id"] != event:
            return None
        await self._advance()
        return head

    async def _peek(self) -> asyncpg.Record | None:
        if not self._is_started:
            self._is_started = True
            await self._advance()
        return self._next

    async def _advance(self) -> None:
        self._next = await anext(self._rows, None)


def _cell_of_pane(pane: StoredPane) -> _Cell:
    row = pane.row
    return _Cell(pane.line, SeriesKey(row.model_id, row.segment), row.pane, row.width_s, pane.source)


def _iso(seconds: float) -> str:
    return utc_time(seconds).isoformat()


async def _batches(rows: AsyncIterator[asyncpg.Record]) -> AsyncIterator[list[asyncpg.Record]]:
    """Rows in batches of about ``_BATCH``; all rows of an event are in one batch."""
    batch: list[asyncpg.Record] = []
    async for row in rows:
        if len(batch) >= _BATCH and row["event_id"] != batch[-1]["event_id"]:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
