"""Publishes the windows of a model line that changed, stores snapshots of the closed ones, and sets the metrics of the newest."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Literal

from engine.fidelity import Detection, is_closed, window_starts
from schemas import FidelityWindow, line_parts
from schemas.base import utc_time
from schemas.twin_types import ALL_ROWS
from sql.published_window_store import remove_published, save_published
from sql.window_store import Snapshot, save_snapshots
from streams.kafka.app import TwinApp
from streams.monitoring.drift_detection import SeriesEvidence
from streams.monitoring.line_metrics import set_baseline_metrics, set_window_metrics
from streams.monitoring.line_state import LineState, load_cards, snapshot_key
from streams.monitoring.watermarks import Watermarks
from streams.monitoring.window_state import SeriesKey, WindowKey, WindowState

__all__ = ["WindowPublisher", "show_newest_windows", "window_event"]

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
        current = set(line.current_series())
        for first in range(0, len(due), _WINDOWS_PER_BATCH):
            if self._app.should_stop:
                return
            await self._publish_batch(line, due[first : first + _WINDOWS_PER_BATCH], closed, current)
        if line.champion in line.evaluator.cards:
            baseline = line.evaluator.cards[line.champion].baseline
            set_baseline_metrics(line.name, baseline, line.evaluator.rules_of(line.name))

    async def _publish_batch(
        self, line: LineState, windows: Sequence[WindowKey], closed: set[WindowKey], current: set[SeriesKey]
    ) -> None:
        """Publish windows, wait until Kafka has them all, and only then store the snapshots of the closed ones.

        Of the others the version is stored, so that no worker that takes the line over publishes it again.
        """
        events = {window: window_event(line, window, closed=window in closed) for window in windows}
        for delivery in [await self._app.send_event(event, key=line.name) for event in events.values()]:
            await delivery
        closed_events = {window: event for window, event in events.items() if window in closed}
        await save_snapshots(self._app.pool, list(closed_events.values()))
        await remove_published(self._app.pool, line.name, map(snapshot_key, closed_events))
        open_versions = {snapshot_key(window): event.version for window, event in events.items() if window not in closed}
        await save_published(self._app.pool, line.name, open_versions)
        line.snapshots.update({window: Snapshot(event.version, event.status) for window, event in closed_events.items()})
        line.pending_snapshots.difference_update(closed_events)
        line.unpublished.difference_update(windows)
        for window, event in events.items():
            if window.series in current and _ends_at_newest_pane(line.window_state, window):
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
    return {window for window in line.unpublished if _ends_at_newest_pane(line.window_state, window)}


def window_event(line: LineState, window: WindowKey, *, closed: bool) -> FidelityWindow:
    """Build the event of a window; that of the newest one of a champion's series includes the evidence of the detector."""
    series, start = window
    version, sums = line.window_state.window_sums(window)
    end = start + line.window_state.window_s
    is_current = series.model_id == line.champion and _ends_at_newest_pane(line.window_state, window)
    evidence = line.evaluator.evidence(line.window_state, series) if is_current else SeriesEvidence()
    detection = Detection.CHANGE if is_current and series in line.alarmed else Detection.NONE
    assessment = line.evaluator.assess_window(series, (start, end), sums, evidence, detection)
    metrics = assessment.metrics
    if is_current and series.segment == ALL_ROWS:
        metrics = line.evaluator.add_effective_n(metrics, series.model_id, _segment_sums(line.window_state, window))
    return FidelityWindow(
        line=line.name,
        model_id=series.model_id,
        metric_type=line_parts(line.name)[2],
        segment=series.segment,
        window_start=utc_time(start),
        window_end=utc_time(end),
        status=_status(line.snapshots.get(window), version, closed=closed),
        version=version,
        metrics=metrics,
        state=assessment.state,
        evidence_ratio=evidence.ratio,
    )


def show_newest_windows(line: LineState, series_to_show: Iterable[SeriesKey]) -> None:
    """Set the metrics of the newest window of some of the champion's series, as publishing it would."""
    for series in line.window_state.series() & set(series_to_show):
        newest = line.window_state.newest_pane(series)
        start, *_ = window_starts(newest, line.window_state.pane_s, line.window_state.window_s)
        set_window_metrics(window_event(line, WindowKey(series, start), closed=False))


def _segment_sums(window_state: WindowState, window: WindowKey) -> dict[str, tuple[int, ...]]:
    """Sums of all segments of the same model in the same span of time."""
    model_id = window.series.model_id
    segments = [series for series in window_state.series() if series.model_id == model_id and series.segment != ALL_ROWS]
    return {series.segment: window_state.window_sums(WindowKey(series, window.start)).sums for series in segments}


def _ends_at_newest_pane(window_state: WindowState, window: WindowKey) -> bool:
    """Whether a window ends with the latest pane of its series: later windows are still filling."""
    newest = window_state.newest_pane(window.series)
    return window.start == window_starts(newest, window_state.pane_s, window_state.window_s)[0]


def _status(snapshot: Snapshot | None, version: int, *, closed: bool) -> Literal["open", "final", "restated"]:
    if not closed:
        return "open"
    if snapshot is None:
        return "final"
    return snapshot.status if snapshot.version == version else "restated"
