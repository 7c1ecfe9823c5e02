"""Publishes the planned records of a run at their times, again where the broker does not acknowledge them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from streams.kafka import MAX_RECORD_BYTES
from tests.chaos.observed import INDEX_HEADER
from tests.chaos.plan import CODECS, PlannedRecord

__all__ = ["Publisher"]

_MOST_UNACKNOWLEDGED = 2000
_RETRY_S = 1.0


@dataclass
class Publisher:
    """Publishes records at their due times, each in a batch of its codec.

    Attributes:
        acknowledged: indexes in the plan of the records that the broker has acknowledged.
        retries: how often a record was sent again.
    """

    bootstrap: str
    records: Sequence[PlannedRecord]
    acknowledged: list[int] = field(default_factory=list)
    retries: int = 0

    async def publish(self, first: int, end: int) -> None:
        """Publish the records from index ``first`` to before ``end``, and return when all are acknowledged."""
        # Without a limit, records that pile up while the broker is away would time out again and again afterwards.
        began, slots = time.monotonic(), asyncio.Semaphore(_MOST_UNACKNOWLEDGED)
        async with AsyncExitStack() as stack:
            producers = {codec: await stack.enter_async_context(self._producer(codec)) for codec in CODECS}
            async with asyncio.TaskGroup() as sending:
                for index in range(first, end):
                    await asyncio.sleep(max(0.0, began + self.records[index].due_s - time.monotonic()))
                    await slots.acquire()
                    producer = producers[self.records[index].codec]
                    sending.create_task(self._send(producer, index)).add_done_callback(lambda _: slots.release())

    def _producer(self, codec: str | None) -> AIOKafkaProducer:
        return AIOKafkaProducer(
            bootstrap_servers=self.bootstrap,
            acks="all",
            linger_ms=20,
            request_timeout_ms=10_000,
            compression_type=codec,
            max_request_size=MAX_RECORD_BYTES,
        )

    async def _send(self, producer: AIOKafkaProducer, index: int) -> None:
        record = self.records[index]
        headers = [*record.headers, (INDEX_HEADER, b"%d" % index)]
        while True:
            try:
                await producer.send_and_wait(record.topic, record.value, record.key, headers=headers)
            except KafkaError:
                self.retries += 1
                await asyncio.sleep(_RETRY_S)
            else:
                self.acknowledged.append(index)
                return
