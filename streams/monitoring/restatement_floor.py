"""How far back a model line can still change: its floor, which only rises."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from engine.fidelity.windows import lowest_pane
from schemas import OutcomeEvent
from sql import window_store as store
from sql.database import Pool, clock, transaction
from sql.window_store import FloorRow, SourceState
from streams.kafka.topics import PARTITIONS, topic_of
from streams.monitoring.line_state import LineState, evidence_before, lowest
from streams.settings import Settings

__all__ = ["limit_of", "raise_floor"]

_OUTCOMES = topic_of(OutcomeEvent)
_SOURCES = PARTITIONS[_OUTCOMES]
_FRESH_S = 60.0


async def raise_floor(pool: Pool, line: LineState, settings: Settings) -> None:
    """Raise the floor of a line as far as all sources and all windows allow, and keep where its detectors stand there.

    What is folded below the new floor is held against the rows once more while no slice can change them.
    """
    limit = limit_of(await store.source_states(pool, _OUTCOMES), await clock(pool), line.view.pane_s, settings.restatement_s)
    low = lowest(line.state)
    floor = min([limit, line.view.held_from, *(window.start for window in line.unsettled)]) if limit is not None else low
    if floor <= low:
        return
    name, window_s = line.state.line, line.view.window_s
    version = await store.version_between(pool, name, low, floor)
    found = await evidence_before(pool, line.state, floor, line.judge)
    async with transaction(pool) as connection:
        state = await store.lock_line(connection, name)
        if state.floor != line.state.floor or await store.version_between(connection, name, low, floor) != version:
            return
        if await store.unsettled_windows(connection, state, low - window_s + line.view.pane_s, floor):
            return
        rows = [FloorRow(*series, floor, each.log_values, each.last_count, each.log_peak) for series, each in found.items()]
        await store.raise_floor(connection, name, floor, rows)
    line.view.floor, line.state = floor, state._replace(floor=floor)


def limit_of(sources: Sequence[SourceState], now: datetime, pane_s: float, restatement_s: float) -> float | None:
    """The lowest pane that any source may still change: one that was read to its end lately does not hold the others back.

    None where a source was never begun, or one that holds back has told no event time yet.
    """
    if len({each.source.partition for each in sources}) < _SOURCES:
        return None
    recent = now - timedelta(seconds=_FRESH_S)
    holding = [each for each in sources if each.read_to_end_at is None or each.read_to_end_at < recent]
    marks = [each.watermark for each in holding or sources]
    known = [mark.timestamp() for mark in marks if mark is not None]
    if not known or (holding and len(known) < len(marks)):
        return None
    return lowest_pane(min(known) if holding else max(known), pane_s, restatement_s)
