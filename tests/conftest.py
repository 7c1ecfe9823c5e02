"""A real Kafka broker and a real PostgreSQL server for the tests, one of each per session.

Each comes from an environment variable, else from a Docker container, else from the local stack.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, settings

from deploy.stack import LocalStack
from deploy.stack.part import free_port
from schemas import BUILT_IN, install
from sql.database import Pool, open_pool
from sql.migrate import migrate

KAFKA_IMAGE = "apache/kafka:4.1.1"
POSTGRES_IMAGE = "postgres:18"
KAFKA_SETTINGS = {
    "KAFKA_NODE_ID": "1",
    "KAFKA_PROCESS_ROLES": "broker,controller",
    "KAFKA_LISTENERS": "PLAINTEXT://:9092,CONTROLLER://:9093",
    "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
    "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
    "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
    "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
    "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
}

# A slow example on a loaded machine is no failure: speed is measured by the benchmarks.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_configure() -> None:
    """Restore Ctrl-C: a shell that starts the tests in the background ignores SIGINT, and child processes would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _built_in_catalogue() -> Iterator[None]:
    """The catalogue that a test puts into effect in this process does not outlast it."""
    yield
    install(BUILT_IN)


@pytest.fixture(scope="session")
def docker_engine() -> bool:
    """Whether a Docker engine is running; an installed client alone is not enough."""
    import docker  # type: ignore[import-untyped]  # noqa: PLC0415  # slow, and only needed by sessions that use containers

    try:
        docker.from_env(timeout=5).ping()
    except (docker.errors.DockerException, OSError):
        return False
    return True


@pytest.fixture(scope="session")
def local_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """Kafka and PostgreSQL without Docker, in a folder of this session.

    PostgreSQL runs without fsync: hundreds of databases are created and dropped, and none has to survive a power cut.
    """
    with LocalStack(tmp_path_factory.mktemp("stack")) as stack:
        for statement in ("ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()"):
            asyncio.run(_execute(stack.admin_dsn, statement))
        yield stack


@pytest.fixture(scope="session")
def kafka_bootstrap(request: pytest.FixtureRequest) -> Iterator[str]:
    """Address of a Kafka broker: ``TWIN_TEST_KAFKA``, else a container, else the local stack."""
    with ExitStack() as cleanup:
        yield os.environ.get("TWIN_TEST_KAFKA") or _kafka_container(request, cleanup) or _local_stack(request).kafka_bootstrap


@pytest.fixture(scope="session")
def postgres_dsn(request: pytest.FixtureRequest) -> Iterator[str]:
    """Address of a PostgreSQL server, as a superuser: ``TWIN_TEST_POSTGRES``, a container, or the local stack."""
    with ExitStack() as cleanup:
        yield os.environ.get("TWIN_TEST_POSTGRES") or _postgres_container(request, cleanup) or _local_stack(request).admin_dsn


@pytest.fixture(scope="session")
def migrated_template(postgres_dsn: str) -> Iterator[str]:
    """Name of a database with all tables, empty; copying it takes a fraction of the time of the migrations."""
    name = f"template_{uuid4().hex}"
    asyncio.run(_execute(postgres_dsn, f"CREATE DATABASE {name}"))
    asyncio.run(migrate(_dsn_of(postgres_dsn, name)))
    yield name
    asyncio.run(_execute(postgres_dsn, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture(scope="session")
def logins(postgres_dsn: str, migrated_template: str) -> Iterator[Mapping[str, str]]:  # the template creates the roles
    """Name of a user of this session, which is also its password, by the role that it is a member of."""
    users = {role: f"{role}_{uuid4().hex}" for role in ("twinstream_migrator", "twinstream_writer", "twinstream_reader")}
    for role, user in users.items():
        asyncio.run(_execute(postgres_dsn, f"CREATE ROLE {user} LOGIN PASSWORD '{user}' IN ROLE {role}"))
    yield users
    asyncio.run(_execute(postgres_dsn, f"DROP ROLE {', '.join(users.values())}"))


@pytest.fixture
async def owned_database(postgres_dsn: str, migrated_template: str) -> AsyncIterator[str]:
    """Address of a migrated database of this test, as a superuser; it is dropped even if the test leaves connections open."""
    async with new_database(postgres_dsn, f"TEMPLATE {migrated_template} STRATEGY FILE_COPY") as dsn:
        yield dsn


@pytest.fixture
def fresh_database(owned_database: str, logins: Mapping[str, str]) -> str:
    """Address of a migrated database of this test, as the service uses it: as a user that may write and is no owner."""
    return login_dsn(owned_database, logins["twinstream_writer"])


@pytest.fixture
async def pool(fresh_database: str) -> AsyncIterator[Pool]:
    """Connections to the migrated database of this test."""
    async with await open_pool(dsn=fresh_database) as opened:
        yield opened


@pytest.fixture
def reading_database(owned_database: str, logins: Mapping[str, str]) -> str:
    """Address of the database of ``fresh_database`` as a user that may only read."""
    return login_dsn(owned_database, logins["twinstream_reader"])


@pytest.fixture
def migrating_database(owned_database: str, logins: Mapping[str, str]) -> str:
    """Address of the database of ``fresh_database`` as a user that may apply migrations."""
    return login_dsn(owned_database, logins["twinstream_migrator"])


@pytest.fixture
async def owner_pool(owned_database: str) -> AsyncIterator[Pool]:
    """Connections to the database of this test as a superuser, for what the service may not do."""
    async with await open_pool(dsn=owned_database) as opened:
        yield opened


@pytest.fixture
async def empty_database(postgres_dsn: str) -> AsyncIterator[str]:
    """Address of a database of this test without tables."""
    async with new_database(postgres_dsn) as dsn:
        yield dsn


@asynccontextmanager
async def new_database(postgres_dsn: str, options: str = "") -> AsyncIterator[str]:
    """Address of a database, as a superuser, while the block runs."""
    name = f"test_{uuid4().hex}"
    await _execute(postgres_dsn, f"CREATE DATABASE {name} {options}")
    yield _dsn_of(postgres_dsn, name)
    await _execute(postgres_dsn, f"DROP DATABASE {name} WITH (FORCE)")


def login_dsn(dsn: str, user: str) -> str:
    """The address with another user, whose password is its name."""
    address = urlsplit(dsn)
    return address._replace(netloc=f"{user}:{user}@{address.netloc.rpartition('@')[2]}").geturl()


def _dsn_of(postgres_dsn: str, name: str) -> str:
    return f"{postgres_dsn.rpartition('/')[0]}/{name}"


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _local_stack(request: pytest.FixtureRequest) -> LocalStack:
    stack: LocalStack = request.getfixturevalue("local_stack")
    return stack


def _kafka_container(request: pytest.FixtureRequest, cleanup: ExitStack) -> str | None:
    if not request.getfixturevalue("docker_engine"):
        return None
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy  # noqa: PLC0415

    container, port = DockerContainer(KAFKA_IMAGE), free_port()
    address = f"{container.get_container_host_ip()}:{port}"  # advertised to clients, so chosen before the start
    container.with_envs(**KAFKA_SETTINGS, KAFKA_ADVERTISED_LISTENERS=f"PLAINTEXT://{address}")
    container.with_bind_ports(9092, port).waiting_for(LogMessageWaitStrategy("Kafka Server started"))
    cleanup.enter_context(container)
    return address


def _postgres_container(request: pytest.FixtureRequest, cleanup: ExitStack) -> str | None:
    if not request.getfixturevalue("docker_engine"):
        return None
    from testcontainers.community.postgres import PostgresContainer  # noqa: PLC0415

    return str(cleanup.enter_context(PostgresContainer(POSTGRES_IMAGE, driver=None)).get_connection_url())
