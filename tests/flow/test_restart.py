"""A role that was killed has a place in its consumer group, which the process that replaces it takes at once."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError

from schemas import OutcomeEvent
from streams.kafka import open_admin, open_producer, topic_of
from streams.settings import Role, Settings
from streams.worker.supervisor import Workers
from tests.polling import until

ROLES: tuple[Role, ...] = ("outcomes", "fidelity")
SESSION_S, PATIENCE_S = 80.0, 40.0
TOPIC = topic_of(OutcomeEvent)


async def members(settings: Settings, role: Role) -> list[tuple[Any, ...]]:
    """The members of the group of a role."""
    async with open_admin(settings) as admin:
        (response,) = await admin.describe_consumer_groups([f"twinstream-{role}"])
    return list(response.groups[0][5])


async def test_a_killed_role_is_replaced_long_before_its_session_ends_and_a_worker_that_stops_leaves_no_member(settings, promoted):
    slow = settings.model_copy(update={"session_timeout_s": SESSION_S})
    with Workers(ROLES, slow) as workers:
        await asyncio.to_thread(workers.wait_ready, PATIENCE_S)
        for role in ROLES:
            pid = workers.pids[role]
            os.kill(pid, signal.SIGKILL)

            async def replacement(role: Role = role) -> int:
                return workers.pids[role]

            await until(replacement, lambda new, pid=pid: new != pid)
            await asyncio.to_thread(workers.wait_ready, PATIENCE_S)
            assert len(await members(settings, role)) == 1
    for role in ROLES:
        assert await members(settings, role) == []


async def test_of_two_processes_with_one_name_the_earlier_one_can_commit_nothing_any_more(settings: Settings):
    async with open_producer(settings) as producer:
        await producer.send_and_wait(TOPIC, b"{}", partition=0)
    earlier, later = (
        AIOKafkaConsumer(
            TOPIC,
            bootstrap_servers=settings.kafka_bootstrap,
            group_id="places",
            group_instance_id="one",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=120_000,
            heartbeat_interval_ms=60_000,  # a heartbeat would tell the earlier one, which would take its place back
        )
        for _ in range(2)
    )
    async with earlier:
        record = await earlier.getone()
        async with later:
            assert (await later.getone()).offset == record.offset
            await later.commit({TopicPartition(TOPIC, record.partition): record.offset + 1})
            with pytest.raises(CommitFailedError):
                await earlier.commit({TopicPartition(TOPIC, record.partition): record.offset + 1})
