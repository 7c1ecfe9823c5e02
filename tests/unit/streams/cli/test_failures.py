"""Failures of servers: the sentence names the server, its address and the setting, and no password."""

from __future__ import annotations

import subprocess
import sys

import asyncpg
import pytest
from aiokafka.errors import KafkaConnectionError

from streams.cli import failures
from streams.cli.failures import ServerFailure, explain_server_failures
from streams.settings import Settings

SETTINGS = Settings.model_validate({"kafka_bootstrap": "127.0.0.1:1", "postgres_dsn": "postgresql://ann:secret@127.0.0.1:1/twins"})


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (KafkaConnectionError("raw"), "Kafka at 127.0.0.1:1 cannot be reached (TWIN_KAFKA_BOOTSTRAP)"),
        (asyncpg.UndefinedTableError("raw"), "the database has no tables yet: run twinstream migrate"),
    ],
)
def test_a_failure_of_a_server_is_one_sentence(error: Exception, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "last_kafka_error", lambda: "")  # other tests of this process make the client log
    with pytest.raises(ServerFailure) as raised, explain_server_failures(SETTINGS):
        raise error
    assert str(raised.value) == sentence


def test_other_failures_stay_as_they_are() -> None:
    with pytest.raises(FileNotFoundError, match="absent"), explain_server_failures(SETTINGS):
        raise FileNotFoundError("absent")


@pytest.mark.parametrize(
    ("arguments", "kafka_port", "postgres_port", "failed"),
    [
        (["simulate", "email_campaign"], 1, 1, "Postgres at 127.0.0.1:1 cannot be reached (TWIN_POSTGRES_DSN)"),
        (["models", "list"], 1, 1, "Postgres at 127.0.0.1:1 cannot be reached (TWIN_POSTGRES_DSN)"),
        (["models", "list"], 1, 99999, "Postgres at 127.0.0.1:99999 cannot be reached (TWIN_POSTGRES_DSN)"),
    ],
)
def test_a_server_that_cannot_be_reached_is_one_plain_line(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], kafka_port: int, postgres_port: int, failed: str
) -> None:
    monkeypatch.setenv("TWIN_KAFKA_BOOTSTRAP", f"127.0.0.1:{kafka_port}")
    monkeypatch.setenv("TWIN_POSTGRES_DSN", f"postgresql://ann:secret@127.0.0.1:{postgres_port}/twins")
    ended = subprocess.run([sys.executable, "-m", "streams", *arguments], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", f"twinstream: {failed}\n")


def test_closed_standard_output_is_no_crash() -> None:
    ended = subprocess.run(
        ["/bin/sh", "-c", f'"{sys.executable}" -m streams schemas >&-'], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
