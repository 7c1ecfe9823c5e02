"""Monitors the model lines of one worker: keeps their state in memory, evaluates drift and publishes windows."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

from schemas import DRIFT_RULES, DriftRule, FidelityErrors
from schemas.base import shorten
from sql import window_store as store
from sql.database import clock
from sql.segment_store import count_segment_values
from sql.window_store import MonitoredLine
from streams.kafka.app import TwinApp
from streams.monitoring.alarms import Alarms
from streams.monitoring.drift_detection import DriftEvaluator
from streams.monitoring.line_metrics import (
    remove_line_metrics,
    restart_rule_metrics,
    retain_segment_metrics,
    set_segment_metrics,
    start_line_counters,
)
from streams.monitoring.line_state import LineState, load_cards, load_line
from streams.monitoring.pane_table import PaneKey
from streams.monitoring.performance_estimation import estimate_performance
from streams.monitoring.restatement_floor import raise_floor
from streams.monitoring.sums_check import ForgedSums, SumsCheck
from streams.monitoring.watermarks import Watermarks
from streams.monitoring.window_events import WindowPublisher, show_newest_windows
from streams.monitoring.window_state import VersionedSums

__all__ = ["LineMonitor"]

LOG = logging.getLogger(__name__)

_READ_OVERLAP_S = 60.0
_SHOWN_SERIES = 2000


class LineMonitor:
    """State of the model lines that were used since the last :meth:`reset`.

    The methods that change a line must not run concurrently: callers hold one lock around them.
    """

    def __init__(self, app: TwinApp) -> None:
        self._app = app
        self._rules: dict[str, tuple[DriftRule, ...]] = {}
        self._evaluator = DriftEvaluator(app.settings.n_min, app.settings.average_run_length, {}, self._rules)
        self._alarms = Alarms(app)
        self._lines: dict[str, LineState] = {}
        self._shown: set[str] = set()  # lines that have metrics in this process
        self.watermarks = Watermarks()
        self.publisher = WindowPublisher(app, self.watermarks)
        self._sums_check = SumsCheck(app)

    @property
    def lines(self) -> tuple[LineState, ...]:
        """The lines in memory. They stay usable after a :meth:`reset`, which may come at any time."""
        return tuple(self._lines.values())

    def reset(self) -> None:
        """Drop all lines, so that they are loaded from Postgres again: another worker may have changed them."""
        self._lines.clear()

    def remove_metrics(self, is_read: Callable[[str], bool]) -> None:
        """Remove the metrics of all lines but those that this process reads; this may come at any time."""
        for name in self._shown:
            if not is_read(name):
                remove_line_metrics(name)

    def drop_others(self, is_read: Callable[[str], bool]) -> None:
        """Drop all lines but those that this process reads, with their metrics."""
        self.remove_metrics(is_read)
        self._shown = set(filter(is_read, self._shown))
        self._lines = {name: line for name, line in self._lines.items() if is_read(name)}

    def drop(self, name: str) -> None:
        """Drop a line, so that it is loaded from Postgres again."""
        self._lines.pop(name, None)

    # -- ingesting sums

    async def load_models(self, message: FidelityErrors) -> None:
        """Load the cards of the models of a message.

        Raises:
            UnknownModel: when one of them is not registered.
        """
        await load_cards(self._app.pool, self._evaluator, {row.model_id for row in message.rows})

    async def ingest(self, message: FidelityErrors, arrived_at: datetime) -> dict[PaneKey, VersionedSums]:
        """Apply the watermark and the rows of a message that arrived at this time, and return the panes that changed.

        Raises:
            ForgedSums: when the message states what Postgres does not hold.
        """
        await self._sums_check.check_source(message, arrived_at)
        line = await self.line(message.line) if message.rows else None
        if line is None:
            if message.rows:
                raise ForgedSums(f"no model line {shorten(message.line)} is registered")
            self.watermarks.update(message.source, message.watermark)
            return {}
        rows = await self._sums_check.stored_rows(message, line.window_state.lowest_pane)
        self.watermarks.update(message.source, message.watermark)
        panes = await line.ingest(self._app.pool, str(message.source), rows)
        return {PaneKey(message.line, *pane): line.window_state.pane_sums(*pane) for pane in panes}

    async def line(self, name: str) -> LineState | None:
        """Return the state of a line, loaded where needed; None when the line is not registered."""
        if name in self._lines:
            return self._lines[name]
        model_lines = {model_line.line: model_line for model_line in await store.monitored_lines(self._app.pool)}
        if name not in model_lines:
            return None
        return await self._load(model_lines[name])

    async def _load(self, model_line: MonitoredLine) -> LineState:
        self._shown.add(model_line.line)
        self._rules[model_line.line] = model_line.thresholds.rules
        remove_line_metrics(model_line.line)
        start_line_counters(model_line.line)
        read_at = await clock(self._app.pool) - timedelta(seconds=_READ_OVERLAP_S)
        line = await load_line(self._app.pool, model_line, self._evaluator, read_at, partial(self._note_step, model_line.line))
        self._lines[model_line.line] = line
        await self._alarms.publish_pending(line)
        return line

    def _note_step(self, line: str, step: str) -> None:
        """Note what is restored of a line, unless the role was ready before."""
        if self._app.restoring is not None:
            self._app.restoring = f"{line}: {step}"

    async def restore(self, name: str) -> None:
        """Load a line unless it is in memory."""
        await self.line(name)

    # -- evaluating and publishing

    async def evaluate(self, model_line: MonitoredLine) -> None:
        """Evaluate the drift of a line and publish its windows; a new champion makes it load the line again."""
        line = self._lines.get(model_line.line)
        if line is None or line.champion != model_line.champion:
            line = await self._load(model_line)
        self._follow_rules(line, model_line)
        # Drift first: an alarm must not wait until thousands of windows are published.
        await self._alarms.evaluate(line)
        if line.unshown is None or line.unshown:
            await self._show(line)
        await self.publisher.publish(line)

    def _follow_rules(self, line: LineState, model_line: MonitoredLine) -> None:
        """Take the settings of a line as they are now; new limits are applied to all its series at once."""
        line.model_line = model_line
        rules = model_line.thresholds.rules
        if self._rules.get(line.name, DRIFT_RULES) != rules:
            line.changed_series |= set(line.current_series())
            restart_rule_metrics(line.name)
        self._rules[line.name] = rules

    async def _show(self, line: LineState) -> None:
        """Set the metrics of a line that was loaded: some of its windows may not be published again for a long time.

        New outcomes do not wait for the metrics of all its series: each turn sets those of some.
        """
        if line.unshown is None:
            if line.champion is not None:
                await load_cards(self._app.pool, self._evaluator, {line.champion})
            set_segment_metrics(line.name, await count_segment_values(self._app.pool, line.name))
            line.unshown = line.current_series()
        show_newest_windows(line, line.unshown[:_SHOWN_SERIES])
        line.unshown = line.unshown[_SHOWN_SERIES:]

    # -- maintaining

    async def catch_up(self, line: LineState) -> None:
        """Apply stored rows that no message delivered, and raise the floor of the line."""
        pool = self._app.pool
        now = await clock(pool)
        # A row becomes visible when its transaction ends, which is at most this much later than its changed_at.
        since = line.read_at - timedelta(seconds=self._app.settings.postgres_statement_timeout_s * 2)
        await line.catch_up(pool, await store.changed_rows(pool, line.name, line.window_state.lowest_pane, since))
        line.read_at = now
        stale = {series for series in line.window_state.stale_detectors if series.model_id == line.champion}
        await line.rebuild_detectors(pool, stale)
        line.changed_series |= stale
        await raise_floor(pool, line, self._app.settings, self.watermarks.n_sources)

    async def estimate(self, line: LineState) -> None:
        """Estimate the performance of the champion before its outcomes arrive, and evaluate the estimate."""
        if line.champion is not None:
            await load_cards(self._app.pool, self._evaluator, {line.champion})
            estimate = await estimate_performance(self._app.pool, self._evaluator.cards[line.champion])
            if estimate is not None:
                await self._alarms.evaluate_estimate(line, estimate)

    async def refresh_segments(self, line: LineState) -> None:
        """Count the segment values of a line, and remove the metrics of segments without recent outcomes."""
        set_segment_metrics(line.name, await count_segment_values(self._app.pool, line.name))
        retain_segment_metrics(line.name, {series.segment for series in line.current_series()})
