"""A flood of refused records on one partition holds up no record of another one, whatever the topic."""

from __future__ import annotations

import asyncio

import pytest

from schemas import ModelEvent
from sql.database import Pool
from streams.kafka import open_producer
from streams.settings import Settings
from tests.flow.conftest import Service
from tests.hostile.traces import READERS
from tests.polling import until

FLOOD = 3000


@pytest.mark.parametrize("topic", [topic for topic in READERS if topic != "outcome-events"])
async def test_a_flood_on_one_partition_holds_up_no_other(
    settings: Settings, pool: Pool, promoted: ModelEvent, service: Service, topic: str
):
    async def refused(partition: int) -> int:
        return int(
            await pool.fetchval("SELECT count(*) FROM refused_records WHERE topic = $1 AND partition = $2", topic, partition)
        )

    async with open_producer(settings) as producer:
        flood = [await producer.send(topic, b'{"a": %d}' % number, partition=0) for number in range(FLOOD)]
        await asyncio.gather(*flood)
        for partition in (1, 2, 3):
            await producer.send_and_wait(topic, b"{", partition=partition)
    async with service([READERS[topic]]):
        for partition in (1, 2, 3):
            await until(lambda partition=partition: refused(partition))  # type: ignore[misc]  # mypy cannot infer it
        assert await refused(0) < FLOOD / 2
