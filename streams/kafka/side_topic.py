"""Reads a topic with few records beside the one of a role: slice by slice, each to its end before its offsets are committed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

from aiokafka import AIOKafkaConsumer, TopicPartition

from streams.bounds import check_message, require_bounded
from streams.kafka.app import TwinApp
from streams.kafka.clients import open_consumer
from streams.kafka.dead_letters import KafkaRecord, is_replay
from streams.kafka.parking import Parking
from streams.kafka.partition_gauge import PartitionGauge
from streams.kafka.record_slices import Refusals, expected_errors, in_seconds
from streams.kafka.topic_watch import WATCHED_TOPICS
from streams.kafka.topics import SIDE_TOPICS, reader_group
from streams.metrics import SOURCE_LAG
from streams.retries import any_error, process_event, retry_transient

__all__ = ["SideTopic"]

_POLL_MS, _SLICE_RECORDS = 1000, 100


class SideTopic:
    """The topic that a role reads beside its own.

    What is refused of a slice is stored at its end, in one transaction. A record whose offset was not committed is delivered again.

    Args:
        app: app of the role.
        work: processes a record; it must be safe to repeat.
        kinds: kinds of the errors of ``work``, for which a record is refused at once.
    """

    def __init__(self, app: TwinApp, work: Callable[[KafkaRecord], Awaitable[None]], kinds: Mapping[type[Exception], str]) -> None:
        self._app, self._work, self._kinds = app, work, kinds
        self._topic = SIDE_TOPICS[app.role]
        self._parking = Parking(app.settings.park_attempts, self._topic)
        self._lag = PartitionGauge(SOURCE_LAG)

    async def read(self) -> None:
        """Process records for as long as the app runs.

        Raises:
            aiokafka.errors.KafkaError: when Kafka does not answer.
        """
        restarts = WATCHED_TOPICS.restarts(self._topic)
        async with open_consumer(self._app.settings, self._topic, group=reader_group(self._topic)) as consumer:
            try:
                while True:
                    if restarts != (restarts := WATCHED_TOPICS.restarts(self._topic)):  # it was created anew
                        await consumer.seek_to_beginning()
                    polled = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_SLICE_RECORDS)
                    await self._report_lag(consumer, {tp: records[0].offset for tp, records in polled.items()})
                    for records in polled.values():
                        await self._process(list(in_seconds(records)))
                    if polled:
                        await consumer.commit()
            finally:
                self._lag.set({})  # nothing is known of it

    async def _report_lag(self, consumer: AIOKafkaConsumer, unprocessed: Mapping[TopicPartition, int]) -> None:
        """Set the metric of waiting records; ``unprocessed`` is the first offset of each partition that is in work."""
        lags = {}
        for tp in consumer.assignment():
            end = consumer.highwater(tp)
            if end is not None:
                lags[tp] = max(0, end - (unprocessed[tp] if tp in unprocessed else await consumer.position(tp)))
        self._lag.set(lags)

    async def _process(self, records: Sequence[KafkaRecord]) -> None:
        """Process the records of one partition."""
        refusals, expected = Refusals(self._app, self._kinds), expected_errors(self._kinds)

        async def refuse(record: KafkaRecord, error: Exception) -> None:
            refusals.add(record, error)
            self._parking.on_failed(error)

        for record in records:
            if is_replay(record.headers):
                self._parking.on_replay()
            work, attempts = partial(self._check_and_work, record), self._parking.attempts_for
            await process_event(self._app, work, partial(refuse, record), attempts=attempts, expected=expected)
        await retry_transient(refusals.store, part="postgres", waits_for=any_error)
        await retry_transient(partial(self._clear_requests, records[-1]), part="postgres", waits_for=any_error)

    async def _check_and_work(self, record: KafkaRecord) -> None:
        await self._parking.read_requests(self._app.pool)
        self._parking.check(record.partition, record.offset, record.value)
        check_message(record.key, record.value, self._app.settings)
        require_bounded(record.headers)
        await self._work(record)

    async def _clear_requests(self, last: KafkaRecord) -> None:
        await self._parking.read_requests(self._app.pool)
        await self._parking.clear_passed_requests(self._app.pool, {last.partition: last.offset + 1})
