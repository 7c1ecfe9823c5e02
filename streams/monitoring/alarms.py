"""Evaluates the series that changed, latches alarms and requests retrains. Every change is stored in Postgres, then published."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from engine.fidelity import Detection
from schemas import DriftEvent, DriftState, RetrainEvent
from schemas.fidelity_models import EstimatedFidelity
from schemas.twin_types import ALL_ROWS
from sql import drift_state_store as store
from sql.database import transaction
from sql.replay_store import is_suppressed
from sql.retrain_decision_store import add_decision
from sql.retrain_store import finished_trainings
from streams.kafka.app import TwinApp
from streams.metrics import VERDICTS
from streams.monitoring.drift_detection import (
    DetectorFindings,
    DriftAssessment,
    Mix,
    drift_event,
    early_retrain_event,
    retrain_event,
)
from streams.monitoring.line_state import LineState, read_series
from streams.monitoring.performance_estimation import is_worse
from streams.monitoring.window_state import SeriesKey

__all__ = ["Alarms"]

_SERIES_PER_TURN = 500
"""Series that are assessed before the event loop turns."""


class Alarms:
    """Evaluates drift and publishes drift and retrain events through ``app``."""

    def __init__(self, app: TwinApp) -> None:
        self._app = app

    async def evaluate(self, line: LineState) -> None:
        """Evaluate the series of the champion that changed; late outcomes of earlier models do not count against it."""
        changed = sorted(series for series in line.changed_series if series.model_id == line.champion)
        if changed:
            model_id = changed[0].model_id
            findings, mix = line.evaluator.findings(line.window_state, model_id), line.evaluator.mix(line.window_state, model_id)
            exceeding = findings.changed - line.alarmed
            carriers = {series: mix.segment for series in exceeding if mix is not None and mix.carries(series)}
            for series in sorted(exceeding - carriers.keys()):
                await self._latch_detector_alarm(line, series, findings)
            for number, series in enumerate(sorted({*changed, *carriers})):
                if number % _SERIES_PER_TURN == 0:
                    await asyncio.sleep(0)  # after a restart there may be very many, and heartbeats must not wait
                detection = findings.detection(series, line.alarmed | carriers.keys())
                await self._evaluate_series(line, series, mix, detection, renew=series in carriers)
            for series, carrier in sorted(carriers.items()):
                await self._restart_detector(line, series, carrier)
        line.changed_series.clear()

    async def evaluate_estimate(self, line: LineState, estimate: EstimatedFidelity) -> None:
        """Request a retrain on an estimate alone, where the settings allow it and the estimate is bad enough."""
        if self._app.settings.retrain_on_estimate and line.champion is not None and self._is_worse(line, estimate):
            series = SeriesKey(line.champion, ALL_ROWS)
            await self._request_retrain(line, series, partial(early_retrain_event, line.name, series, estimate))

    @staticmethod
    def _is_worse(line: LineState, estimate: EstimatedFidelity) -> bool:
        return is_worse(estimate, line.model_line.thresholds.rule("mae_increase"))

    async def publish_pending(self, line: LineState) -> None:
        """Publish the events of stored states that a stopped worker did not publish."""
        for state in line.unpublished_states:
            await self._publish(state.event)
        line.unpublished_states = ()

    async def _latch_detector_alarm(self, line: LineState, series: SeriesKey, findings: DetectorFindings) -> None:
        """Latch the alarm of a detector if the rows in Postgres confirm it.

        The sums in memory may hold only half of a correction that moved outcomes from one pane to another.
        """
        async with transaction(self._app.pool) as connection:
            stored = await read_series(connection, line, series)
            if not line.evaluator.confirms(stored, series, findings):
                return
            await store.latch_alarm(connection, line.name, series)
        line.alarmed.add(series)

    async def _restart_detector(self, line: LineState, series: SeriesKey, carrier: str) -> None:
        """Let the detector of a series begin anew after outcomes of a segment that carried its evidence."""
        state = line.window_state
        at = state.newest_pane(series) + state.pane_s
        await store.restart_detector(self._app.pool, line.name, series, at, carrier)
        state.restart_detector(series, at, line.evaluator.initial_state(series))

    async def _evaluate_series(
        self, line: LineState, series: SeriesKey, mix: Mix | None, detection: Detection, *, renew: bool
    ) -> None:
        """Assess a series; publish a change of its state, and with ``renew`` also that it stays."""
        previous = line.drift_states.get(series, DriftState.INSUFFICIENT)
        has_none = previous is DriftState.INSUFFICIENT and not renew
        if has_none and line.evaluator.stays_insufficient(line.window_state, series, detection):
            return
        assessment = line.evaluator.assess_series(line.window_state, series, mix, detection, previous)
        if assessment.state is not previous or renew:
            await self._change_state(line, series, previous, assessment)
        if assessment.calls_for_retrain and line.drift_states.get(series) is DriftState.ALARM:
            await self._request_retrain(line, series, partial(retrain_event, line.name, series, assessment))

    async def _change_state(self, line: LineState, series: SeriesKey, previous: DriftState, assessment: DriftAssessment) -> None:
        """Store the new state, then publish it."""
        if assessment.state is DriftState.ALARM:
            event = await self._store_alarm(line, series, previous)
            if event is None:
                return
        else:
            event = drift_event(line.name, series, previous, assessment)
            if not await store.save_state(self._app.pool, event):
                # Another worker has stored an alarm, which is final.
                line.drift_states[series] = DriftState.ALARM
                return
        line.drift_states[series] = event.state
        await self._publish(event)
        for verdict in event.verdicts:
            if verdict.fired:
                VERDICTS.labels(line=event.line, rule=verdict.rule).inc()

    async def _store_alarm(self, line: LineState, series: SeriesKey, previous: DriftState) -> DriftEvent | None:
        """Store the alarm of a series whose detector raised its own, if the rule fires on the rows in Postgres too."""
        async with transaction(self._app.pool) as connection:
            stored = await read_series(connection, line, series)
            mix = line.evaluator.mix(stored, series.model_id)
            assessment = line.evaluator.assess_series(stored, series, mix, Detection.CHANGE, previous)
            event = drift_event(line.name, series, previous, assessment)
            if assessment.state is not DriftState.ALARM:
                return None
            await store.save_state(connection, event)
        return event

    async def _publish(self, event: DriftEvent) -> None:
        """Publish an event, except while outcomes are replayed: the replay only repeats earlier changes."""
        if not await is_suppressed(self._app.pool, event.line):
            await self._app.publish(event, key=event.line)
        await store.mark_published(self._app.pool, event.model_id, event.segment)

    async def _request_retrain(self, line: LineState, series: SeriesKey, event: Callable[[int, datetime], RetrainEvent]) -> None:
        """Request a retrain, once after each finished training of the model: the number of finished ones gives its id."""
        attempt = await finished_trainings(self._app.pool, series.model_id)
        requested = line.attempts.get(series)
        if requested is not None and attempt <= requested:
            return
        request = event(attempt, datetime.now(UTC))
        await add_decision(self._app.pool, request)  # before it is published: the trainer takes no other event
        await self._app.publish(request, key=line.name)
        await store.record_attempt(self._app.pool, series.model_id, series.segment, attempt)
        line.attempts[series] = attempt
