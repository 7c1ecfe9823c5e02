"""Compares windows recomputed from panes with their snapshots and with the messages about them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import asyncpg

from engine.fidelity import pane_start, window_starts
from schemas import FidelityMetrics, FidelityWindow, PaneRow
from sql.audit_store import AuditedLine
from streams.monitoring import SeriesKey, WindowKey
from streams.operations.findings import Findings
from streams.operations.recomputation import ExpectedWindow, LineWindow, StoredPane

__all__ = ["WindowAudit"]

# These follow from the other metrics and the sums, and are not stored in snapshots.
_NOT_STORED = {"intervals", "n_effective", "mae_robust"}
_MAX_LINES = 3
_COMPARED_METRICS = tuple(name for name in FidelityMetrics.model_fields if name not in _NOT_STORED)


class Lag(NamedTuple):
    """Why a window lags, and whether only a snapshot ends the lag; else a message about it is enough."""

    reason: str
    needs_snapshot: bool


@dataclass
class WindowAudit:
    """Recomputed windows, and which of them lag.

    Attributes:
        expected: every window above the floor of its line.
        grids: pane and window lengths, and the floor, of each line.
        lagging: windows whose present version has not arrived yet in a message or snapshot.
    """

    expected: Mapping[LineWindow, ExpectedWindow]
    grids: Mapping[str, AuditedLine]
    findings: Findings
    lagging: dict[LineWindow, Lag] = field(default_factory=dict)

    def check_snapshots(self, rows: Iterable[asyncpg.Record]) -> None:
        """Compare snapshots with their windows, and find the windows without one.

        A window without a snapshot lags until a message about it arrives; where a later window of its line has a snapshot, it lags
        until its own is stored.
        """
        snapshots = {self._snapshot_key(row): row for row in rows}
        self.findings.counts["snapshots"] = len(snapshots)
        for key, row in snapshots.items():
            self._check_snapshot(key, row)
        newest: defaultdict[str, float] = defaultdict(lambda: -math.inf)
        for line, window in snapshots:
            newest[line] = max(newest[line], window.start)
        for key in self.expected:
            if key not in snapshots:
                is_overdue = key.window.start <= newest[key.line]
                reason = "has no snapshot, though later windows have" if is_overdue else "was not published"
                self.lagging[key] = Lag(reason, needs_snapshot=is_overdue)

    def lagging_panes(self, panes: Iterable[StoredPane]) -> list[StoredPane]:
        """The panes that belong to a window that lags."""
        return [pane for pane in panes if self._is_lagging(pane.line, pane.row)]

    def on_message(self, message: FidelityWindow) -> None:
        """Compare a message with its window; it ends the lag of an open window, but not of one that needs a snapshot."""
        if message.line not in self.grids:
            return
        series = SeriesKey(message.model_id, message.segment)
        key = self._key(message.line, series, message.window_start.timestamp())
        expected = self.expected.get(key)
        if expected is None or message.version < expected.version:
            return
        self.findings.counts["messages"] += 1
        if message.version == expected.version:
            self._compare(key, "message", message.metrics)
        if message.status == "open" and key in self.lagging and not self.lagging[key].needs_snapshot:
            del self.lagging[key]

    def on_snapshot(self, row: asyncpg.Record) -> None:
        """Compare a snapshot that was stored since; it ends the lag of its window."""
        key = self._snapshot_key(row)
        if key in self.lagging and row["version"] >= self.expected[key].version:
            del self.lagging[key]
            if row["version"] == self.expected[key].version:
                self._compare(key, "snapshot", _metrics(row))

    def describe_lag(self) -> str:
        """The number of windows that lag, their lines, and the first of them with the reason."""
        key, lag = next(iter(self.lagging.items()))
        lines = sorted({window.line for window in self.lagging})
        more = f" and {len(lines) - _MAX_LINES} more" if len(lines) > _MAX_LINES else ""
        return f"{len(self.lagging):,} windows of {', '.join(lines[:_MAX_LINES])}{more} (the first: {key} {lag.reason})"

    def add_lagging_to_findings(self) -> None:
        """Add a mismatch for each window that still lags."""
        for key, lag in self.lagging.items():
            self.findings.add("window", f"{key} {lag.reason}")

    def _is_lagging(self, line: str, row: PaneRow) -> bool:
        grid = self.grids[line]
        series = SeriesKey(row.model_id, row.segment)
        starts = window_starts(pane_start(row.pane, grid.pane_s), grid.pane_s, grid.window_s)
        return any(LineWindow(line, WindowKey(series, start)) in self.lagging for start in starts)

    def _check_snapshot(self, key: LineWindow, row: asyncpg.Record) -> None:
        expected = self.expected.get(key)
        if expected is None:
            if not self._is_below_floor(key):
                self.findings.add("snapshot", f"{key}: no pane belongs to it")
        elif row["version"] > expected.version:
            self.findings.add("snapshot", f"{key} has version {row['version']}, its panes have {expected.version}")
        elif row["version"] < expected.version:
            reason = f"has a snapshot of version {row['version']} instead of {expected.version}"
            self.lagging[key] = Lag(reason, needs_snapshot=True)
        else:
            self._compare(key, "snapshot", _metrics(row))

    def _is_below_floor(self, key: LineWindow) -> bool:
        grid = self.grids[key.line]
        return key.window.start + grid.window_s <= (grid.floor or -math.inf)

    def _compare(self, key: LineWindow, kind: str, metrics: FidelityMetrics) -> None:
        expected = self.expected[key].metrics
        for name in _COMPARED_METRICS:
            self.findings.compare(kind, f"{name} of {key}", getattr(metrics, name), getattr(expected, name))

    def _snapshot_key(self, row: asyncpg.Record) -> LineWindow:
        return self._key(row["line"], SeriesKey(row["model_id"], row["segment"]), row["start"])

    def _key(self, line: str, series: SeriesKey, start: float) -> LineWindow:
        """The window that starts here; the start is rounded to a whole pane, as timestamps have microseconds only."""
        pane_s = self.grids[line].pane_s
        return LineWindow(line, WindowKey(series, round(start / pane_s) * pane_s))


def _metrics(row: asyncpg.Record) -> FidelityMetrics:
    return FidelityMetrics(**{name: row[name] for name in _COMPARED_METRICS})
