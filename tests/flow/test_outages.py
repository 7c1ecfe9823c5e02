"""Outages of Kafka and Postgres: the service waits, reports it, acknowledges nothing meanwhile, and continues by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from deploy.stack import LocalStack
from deploy.stack.part import free_port
from schemas import OutcomeEvent
from sql.database import connect
from sql.migrate import migrate
from streams.client import TwinClient
from streams.kafka import create_topics
from streams.operations.verify import verify
from streams.settings import PORTS, Settings
from streams.web.dashboard import serve_dashboard
from streams.worker.supervisor import Workers
from tests.freezing import frozen
from tests.outcomes import TOPIC, make_card, make_line, outcome
from tests.polling import committed_offsets, until

PATIENCE_S = 60.0
TIMEOUTS_S = dict.fromkeys(("statement", "lock", "idle_in_transaction", "tcp_user"), 4.0)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """Kafka and PostgreSQL of this module, whose tests stop them."""
    with LocalStack(tmp_path_factory.mktemp("outages")) as started:
        yield started


@pytest.fixture
async def settings(stack: LocalStack, mlflow_store: str, tmp_path: Path) -> Settings:
    """A service on this stack, with a line and its champion."""
    await migrate(stack.addresses.postgres_migrate_dsn)
    await create_topics(Settings(kafka_bootstrap=stack.kafka_bootstrap))
    await make_line(stack.postgres_dsn, make_card())
    return Settings(
        kafka_bootstrap=stack.kafka_bootstrap,
        postgres_dsn=SecretStr(stack.postgres_dsn),
        mlflow_uri=mlflow_store,
        home=tmp_path,
        web_port=free_port(PORTS),
        grace_s=2.0,
        idle_s=2.0,
        session_timeout_s=10.0,
        **{f"postgres_{name}_timeout_s": seconds for name, seconds in TIMEOUTS_S.items()},
    )


async def test_no_outcome_is_lost_in_outages_of_postgres_and_kafka(settings: Settings, stack: LocalStack, tmp_path: Path):
    read_offsets = partial(committed_offsets, settings, TOPIC)
    with Workers(["outcomes", "fidelity"], settings, log_folder=tmp_path / "logs") as workers:
        await asyncio.to_thread(workers.wait_ready, PATIENCE_S)
        await publish(settings, range(200))
        await until(lambda: is_ingested(settings, 200))
        acknowledged = await until(read_offsets, lambda offsets: sum(offsets.values()) >= 200)
        pids = dict(workers.pids)

        stack.postgres.stop()
        await publish(settings, range(200, 400))
        await until(lambda: waits_for(settings, "postgres"))
        assert await read_offsets() == acknowledged
        stack.postgres.start()
        await until(lambda: is_ingested(settings, 400))
        assert workers.pids == pids  # no process was restarted

        stack.kafka.kill()
        await asyncio.sleep(2.0)
        stack.kafka.start()
        await publish(settings, range(400, 600))
        await until(lambda: is_ingested(settings, 600))
        report = await verify(settings, patience_s=PATIENCE_S)

    assert report.mismatches == ()
    assert await counts(settings) == {"counted": 600}


PARTS = ("kafka", "postgres")
NAMES = {"kafka": "Kafka", "postgres": "Postgres", "mlflow": "MLflow"}


@pytest.mark.parametrize("part", PARTS)
async def test_a_part_that_is_frozen_shows_everywhere_within_15_s_and_in_few_lines(
    settings: Settings, stack: LocalStack, tmp_path: Path, part: str
):
    pid = {"kafka": stack.kafka.pid, "postgres": stack.postgres.pid}[part]
    log = tmp_path / "logs" / "outcomes.log"
    with Workers(["outcomes", "fidelity"], settings, log_folder=tmp_path / "logs") as workers:
        await asyncio.to_thread(workers.wait_ready, PATIENCE_S)
        async with serve_dashboard(settings) as page:
            n_before = await count_ingested(settings)
            await publish(settings, range(10_000, 10_200))
            await until(lambda: is_ingested(settings, n_before + 200))
            pids, log_start = dict(workers.pids), len(log.read_text().splitlines())
            with frozen(pid):
                start_s = time.monotonic()
                await until(lambda: shows_outage(settings, page, part))
                noticed_s = time.monotonic() - start_s
                await asyncio.sleep(max(0.0, 40.0 - noticed_s))
                assert await shows_outage(settings, page, part)
                lines = log.read_text().splitlines()[log_start:]
            await until(lambda: shows_no_outage(settings, page, part))
            await publish(settings, range(10_200, 10_400))
            await until(lambda: is_ingested(settings, n_before + 400))
            assert workers.pids == pids  # a role that waits is no role that hangs
            report = await verify(settings, patience_s=PATIENCE_S)
    assert report.mismatches == ()
    assert sum(f"{part} is out" in line for line in lines) == 1
    assert len([line for line in lines if line[:4].isdigit()]) <= 40
    assert f"{part} answers again after" in log.read_text()


@pytest.mark.parametrize("first_back", PARTS)
async def test_a_service_recovers_from_an_outage_of_everything_in_any_order(
    settings: Settings, stack: LocalStack, tmp_path: Path, first_back: str
):
    servers = {"kafka": stack.kafka, "postgres": stack.postgres}
    with Workers(["outcomes", "fidelity"], settings, log_folder=tmp_path / "logs") as workers:
        await asyncio.to_thread(workers.wait_ready, PATIENCE_S)
        n_before = await count_ingested(settings)
        first_number = 20_000 if first_back == "kafka" else 30_000
        await publish(settings, range(first_number, first_number + 200))
        await until(lambda: is_ingested(settings, n_before + 200))
        stack.postgres.kill()
        stack.kafka.kill()
        await until(lambda: is_ready(settings), lambda ready: not ready)
        await asyncio.sleep(5.0)
        servers.pop(first_back).start()
        await asyncio.sleep(5.0)
        for server in servers.values():
            server.start()
        await until(lambda: is_ready(settings))
        await publish(settings, range(first_number + 200, first_number + 400))
        await until(lambda: is_ingested(settings, n_before + 400))
        report = await verify(settings, patience_s=PATIENCE_S)
    assert report.mismatches == ()


async def is_ready(settings: Settings) -> bool:
    async with aiohttp.ClientSession() as session:
        for role in ("outcomes", "fidelity"):
            async with session.get(f"http://127.0.0.1:{settings.port_of(role)}/ready") as reply:
                if reply.status != 200:
                    return False
    return True


async def shows_outage(settings: Settings, page: str, part: str) -> bool:
    """Whether metric, readiness and page of the outage are there, the role is alive, and no lag stands still without Kafka."""
    state = await read_state(settings, page)
    assert state.live_status == 200
    assert state.page_status == 200
    has_lag = "twin_source_lag_records{" in state.metrics
    return (
        f'twin_dependency_up{{part="{part}"}} 0.0' in state.metrics
        and state.ready_status == 503
        and f"{part} is out since" in state.ready
        and f"{NAMES[part]} has not answered since" in state.page
        and not (part == "kafka" and has_lag)
    )


async def shows_no_outage(settings: Settings, page: str, part: str) -> bool:
    state = await read_state(settings, page)
    return (
        f'twin_dependency_up{{part="{part}"}} 1.0' in state.metrics
        and state.ready_status == 200
        and "has not answered since" not in state.page
        and "cannot be read" not in state.page
    )


class State(NamedTuple):
    metrics: str
    ready_status: int
    ready: str
    live_status: int
    page_status: int
    page: str


async def read_state(settings: Settings, page: str) -> State:
    base = f"http://127.0.0.1:{settings.port_of('outcomes')}"
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        async with session.get(f"{base}/metrics") as reply:
            metrics = await reply.text()
        async with session.get(f"{base}/ready") as reply:
            ready_status, ready = reply.status, await reply.text()
        async with session.get(f"{base}/live") as reply:
            live_status = reply.status
        async with session.get(page) as reply:
            return State(metrics, ready_status, ready, live_status, reply.status, await reply.text())


async def count_ingested(settings: Settings) -> int:
    async with database(settings) as connection:
        return int(await connection.fetchval("SELECT coalesce(sum(elements), 0) FROM source_positions"))


async def publish(settings: Settings, numbers: range) -> None:
    async with TwinClient(settings) as client:
        await client.publish_outcomes([OutcomeEvent.model_validate(outcome(number)) for number in numbers])


async def waits_for(settings: Settings, part: str) -> bool:
    """Whether the role reports that it waits for a part and how many records wait, and still counts as alive."""
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


async def is_ingested(settings: Settings, count: int) -> bool:
    async with database(settings) as connection:
        return await connection.fetchval("SELECT coalesce(sum(elements), 0) FROM source_positions") >= count


async def counts(settings: Settings) -> dict[str, int]:
    async with database(settings) as connection:
        return dict(await connection.fetch("SELECT fate::text, count(*) FROM fidelity_tracking GROUP BY 1"))
