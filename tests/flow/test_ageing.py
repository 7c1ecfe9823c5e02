"""A running service sweeps and forgets: every count stays, and a topic that is read again brings nothing and nobody back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pandas as pd
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from engine.twins import TwinModel
from schemas import OutcomeEvent
from sql import database
from sql.database import Pool, open_pool
from streams.agents import fidelity as fidelity_agent
from streams.kafka import PARTITIONS
from streams.operations import ageing
from streams.operations.ageing import is_sweep_due, sweep
from streams.operations.verify import verify
from streams.settings import Settings
from tests.outcomes import TOPIC
from tests.polling import until

PERSON = "npi 7/ü"


@pytest.fixture
async def settings(settings: Settings) -> Settings:
    """Panes of a second, and corrections for twenty, so that the floor rises while the test runs; no drift starts a training."""
    return settings.model_copy(
        update={
            "pane_s": 1.0,
            "window_s": 5.0,
            "grace_s": 1.0,
            "idle_s": 1.0,
            "restatement_s": 20.0,
            "keep_sweeps_days": 0,
            "n_min": 10_000,
        }
    )


def outcomes(people: pd.DataFrame, since: datetime, count: int) -> list[OutcomeEvent]:
    return [
        OutcomeEvent(
            event_id=uuid4(),
            observed_at=since + timedelta(seconds=number / 10),
            twin_type="hcp",
            brand="kisqali",
            metric_type="prescribing_change",
            actual_value=0.1,
            entity_id=PERSON if number % 3 == 0 else f"other {number}",
            features={str(name): None if pd.isna(value) else value for name, value in people.iloc[number % len(people)].items()},
        )
        for number in range(count)
    ]


async def test_a_service_sweeps_and_forgets_and_a_topic_that_is_read_again_changes_no_count(
    service: Any,
    client: Any,
    promoted: Any,
    champion: TwinModel,
    settings: Settings,
    pool: Pool,
    twinstream: Any,
    monkeypatch: Any,
    owned_database: str,
):
    monkeypatch.setattr(fidelity_agent, "_SWEEP_S", 1.0)  # it raises the floor
    async with await open_pool(dsn=owned_database) as owner:
        await owner.execute("CREATE OR REPLACE FUNCTION least_retention() RETURNS interval RETURN interval '-100 years'")
    people = champion.generate(40, seed=3).frame[list(champion.card.features)]
    began = datetime.now(UTC) - timedelta(seconds=120)
    async with service(["outcomes", "fidelity", "trainer"]):
        await client.publish_outcomes(outcomes(people, began, 300))
        await until(lambda: is_ingested(pool, 300))
        await until(lambda: is_swept(pool))  # the first sweep follows the start
        await client.publish_outcomes(outcomes(people, datetime.now(UTC) - timedelta(seconds=2), 20))
        await until(lambda: is_floor_above(pool, began + timedelta(seconds=40)))
        sums = await sums_of(pool)

        with monkeypatch.context() as patch:
            patch.setattr(ageing, "clock", years_later)
            run = await sweep(settings, "a test")
        report = await twinstream("forget", PERSON, "--yes", "--json")

        assert run.error == ""
        assert run.deleted["fidelity_tracking"] > 200
        assert report["counts"]["fidelity_tracking"] > 0
        assert [model["model_id"] for model in report["models"]] == []  # it was trained before these outcomes were observed
        assert await pool.fetchval("SELECT count(*) FROM fidelity_tracking WHERE entity_id = $1", PERSON) == 0
        assert (await verify(settings, patience_s=60.0)).mismatches == ()

    rows = await pool.fetch("SELECT * FROM fidelity_tracking ORDER BY tracking_id")
    await commit_to_beginning(settings)
    async with service(["outcomes", "fidelity"]):
        await client.publish_outcomes([event for event in outcomes(people, datetime.now(UTC), 1) if event.entity_id == PERSON])
        await until(lambda: is_ingested(pool, 321))
        after = await pool.fetch("SELECT * FROM fidelity_tracking ORDER BY tracking_id")
        assert [row for row in after if row in rows] == rows
        (new,) = [row for row in after if row not in rows]
        assert (new["entity_id"], new["features"], new["fate"]) == (None, None, "counted")
        assert (await sums_of(pool))["n"] == sums["n"] + 1
        assert (await verify(settings, patience_s=60.0)).mismatches == ()


async def years_later(connection: Any) -> datetime:
    return await database.clock(connection) + timedelta(days=1000)


async def is_swept(pool: Pool) -> bool:
    return not await is_sweep_due(pool)


async def is_ingested(pool: Pool, count: int) -> bool:
    return bool(await pool.fetchval("SELECT coalesce(sum(elements), 0) FROM source_positions") >= count)


async def is_floor_above(pool: Pool, at: datetime) -> bool:
    return bool(await pool.fetchval("SELECT bool_and(floor >= $1) FROM model_lines", at))


async def sums_of(pool: Pool) -> dict[str, Any]:
    return dict(await pool.fetchrow("SELECT sum(n) AS n, sum(actual) AS actual FROM fidelity_panes WHERE segment = 'all'"))


async def commit_to_beginning(settings: Settings) -> None:
    """Set the offsets of the role back, as a lost offsets topic would."""
    partitions = [TopicPartition(TOPIC, number) for number in range(PARTITIONS[TOPIC])]
    group = {"group_id": "twinstream-outcomes", "enable_auto_commit": False}
    async with AIOKafkaConsumer(bootstrap_servers=settings.kafka_bootstrap, **group) as consumer:
        consumer.assign(partitions)
        await consumer.commit(dict.fromkeys(partitions, 0))
