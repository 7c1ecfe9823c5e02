"""Reads the list of all model lines with the state of each, the most urgent first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from engine.fidelity import AVERAGE_RUN_LENGTH
from schemas import DriftState, ModelCard
from schemas.base import utc_time
from schemas.twin_types import ALL_ROWS
from sql import overview_store as store
from sql.database import Pool
from sql.overview_store import LineSettings, OverviewCounts, SegmentState, SegmentSums
from sql.page_store import LineWindow, line_windows
from streams.monitoring import DriftEvaluator
from streams.reporting.overview import SegmentWindow, segment_window

__all__ = ["LineList", "LineSummary", "read_line_list"]

_URGENCY = {DriftState.ALARM: 0, DriftState.WARNING: 1, DriftState.SUPPRESSED: 2, DriftState.OK: 3, DriftState.INSUFFICIENT: 4}


@dataclass(frozen=True)
class LineSummary:
    """A model line in the list.

    Attributes:
        scored_model: the model of the newest window; None before the first outcome, as ``window`` and ``window_end``.
        alarmed: segments in alarm.
        retrain: status of the retrain that is open, if one is.
    """

    line: str
    policy: str
    champion: ModelCard | None
    scored_model: ModelCard | None = None
    window: SegmentWindow | None = None
    window_end: datetime | None = None
    alarmed: int = 0
    retrain: str | None = None

    @property
    def urgency(self) -> tuple[int, int, str]:
        """Where the line is in the list: by drift state, then by segments in alarm, then by name."""
        state = len(_URGENCY) if self.window is None else _URGENCY[self.window.state]
        return (state, -self.alarmed, self.line)


@dataclass(frozen=True)
class LineList:
    """All lines at one moment, the most urgent first."""

    at: datetime
    lines: tuple[LineSummary, ...]
    counts: OverviewCounts


async def read_line_list(pool: Pool, n_min: int) -> LineList:
    """Read all lines in one snapshot of the database.

    Args:
        pool: where to read.
        n_min: outcomes that a window needs before rules apply to it.
    """
    async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        settings = await store.line_settings(connection)
        windows = await line_windows(connection)
        cards = await store.model_cards(connection, {window.model_id for window in windows.values() if window.model_id})
        counts = await store.overview_counts(connection)
    evaluator = DriftEvaluator(n_min, AVERAGE_RUN_LENGTH, cards, {item.line: item.thresholds.rules for item in settings})
    return LineList(
        datetime.now(UTC), _by_urgency([_summary(item, windows[item.line], cards, evaluator) for item in settings]), counts
    )


def _by_urgency(lines: Sequence[LineSummary]) -> tuple[LineSummary, ...]:
    return tuple(sorted(lines, key=lambda line: line.urgency))


def _summary(settings: LineSettings, newest: LineWindow, cards: Mapping[UUID, ModelCard], evaluator: DriftEvaluator) -> LineSummary:
    if newest.model_id is None or newest.window_end is None or newest.sums is None:
        return LineSummary(settings.line, settings.policy, settings.champion, retrain=newest.retrain)
    row = SegmentSums(newest.model_id, ALL_ROWS, newest.window_end, newest.sums)
    state = SegmentState(newest.state, newest.evidence_ratio, newest.alarm_raised_at)
    return LineSummary(
        line=settings.line,
        policy=settings.policy,
        champion=settings.champion,
        scored_model=cards[newest.model_id],
        window=segment_window(row, {ALL_ROWS: newest.sums}, state, evaluator, settings.window_s),
        window_end=utc_time(newest.window_end),
        alarmed=newest.alarmed,
        retrain=newest.retrain,
    )
