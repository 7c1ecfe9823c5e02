"""Takes in what really happened, and says the sums that changed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from typing import Any

from faust.types import TP

from schemas import FidelityErrors, OutcomeEvent, PaneRow, SourceId
from sql import source_position_store as store
from sql.dead_letter_store import unsent_refused_before, unsent_refused_since
from streams.ingestion.pipeline import IngestResult, OutcomePipeline
from streams.ingestion.scoring_context import ContextLoader, FindSimulation, LoadModel
from streams.kafka.app import TwinApp
from streams.kafka.batch_consumer import PollBatch, StartOffset
from streams.kafka.dead_letters import publish_dead_letters
from streams.kafka.start_offsets import find_start_offsets
from streams.kafka.topics import PARTITIONS, topic_of
from streams.metrics import OUTCOMES, REFUSED, SLICE_SECONDS
from streams.retries import process_event, reraise, retry_transient
from streams.services import Services

__all__ = ["EVERY_LINE", "attach"]

EVERY_LINE = "*"
_ROWS_A_MESSAGE = 500
_SLICES_IN_HAND = 8
_SWEEP_S = 60.0
_SWEPT_AT_ONCE = 500
_OUTCOMES = topic_of(OutcomeEvent)
_READERS = PARTITIONS[topic_of(FidelityErrors)]


def attach(app: TwinApp, services: Services) -> None:
    """Give the app its agent, its watermarks and its sweep."""
    outcomes = _Outcomes(app, services.model, services.twins)
    app.find_start_offsets = outcomes.find_start_offsets
    app.agent(app.raw_topic(_OUTCOMES), name="outcomes", concurrency=1)(outcomes.run)
    app.run_every(min(5.0, max(0.5, app.settings.grace_s / 4)), outcomes.say_watermarks)
    app.run_every(_SWEEP_S, outcomes.sweep)


@dataclass
class _Reached:
    """How far a source is read: its watermark, the next offset, and when (monotonic clock) its last record was taken."""

    watermark: datetime | None = None
    next_offset: int = 0
    at: float = field(default_factory=time.monotonic)


_NOWHERE = _Reached()


class _Outcomes:
    def __init__(self, app: TwinApp, models: LoadModel, simulations: FindSimulation) -> None:
        self._app = app
        self._models = models
        self._simulations = simulations
        self._reached: dict[SourceId, _Reached] = {}
        self._places = asyncio.Semaphore(max(app.settings.postgres_pool_size - 1, 1))  # one is left for timers

    @cached_property
    def _intake(self) -> OutcomePipeline:
        pool, settings = self._app.pool, self._app.settings
        library = ContextLoader(pool, self._models, self._simulations)
        return OutcomePipeline(pool, library, settings.skew_s, settings.restatement_s)

    async def run(self, slices: Any) -> None:
        """Take slices in: those of a partition one after another, those of several side by side.

        The next slices are read and scored while Postgres works on those before them. Each is acknowledged when it is done, and
        the transport commits no offset above one that is not.
        """
        stream, room = slices.noack(), asyncio.Semaphore(_SLICES_IN_HAND)
        last: dict[int, asyncio.Event] = {}
        async with asyncio.TaskGroup() as group:
            async for event in stream.events():
                await room.acquire()
                partition, stored = event.value.partition, asyncio.Event()
                task = group.create_task(self._settle(stream, event, last.get(partition), stored))
                task.add_done_callback(lambda _: room.release())
                last[partition] = stored

    async def _settle(self, stream: Any, event: Any, before: asyncio.Event | None, stored: asyncio.Event) -> None:
        await process_event(self._app, partial(self._take, event.value, before, stored), reraise)
        await stream.ack(event)

    async def find_start_offsets(self, committed: Mapping[TP, int | None]) -> Mapping[TP, StartOffset]:
        """Where reading begins, and with it how far each source is."""
        starts = await retry_transient(partial(find_start_offsets, self._app.settings, self._app.pool, committed), part="postgres")
        sources = {
            SourceId(topic=tp.topic, partition=tp.partition, incarnation=start.incarnation): start for tp, start in starts.items()
        }
        known = await retry_transient(partial(store.source_watermarks, self._app.pool, sources), part="postgres")
        self._reached = {source: _Reached(known.get(source), start.offset) for source, start in sources.items()}
        return starts

    async def _take(self, taken: PollBatch, before: asyncio.Event | None, stored: asyncio.Event) -> None:
        """Bring a slice in when the one ``before`` it is, and say so by ``stored``."""
        began = time.perf_counter()
        ready = await self._intake.prepare(taken)
        if before is not None:
            await before.wait()
        async with self._places:
            done = await self._intake.store(ready)
        stored.set()
        await self._say_rows(done)
        refused = await unsent_refused_since(self._app.pool, done.source, taken.first_offset) if done.replayed else done.refused
        await publish_dead_letters(self._app, refused)
        if self._reached.get(done.source, _NOWHERE).next_offset <= taken.last_offset:
            self._reached[done.source] = _Reached(done.watermark, taken.last_offset + 1)
        SLICE_SECONDS.observe(time.perf_counter() - began)
        _measure(done)

    async def _say_rows(self, done: IngestResult) -> None:
        by_line: defaultdict[str, list[PaneRow]] = defaultdict(list)
        for found in done.rows:
            by_line[found.line].append(found.row)
        for sent in [
            await self._begin_to_say(line, done, rows[first : first + _ROWS_A_MESSAGE])
            for line, rows in by_line.items()
            for first in range(0, len(rows), _ROWS_A_MESSAGE)
        ]:
            await sent

    async def _begin_to_say(self, line: str, done: IngestResult, rows: Sequence[PaneRow]) -> Awaitable[Any]:
        said = FidelityErrors(line=line, source=done.source, watermark=done.watermark, rows=tuple(rows))
        return await self._app.send_event(said, key=line)

    async def say_watermarks(self) -> None:
        """Tell every reader how far the sources of this worker are.

        A source that was read to its end and has been silent for as long as windows wait holds nothing open: it is as far as the
        clock.
        """
        await retry_transient(self._say_watermarks, part="postgres")

    async def _say_watermarks(self) -> None:
        consumer = self._app.consumer
        mine = {TP(source.topic, source.partition): source for source in self._reached}
        owned = [mine[tp] for tp in consumer.assignment() if tp in mine]
        silent = [source for source in owned if self._is_silent(source)]
        now = datetime.now(UTC)
        if silent:
            await store.mark_read_to_end(self._app.pool, silent, now)
        for source in owned:
            watermark = self._reached[source].watermark
            if source in silent:
                watermark = max(now, watermark or now)
            said = FidelityErrors(line=EVERY_LINE, source=source, watermark=watermark)
            for partition in range(_READERS):
                await self._app.send_event(said, key=EVERY_LINE, partition=partition)

    def _is_silent(self, source: SourceId) -> bool:
        reached = self._reached[source]
        end = self._app.consumer.highwater(TP(source.topic, source.partition)) or 0
        return reached.next_offset >= end and time.monotonic() - reached.at >= self._app.settings.grace_s

    async def sweep(self) -> None:
        """Send copies of refused records that have none yet."""
        await retry_transient(self._sweep, part="postgres")

    async def _sweep(self) -> None:
        due = datetime.now(UTC) - timedelta(seconds=_SWEEP_S)
        await publish_dead_letters(self._app, await unsent_refused_before(self._app.pool, due, _SWEPT_AT_ONCE))


def _measure(done: IngestResult) -> None:
    for (line, fate), count in done.fates.items():
        OUTCOMES.labels(line=line, fate=fate).inc(count)
    for kind, count in Counter(each.kind for each in done.refused).items():
        REFUSED.labels(topic=done.source.topic, reason=kind).inc(count)
