"""Publishes the windows of a model line that changed, and stores a snapshot of those that are closed."""

from __future__ import annotations

import time
from collections.abc import Sequence

from engine.fidelity import is_closed
from sql.window_store import Snapshot, save_snapshots
from streams.kafka.app import TwinApp
from streams.monitoring.line_state import LineState, load_cards
from streams.monitoring.watermarks import Watermarks
from streams.monitoring.window_events import ends_at_newest_pane, set_baseline_metrics, set_window_metrics, window_event
from streams.monitoring.window_state import WindowKey

__all__ = ["WindowPublisher"]

_FILLING_INTERVAL_S = 10.0
_WINDOWS_PER_BATCH = 1000


class WindowPublisher:
    """Publishes windows through ``app``; ``watermarks`` decide which of them are closed."""

    def __init__(self, app: TwinApp, watermarks: Watermarks) -> None:
        self._app = app
        self._watermarks = watermarks

    async def publish(self, line: LineState) -> None:
        """Publish the windows that are due, batch by batch.

        When the app stops, the remaining windows stay unpublished: the next worker of the line finds them in Postgres.
        """
        watermark = self._watermarks.current()
        closed = {window for window in line.pending_snapshots if self._is_closed(line, window, watermark)}
        due = sorted(closed | _due_windows(line))
        await load_cards(self._app.pool, line.evaluator, {window.series.model_id for window in due})
        for first in range(0, len(due), _WINDOWS_PER_BATCH):
            if self._app.should_stop:
                return
            await self._publish_batch(line, due[first : first + _WINDOWS_PER_BATCH], closed)
        if line.champion in line.evaluator.cards:
            set_baseline_metrics(line.name, line.evaluator.cards[line.champion].baseline)

    async def _publish_batch(self, line: LineState, windows: Sequence[WindowKey], closed: set[WindowKey]) -> None:
        """Publish windows, wait until Kafka has them all, and only then store the snapshots of the closed ones."""
        events = {window: window_event(line, window, closed=window in closed) for window in windows}
        for delivery in [await self._app.send_event(event, key=line.name) for event in events.values()]:
            await delivery
        closed_events = {window: event for window, event in events.items() if window in closed}
        await save_snapshots(self._app.pool, list(closed_events.values()))
        line.snapshots.update({window: Snapshot(event.version, event.status) for window, event in closed_events.items()})
        line.pending_snapshots.difference_update(closed_events)
        line.unpublished.difference_update(windows)
        for window, event in events.items():
            if window.series.model_id == line.champion and ends_at_newest_pane(line.window_state, window):
                set_window_metrics(event)

    def _is_closed(self, line: LineState, window: WindowKey, watermark: float | None) -> bool:
        """Whether a window is closed, for good: a watermark that goes back after a reset source does not reopen windows."""
        end = window.start + line.window_state.window_s
        return window in line.snapshots or is_closed(end, watermark, self._app.settings.grace_s)


def _due_windows(line: LineState) -> set[WindowKey]:
    """Changed windows to publish now: at every tick those that end at the newest pane, every ten seconds all of them.

    An outcome changes all windows that slide over its pane, a dozen of each series. Readers look at the one that ends with the
    latest pane; the others are still filling.
    """
    if time.monotonic() - line.filling_published_at >= _FILLING_INTERVAL_S:
        line.filling_published_at = time.monotonic()
        return line.unpublished
    return {window for window in line.unpublished if ends_at_newest_pane(line.window_state, window)}
