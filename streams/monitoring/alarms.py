"""States of series that change, alarms that latch, and retrains that are asked for: kept in Postgres first, then said."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from engine.fidelity.drift_rules import Detection
from schemas import DriftEvent, DriftState, RetrainEvent
from schemas.fidelity_models import EstimatedFidelity
from schemas.twin_types import ALL_ROWS
from sql import window_store as store
from sql.database import transaction
from sql.replay_store import is_suppressed
from sql.retrain_store import finished_trainings
from streams.kafka.app import TwinApp
from streams.metrics import VERDICTS
from streams.monitoring.drift_detection import DetectorFindings, DriftAssessment, drift_event, early_retrain_event, retrain_event
from streams.monitoring.line_state import LineState, read_series
from streams.monitoring.performance_estimation import is_worse
from streams.monitoring.window_state import SeriesKey

__all__ = ["Alarms"]


class Alarms:
    """Judges what changed; ``app`` says what was found."""

    def __init__(self, app: TwinApp) -> None:
        self._app = app

    async def judge(self, line: LineState) -> None:
        """Judge the champion's series that changed; late outcomes of an earlier model accuse nobody."""
        touched = sorted(series for series in line.touched if series.model_id == line.state.champion)
        if touched:
            found = line.judge.found(line.view, touched[0].model_id)
            for series in sorted(found.changed - line.alarmed):
                await self._raise(line, series, found)
            for series in touched:
                await self._judge_series(line, series, found.detected(series, line.alarmed))
        line.touched.clear()

    async def judge_early(self, line: LineState, found: EstimatedFidelity) -> None:
        """Ask for a retrain by an estimate alone, where the settings want it: a bet that outcomes will prove it right."""
        if self._app.settings.retrain_on_estimate and line.state.champion is not None and is_worse(found):
            series = SeriesKey(line.state.champion, ALL_ROWS)
            await self._ask_to_retrain(line, series, partial(early_retrain_event, line.state.line, series, found))

    async def publish_pending(self, line: LineState) -> None:
        """Say what somebody kept and died before it was said."""
        for each in line.unsaid:
            await self._say(each.event)
        line.unsaid = ()

    async def _raise(self, line: LineState, series: SeriesKey, found: DetectorFindings) -> None:
        """Latch the alarm of a detector, if the rows in Postgres say the same: what is held here may be half of a correction."""
        async with transaction(self._app.pool) as connection:
            view = await read_series(connection, line, series)
            if not line.judge.confirms(view, series, found):
                return
            await store.latch_alarm(connection, line.state.line, series)
        line.alarmed.add(series)

    async def _judge_series(self, line: LineState, series: SeriesKey, detected: Detection) -> None:
        before = line.states.get(series, DriftState.INSUFFICIENT)
        found = line.judge.assess_series(line.view, series, detected, before)
        if found.state is not before:
            await self._change(line, series, before, found)
        if found.calls and line.states.get(series) is DriftState.ALARM:
            await self._ask_to_retrain(line, series, partial(retrain_event, line.state.line, series, found))

    async def _change(self, line: LineState, series: SeriesKey, before: DriftState, found: DriftAssessment) -> None:
        """Keep the new state, then say it."""
        if found.state is DriftState.ALARM:
            event = await self._latch(line, series, before)
            if event is None:
                return
        else:
            event = drift_event(line.state.line, series, before, found)
            if not await store.save_state(self._app.pool, event):
                line.states[series] = DriftState.ALARM
                return
        line.states[series] = event.state
        await self._say(event)
        for verdict in event.verdicts:
            if verdict.fired:
                VERDICTS.labels(line=event.line, rule=verdict.rule).inc()

    async def _latch(self, line: LineState, series: SeriesKey, before: DriftState) -> DriftEvent | None:
        """Latch the alarm of a series whose detector has raised its own, if the rule holds in Postgres too."""
        async with transaction(self._app.pool) as connection:
            judged = line.judge.assess_series(await read_series(connection, line, series), series, Detection.CHANGE, before)
            event = drift_event(line.state.line, series, before, judged)
            if judged.state is not DriftState.ALARM:
                return None
            await store.save_state(connection, event)
        return event

    async def _say(self, event: DriftEvent) -> None:
        """Say it, unless a replay of outcomes brought it about: that is no news."""
        if not await is_suppressed(self._app.pool, event.line):
            await self._app.publish(event, key=event.line)
        await store.mark_published(self._app.pool, event.model_id, event.segment)

    async def _ask_to_retrain(self, line: LineState, series: SeriesKey, event: Callable[[int, datetime], RetrainEvent]) -> None:
        """Ask once for each training that could still help: the event's id counts the trainings that have ended."""
        attempt = await finished_trainings(self._app.pool, series.model_id)
        asked = line.attempts.get(series)
        if asked is not None and attempt <= asked:
            return
        await self._app.publish(event(attempt, datetime.now(UTC)), key=line.state.line)
        await store.note_attempt(self._app.pool, series.model_id, series.segment, attempt)
        line.attempts[series] = attempt
