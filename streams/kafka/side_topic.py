"""Reads a topic with few records beside the one of a role: one record at a time, each to its end before its offset is committed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from streams.bounds import check_message, require_bounded
from streams.kafka.app import TwinApp
from streams.kafka.clients import open_consumer
from streams.kafka.dead_letters import KafkaRecord
from streams.kafka.parking import UnreadableBytes
from streams.kafka.record_slices import Refusals, expected_errors, in_seconds
from streams.kafka.topics import SIDE_TOPICS
from streams.retries import process_event

__all__ = ["SideTopic"]


class SideTopic:
    """The topic that a role reads beside its own.

    A record whose offset was not committed is delivered again.

    Args:
        app: app of the role.
        work: processes a record; it must be safe to repeat.
        kinds: kinds of the errors of ``work``, for which a record is refused at once.
    """

    def __init__(self, app: TwinApp, work: Callable[[KafkaRecord], Awaitable[None]], kinds: Mapping[type[Exception], str]) -> None:
        self._app, self._work, self._kinds = app, work, kinds
        self._topic = SIDE_TOPICS[app.role]

    async def read(self) -> None:
        """Process records for as long as the app runs.

        Raises:
            aiokafka.errors.KafkaError: when Kafka does not answer.
        """
        group = f"twinstream-{self._app.role}-{self._topic}"
        async with open_consumer(self._app.settings, self._topic, group=group) as consumer:
            async for polled in consumer:
                (record,) = in_seconds([polled])
                await self._process(record)
                await consumer.commit()

    async def _process(self, record: KafkaRecord) -> None:
        refuse, attempts, expected = partial(self._refuse, record), self._app.parking.attempts_for, expected_errors(self._kinds)
        await process_event(self._app, partial(self._check_and_work, record), refuse, attempts=attempts, expected=expected)

    async def _check_and_work(self, record: KafkaRecord) -> None:
        if isinstance(record.value, UnreadableBytes):
            raise record.value.error
        check_message(record.key, record.value, self._app.settings)
        require_bounded(record.headers)
        await self._work(record)

    async def _refuse(self, record: KafkaRecord, error: Exception) -> None:
        refusals = Refusals(self._app, self._kinds)
        refusals.add(record, error)
        await refusals.store()
