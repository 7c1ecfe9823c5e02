"""Parts that go away and come back: the service waits, shows that it waits, acknowledges nothing meanwhile, goes on by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from deploy.stack import LocalStack
from deploy.stack.part import free_port
from schemas import OutcomeEvent
from sql.database import connect
from sql.migrate import migrate
from streams.client.twin_client import TwinClient
from streams.kafka.topics import create_topics
from streams.operations.verify import verify
from streams.settings import ROLES, Settings
from streams.worker.supervisor import Workers
from tests.outcomes import TOPIC, make_card, make_line, outcome

PATIENCE_S = 60.0
ALIKE = dict.fromkeys(("statement", "lock", "idle_in_transaction", "tcp_user"), 4.0)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """A Kafka and a PostgreSQL of this module, which it may stop."""
    with LocalStack(tmp_path_factory.mktemp("outages")) as started:
        yield started


@pytest.fixture
async def settings(stack: LocalStack, mlflow_store: str, tmp_path: Path) -> Settings:
    """A service on these parts, with a line and its champion."""
    await migrate(stack.postgres_dsn)
    await create_topics(Settings(kafka_bootstrap=stack.kafka_bootstrap))
    await make_line(stack.postgres_dsn, make_card())
    return Settings(
        kafka_bootstrap=stack.kafka_bootstrap,
        postgres_dsn=SecretStr(stack.postgres_dsn),
        mlflow_uri=mlflow_store,
        home=tmp_path,
        web_port=free_port(len(ROLES)),
        grace_s=2.0,
        session_timeout_s=10.0,
        **{f"postgres_{name}_timeout_s": seconds for name, seconds in ALIKE.items()},
    )


async def test_outcomes_wait_out_postgres_and_kafka_and_none_is_lost(settings: Settings, stack: LocalStack, tmp_path: Path):
    with Workers(["outcomes", "fidelity"], settings, log_folder=tmp_path / "logs") as workers:
        await asyncio.to_thread(workers.wait_ready, PATIENCE_S)
        await publish(settings, range(200))
        await until(lambda: taken_in(settings, 200))
        acknowledged = await until(lambda: committed(settings))
        born = dict(workers.pids)

        stack.postgres.stop()
        await publish(settings, range(200, 400))
        await until(lambda: waits_for(settings, "postgres"))
        assert await committed(settings) == acknowledged
        stack.postgres.start()
        await until(lambda: taken_in(settings, 400))
        assert workers.pids == born  # nobody had to be started again

        stack.kafka.kill()
        await asyncio.sleep(2.0)
        stack.kafka.start()
        await publish(settings, range(400, 600))
        await until(lambda: taken_in(settings, 600))
        report = await verify(settings, patience_s=PATIENCE_S)

    assert report.mismatches == ()
    assert await counts(settings) == {"counted": 600}


async def publish(settings: Settings, numbers: range) -> None:
    async with TwinClient(settings) as client:
        await client.publish_outcomes([OutcomeEvent.model_validate(outcome(number)) for number in numbers])


async def until(holds: Callable[[], Awaitable[object]]) -> object:
    async with asyncio.timeout(PATIENCE_S):
        while not (found := await holds()):  # noqa: ASYNC110  # it is others that change
            await asyncio.sleep(0.1)
    return found


async def waits_for(settings: Settings, part: str) -> bool:
    """The role says that it waits, for whom, and what waits for it; and it is not taken for dead."""
    async with aiohttp.ClientSession(f"http://127.0.0.1:{settings.port_of('outcomes')}") as session:
        async with session.get("/health") as reply:
            health = await reply.json()
        async with session.get("/metrics") as reply:
            families = {family.name: family for family in text_string_to_metric_families(await reply.text())}
    outages = {sample.labels["part"]: sample.value for sample in families["twin_outages"].samples if sample.name.endswith("_total")}
    lag = sum(sample.value for sample in families["twin_source_lag_records"].samples)
    return health["alive"] and health["oldest_unfinished_s"] > 1.0 and outages.get(part, 0) > 2 and lag >= 100


@asynccontextmanager
async def database(settings: Settings) -> AsyncIterator:
    connection = await connect(settings.postgres_dsn.get_secret_value())
    try:
        yield connection
    finally:
        await connection.close()


async def taken_in(settings: Settings, count: int) -> bool:
    async with database(settings) as connection:
        return await connection.fetchval("SELECT coalesce(sum(elements), 0) FROM source_positions") >= count


async def counts(settings: Settings) -> dict[str, int]:
    async with database(settings) as connection:
        return dict(await connection.fetch("SELECT fate::text, count(*) FROM fidelity_tracking GROUP BY 1"))


async def committed(settings: Settings) -> dict[int, int] | None:
    """Offsets of the group, once they are where the position in Postgres was."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)
    await admin.start()
    try:
        offsets = await admin.list_consumer_group_offsets("twinstream-outcomes")
    finally:
        await admin.close()
    told = {where.partition: found.offset for where, found in offsets.items() if where.topic == TOPIC}
    return told if sum(told.values()) >= 200 else None
