"""The fidelity agent: feeds outcome sums into the monitor of model lines, and evaluates, publishes and maintains them by timers."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import Any

from aiokafka.partitioner import DefaultPartitioner
from faust.types import TP
from pydantic import ValidationError

from schemas import FidelityErrors
from sql.model_card_rows import UnknownModel
from sql.window_store import monitored_lines
from streams.kafka import PARTITIONS, topic_of
from streams.kafka.app import TwinApp
from streams.kafka.batch_consumer import PollBatch
from streams.kafka.dead_letters import refuse
from streams.monitoring import WindowState
from streams.monitoring.line_monitor import LineMonitor, PaneKey
from streams.retries import process_event, reraise, retry_transient
from streams.services import Services

__all__ = ["attach"]

_ERRORS = topic_of(FidelityErrors)
_PARTITIONS = range(PARTITIONS[_ERRORS])
_TICK_S = 1.0
_SWEEP_S = 60.0


def attach(app: TwinApp, services: Services) -> None:  # noqa: ARG001  # one signature for every role
    """Add the table, the agent and the timers of this role to the app."""
    table = app.Table("fidelity-panes", partitions=len(_PARTITIONS), key_type=str)
    fidelity = _Fidelity(app, table)
    app.on_partitions_assigned.connect(fidelity.on_assigned)
    app.agent(app.raw_topic(_ERRORS), name="fidelity", concurrency=1)(fidelity.run)
    app.timer(_TICK_S)(fidelity.tick)
    app.timer(_SWEEP_S)(fidelity.sweep)


class _Fidelity:
    """Drives the monitor.

    The table publishes the held panes over all sources on its changelog topic, for external consumers; it is never read here. Agent
    and timers share a lock, because the monitor must not be used concurrently.
    """

    def __init__(self, app: TwinApp, table: Any) -> None:
        self._app = app
        self._table = table
        self._monitor = LineMonitor(app)
        self._evicted: set[PaneKey] = set()
        self._lock = asyncio.Lock()

    async def on_assigned(self, _: Any, assigned: set[TP], **__: Any) -> None:  # noqa: ARG002  # Faust's signature
        """Drop the state in memory: other workers may have changed the lines in Postgres meanwhile."""
        self._monitor.reset()

    async def run(self, batches: Any) -> None:
        """Ingest one batch of outcome sums after another."""
        async for batch in batches:
            await process_event(self._app, partial(self._ingest, batch), reraise)

    async def tick(self) -> None:
        """Evaluate and publish the lines of the assigned partitions."""
        if self._is_paused():
            return
        async with self._lock:
            for model_line in await retry_transient(partial(monitored_lines, self._app.pool), part="postgres"):
                if self._is_assigned(model_line.line):
                    await retry_transient(partial(self._monitor.evaluate, model_line), part="postgres")

    async def sweep(self) -> None:
        """Catch up with rows that no message delivered, estimate performance, raise floors, and evict panes."""
        if self._is_paused():
            return
        async with self._lock:
            for line in self._monitor.lines:
                await retry_transient(partial(self._monitor.catch_up, line), part="postgres")
                await retry_transient(partial(self._monitor.estimate, line), part="postgres")
                self._evicted |= self._monitor.evict(line)

    def _is_paused(self) -> bool:
        return bool(self._app.rebalancing or self._app.in_recovery or self._app.should_stop)

    def _is_assigned(self, line: str) -> bool:
        """Whether this worker reads the partition of a line, which Kafka's default partitioner chose by its name."""
        partition = DefaultPartitioner()(line.encode(), _PARTITIONS, _PARTITIONS)
        return TP(_ERRORS, partition) in self._app.consumer.assignment()

    async def _ingest(self, batch: PollBatch) -> None:
        async with self._lock:
            changed: dict[PaneKey, WindowState] = {}
            for record in batch.records:
                message = await self._read(record)
                if message is not None:
                    changed |= await self._monitor.ingest(message)
            self._update_table(changed)

    async def _read(self, record: Any) -> FidelityErrors | None:
        """Decode a record and load its models; None for a record that was sent to the dead letters."""
        try:
            message = FidelityErrors.model_validate_json(record.value or b"")
            await self._monitor.load_models(message)
        except (ValidationError, UnknownModel) as error:
            await refuse(self._app, _with_timestamp_in_s(record), error, kinds={UnknownModel: "model"})
            return None
        return message

    def _update_table(self, changed: dict[PaneKey, WindowState]) -> None:
        """Write the changed panes to the table, and remove the evicted ones: the changelog gets a tombstone for each."""
        for pane, window_state in changed.items():
            self._table[_table_key(pane)] = window_state.pane_sums(pane.series, pane.start)._asdict()
        for pane in self._evicted - changed.keys():
            self._table.pop(_table_key(pane), None)
        self._evicted.clear()


def _with_timestamp_in_s(record: Any) -> Any:
    """Copy of a record of a batch with its timestamp in seconds, as Faust's messages have it."""
    return replace(record, timestamp=record.timestamp / 1000)


def _table_key(pane: PaneKey) -> str:
    return f"{pane.line}|{pane.series.model_id}|{pane.series.segment}|{pane.start}"
