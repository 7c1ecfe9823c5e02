"""A running service for the tests: empty topics, an empty database, a champion, and roles in this process or in their own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiokafka import TopicPartition
from pydantic import SecretStr
from typer.testing import CliRunner

from deploy.stack.part import free_port, is_free
from engine.twins import TwinModel
from schemas import Event, ModelEvent
from sql.database import Pool, open_pool
from sql.ledger import Ledger
from sql.model_card_rows import Artifact
from streams.cli import connection
from streams.cli.app import app
from streams.client.twin_client import TwinClient
from streams.kafka import open_admin, open_consumer
from streams.kafka.topic_watch import WATCHED_TOPICS, TopicWatch
from streams.kafka.topics import DEAD_LETTERS, PARTITIONS, TOPICS, create_topics, topic_of
from streams.registry import MlflowRegistry, prepare_store
from streams.settings import PORTS, Role, Settings
from streams.worker.bootstrap import run_role
from streams.worker.supervisor import Workers
from tests.models import hcp_model

READY_S = 60.0


@pytest.fixture(scope="session")
def champion() -> TwinModel:
    """A model of 1,500 sample prescribers."""
    return hcp_model()


@pytest.fixture(scope="session")
def mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of the MLflow store of this session."""
    store = f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"
    prepare_store(store)
    return store


@pytest.fixture(scope="session")
def saved(champion: TwinModel, mlflow_store: str) -> Artifact:
    """The champion's files in the MLflow store."""
    return MlflowRegistry(mlflow_store).save(champion)


@pytest.fixture
async def empty_kafka(kafka_bootstrap: str) -> str:
    """Address of a broker with empty topics."""
    await empty_topics(kafka_bootstrap)
    return kafka_bootstrap


async def empty_topics(kafka_bootstrap: str) -> None:
    """Create all topics anew, and delete Faust's changelogs; deleting a topic deletes its groups' offsets too."""
    settings = Settings(kafka_bootstrap=kafka_bootstrap)
    async with open_admin(settings) as admin:
        while ours := [name for name in await admin.list_topics() if name in _NAMES or name.startswith("twinstream-")]:
            await admin.delete_topics(ours)
            await asyncio.sleep(0.1)
    await create_topics(settings)
    vars(WATCHED_TOPICS).update(vars(TopicWatch()))  # a process of its own would not know those of the test before


_NAMES = {topic.name for topic in TOPICS}


@pytest.fixture
async def settings(empty_kafka: str, fresh_database: str, mlflow_store: str, tmp_path: Path) -> Settings:
    """Settings of a service of this test, whose tables exist."""
    return Settings(
        kafka_bootstrap=empty_kafka,
        postgres_dsn=fresh_database,
        mlflow_uri=mlflow_store,
        home=tmp_path,
        web_port=_free_ports(PORTS),
        session_timeout_s=20.0,
        stop_limit_s=60.0,  # several roles stop in one process, on a busy machine
    )


@pytest.fixture
def settings_beside(settings: Settings) -> Settings:
    """Settings of a second worker of the service beside the first, on this machine."""
    return settings.model_copy(update={"web_port": _free_ports(PORTS)})


@pytest.fixture
async def pool(settings: Settings) -> AsyncIterator[Pool]:
    """Connections to the service's database."""
    pool = await open_pool(settings)
    yield pool
    await pool.close()


@pytest.fixture
async def promoted(settings: Settings, pool: Pool, champion: TwinModel, saved: Artifact) -> ModelEvent:
    """The champion, registered and promoted."""
    card = champion.card.model_copy(update={"mlflow_run_id": saved.mlflow_run_id})
    ledger = Ledger(pool)
    await ledger.register_model(card, saved.sha256, pane_s=settings.pane_s, window_s=settings.window_s)
    return await ledger.promote(card.line, card.model_id, reason="first model of the line")


Service = Callable[..., AbstractAsyncContextManager[None]]
Twinstream = Callable[..., Awaitable[Any]]


@pytest.fixture
def twinstream(settings: Settings, reading_database: str, migrating_database: str, monkeypatch: pytest.MonkeyPatch) -> Twinstream:
    """Runs a command on the service under test; returns its JSON or text, and its stderr where the expected ``status`` is not 0."""
    users = {"postgres_read_dsn": SecretStr(reading_database), "postgres_migrate_dsn": SecretStr(migrating_database)}
    monkeypatch.setattr(connection, "load_settings", lambda: settings.model_copy(update=users))

    async def run(*arguments: str, status: int = 0) -> Any:
        result = await asyncio.to_thread(CliRunner().invoke, app, arguments)
        assert result.exit_code == status, result.output
        if "--json" in arguments:
            return json.loads(result.stdout)
        return result.stderr if status else result.stdout

    return run


@pytest.fixture
def service(settings: Settings) -> Service:
    """Runs roles in this process while the block runs: ``async with service(["simulation"]): ...``, also with other settings."""

    @asynccontextmanager
    async def running(roles: Sequence[Role], own: Settings = settings) -> AsyncIterator[None]:
        stop = asyncio.Event()
        tasks = [asyncio.create_task(run_role(role, own, stop), name=role) for role in roles]
        try:
            await _until_ready(settings, roles, tasks)
            yield
        finally:
            stop.set()
            await asyncio.gather(*tasks)

    return running


@pytest.fixture
def service_apart(settings: Settings, tmp_path: Path) -> Service:
    """Runs roles in processes of their own, as a worker does; the block gets their process ids by role."""

    @asynccontextmanager
    async def working(roles: Sequence[Role]) -> AsyncIterator[dict[Role, int]]:
        workers = await asyncio.to_thread(Workers(roles, settings, log_folder=tmp_path / "logs").__enter__)
        try:
            await asyncio.to_thread(workers.wait_ready, READY_S)
            yield workers.pids
        finally:
            await asyncio.to_thread(workers.stop)

    return working


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[TwinClient]:
    """A client of the service."""
    async with TwinClient(settings, name="test") as client:
        yield client


@dataclass
class Listener:
    """Reads topics from their beginning."""

    settings: Settings

    async def records(self, topic: str, count: int, timeout_s: float = 90.0) -> list[Any]:
        """The first ``count`` records of a topic over all partitions, waiting for those that are not there yet."""
        records: list[Any] = []
        async with open_consumer(self.settings, topic) as consumer, asyncio.timeout(timeout_s):
            while len(records) < count:
                records.append(await consumer.getone())
        return records

    async def events(self, event: type[Event], count: int, timeout_s: float = 90.0) -> list[Any]:
        """The first ``count`` events of a class."""
        return [event.model_validate_json(record.value) for record in await self.records(topic_of(event), count, timeout_s)]

    async def dead_letters(self, count: int) -> list[tuple[Any, dict[str, str]]]:
        """The first ``count`` dead letters, each with its headers as text."""
        return [
            (record, {name: value.decode() for name, value in record.headers}) for record in await self.records(DEAD_LETTERS, count)
        ]

    async def count(self, topic: str) -> int:
        """Number of records on a topic now."""
        partitions = [TopicPartition(topic, number) for number in range(PARTITIONS[topic])]
        async with open_consumer(self.settings) as consumer:
            return sum((await consumer.end_offsets(partitions)).values())


@pytest.fixture
def listener(settings: Settings) -> Listener:
    """Reads what the service published."""
    return Listener(settings)


async def _until_ready(settings: Settings, roles: Sequence[Role], tasks: Sequence[Awaitable[None]]) -> None:
    async with asyncio.timeout(READY_S), aiohttp.ClientSession() as session:
        for role in roles:
            while not await _is_ready(session, settings.port_of(role)):
                for ended in (task for task in tasks if isinstance(task, asyncio.Task) and task.done()):
                    ended.result()
                await asyncio.sleep(0.05)


async def _is_ready(session: aiohttp.ClientSession, port: int) -> bool:
    try:
        async with session.get(f"http://127.0.0.1:{port}/ready") as reply:
            return reply.status == 200
    except aiohttp.ClientError:
        return False


def _free_ports(count: int) -> int:
    """The first of some free ports in a row."""
    while True:
        first = free_port()
        if all(is_free(first + number) for number in range(count)):
            return first
