"""Merges the sums of all sources into windows, says what they look like, judges them, and asks for a retrain where it is due."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

from aiokafka.partitioner import murmur2
from faust.types import TP
from pydantic import ValidationError

from engine.fidelity.windows import is_closed
from schemas import FidelityErrors, OutcomeEvent
from schemas.twin_models import ModelCard
from sql import window_store as store
from sql.database import clock
from sql.model_card_rows import UnknownModel, load_card
from sql.window_store import MonitoredLine, Snapshot
from streams.ingestion.decoding import refusal_words
from streams.kafka.app import TwinApp
from streams.kafka.batch_consumer import PollBatch
from streams.kafka.dead_letters import send_to_dead_letters
from streams.kafka.topics import PARTITIONS, topic_of
from streams.monitoring.alarms import Alarms
from streams.monitoring.drift_detection import DriftEvaluator
from streams.monitoring.line_state import LineState, load_line
from streams.monitoring.performance_estimation import estimate_performance
from streams.monitoring.restatement_floor import raise_floor
from streams.monitoring.watermarks import Watermarks
from streams.monitoring.window_events import is_fullest, show, show_baseline, window_event
from streams.monitoring.window_state import SeriesKey, WindowKey, WindowState
from streams.retries import process_event, reraise, retry_transient
from streams.services import Services

__all__ = ["attach"]

LOG = logging.getLogger(__name__)

_ERRORS = topic_of(FidelityErrors)
_TICK_S = 1.0
_FILLING_S = 10.0
_SAID_AT_ONCE = 1000
_SWEEP_S = 60.0


def attach(app: TwinApp, services: Services) -> None:  # noqa: ARG001  # one signature for every role
    """Give the app its table, its agent, its clock and its sweep."""
    table = app.Table("fidelity-panes", partitions=PARTITIONS[_ERRORS], key_type=str)
    fidelity = _Fidelity(app, table)
    app.on_partitions_assigned.connect(fidelity.on_assigned)
    app.agent(app.raw_topic(_ERRORS), name="fidelity", concurrency=1)(fidelity.run)
    app.timer(_TICK_S)(fidelity.tick)
    app.timer(_SWEEP_S)(fidelity.sweep)


class _Fidelity:
    """The agent; its table shows the held panes over all sources to whoever reads the changelog, and is never read back."""

    def __init__(self, app: TwinApp, table: Any) -> None:
        self._app = app
        self._table = table
        self._cards: dict[UUID, ModelCard] = {}
        self._judge = DriftEvaluator(app.settings.n_min, app.settings.average_run_length, self._cards)
        self._alarms = Alarms(app)
        self._lines: dict[str, LineState] = {}
        self._watermarks = Watermarks(PARTITIONS[topic_of(OutcomeEvent)])
        self._forgotten: set[str] = set()
        self._turn = asyncio.Lock()

    async def on_assigned(self, _: Any, assigned: set[TP], **__: Any) -> None:  # noqa: ARG002  # Faust's signature
        """Begin anew: what others did in the meantime stands in Postgres."""
        self._lines.clear()

    async def run(self, slices: Any) -> None:
        """Merge slice after slice."""
        async for taken in slices:
            await process_event(self._app, partial(self._merge, taken), reraise)

    async def tick(self) -> None:
        """Say the windows that changed, and judge their series."""
        if self._is_busy_elsewhere():
            return
        async with self._turn:
            for state in await retry_transient(partial(store.monitored_lines, self._app.pool), part="postgres"):
                if self._is_mine(state.line):
                    await retry_transient(partial(self._look_at, state), part="postgres")

    async def sweep(self) -> None:
        """Catch up with rows that no message told of, look ahead, raise floors, and forget what is settled."""
        if self._is_busy_elsewhere():
            return
        async with self._turn:
            for name, line in list(self._lines.items()):
                await retry_transient(partial(self._catch_up, line), part="postgres")
                await retry_transient(partial(self._look_ahead, line), part="postgres")
                self._forgotten |= {_key(name, series, start) for series, start in line.forget()}

    def _is_busy_elsewhere(self) -> bool:
        return bool(self._app.rebalancing or self._app.in_recovery or self._app.should_stop)

    def _is_mine(self, line: str) -> bool:
        partition = (murmur2(line.encode()) & 0x7FFFFFFF) % PARTITIONS[_ERRORS]
        return TP(_ERRORS, partition) in self._app.consumer.assignment()

    # -- merging

    async def _merge(self, taken: PollBatch) -> None:
        async with self._turn:
            changed: dict[str, tuple[WindowState, SeriesKey, float]] = {}
            for record in taken.records:
                said = await self._read(record)
                if said is None:
                    continue
                self._watermarks.note(said.source, said.watermark)
                line = await self._line(said.line) if said.rows else None
                if line is not None:
                    for series, start in await line.take(self._app.pool, str(said.source), said.rows):
                        changed[_key(said.line, series, start)] = line.view, series, start
            for key, (view, series, start) in changed.items():
                self._table[key] = view.pane(series, start)._asdict()
            for key in self._forgotten - changed.keys():
                self._table.pop(key, None)
            self._forgotten.clear()

    async def _read(self, record: Any) -> FidelityErrors | None:
        try:
            said = FidelityErrors.model_validate_json(record.value or b"")
            for model_id in {row.model_id for row in said.rows}:
                await self._card(model_id)
        except ValidationError as error:
            await send_to_dead_letters(self._app, _in_seconds(record), "invalid", refusal_words(error), error)
        except UnknownModel as error:
            await send_to_dead_letters(self._app, _in_seconds(record), "model", str(error), error)
        else:
            return said
        return None

    async def _line(self, name: str) -> LineState | None:
        if name not in self._lines:
            states = {state.line: state for state in await store.monitored_lines(self._app.pool)}
            if name not in states:
                LOG.warning("sums of %s, a model line that nobody registered, are passed over", name)
                return None
            await self._load(states[name])
        return self._lines[name]

    async def _load(self, state: MonitoredLine) -> LineState:
        seen_at = await clock(self._app.pool) - timedelta(seconds=_SWEEP_S)
        line = self._lines[state.line] = await load_line(self._app.pool, state, self._judge, seen_at)
        await self._alarms.publish_pending(line)
        return line

    async def _card(self, model_id: UUID) -> ModelCard:
        if model_id not in self._cards:
            self._cards[model_id] = await load_card(self._app.pool, model_id)
        return self._cards[model_id]

    # -- saying

    async def _look_at(self, state: MonitoredLine) -> None:
        """Judge before anything is said: an alarm does not wait for a thousand windows."""
        line = self._lines.get(state.line)
        if line is None or line.state.champion != state.champion:
            line = await self._load(state)
        line.state = state
        await self._alarms.judge(line)
        await self._say(line)

    async def _say(self, line: LineState) -> None:
        watermark = self._watermarks.reached()
        closing = {window for window in line.unsettled if self._is_closed(line, window, watermark)}
        due = sorted(closing | self._worth_saying(line))
        for model_id in {window.series.model_id for window in due}:
            await self._card(model_id)
        for first in range(0, len(due), _SAID_AT_ONCE):
            if self._app.should_stop:
                return  # the rest stays due: whoever has the line next says it
            await self._say_some(line, due[first : first + _SAID_AT_ONCE], closing)
        if line.state.champion in self._cards:
            show_baseline(line.state.line, self._cards[line.state.champion].baseline)

    async def _say_some(self, line: LineState, due: Sequence[WindowKey], closing: set[WindowKey]) -> None:
        said = {window: window_event(line, window, closed=window in closing) for window in due}
        for sent in [await self._app.send_event(event, key=line.state.line) for event in said.values()]:
            await sent
        final = {window: event for window, event in said.items() if window in closing}
        await store.save_snapshots(self._app.pool, list(final.values()))
        line.snapshots.update({window: Snapshot(event.version, event.status) for window, event in final.items()})
        line.unsettled.difference_update(final)
        line.due.difference_update(due)
        for window, event in said.items():
            if window.series.model_id == line.state.champion and is_fullest(line.view, window):
                show(event)

    def _is_closed(self, line: LineState, window: WindowKey, watermark: float | None) -> bool:
        """Closing is for good: a source that goes back in time restates what was closed before."""
        return window in line.snapshots or is_closed(window.start + line.view.window_s, watermark, self._app.settings.grace_s)

    def _worth_saying(self, line: LineState) -> set[WindowKey]:
        """Every window that changed is said once in ten seconds, and those that people look at at every tick.

        An outcome changes all windows that slide over its pane, a dozen of each series. People look at the one that ends with
        the latest pane; the others are still filling.
        """
        if time.monotonic() - line.said_at >= _FILLING_S:
            line.said_at = time.monotonic()
            return line.due
        return {window for window in line.due if is_fullest(line.view, window)}

    # -- sweeping

    async def _catch_up(self, line: LineState) -> None:
        now = await clock(self._app.pool)
        # a row may become visible some time after its changed_at: its transaction ends at most this much later
        since = line.seen_at - timedelta(seconds=self._app.settings.postgres_statement_timeout_s * 2)
        lowest = line.view.floor - line.view.window_s
        await line.catch_up(self._app.pool, await store.changed_rows(self._app.pool, line.state.line, lowest, since))
        line.seen_at = now
        late = {series for series in line.view.stale if series.model_id == line.state.champion}
        await line.refold(self._app.pool, late)
        line.touched |= late
        await raise_floor(self._app.pool, line, self._app.settings)

    async def _look_ahead(self, line: LineState) -> None:
        """Say what is to be expected of the champion before its outcomes arrive."""
        if line.state.champion is not None:
            found = await estimate_performance(self._app.pool, await self._card(line.state.champion))
            if found is not None:
                await self._alarms.judge_early(line, found)


def _in_seconds(record: Any) -> Any:
    """A record of a slice with its time as Faust's messages have it."""
    return replace(record, timestamp=record.timestamp / 1000)


def _key(line: str, series: SeriesKey, start: float) -> str:
    return f"{line}|{series.model_id}|{series.segment}|{start}"
