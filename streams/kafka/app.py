"""The Faust app of a role: events in and out as raw bytes, read in poll batches, and no web server of its own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from functools import partial
from typing import Any

import faust
from aiokafka.errors import KafkaError, OutOfOrderSequenceNumber, ProducerFenced
from faust.types import TP
from yarl import URL

from schemas import Catalogue, Event
from sql.catalogue_store import follow_catalogue
from sql.database import Pool, open_pool
from streams.errors import is_refused_send, is_transient, is_waited_for
from streams.kafka.batch_consumer import BatchSchema, BatchTransport, StartOffset, StartOffsetFinder
from streams.kafka.clients import MAX_PARTITION_FETCH_BYTES
from streams.kafka.parking import Parking
from streams.kafka.published_table import PublishedTable, PublishedTables
from streams.kafka.record_batches import bound_fetches, guard_openings
from streams.kafka.records import MAX_RECORD_BYTES, Headers, RawRecord, event_headers, event_value
from streams.kafka.security import kafka_security
from streams.kafka.topic_watch import WATCHED_TOPICS
from streams.kafka.topics import PARTITIONS, READ_TOPICS, topic_of
from streams.kafka.work_marks import MARKS
from streams.metrics import CATALOGUE_VERSION, TASK_FAILURES, start_at_zero
from streams.retries import report_failure, retry_transient
from streams.settings import Role, Settings

__all__ = ["TwinApp", "faust_credentials"]

_PRODUCER_ENDED = (OutOfOrderSequenceNumber, ProducerFenced)
_POOL_ATTEMPTS = 5  # a few seconds: a role that is stopped while it starts must not wait for Postgres
_BUFFERED_BATCHES = 32  # 1.5 s of work, which is more than the second that Faust sleeps when all buffers are full
_BUFFERED_SENDS = 20_000
_PRODUCER_BATCH_BYTES = 128 * 1024
_SLICE_RECORDS = 100
"""Most records of a batch that is processed record by record: what is refused of them is stored together."""
_PARK_REQUESTS_S = 2.0
_CATALOGUE_S = 2.0
_TOPIC_S = 1.0
_NEVER_S = 1e9
_METADATA_AGE_S = 30.0  # after this, the producer and the consumer know of partitions that were added


class TwinApp(faust.App):  # type: ignore[misc]  # untyped
    """A Faust app with the settings and the role of its process, a pool of Postgres connections, and sends that must succeed.

    Attributes:
        batch_topics: topics whose records are delivered in poll batches.
        batch_records: most records of a batch.
        parking: which records are parked instead of processed, and which partitions wait.
        finished: how often a record or a part of a batch was finished, by partition: offsets move only at the end of a batch.
        find_start_offsets: finds where reading those topics starts; by default at the committed offsets of the consumer group.
        pool: connections to Postgres, open while the app runs.
        heartbeat_pool: one connection for the heartbeats of leases, opened for the first one: they wait for no other work.
        beside_start: what begins as soon as the pool is open, beside the rest of the start.
        restoring: what an agent restores before the role counts as ready, None when nothing.

    Args:
        role: of this process.
        settings: of this process.
        member: its name as a static member of the consumer group: a process that is started with the name of one that was killed
            gets its partitions at once, and the other members do not notice. Without a name the group waits for the killed one
            until its session times out.
    """

    pool: Pool
    heartbeat_pool: Pool

    def __init__(self, role: Role, settings: Settings, member: str | None = None) -> None:
        self.settings = settings
        self.role = role
        self.batch_topics = frozenset({READ_TOPICS[role]})
        self.batch_records = settings.slice_records if role == "outcomes" else min(settings.slice_records, _SLICE_RECORDS)
        self.find_start_offsets: StartOffsetFinder = _committed_offsets
        self.beside_start: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self.restoring: str | None = None
        start_at_zero(TASK_FAILURES, role=[role], task=["dead letters"])
        self.finished: Counter[int] = Counter()
        self.parking = Parking(settings.park_attempts, READ_TOPICS[role])
        self._topic_restarts = WATCHED_TOPICS.restarts(READ_TOPICS[role])
        self._crash_task: asyncio.Task[None] | None = None
        bound_fetches(settings)
        guard_openings(READ_TOPICS[role], self.parking.opening)
        super().__init__(f"twinstream-{role}", consumer_group_instance_id=member, **_options(role, settings))
        self.transport = BatchTransport(self.conf.broker_consumer, self)
        self.sensors.add(_SendErrorSensor(self))
        self.run_every(_PARK_REQUESTS_S, self._follow_park_requests)
        self.run_every(_PARK_REQUESTS_S, self._store_interrupted)
        self.run_every(_CATALOGUE_S, self._follow_catalogue)
        self.run_every(_TOPIC_S, self._follow_topic)

    async def before_reading(self) -> None:
        """Read which records are to be parked, before the first record of an assignment is processed.

        During an outage that is read later: it must not keep the group from rebalancing.
        """
        await self._try_at_start(self._read_park_requests, "park requests")
        await self._try_at_start(self._read_interrupted, "interrupted work")

    async def _try_at_start(self, action: Callable[[], Awaitable[None]], task: str) -> None:
        """Do for the first time what a timer repeats, unless Postgres is unavailable or has no tables yet."""
        try:
            await retry_transient(action, part="postgres", attempts=_POOL_ATTEMPTS)
        except Exception as error:  # noqa: BLE001  # nothing else waits for it
            if not is_waited_for(error):
                report_failure(self.role, task, error)

    async def _read_park_requests(self) -> None:
        await self.parking.read_requests(self.pool)

    async def _follow_park_requests(self) -> None:
        await self._read_park_requests()
        topic = READ_TOPICS[self.role]
        positions = {tp.partition: position for tp, position in self.consumer.positions().items() if tp.topic == topic}
        await self.parking.clear_passed_requests(self.pool, positions)

    async def _read_interrupted(self) -> None:
        await self.parking.read_interrupted(self.pool)

    async def _store_interrupted(self) -> None:
        if MARKS.interrupted:  # Postgres was unavailable at the start
            await self._read_interrupted()

    async def newest_catalogue(self) -> Catalogue:
        """The newest version of the catalogue, which from now on is that of this process."""
        return await follow_catalogue(self.pool)

    async def _follow_catalogue(self) -> None:
        CATALOGUE_VERSION.labels(role=self.role).set((await self.newest_catalogue()).version)

    async def _follow_topic(self) -> None:
        """Read the topic from its start when it was created anew."""
        restarts = WATCHED_TOPICS.restarts(READ_TOPICS[self.role])
        if restarts != self._topic_restarts:
            await self.consumer.read_anew()
            self._topic_restarts = restarts

    async def on_first_start(self) -> None:
        """Create Faust's data folder with its parents."""
        self.conf.datadir.mkdir(parents=True, exist_ok=True)
        await super().on_first_start()

    async def on_start(self) -> None:
        """Open the pool before the first event is read."""
        open_with_settings = partial(open_pool, self.settings)
        self.pool = await retry_transient(open_with_settings, part="postgres", attempts=_POOL_ATTEMPTS, waits_for=is_transient)
        self.heartbeat_pool = await open_pool(self.settings, connections=(0, 1))
        await self._try_at_start(self._follow_catalogue, "the catalogue")
        for action in self.beside_start:
            self.add_future(action())
        await super().on_start()
        self.producer.buffer.max_messages = _BUFFERED_SENDS

    async def on_shutdown(self) -> None:
        """Close the pool after the last event is processed; an app that could not start has none."""
        await super().on_shutdown()
        for name in ("pool", "heartbeat_pool"):
            if hasattr(self, name):
                getattr(self, name).terminate()

    def give_up_place(self) -> None:
        """Leave the consumer group when the app stops: no process will take the place of this one."""
        self.consumer.leave_when_stopped()

    def run_every(self, interval_s: float, action: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        """Run an action again and again, and retry it while Postgres is unavailable; returns what runs it once more like that.

        The interval is the pause between two runs, so that a run which takes long on a busy machine overlaps with no other one. Any
        failure but an outage is logged and counted, and the action runs again at the next interval: an exception that left a
        task would end the app.
        """
        task = getattr(action, "__name__", "timer")
        start_at_zero(TASK_FAILURES, role=[self.role], task=[task])

        async def run() -> None:
            try:
                await retry_transient(action, part="postgres")
            except Exception as error:  # noqa: BLE001  # see above
                if not self.should_stop:
                    report_failure(self.role, task, error)

        @self.task  # type: ignore[untyped-decorator]  # Faust's own
        async def repeat() -> None:
            await self.sleep(interval_s)
            while not self.should_stop:
                await run()
                await self.sleep(interval_s)

        return run

    def batch_topic(self, name: str) -> Any:
        """Return a declared topic whose records are read as bytes, a :class:`PollBatch` at a time."""
        return self.topic(name, schema=BatchSchema(), partitions=PARTITIONS[name])

    async def count_partitions(self, topic: str) -> int:
        """Number of partitions that a topic has on the broker, as the producer knew it at most half a minute ago."""
        producer = (await self.maybe_start_producer())._producer  # noqa: SLF001  # only aiokafka's producer has it
        return len(await producer.partitions_for(topic))

    def known_partitions(self, topic: str, default: int) -> int:
        """Number of partitions of a topic that this app reads, at the last assignment; ``default`` before the first."""
        return int(self.consumer.topic_partitions(topic) or default)

    async def publish(self, event: Event, *, key: str, headers: Headers | None = None, partition: int | None = None) -> None:
        """Send an event to the topic of its class and wait until all replicas have stored it."""
        await (await self.send_event(event, key=key, headers=headers, partition=partition))

    async def send_event(
        self, event: Event, *, key: str, headers: Headers | None = None, partition: int | None = None
    ) -> Awaitable[Any]:
        """Pass an event to the producer, and return an awaitable that completes when all replicas have stored it."""
        all_headers = [*event_headers(event, self.role), *(headers or [])]
        producer = await self.maybe_start_producer()  # a send through Faust's topic does the same at twice the cost
        topic, value = topic_of(type(event)), event_value(event)
        try:
            sent: asyncio.Future[Any] = await producer.send(topic, key.encode(), value, partition, None, all_headers)
        except Exception as error:
            _note_topic(error, topic, len(value))
            raise
        sent.add_done_callback(partial(self._on_sent, topic, len(value)))
        return sent

    async def send_batches(self, topic: str, partition: int, records: Iterable[RawRecord]) -> None:
        """Send records to one partition in as few batches as possible, and wait until all replicas have stored them."""
        producer = (await self.maybe_start_producer())._producer  # noqa: SLF001  # only aiokafka's producer sends batches
        batches = [producer.create_batch()]
        for record in records:
            if batches[-1].append(timestamp=None, **record._asdict()) is None:  # it is full; an empty batch takes any record
                batches.append(producer.create_batch())
                batches[-1].append(timestamp=None, **record._asdict())
        pending = []
        for batch in batches:
            if batch.record_count():
                pending.append(sent := await producer.send_batch(batch, topic, partition=partition))
                sent.add_done_callback(partial(self._on_sent, topic, batch.size()))
        for sent in pending:
            await sent

    def _on_sent(self, topic: str, size: int, sent: asyncio.Future[Any]) -> None:
        """End the app when its producer has ended; any other error concerns one message, and is raised where that is awaited."""
        error = None if sent.cancelled() else sent.exception()
        if error is not None:
            _note_topic(error, topic, size)
        has_ended = type(error) is KafkaError or isinstance(error, _PRODUCER_ENDED)  # aiokafka's sender ends with the bare class
        if error is not None and has_ended:
            self.crash_on_send_error(error)

    def crash_on_send_error(self, error: BaseException) -> None:
        """End the app because a message could not be sent."""
        self._crash_task = self._crash_task or asyncio.get_running_loop().create_task(self.crash(error))


def _note_topic(error: BaseException, topic: str, size: int) -> None:
    """Let an error tell which topic did not take a message of ``size`` bytes."""
    if is_refused_send(error) and not getattr(error, "__notes__", ()):
        error.add_note(f"the topic {topic} does not take {size} bytes of this service")


class _SendErrorSensor(faust.Sensor):  # type: ignore[misc]  # untyped
    """Ends the app when a changelog cannot be written: Faust only logs the error and commits the source offset all the same."""

    def __init__(self, app: TwinApp) -> None:
        super().__init__()
        self._app = app

    def on_send_error(self, producer: Any, exc: BaseException, state: Any) -> None:  # noqa: ARG002  # Faust's signature
        """End the app."""
        self._app.crash_on_send_error(exc)


async def _committed_offsets(committed: Mapping[TP, int | None]) -> Mapping[TP, StartOffset]:
    """Start at the group's committed offset, or at the beginning of a partition without one."""
    return {tp: StartOffset(offset or 0) for tp, offset in committed.items()}


def faust_credentials(settings: Settings) -> faust.Credentials | None:
    """Return the arguments of :func:`kafka_security` as ``broker_credentials`` of a Faust app."""
    security = kafka_security(settings)
    if "sasl_mechanism" in security:
        return faust.SASLCredentials(
            username=security["sasl_plain_username"],
            password=security["sasl_plain_password"],
            mechanism=security["sasl_mechanism"],
            ssl_context=security["ssl_context"],
        )
    return faust.SSLCredentials(security["ssl_context"]) if security["ssl_context"] else None


def _options(role: Role, settings: Settings) -> dict[str, Any]:
    return {
        "broker": [URL(f"kafka://{address.strip()}") for address in settings.kafka_bootstrap.split(",")],
        "broker_credentials": faust_credentials(settings),
        "broker_session_timeout": settings.session_timeout_s,
        "broker_heartbeat_interval": settings.session_timeout_s / 6,
        "broker_commit_interval": 1.0,
        "broker_max_poll_records": 4 * settings.slice_records,
        "consumer_max_fetch_size": MAX_PARTITION_FETCH_BYTES,
        "consumer_auto_offset_reset": "earliest",
        "consumer_metadata_max_age_ms": round(1000 * _METADATA_AGE_S),
        "producer_metadata_max_age_ms": round(1000 * _METADATA_AGE_S),
        "producer_acks": -1,
        "producer_max_request_size": MAX_RECORD_BYTES,
        "producer_max_batch_size": _PRODUCER_BATCH_BYTES,
        "processing_guarantee": "at_least_once",
        # The liveness of the role tells of partitions that stand still; Faust repeats 15 lines of guesses every 2.5 s.
        "stream_processing_timeout": _NEVER_S,
        "broker_commit_livelock_soft_timeout": _NEVER_S,
        "Table": PublishedTable,
        "TableManager": PublishedTables,
        "store": "memory://",
        "datadir": settings.home / "faust" / role,
        "topic_partitions": max(PARTITIONS.values()),
        "topic_replication_factor": settings.kafka_replication,
        "topic_disable_leader": True,
        "table_standby_replicas": 0,
        "stream_buffer_maxsize": _BUFFERED_BATCHES,
        "web_enabled": False,
        "web_tables_enabled": False,
        "web_router_enabled": False,
    }
