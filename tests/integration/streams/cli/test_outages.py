"""Commands while a server is away, frozen or refuses them: each ends by itself with one line on stderr and status 1."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from aiokafka import AIOKafkaConsumer

from deploy.stack import LocalStack
from schemas import InterventionConfig, SimulationRequest
from sql.migrate import migrate
from streams.client import KafkaUnavailable, NoAnswer, TwinClient
from streams.kafka import create_topics
from streams.settings import Settings
from tests.freezing import frozen
from tests.outcomes import make_line

ENDS_WITHIN_S = 60.0  # a command that waits for a server without a limit takes longer, on any machine
CONNECT_S = 2.0
FORGET = ["forget", "hcp-7", "--yes"]
EMAIL = InterventionConfig(intervention_type="email_campaign", channel="email", frequency="monthly", duration_weeks=12)
REQUEST = SimulationRequest(
    simulation_id=UUID(int=4), requested_at=datetime(2026, 3, 1, tzinfo=UTC), twin_type="hcp", brand="kisqali", intervention=EMAIL
)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """Kafka and PostgreSQL of this module, whose tests freeze them."""
    with LocalStack(tmp_path_factory.mktemp("outages")) as started:
        asyncio.run(migrate(started.addresses.postgres_migrate_dsn))
        asyncio.run(make_line(started.addresses.postgres_dsn))
        asyncio.run(create_topics(Settings(kafka_bootstrap=started.kafka_bootstrap)))
        yield started


@pytest.fixture
def environment(stack: LocalStack, tmp_path: Path) -> dict[str, str]:
    """Variables of a command that uses this stack, with short connect timeouts."""
    timeouts = {f"TWIN_{server}_CONNECT_TIMEOUT_S": str(CONNECT_S) for server in ("KAFKA", "POSTGRES", "MLFLOW")}
    own = {"TWIN_HOME": str(tmp_path), "TWIN_MLFLOW_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"}
    return os.environ | stack.environment() | own | timeouts


@pytest.fixture
def outcomes(tmp_path: Path) -> str:
    """A table with one outcome."""
    file = tmp_path / "outcomes.csv"
    file.write_text("actual_value,predicted_value\n0.1,0.2\n", encoding="utf-8")
    return str(file)


def run(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    """Exit status and stderr of a command."""
    command = [sys.executable, "-m", "streams", *arguments]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=ENDS_WITHIN_S)
    assert ended.stdout == ""
    return ended.returncode, ended.stderr


def is_progress(lines: list[str], arguments: list[str]) -> bool:
    """Whether the lines before the last one tell the steps of a command that tells them."""
    steps = ("recomputing ", "comparing ") if arguments == ["verify"] else ()
    return all(line.startswith(steps) for line in lines)


@pytest.mark.parametrize(
    "arguments",
    [["simulate", "email_campaign", "--timeout", "3"], ["verify"], ["replay", "simulation-requests"], ["migrate"], FORGET],
)
def test_a_kafka_that_does_not_answer_ends_a_command(stack: LocalStack, environment: dict[str, str], arguments: list[str]):
    with frozen(stack.kafka.pid):
        status, error = run(environment, *arguments)
    *progress, refusal = error.splitlines()
    assert status == 1
    assert refusal.startswith(f"twinstream: Kafka at {stack.kafka_bootstrap} ")
    assert is_progress(progress, arguments)


@pytest.mark.parametrize(
    "arguments",
    [["models", "list"], ["verify"], ["migrate"], ["dlq", "list"], FORGET, ["simulate", "email_campaign", "--timeout", "3"]],
)
def test_a_postgres_that_does_not_answer_ends_a_command(stack: LocalStack, environment: dict[str, str], arguments: list[str]):
    with frozen(stack.postgres.pid):
        status, error = run(environment, *arguments)
    address = f"127.0.0.1:{stack.postgres.port}"
    limits = "(TWIN_POSTGRES_DSN, TWIN_POSTGRES_CONNECT_TIMEOUT_S)"
    *progress, refusal = error.splitlines()
    assert (status, refusal) == (1, f"twinstream: Postgres at {address} has not answered for 2 s {limits}")
    assert is_progress(progress, arguments)


def test_a_simulation_that_is_not_answered_names_the_worker_that_is_missing(stack: LocalStack, environment: dict[str, str]):
    status, error = run(environment, "simulate", "email_campaign", "--timeout", "3")
    assert (status, error.count("\n")) == (1, 1)
    assert "within 3 s: no worker with the role simulation is running" in error


async def test_a_simulation_that_a_worker_has_not_finished_says_so(stack: LocalStack, environment: dict[str, str]):
    client = AIOKafkaConsumer("simulation-requests", group_id="twinstream-simulation", bootstrap_servers=stack.kafka_bootstrap)
    async with client:
        assert client.assignment()
        status, error = await asyncio.to_thread(run, environment, "simulate", "email_campaign", "--timeout", "3")
    assert (status, error.count("\n")) == (1, 1)
    assert "within 3 s: a worker with the role simulation is running and has not finished it: raise --timeout" in error


def test_a_kafka_that_stops_to_answer_ends_a_publication(stack: LocalStack, environment: dict[str, str], tmp_path: Path):
    table = tmp_path / "many.csv"
    table.write_text("actual_value,predicted_value\n" + "0.1,0.2\n" * 20_000, encoding="utf-8")
    with started(environment, "outcomes", "publish", str(table)) as process:
        wait_for_connection(process, stack.kafka.port)
        with frozen(stack.kafka.pid):
            _, error = process.communicate(timeout=ENDS_WITHIN_S)
    assert process.returncode == 1
    assert error.startswith(f"twinstream: Kafka at {stack.kafka_bootstrap} ")
    assert error.count("\n") == 1


def test_an_interrupted_command_ends_at_once_with_one_line(stack: LocalStack, environment: dict[str, str]):
    environment["TWIN_KAFKA_CONNECT_TIMEOUT_S"] = "1000"
    with frozen(stack.kafka.pid), started(environment, "simulate", "email_campaign", "--timeout", "1000") as process:
        wait_for_connection(process, stack.kafka.port)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=ENDS_WITHIN_S)
    assert (process.returncode, error) == (130, "twinstream: interrupted\n")


def test_an_mlflow_that_does_not_answer_ends_a_command(environment: dict[str, str]):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        status, error = run(environment | {"TWIN_MLFLOW_URI": address}, "migrate")
    assert (status, error) == (
        1,
        f"twinstream: MLflow at {address} has not answered for 2 s (TWIN_MLFLOW_URI, TWIN_MLFLOW_CONNECT_TIMEOUT_S)\n",
    )


@pytest.mark.parametrize(
    ("variables", "arguments", "expected"),
    [
        ({"TWIN_MLFLOW_URI": "http://127.0.0.1:1"}, ["migrate"], "MLflow at http://127.0.0.1:1 "),
        ({"TWIN_KAFKA_BOOTSTRAP": "nowhere.invalid:9092"}, ["migrate"], "Kafka at nowhere.invalid:9092 "),
        ({"TWIN_KAFKA_SECURITY": "SSL"}, ["simulate", "email_campaign"], "Kafka at 127.0.0.1:"),
        ({"TWIN_POSTGRES_DSN": "postgresql://a@nowhere.invalid/x"}, ["models", "list"], "Postgres at nowhere.invalid cannot be"),
    ],
)
def test_a_server_that_cannot_be_reached_is_named(environment: dict[str, str], variables, arguments, expected):
    if dsn := variables.get("TWIN_POSTGRES_DSN"):
        variables = variables | {"TWIN_POSTGRES_READ_DSN": dsn}
    status, error = run(environment | variables, *arguments)
    assert status == 1
    assert error.startswith(f"twinstream: {expected}")
    assert error.count("\n") == 1


@pytest.mark.parametrize("wrong", ["password", "database", "encryption"])
def test_a_postgres_that_refuses_a_client_is_named_without_the_password(stack: LocalStack, environment: dict[str, str], wrong: str):
    dsn = {
        "password": f"postgresql://twinstream:wrong-one@127.0.0.1:{stack.postgres.port}/twinstream",
        "database": f"{stack.postgres_dsn}_other",
        "encryption": f"{stack.postgres_dsn}?sslmode=require",
    }[wrong]
    status, error = run(environment | dict.fromkeys(("TWIN_POSTGRES_DSN", "TWIN_POSTGRES_READ_DSN"), dsn), "models", "list")
    assert status == 1
    assert error.startswith(f"twinstream: Postgres at 127.0.0.1:{stack.postgres.port} ")
    assert "TWIN_POSTGRES_DSN" in error
    assert "wrong-one" not in error
    assert error.count("\n") == 1


async def test_a_client_of_a_kafka_that_does_not_answer_raises_no_answer(stack: LocalStack):
    settings = Settings(kafka_bootstrap=stack.kafka_bootstrap, kafka_connect_timeout_s=CONNECT_S)
    with frozen(stack.kafka.pid), pytest.raises(KafkaUnavailable, match="TWIN_KAFKA_BOOTSTRAP"):
        async with TwinClient(settings):
            pass
    async with TwinClient(settings) as client:
        with frozen(stack.kafka.pid), pytest.raises(NoAnswer, match="Kafka at"):
            await client.request(REQUEST, timeout_s=2.0)
    with pytest.raises(NoAnswer, match="is a worker with the role simulation running"):
        async with TwinClient(settings) as client:
            await client.request(REQUEST, timeout_s=2.0)


@contextmanager
def started(environment: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-m", "streams", *arguments], env=environment, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_connection(process: subprocess.Popen[str], port: int) -> None:
    deadline = time.monotonic() + ENDS_WITHIN_S
    while not any(
        connection.raddr and connection.raddr.port == port for connection in psutil.Process(process.pid).net_connections()
    ):
        assert time.monotonic() < deadline
        time.sleep(0.05)
