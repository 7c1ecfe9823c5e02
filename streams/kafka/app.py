"""The Faust app of a role: raw bytes in and out, no web server of its own, slices where asked for, and one way to say something."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any

import faust
from faust.types import TP
from yarl import URL

from schemas import Event
from sql.database import Pool, open_pool
from streams.kafka.batch_consumer import BatchSchema, BatchTransport, StartOffset, StartOffsetFinder
from streams.kafka.records import MAX_RECORD_BYTES, Headers, RawRecord, event_headers, event_value
from streams.kafka.security import kafka_security
from streams.kafka.topics import PARTITIONS, topic_of
from streams.retries import retry_transient
from streams.settings import Role, Settings

__all__ = ["TwinApp", "faust_credentials"]

_OPENINGS = 5  # some seconds: a role that is asked to stop shall not wait for Postgres here
_SLICES_BUFFERED = 32  # more than Faust sleeps when all are full: a second and a half of work
_MESSAGES_BUFFERED = 4096
_SENDS_BUFFERED = 20_000
_BATCH_BYTES = 128 * 1024
_SLICES: dict[Role, frozenset[str]] = {"outcomes": frozenset({"outcome-events"}), "fidelity": frozenset({"fidelity-errors"})}
_RAW = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}


class TwinApp(faust.App):  # type: ignore[misc]  # untyped
    """A Faust app that knows its settings and its role.

    Attributes:
        slices: topics that are handed over as whole poll slices.
        slice_records: records of a slice at most.
        find_starts: where reading those topics begins; the group's offsets unless a role says otherwise.
        pool: connections to Postgres, open while the app runs.
    """

    pool: Pool

    def __init__(self, role: Role, settings: Settings) -> None:
        self.settings = settings
        self.role = role
        self.slices = _SLICES.get(role, frozenset())
        self.slice_records = settings.slice_records
        self.find_starts: StartOffsetFinder = committed_offsets
        self._ending: asyncio.Task[None] | None = None
        super().__init__(f"twinstream-{role}", **_options(role, settings, sliced=bool(self.slices)))
        self.transport = BatchTransport(self.conf.broker_consumer, self)
        self.sensors.add(_FatalSends(self))

    async def on_first_start(self) -> None:
        """Make Faust's folder, with those above it."""
        self.conf.datadir.mkdir(parents=True, exist_ok=True)
        await super().on_first_start()

    async def on_start(self) -> None:
        """Open the pool before anything is read."""
        self.pool = await retry_transient(partial(open_pool, self.settings), part="postgres", attempts=_OPENINGS)
        await super().on_start()
        self.producer.buffer.max_messages = _SENDS_BUFFERED

    async def on_shutdown(self) -> None:
        """Close the pool after the last event is done; an app that could not start has none."""
        await super().on_shutdown()
        if hasattr(self, "pool"):
            self.pool.terminate()

    def every(self, interval_s: float, work: Callable[[], Awaitable[None]]) -> None:
        """Do ``work`` at this interval, and wait when Postgres is out: an exception of a timer would end the app.

        While the app leaves, its parts end one after another: what a timer misses then is nobody's loss.
        """

        async def patiently() -> None:
            try:
                await retry_transient(work, part="postgres")
            except Exception:
                if not self.should_stop:
                    raise

        self.timer(interval_s)(patiently)

    def raw_topic(self, name: str) -> Any:
        """A declared topic to read: keys and values as bytes, or a ``Slice`` a value where the topic is read in slices."""
        if name in self.slices:
            return self.topic(name, schema=BatchSchema(), partitions=PARTITIONS[name])
        return self.topic(name, partitions=PARTITIONS[name], **_RAW)

    async def publish(self, event: Event, *, key: str, headers: Headers | None = None, partition: int | None = None) -> None:
        """Send an event on the topic of its class and wait until the broker has it on all replicas."""
        await (await self.send_event(event, key=key, headers=headers, partition=partition))

    async def send_event(
        self, event: Event, *, key: str, headers: Headers | None = None, partition: int | None = None
    ) -> Awaitable[Any]:
        """Hand an event to the producer; what is returned is done when the broker has it."""
        told = [*event_headers(event, self.role), *(headers or [])]
        producer = await self.maybe_start_producer()  # Faust's topics would send it just so, and watch it, at twice the cost
        sent: asyncio.Future[Any] = await producer.send(
            topic_of(type(event)), key.encode(), event_value(event), partition, None, told
        )
        sent.add_done_callback(self._end_unless_sent)
        return sent

    async def send_batches(self, topic: str, partition: int, records: Iterable[RawRecord]) -> None:
        """Send records to one partition in as few batches as hold them, and wait until the broker has them."""
        producer = (await self.maybe_start_producer())._producer  # noqa: SLF001  # batches are aiokafka's
        batches = [producer.create_batch()]
        for record in records:
            if batches[-1].append(timestamp=None, **record._asdict()) is None:  # it is full; an empty one takes any record
                batches.append(producer.create_batch())
                batches[-1].append(timestamp=None, **record._asdict())
        begun = [await producer.send_batch(batch, topic, partition=partition) for batch in batches if batch.record_count()]
        for sent in begun:
            sent.add_done_callback(self._end_unless_sent)
        for sent in begun:
            await sent

    def _end_unless_sent(self, sent: asyncio.Future[Any]) -> None:
        if not sent.cancelled() and (failure := sent.exception()) is not None:
            self.end(failure)

    def end(self, failure: BaseException) -> None:
        """End the app because a message could not be sent."""
        self._ending = self._ending or asyncio.get_running_loop().create_task(self.crash(failure))


class _FatalSends(faust.Sensor):  # type: ignore[misc]  # untyped
    """Ends the app when the changelog could not be written: Faust only logs it and commits the source offset all the same."""

    def __init__(self, app: TwinApp) -> None:
        super().__init__()
        self._app = app

    def on_send_error(self, producer: Any, exc: BaseException, state: Any) -> None:  # noqa: ARG002  # Faust's signature
        """End the app."""
        self._app.end(exc)


async def committed_offsets(committed: Mapping[TP, int | None]) -> Mapping[TP, StartOffset]:
    """Begin where the group stopped, at the beginning of a partition that it has never read."""
    return {tp: StartOffset(offset or 0) for tp, offset in committed.items()}


def faust_credentials(settings: Settings) -> faust.Credentials | None:
    """The arguments of :func:`kafka_security` as ``broker_credentials`` of a Faust app."""
    security = kafka_security(settings)
    if "sasl_mechanism" in security:
        return faust.SASLCredentials(
            username=security["sasl_plain_username"],
            password=security["sasl_plain_password"],
            mechanism=security["sasl_mechanism"],
            ssl_context=security["ssl_context"],
        )
    return faust.SSLCredentials(security["ssl_context"]) if security["ssl_context"] else None


def _options(role: Role, settings: Settings, *, sliced: bool) -> dict[str, Any]:
    return {
        "broker": [URL(f"kafka://{address.strip()}") for address in settings.kafka_bootstrap.split(",")],
        "broker_credentials": faust_credentials(settings),
        "broker_session_timeout": settings.session_timeout_s,
        "broker_heartbeat_interval": settings.session_timeout_s / 6,
        "broker_commit_interval": 1.0,
        "broker_max_poll_records": 4 * settings.slice_records,
        "consumer_auto_offset_reset": "earliest",
        "producer_acks": -1,
        "producer_max_request_size": MAX_RECORD_BYTES,
        "producer_max_batch_size": _BATCH_BYTES,
        "processing_guarantee": "at_least_once",
        "store": "memory://",
        "datadir": settings.home / "faust" / role,
        "topic_partitions": max(PARTITIONS.values()),
        "topic_replication_factor": settings.kafka_replication,
        "topic_disable_leader": True,
        "table_standby_replicas": 0,
        "stream_buffer_maxsize": _SLICES_BUFFERED if sliced else _MESSAGES_BUFFERED,
        "web_enabled": False,
        "web_tables_enabled": False,
        "web_router_enabled": False,
    }
