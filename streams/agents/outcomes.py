"""The agent of the outcomes role: reads poll batches, drives the outcome pipeline, and publishes watermarks."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from typing import Any

from faust.types import TP

from schemas import TWIN_TYPES, FidelityErrors, OutcomeEvent, SourceId, line_parts
from schemas.events import EVERY_LINE
from sql.dead_letter_store import unsent_refused_before
from sql.source_position_store import mark_read_to_end, source_watermarks
from sql.window_store import monitored_lines
from streams.ingestion import (
    REFUSAL_KINDS,
    BatchSteps,
    ContextLoader,
    IngestResult,
    OutcomePipeline,
    RecordIsolation,
    publish_result,
)
from streams.kafka import topic_of
from streams.kafka.app import TwinApp
from streams.kafka.batch_consumer import PollBatch, StartOffset
from streams.kafka.dead_letters import count_refused_records, publish_dead_letters
from streams.kafka.partition_lanes import PartitionLanes
from streams.kafka.start_offsets import find_start_offsets
from streams.kafka.topic_watch import WATCHED_TOPICS
from streams.metrics import (
    BATCH_SECONDS,
    FEATURE_MISSING,
    FEATURE_UNSEEN,
    FEATURE_UNUSED,
    IN_OTHER,
    OUTCOMES,
    OUTLIERS,
    REFUSED,
    TASK_FAILURES,
    start_at_zero,
)
from streams.retries import process_event, retry_transient
from streams.services import Services

__all__ = ["attach"]

LOG = logging.getLogger(__name__)

_SWEEP_S = 60.0
_MAX_SWEPT = 500
_FATES = ("counted", "duplicate", "missing", "superseded", "too_late")
_MAX_LOGGED_EVENTS = 10
_TOPIC = topic_of(OutcomeEvent)
_SUMS = topic_of(FidelityErrors)


def attach(app: TwinApp, services: Services) -> None:
    """Add the agent and its timers for watermarks and unsent dead letters to the app."""
    agent = _OutcomesAgent(app, services)
    start_at_zero(REFUSED, topic=[_TOPIC], reason=REFUSAL_KINDS)
    start_at_zero(TASK_FAILURES, role=[app.role], task=["publication"])
    app.on_partitions_revoked.connect(agent.on_revoked)
    app.find_start_offsets = agent.find_start_offsets
    app.agent(app.batch_topic(_TOPIC), name="outcomes", concurrency=1)(agent.run)
    shortest_s = min(app.settings.grace_s, app.settings.idle_s)
    app.run_every(min(5.0, max(0.5, shortest_s / 4)), agent.publish_watermarks)
    app.run_every(_SWEEP_S, agent.publish_unsent_dead_letters)
    app.run_every(_SWEEP_S, agent.start_counters)


@dataclass
class _Progress:
    """How far a source is read: its watermark, the next offset, and when (monotonic clock) its last outcome was stored."""

    watermark: datetime | None = None
    next_offset: int = 0
    active_s: float = field(default_factory=time.monotonic)


class _OutcomesAgent:
    def __init__(self, app: TwinApp, services: Services) -> None:
        self._app = app
        self._services = services
        self._progress: dict[SourceId, _Progress] = {}
        self._topic_restarts = WATCHED_TOPICS.restarts(_TOPIC)
        self._incarnations: dict[TP, int] = {}
        self._ended: dict[TP, int] = {}
        self._connections = asyncio.Semaphore(max(app.settings.postgres_pool_size - 1, 1))  # one is left for the timers

    @cached_property
    def _pipeline(self) -> OutcomePipeline:
        pool, settings = self._app.pool, self._app.settings
        contexts = ContextLoader(pool, self._services.models.load, self._services.simulator.twins)
        return OutcomePipeline(pool, contexts, settings.skew_s, settings.restatement_s, settings.segment_limits, settings)

    @cached_property
    def _isolation(self) -> RecordIsolation:
        steps = BatchSteps(self._app.pool, self._pipeline, self._connections)
        return RecordIsolation(steps, self._app.parking, self._app.settings.park_in_a_row)

    async def run(self, batches: Any) -> None:
        """Ingest batches: those of a partition are stored one after another, those of several partitions side by side.

        Each is acknowledged when it is finished, and the transport commits no offset above a batch that is not.
        """
        stream = batches.noack()
        lanes = PartitionLanes(partial(self._process, stream), self._app.settings.max_waiting_bytes)
        await lanes.run(stream, lambda: self._app.consumer)

    async def on_revoked(self, _: Any, revoked: set[TP], **__: Any) -> None:  # noqa: ARG002  # Faust's signature
        """No partition of another worker waits here."""
        self._app.parking.unblock_all()

    async def _process(self, stream: Any, event: Any, previous: asyncio.Event | None, stored: asyncio.Event) -> None:
        batch: PollBatch = event.value
        ingest, isolate = partial(self._ingest, batch, previous, stored), partial(self._isolate, batch, previous, stored)
        await process_event(self._app, ingest, isolate)
        await stream.ack(event)

    async def _ingest(self, batch: PollBatch, previous: asyncio.Event | None, stored: asyncio.Event) -> None:
        """Take a batch through the pipeline; it is stored after the ``previous`` one of its partition, and then sets ``stored``."""
        start_s = time.perf_counter()
        parking, offsets = self._app.parking, [record.offset for record in batch.records]
        if parking.requested_offsets(batch.partition, offsets) or parking.suspected(batch.partition, offsets):
            await self._isolate(batch, previous, stored)
            return
        async with parking.in_work(batch.partition, offsets):
            scored = await self._pipeline.score(await self._pipeline.decode(batch))
            if previous is not None:
                await previous.wait()
            async with self._connections:
                result = await self._pipeline.store(scored)
        self._isolation.on_success()
        stored.set()
        await self._publish(result)
        self._advance(batch, result)
        BATCH_SECONDS.observe(time.perf_counter() - start_s)

    async def _isolate(
        self, batch: PollBatch, previous: asyncio.Event | None, stored: asyncio.Event, error: Exception | None = None
    ) -> None:
        """Store a batch in parts but for the records that fail alone, or that an operator wants to be parked."""
        if error is not None:
            LOG.warning("a batch of %s:%d failed, and is taken apart", batch.topic, batch.partition, exc_info=error)
        if previous is not None:
            await previous.wait()
        async for result in self._isolation.ingest(batch):
            await self._publish(result)
            self._app.finished[batch.partition] += 1
            last = result
        stored.set()
        self._advance(batch, last)

    async def _publish(self, result: IngestResult) -> None:
        await publish_result(self._app, result)
        for (line, fate), count in result.fates.items():
            OUTCOMES.labels(line=line, fate=fate).inc(count)
        for (line, dimension), count in result.in_other.items():
            IN_OTHER.labels(line=line, dimension=dimension).inc(count)
        for item in result.feature_counts:
            labels = {"line": item.line, "feature": item.feature}
            for counter, n in ((FEATURE_MISSING, item.missing), (FEATURE_UNSEEN, item.unseen), (FEATURE_UNUSED, item.unused)):
                counter.labels(**labels).inc(n)
        count_refused_records(result.refused)
        _report_doubts(result)

    def _advance(self, batch: PollBatch, result: IngestResult) -> None:
        progress = self._progress.get(result.source)
        if progress is None or (result.fates and progress.next_offset <= batch.last_offset):
            self._progress[result.source] = _Progress(result.watermark, batch.last_offset + 1)
        elif (
            progress.next_offset <= batch.last_offset
        ):  # refused records move no watermark, and must not keep a source from being idle
            progress.next_offset = batch.last_offset + 1

    async def find_start_offsets(self, committed: Mapping[TP, int | None]) -> Mapping[TP, StartOffset]:
        """Where reading of each partition starts; the progress of these sources starts there too."""
        self._note_ended()
        find = partial(find_start_offsets, self._app.settings, self._app.pool, committed, self._ended)
        starts = await retry_transient(find, part="postgres")
        self._incarnations |= {tp: start.incarnation for tp, start in starts.items()}
        sources = {
            SourceId(topic=tp.topic, partition=tp.partition, incarnation=start.incarnation): start for tp, start in starts.items()
        }
        watermarks = await retry_transient(partial(source_watermarks, self._app.pool, sources), part="postgres")
        await retry_transient(self.start_counters, part="postgres")
        self._progress = {source: _Progress(watermarks.get(source), start.offset) for source, start in sources.items()}
        return starts

    def _note_ended(self) -> None:
        """Note which incarnations have ended, because the topic was created anew while this process read them."""
        restarts = WATCHED_TOPICS.restarts(_TOPIC)
        if restarts != self._topic_restarts:
            self._topic_restarts, self._ended = restarts, dict(self._incarnations)

    async def start_counters(self) -> None:
        """Let the counters of every registered line exist before their first event."""
        for model_line in await monitored_lines(self._app.pool):
            line = model_line.line
            start_at_zero(OUTCOMES, line=[line], fate=_FATES)
            start_at_zero(OUTLIERS, line=[line])
            entry = TWIN_TYPES[line_parts(line)[0]]
            start_at_zero(IN_OTHER, line=[line], dimension=entry.segments)
            for counter in (FEATURE_MISSING, FEATURE_UNSEEN, FEATURE_UNUSED):
                start_at_zero(counter, line=[line], feature=entry.by_name)

    async def publish_watermarks(self) -> None:
        """Publish the watermarks of this worker's sources to every partition of the sums (rule 15).

        A source that is read to its end and had no outcome for ``idle_s`` holds no window open: its watermark is the clock. After
        the grace period it holds no floor back either.
        """
        consumer = self._app.consumer
        sources = {TP(source.topic, source.partition): source for source in self._progress}
        owned = [sources[tp] for tp in consumer.assignment() if tp in sources]
        lag = consumer.lag()
        settings = self._app.settings
        idle = [source for source in owned if self._is_idle(source, lag, settings.idle_s)]
        now = datetime.now(UTC)
        if silent := [source for source in owned if self._is_idle(source, lag, settings.grace_s)]:
            await mark_read_to_end(self._app.pool, silent, now)
        readers = range(await self._app.count_partitions(_SUMS))
        for source in owned:
            watermark = self._progress[source].watermark
            if source in idle:
                watermark = max(now, watermark or now)
            message = FidelityErrors(line=EVERY_LINE, source=source, watermark=watermark)
            for partition in readers:
                await self._app.send_event(message, key=EVERY_LINE, partition=partition)

    def _is_idle(self, source: SourceId, lag: Mapping[TP, int], seconds: float) -> bool:
        """Whether nothing of a source is unread or in work, by the end that the broker stated, and no outcome came for so long."""
        tp = TP(source.topic, source.partition)
        is_read = lag.get(tp) == 0 and self._app.consumer.highwater(tp) is not None
        return is_read and time.monotonic() - self._progress[source].active_s >= seconds

    async def publish_unsent_dead_letters(self) -> None:
        """Publish refused records whose dead letter was not sent, for example because a worker ended before it was."""
        due = datetime.now(UTC) - timedelta(seconds=_SWEEP_S)
        await publish_dead_letters(self._app, await unsent_refused_before(self._app.pool, due, _MAX_SWEPT))


def _report_doubts(result: IngestResult) -> None:
    """Count and log outcomes without an actual value and outliers."""
    for (line, fate), count in result.fates.items():
        if fate == "missing":
            LOG.info("%d outcomes of %s have no actual value: they are skipped", count, line)
    for line, events in result.outliers.items():
        OUTLIERS.labels(line=line).inc(len(events))
        named = ", ".join(map(str, events[:_MAX_LOGGED_EVENTS]))
        more = f" and {len(events) - _MAX_LOGGED_EVENTS} more" if len(events) > _MAX_LOGGED_EVENTS else ""
        LOG.warning("%d errors of %s are beyond 3 standard deviations: events %s%s", len(events), line, named, more)
