"""Probes of a real broker and a real database."""

from __future__ import annotations

import asyncpg
import pytest
from pydantic import SecretStr

from sql.database import PostgresProbe
from streams.kafka.broker_probe import BrokerProbe
from streams.settings import Settings


async def test_a_broker_answers_and_answers_again_after_its_connection_was_closed(kafka_bootstrap: str):
    probe = BrokerProbe(Settings(kafka_bootstrap=f"127.0.0.1:1,{kafka_bootstrap}"))  # one of several brokers is enough
    try:
        for _ in range(2):
            await probe.ask()
            await probe.ask()
            probe.close()
    finally:
        probe.close()


async def test_a_database_answers_and_one_that_was_dropped_does_not(fresh_database: str, postgres_dsn: str):
    probe = PostgresProbe(Settings(postgres_dsn=SecretStr(fresh_database)))
    admin = await asyncpg.connect(postgres_dsn)
    try:
        await probe.ask()
        await probe.ask()
        await admin.execute(f"ALTER DATABASE {fresh_database.rpartition('/')[2]} ALLOW_CONNECTIONS false")
        await probe.ask()  # on the old connection
        probe.close()
        with pytest.raises(asyncpg.PostgresError, match="not currently accepting connections"):
            await probe.ask()
    finally:
        probe.close()
        await admin.close()


async def test_a_refused_user_is_noticed(postgres_dsn: str):
    probe = PostgresProbe(Settings(postgres_dsn=SecretStr(f"postgresql://nobody:wrong@{postgres_dsn.rpartition('@')[2]}")))
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        await probe.ask()
