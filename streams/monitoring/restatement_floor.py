"""Raises the floor of a model line: the pane below which nothing can change any more. The floor never falls."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from engine.fidelity import lowest_pane
from schemas import OutcomeEvent
from sql import drift_state_store, window_store
from sql.database import Pool, clock, transaction
from sql.drift_state_store import FloorRow
from sql.published_window_store import remove_published_below
from sql.window_store import SourceState
from streams.kafka import topic_of
from streams.monitoring.line_state import LineState, detector_states_before, line_floor
from streams.settings import Settings

__all__ = ["floor_limit", "raise_floor"]

_OUTCOMES = topic_of(OutcomeEvent)
_RECENT_S = 60.0


async def raise_floor(pool: Pool, line: LineState, settings: Settings, n_sources: int) -> None:
    """Raise the floor of a line as far as all sources and all windows allow, and store the detector states there.

    The detector states are computed without a lock, since that reads many rows. They are stored only if, under the lock that keeps
    ingestion out, the floor and the version of the rows below the new one are still the same, and all windows below it have their
    snapshot.
    """
    state, low = line.window_state, line_floor(line.model_line)
    sources = await window_store.source_states(pool, _OUTCOMES)
    limit = floor_limit(sources, n_sources, await clock(pool), state.pane_s, settings.restatement_s)
    if limit is None:
        return
    floor = min([limit, state.held_from, *(window.start for window in line.pending_snapshots)])
    if floor <= low:
        return
    version = await window_store.version_between(pool, line.name, low, floor)
    detectors = await detector_states_before(pool, line.model_line, floor, line.evaluator)
    async with transaction(pool) as connection:
        locked = await window_store.lock_line(connection, line.name)
        if locked.floor != line.model_line.floor:
            return
        if await window_store.version_between(connection, line.name, low, floor) != version:
            return
        if await window_store.windows_without_snapshot(connection, locked, low - state.window_s + state.pane_s, floor):
            return
        rows = [
            FloorRow(*series, floor, detector.log_values, detector.last_count, detector.log_peak)
            for series, detector in detectors.items()
        ]
        await drift_state_store.raise_floor(connection, line.name, floor, rows)
        await remove_published_below(connection, line.name, floor)
    state.floor, line.model_line = floor, locked._replace(floor=floor)


def floor_limit(sources: Sequence[SourceState], n_sources: int, now: datetime, pane_s: float, restatement_s: float) -> float | None:
    """Return the lowest pane that any source may still change.

    A source whose reader reached its end recently does not hold the floor back, however old its watermark is.

    Returns:
        None when a partition was never read, or when a source that holds the floor back has no watermark yet.
    """
    sources = [state for state in sources if state.source.partition < n_sources]  # the topic may have had more before
    if len(sources) < n_sources:
        return None
    recent = now - timedelta(seconds=_RECENT_S)
    holding = [state for state in sources if state.read_to_end_at is None or state.read_to_end_at < recent]
    watermarks = [state.watermark for state in holding or sources]
    reached = [watermark.timestamp() for watermark in watermarks if watermark is not None]
    if not reached or (holding and len(reached) < len(watermarks)):
        return None
    return lowest_pane(min(reached) if holding else max(reached), pane_s, restatement_s)
