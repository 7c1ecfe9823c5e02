"""The fidelity agent: feeds outcome sums into the monitor of model lines, and evaluates, publishes and maintains them by timers."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from faust.types import TP

from schemas import FidelityErrors, OutcomeEvent
from schemas.base import utc_time
from sql.model_card_rows import UnknownModel
from sql.window_store import monitored_lines
from streams.bounds import require_bounded
from streams.errors import is_waited_for
from streams.kafka import PARTITIONS, topic_of
from streams.kafka.app import TwinApp
from streams.kafka.batch_consumer import PollBatch
from streams.kafka.dead_letters import KafkaRecord, start_refusal_counters
from streams.kafka.record_slices import Refusals, expected_errors, in_seconds, process_in_lanes, process_record
from streams.metrics import TASK_FAILURES, start_at_zero
from streams.monitoring.line_monitor import LineMonitor
from streams.monitoring.line_state import LineState
from streams.monitoring.pane_table import PaneKey, PaneTable, partition_of
from streams.monitoring.sums_check import ForgedSums, check_key, decode_sums
from streams.monitoring.window_state import VersionedSums
from streams.retries import any_error, process_event, report_failure, retry_transient
from streams.services import Services

__all__ = ["attach"]

_ERRORS = topic_of(FidelityErrors)
_OUTCOMES = topic_of(OutcomeEvent)
_KINDS: dict[type[Exception], str] = {UnknownModel: "model", ForgedSums: "forged"}
_EXPECTED = expected_errors(_KINDS)
_TICK_S = 1.0
_SETTLED_S = 0.05
_SWEEP_S = 60.0
_LONGEST_LINE_WAIT_S = 60.0


def attach(app: TwinApp, services: Services) -> None:  # noqa: ARG001  # one signature for every role
    """Add the table, the agent and the timers of this role to the app."""
    table = app.Table("fidelity-panes", partitions=PARTITIONS[_ERRORS], key_type=str)
    fidelity = _Fidelity(app, table)
    start_at_zero(TASK_FAILURES, role=[app.role], task=["sums of a batch"])
    start_refusal_counters(_ERRORS, _KINDS.values())
    app.on_partitions_assigned.connect(fidelity.on_assigned)
    app.on_partitions_revoked.connect(fidelity.on_revoked)
    app.agent(app.batch_topic(_ERRORS), name="fidelity", concurrency=1)(fidelity.run)
    fidelity.tick_now = app.run_every(_TICK_S, fidelity.tick)
    app.run_every(_SWEEP_S, fidelity.sweep)


class _Fidelity:
    """Drives the monitor, and publishes the held panes over all sources on the changelog of the table, for external readers.

    Agent and timers share a lock, because the monitor must not be used concurrently.
    """

    def __init__(self, app: TwinApp, table: Any) -> None:
        self._app = app
        self._monitor = LineMonitor(app)
        self._lock = asyncio.Lock()
        self._failing = _FailingLines()
        self._panes = PaneTable(app, table, self._lock)
        self.tick_now: Callable[[], Awaitable[None]] = self.tick
        self._first_tick: asyncio.Task[None] | None = None

    async def on_assigned(self, _: Any, assigned: set[TP], **__: Any) -> None:  # noqa: ARG002  # Faust's signature
        """Drop the state in memory: other workers may have changed the lines in Postgres meanwhile.

        The role is ready again once its lines are restored, which begins when the group has settled.
        """
        self._app.restoring = "its model lines"
        self._monitor.reset()
        self._panes.reset()
        if self._first_tick is None or self._first_tick.done():
            self._first_tick = asyncio.create_task(self._tick_when_settled())

    async def _tick_when_settled(self) -> None:
        while self._is_paused() and not self._app.should_stop:  # noqa: ASYNC110  # Faust has no event for it
            await asyncio.sleep(_SETTLED_S)
        await self.tick_now()

    async def on_revoked(self, _: Any, revoked: set[TP], **__: Any) -> None:
        """Remove the metrics of the lines that another worker reads from now on."""
        self._monitor.remove_metrics(lambda line: self._partition_of(line) not in revoked)

    async def run(self, batches: Any) -> None:
        """Ingest one batch of outcome sums of each partition after another."""
        await process_in_lanes(self._app, batches, self._process)

    async def tick(self) -> None:
        """Evaluate and publish the lines of the assigned partitions."""
        if self._is_paused():
            return
        self._monitor.watermarks.n_sources = await retry_transient(partial(self._app.count_partitions, _OUTCOMES), part="kafka")
        async with self._lock:
            self._monitor.drop_others(self._is_assigned)
            all_lines = await retry_transient(partial(monitored_lines, self._app.pool), part="postgres")
            assigned = [model_line for model_line in all_lines if self._is_assigned(model_line.line)]
            if self._app.restoring is not None:
                for model_line in assigned:
                    await self._isolated(model_line.line, partial(self._monitor.restore, model_line.line))
                self._app.restoring = None
            for model_line in assigned:
                await self._isolated(model_line.line, partial(self._monitor.evaluate, model_line))

    async def sweep(self) -> None:
        """Catch up with rows that no message delivered, estimate performance, raise floors, evict panes, and publish the panes."""
        if self._is_paused():
            return
        async with self._lock:
            for line in self._monitor.lines:
                await self._isolated(line.name, partial(self._maintain, line))
        await retry_transient(self._publish_panes, part="kafka")

    async def _maintain(self, line: LineState) -> None:
        await self._monitor.catch_up(line)
        await self._monitor.estimate(line)
        await self._monitor.refresh_segments(line)
        line.evict()

    async def _isolated(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Work on a line; one that fails is read again from Postgres before its next turn, which comes later and later."""
        if self._failing.waits(name):
            return
        try:
            await retry_transient(work, part="postgres")
        except Exception as error:  # noqa: BLE001  # the other lines go on, and an exception that leaves a timer would end the app
            self._monitor.drop(name)
            self._failing.add(name)
            if not self._app.should_stop:
                report_failure(self._app.role, f"line {name}", error)
        else:
            self._failing.remove(name)

    async def _publish_panes(self) -> None:
        """Write what differs between the held panes and the table."""
        names = {model_line.line for model_line in await monitored_lines(self._app.pool)}
        await self._panes.sync(lambda: self._monitor.lines, names)

    def _is_paused(self) -> bool:
        return bool(self._app.rebalancing or self._app.in_recovery or self._app.should_stop)

    def _is_assigned(self, line: str) -> bool:
        """Whether this worker reads the partition of a line."""
        return self._partition_of(line) in self._app.consumer.assignment()

    def _partition_of(self, line: str) -> TP:
        """The partition with the sums of a line."""
        return TP(_ERRORS, partition_of(line, self._app.known_partitions(_ERRORS, PARTITIONS[_ERRORS])))

    async def _process(self, batch: PollBatch) -> None:
        await process_event(self._app, partial(self._ingest, batch), self._leave_to_the_sweep)

    async def _ingest(self, batch: PollBatch) -> None:
        """Apply the sums of a batch. Records that fail are refused or parked, and the sweep reads their sums from Postgres.

        What waits for a record that fails, or for its refusal, does not hold the lock: the timers and the other partitions go on.
        """
        refusals = Refusals(self._app, _KINDS)
        records, parking, offsets = list(in_seconds(batch.records)), self._app.parking, [record.offset for record in batch.records]
        if not parking.suspected(batch.partition, offsets):
            async with parking.in_work(batch.partition, offsets):
                records = await self._apply_all(records, refusals)
        for record in records:
            await process_record(self._app, record, partial(self._apply_alone, record), refusals.add, _EXPECTED)
        await retry_transient(refusals.store, part="postgres", waits_for=any_error)

    async def _apply_all(self, records: Sequence[KafkaRecord], refusals: Refusals) -> list[KafkaRecord]:
        """Apply the sums of many records under one lock; returns those that fail for a reason that no rule foresees.

        It ends with the first failure that is waited for, which the others would have too.
        """
        changed: dict[PaneKey, VersionedSums] = {}
        failing: list[KafkaRecord] = []
        async with self._lock:
            for index, record in enumerate(records):
                try:
                    self._app.parking.check(record.partition, record.offset, record.value)
                    await self._apply(record, changed)
                except _EXPECTED as error:
                    refusals.add(record, error)
                except Exception as error:  # noqa: BLE001  # the record is processed again, and then whatever it raises is handled
                    if is_waited_for(error):
                        failing += records[index:]
                        break
                    failing.append(record)
            self._publish_changed(changed)
        return failing

    async def _apply_alone(self, record: KafkaRecord) -> None:
        changed: dict[PaneKey, VersionedSums] = {}
        async with self._lock:
            await self._apply(record, changed)
            self._publish_changed(changed)

    def _publish_changed(self, changed: Mapping[PaneKey, VersionedSums]) -> None:
        for pane, sums in changed.items():
            self._panes.publish(pane, sums)

    async def _apply(self, record: KafkaRecord, changed: dict[PaneKey, VersionedSums]) -> None:
        require_bounded(record.headers)
        message = decode_sums(record.key, record.value, self._app.settings)
        check_key(record.key, message)
        await self._monitor.load_models(message)
        if self._failing.waits(message.line):  # its next turn reads it from Postgres, with these sums
            return
        try:
            changed |= await self._monitor.ingest(message, utc_time(record.timestamp))
        except ForgedSums:
            raise
        except Exception:
            self._monitor.drop(message.line)  # it may hold a part of the message
            raise

    async def _leave_to_the_sweep(self, error: Exception) -> None:
        report_failure(self._app.role, "sums of a batch", error)


class _FailingLines:
    """Lines that have failed, and when (monotonic clock) each is worked on again: after 1, 2, 4 seconds, at most a minute."""

    def __init__(self) -> None:
        self._next_s: dict[str, tuple[int, float]] = {}

    def waits(self, line: str) -> bool:
        """Whether the next turn of a line has not come yet."""
        _, next_s = self._next_s.get(line, (0, -math.inf))
        return time.monotonic() < next_s

    def add(self, line: str) -> None:
        """Record a failure of a line."""
        failures, _ = self._next_s.get(line, (0, 0.0))
        self._next_s[line] = failures + 1, time.monotonic() + min(2.0**failures, _LONGEST_LINE_WAIT_S)

    def remove(self, line: str) -> None:
        """Record a success of a line."""
        self._next_s.pop(line, None)
