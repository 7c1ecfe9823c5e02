"""Merges the sums of all sources into windows, says what they look like, judges them, and asks for a retrain where it is due."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Literal
from uuid import UUID

from aiokafka.partitioner import murmur2
from faust.types import TP
from pydantic import ValidationError

from engine.detector import Evidence
from engine.windows import is_closed, lowest_pane, pane_start, window_starts
from schemas import DriftEvent, DriftState, FidelityErrors, FidelityWindow, OutcomeEvent, SourceId, line_parts
from schemas.twin_models import ModelCard
from sql import window_store as store
from sql.database import transaction
from sql.model_rows import UnknownModel, load_card
from sql.retrain_store import finished_trainings
from sql.window_store import FloorRow, LineState, Snapshot, SnapshotKey, SourcedRow
from streams.answering import persist, settle
from streams.app import TwinApp
from streams.dead_letters import bury
from streams.fidelity_view import LineView, Series, Window
from streams.judgement import Judge, Judgement, drift_event, retrain_event
from streams.metrics import (
    BASELINE_MAE,
    EVIDENCE,
    VERDICTS,
    WINDOW_CORRELATION,
    WINDOW_COVERAGE,
    WINDOW_MAE,
    WINDOW_OUTCOMES,
    WINDOW_RMSE,
)
from streams.parsing import refusal_words
from streams.scoring import ALL
from streams.topics import TOPICS, topic_of
from streams.transport import Slice

__all__ = ["attach"]

LOG = logging.getLogger(__name__)

_ERRORS = topic_of(FidelityErrors)
_PARTITIONS = {topic.name: topic.partitions for topic in TOPICS}
_SOURCES = range(_PARTITIONS[topic_of(OutcomeEvent)])
_TICK_S = 1.0
_PATIENT_TICKS = 10
_YEAR_ONE = -62_135_596_800.0
_SWEEP_S = 60.0


def attach(app: TwinApp) -> None:
    """Give the app its table, its agent, its clock and its sweep."""
    table = app.Table("fidelity-panes", partitions=_PARTITIONS[_ERRORS], key_type=str)
    fidelity = _Fidelity(app, table)
    app.on_partitions_assigned.connect(fidelity.on_assigned)
    app.agent(app.raw_topic(_ERRORS), name="fidelity", concurrency=1)(fidelity.run)
    app.timer(_TICK_S)(fidelity.tick)
    app.timer(_SWEEP_S)(fidelity.sweep)


@dataclass
class _Line:
    """What the agent holds of a line; ``unsettled`` windows have no snapshot of their present version."""

    state: LineState
    view: LineView
    snapshots: dict[Window, Snapshot]
    states: dict[Series, DriftState]
    attempts: dict[Series, int | None]
    seen_at: datetime
    due: set[Window] = field(default_factory=set)
    unsettled: set[Window] = field(default_factory=set)
    touched: set[Series] = field(default_factory=set)

    def take(self, source: str, rows: Iterable[Any]) -> set[tuple[Series, float]]:
        """Take rows in and return the panes that they belong to."""
        panes = set()
        for row in rows:
            said = self.view.apply(source, row)
            windows = {window for window in said if window.start + self.view.window_s > self.view.floor}
            self.due |= windows
            self.unsettled |= windows
            if windows:
                series = Series(row.model_id, row.segment)
                self.touched.add(series)
                panes.add((series, pane_start(row.pane, self.view.pane_s)))
        return panes


class _Fidelity:
    def __init__(self, app: TwinApp, table: Any) -> None:
        self._app = app
        self._table = table
        self._lines: dict[str, _Line] = {}
        self._cards: dict[UUID, ModelCard] = {}
        self._watermarks: dict[int, tuple[int, datetime | None]] = {}
        self._dropped: list[str] = []
        self._judge = Judge(app.settings.n_min, app.settings.average_run_length)
        self._turn = asyncio.Lock()
        self._ticks = 0

    async def on_assigned(self, _: Any, assigned: set[TP], **__: Any) -> None:  # noqa: ARG002  # Faust's signature
        """Begin anew: what others did in the meantime stands in Postgres."""
        self._lines.clear()

    async def run(self, slices: Any) -> None:
        """Merge slice after slice."""
        async for taken in slices:
            await settle(self._app, partial(self._merge, taken), _fail)

    async def tick(self) -> None:
        """Say the windows that changed, and judge their series."""
        if self._is_busy_elsewhere():
            return
        self._ticks += 1
        async with self._turn:
            for state in await persist(partial(store.line_states, self._app.pool), part="postgres"):
                if self._is_mine(state.line):
                    await persist(partial(self._say, state), part="postgres")

    async def sweep(self) -> None:
        """Catch up with rows that no message told of, and raise floors."""
        if self._is_busy_elsewhere():
            return
        async with self._turn:
            for name, line in list(self._lines.items()):
                await persist(partial(self._catch_up, name, line), part="postgres")

    def _is_busy_elsewhere(self) -> bool:
        return bool(self._app.rebalancing or self._app.in_recovery or self._app.should_stop)

    def _is_mine(self, line: str) -> bool:
        partition = (murmur2(line.encode()) & 0x7FFFFFFF) % _PARTITIONS[_ERRORS]
        return TP(_ERRORS, partition) in self._app.consumer.assignment()

    # -- merging

    async def _merge(self, taken: Slice) -> None:
        async with self._turn:
            panes: set[tuple[str, Series, float]] = set()
            lines: dict[str, _Line] = {}
            for record in taken.records:
                said = await self._read(record)
                if said is None:
                    continue
                self._note(said.source, said.watermark)
                line = await self._line(said.line) if said.rows else None
                if line is not None:
                    lines[said.line] = line
                    panes |= {(said.line, *pane) for pane in line.take(str(said.source), said.rows)}
            for name, series, start in panes:
                self._table[_key(name, series, start)] = _cached(lines[name].view, series, start)
            while self._dropped:
                self._table.pop(self._dropped.pop(), None)

    async def _read(self, record: Any) -> FidelityErrors | None:
        try:
            said = FidelityErrors.model_validate_json(record.value or b"")
            for model_id in {row.model_id for row in said.rows}:
                await self._card(model_id)
        except ValidationError as error:
            await bury(self._app, _in_seconds(record), "invalid", refusal_words(error))
        except UnknownModel as error:
            await bury(self._app, _in_seconds(record), "model", str(error))
        else:
            return said
        return None

    def _note(self, source: SourceId, watermark: datetime | None) -> None:
        """Keep what the newest incarnation of a source says; a null says nothing of one that has begun already."""
        incarnation, known = self._watermarks.get(source.partition, (-1, None))
        if source.incarnation > incarnation or (source.incarnation == incarnation and (watermark or known is None)):
            self._watermarks[source.partition] = (source.incarnation, watermark)

    def _watermark(self) -> float | None:
        """Event time that all sources have reached, null while one of them has told nothing."""
        reached = [self._watermarks.get(partition, (0, None))[1] for partition in _SOURCES]
        known = [at.timestamp() for at in reached if at is not None]
        return min(known) if len(known) == len(reached) else None

    async def _line(self, name: str) -> _Line | None:
        if name not in self._lines:
            states = {state.line: state for state in await store.line_states(self._app.pool)}
            if name not in states:
                LOG.warning("sums of %s, a model line that nobody registered, are passed over", name)
                return None
            self._lines[name] = await self._load(states[name])
        return self._lines[name]

    async def _load(self, state: LineState) -> _Line:
        """The line as Postgres has it: rows from a window below its floor, and every window due that no snapshot covers."""
        pool, floor = self._app.pool, -math.inf if state.floor is None else state.floor
        begun = {Series(row.model_id, row.segment): _evidence_at(row) for row in await store.detector_floors(pool, state.line)}
        seen_at = await store.clock(pool) - timedelta(seconds=_SWEEP_S)
        view = LineView(state.pane_s, state.window_s, floor, begun)
        known = await store.snapshots(pool, state.line, _lowest(view))
        said = await store.series_states(pool, state.line)
        line = _Line(
            state=state,
            view=view,
            snapshots={_on_grid(key, state.pane_s): snapshot for key, snapshot in known.items()},
            states={Series(each.model_id, each.segment): DriftState(each.state) for each in said},
            attempts={Series(each.model_id, each.segment): each.attempt for each in said},
            seen_at=seen_at,
        )
        self._fill(line, await store.live_rows(pool, state.line, _lowest(view)))
        for each in said:
            if not each.said:
                await self._say_drift(each.event)
        return line

    def _fill(self, line: _Line, rows: Iterable[SourcedRow]) -> None:
        for source, found in rows:
            line.take(source, [found.row])
        settled = {
            window
            for window in line.due
            if window in line.snapshots and line.snapshots[window].version == line.view.window(window).version
        }
        line.due -= settled
        line.unsettled -= settled

    # -- saying

    async def _say(self, state: LineState) -> None:
        line = await self._line(state.line)
        if line is None:
            return
        line.state = state
        await self._judge_touched(line)  # before anything is said: an alarm does not wait for a thousand windows
        watermark = self._watermark()
        closing = {window for window in line.unsettled if self._is_closed(line, window, watermark)}
        due = sorted(closing | {window for window in line.due if self._is_urgent(line, window)})
        said = [await self._window(line, window, closed=window in closing) for window in due]
        for sent in [await self._app.begin_to_say(event, key=state.line) for event in said]:
            await sent
        final = [(window, event) for window, event in zip(due, said, strict=True) if window in closing]
        await store.save_snapshots(self._app.pool, [event for _, event in final])
        line.snapshots.update({window: Snapshot(event.version, event.status) for window, event in final})
        line.unsettled -= closing
        line.due.difference_update(due)
        self._show(line, zip(due, said, strict=True))

    def _is_closed(self, line: _Line, window: Window, watermark: float | None) -> bool:
        """Closing is for good: a source that goes back in time restates what was closed before."""
        return window in line.snapshots or is_closed(window.start + line.view.window_s, watermark, self._app.settings.grace_s)

    def _is_urgent(self, line: _Line, window: Window) -> bool:
        """The window that ends with the latest pane is said at once, those that it slides over now and then."""
        return self._ticks % _PATIENT_TICKS == 0 or window.start == _fullest(line.view, window.series)

    async def _window(self, line: _Line, window: Window, *, closed: bool) -> FidelityWindow:
        version, sums = line.view.window(window)
        end = window.start + line.view.window_s
        baseline = (await self._card(window.series.model_id)).baseline
        newest = window.series.segment == ALL and window.start == _fullest(line.view, window.series)
        evidence = self._judge.evidence(line.view, window.series) if newest else None
        found = self._judge.of_window(window.start, end, sums, evidence, baseline)
        return FidelityWindow(
            line=line.state.line,
            model_id=window.series.model_id,
            metric_type=line_parts(line.state.line)[2],
            segment=window.series.segment,
            window_start=datetime.fromtimestamp(window.start, UTC),
            window_end=datetime.fromtimestamp(end, UTC),
            status=_status(line.snapshots.get(window), version, closed=closed),
            version=version,
            metrics=found.metrics,
            state=found.state,
            evidence_ratio=evidence,
        )

    async def _card(self, model_id: UUID) -> ModelCard:
        if model_id not in self._cards:
            self._cards[model_id] = await load_card(self._app.pool, model_id)
        return self._cards[model_id]

    # -- judging

    async def _judge_touched(self, line: _Line) -> None:
        """Judge the champion's series that changed; late outcomes of an earlier model accuse nobody."""
        for series in sorted(line.touched):
            if series.model_id == line.state.champion:
                await self._judge_series(line, series)
        line.touched.clear()

    async def _judge_series(self, line: _Line, series: Series) -> None:
        found = self._judge.of_series(line.view, series, (await self._card(series.model_id)).baseline)
        before = line.states.get(series, DriftState.INSUFFICIENT)
        if found.state is not before and before is not DriftState.ALARM:
            await self._change(line, series, before, found)
        if found.state is DriftState.ALARM and line.states.get(series) is DriftState.ALARM:
            await self._ask_to_retrain(line, series, found)

    async def _change(self, line: _Line, series: Series, before: DriftState, found: Judgement) -> None:
        """Keep the new state, then say it."""
        if found.state is DriftState.ALARM:
            event = await self._raise_alarm(line, series, before)
            if event is None:
                return
        else:
            event = drift_event(line.state.line, series, before, found)
            if not await store.save_state(self._app.pool, event):
                line.states[series] = DriftState.ALARM
                return
        line.states[series] = event.state
        await self._say_drift(event)
        for verdict in event.verdicts:
            if verdict.fired:
                VERDICTS.labels(line=event.line, rule=verdict.rule).inc()

    async def _raise_alarm(self, line: _Line, series: Series, before: DriftState) -> DriftEvent | None:
        """Latch the alarm in Postgres, if the rows there say the same: what is held here may be half of a correction."""
        baseline = (await self._card(series.model_id)).baseline
        view = LineView(line.view.pane_s, line.view.window_s, line.view.floor, line.view.begun)
        async with transaction(self._app.pool) as connection:
            for source, found in await store.series_rows(connection, line.state.line, _lowest(line.view), series):
                view.apply(source, found.row)
            judged = self._judge.of_series(view, series, baseline)
            event = drift_event(line.state.line, series, before, judged)
            if judged.state is not DriftState.ALARM:
                return None
            await store.save_state(connection, event)
        return event

    async def _say_drift(self, event: DriftEvent) -> None:
        await self._app.say(event, key=event.line)
        await store.mark_said(self._app.pool, event.model_id, event.segment)

    async def _ask_to_retrain(self, line: _Line, series: Series, found: Judgement) -> None:
        """Ask once for each training that could still help: the event's id counts the trainings that have ended."""
        if series.segment != ALL:
            return
        attempt = await finished_trainings(self._app.pool, series.model_id)
        asked = line.attempts.get(series)
        if asked is not None and attempt <= asked:
            return
        await self._app.say(retrain_event(line.state.line, series, attempt, found, datetime.now(UTC)), key=line.state.line)
        await store.note_attempt(self._app.pool, series.model_id, series.segment, attempt)
        line.attempts[series] = attempt

    # -- sweeping

    async def _catch_up(self, name: str, line: _Line) -> None:
        now = await store.clock(self._app.pool)
        # a row may become visible some time after its changed_at: its transaction ends at most this much later
        since = line.seen_at - timedelta(seconds=self._app.settings.postgres_statement_timeout_s * 2)
        for source, found in await store.changed_rows(self._app.pool, name, _lowest(line.view), since):
            if not line.view.holds(source, found.row):
                line.take(source, [found.row])
        line.seen_at = now
        await self._raise_floor(name, line)

    async def _raise_floor(self, name: str, line: _Line) -> None:
        floor = await self._next_floor(line)
        if floor is None or floor <= line.view.floor:
            return
        begun = {
            series: line.view.evidence_before(series, floor, self._judge.first)
            for series in line.view.series()
            if series.segment == ALL
        }
        async with transaction(self._app.pool) as connection:
            await store.lock_line(connection, name)
            low = max(line.view.floor, _YEAR_ONE)
            if await store.version_between(connection, name, low, floor) != line.view.version_between(low, floor):
                return
            await store.raise_floor(connection, name, floor, [_floor_row(series, floor, found) for series, found in begun.items()])
        dropped = line.view.raise_floor(floor, begun)
        self._dropped.extend(_key(name, series, start) for series, start in dropped)
        line.snapshots = {window: kept for window, kept in line.snapshots.items() if window.start >= floor - line.view.window_s}

    async def _next_floor(self, line: _Line) -> float | None:
        """The lowest limit of any source that still has something to read, and never above a window that is not settled."""
        sources = await store.source_states(self._app.pool, topic_of(OutcomeEvent))
        if len(sources) < len(_SOURCES):
            return None
        now = await store.clock(self._app.pool)
        recent = now - timedelta(seconds=_SWEEP_S)
        holding = [each for each in sources if each.read_to_end_at is None or each.read_to_end_at < recent]
        marks = [each.watermark for each in holding or sources]
        known = [mark.timestamp() for mark in marks if mark is not None]
        if not known or (holding and len(known) < len(marks)):
            return None
        reached = min(known) if holding else max(known)
        limit = lowest_pane(reached, line.view.pane_s, self._app.settings.restatement_s)
        return min([limit, *(window.start for window in line.unsettled)])

    # -- showing

    def _show(self, line: _Line, said: Iterable[tuple[Window, FidelityWindow]]) -> None:
        for window, event in said:
            if window.series.model_id == line.state.champion and window.start == _fullest(line.view, window.series):
                _gauge(event)
        if line.state.champion in self._cards:
            BASELINE_MAE.labels(line=line.state.line).set(self._cards[line.state.champion].baseline.mae)


async def _fail(error: Exception) -> None:
    raise error


def _in_seconds(record: Any) -> Any:
    """A record of a slice with its time as Faust's messages have it."""
    return replace(record, timestamp=record.timestamp / 1000)


def _gauge(event: FidelityWindow) -> None:
    labels = {"line": event.line, "segment": event.segment}
    shown = {
        WINDOW_OUTCOMES: event.metrics.n,
        WINDOW_MAE: event.metrics.mae,
        WINDOW_RMSE: event.metrics.rmse,
        WINDOW_CORRELATION: event.metrics.correlation,
        WINDOW_COVERAGE: event.metrics.coverage_95pct,
        EVIDENCE: event.evidence_ratio,
    }
    for gauge, value in shown.items():
        if value is not None or gauge is not EVIDENCE:
            gauge.labels(**labels).set(math.nan if value is None else value)


def _fullest(view: LineView, series: Series) -> float:
    """Start of the window that ends with the latest pane of a series."""
    return window_starts(view.newest_start(series), view.pane_s, view.window_s)[0]


def _status(snapshot: Snapshot | None, version: int, *, closed: bool) -> Literal["open", "final", "restated"]:
    if not closed:
        return "open"
    if snapshot is None:
        return "final"
    return snapshot.status if snapshot.version == version else "restated"


def _lowest(view: LineView) -> float:
    """First pane that is kept: a window below the floor."""
    return max(view.floor - view.window_s, _YEAR_ONE)


def _key(line: str, series: Series, start: float) -> str:
    return f"{line}|{series.model_id}|{series.segment}|{start}"


def _cached(view: LineView, series: Series, start: float) -> dict[str, Any]:
    """Rows of a pane as the table keeps them, by source."""
    return {
        source: [[row.pane, row.width_s, row.version, row.last_offset, *row.sums] for row in rows]
        for source, rows in view.rows(series, start).items()
    }


def _on_grid(key: SnapshotKey, pane_s: float) -> Window:
    return Window(Series(key.model_id, key.segment), round(key.start / pane_s) * pane_s)


def _evidence_at(row: FloorRow) -> Evidence:
    return Evidence(tuple(row.log_values), row.last_count, row.log_peak)


def _floor_row(series: Series, floor: float, found: Evidence) -> FloorRow:
    return FloorRow(series.model_id, series.segment, floor, found.log_values, found.last_count, found.log_peak)
