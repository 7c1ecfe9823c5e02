"""Topics that do not take what the service publishes: records wait and are not parked, and the roles tell which topic it is."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from schemas import Brand, EffectsEvent, ExperimentResult, FidelityErrors, InterventionConfig, ModelEvent, OutcomeEvent, TwinType
from sql.database import Pool
from streams.client import TwinClient
from streams.kafka import open_admin, topic_of
from streams.kafka.topics import READ_TOPICS
from streams.settings import Role, Settings
from tests.outcomes import outcome
from tests.polling import committed_offsets, until

ROLES: list[Role] = ["outcomes", "experiments"]
WRITTEN = {"outcomes": topic_of(FidelityErrors), "experiments": topic_of(EffectsEvent)}


def an_experiment() -> ExperimentResult:
    return ExperimentResult(
        experiment_id="email-spring",
        observed_at=datetime.now(UTC),
        twin_type=TwinType.HCP,
        brand=Brand.KISQALI,
        intervention=InterventionConfig(
            intervention_type="email_campaign", channel="email", frequency="monthly", duration_weeks=12
        ),
        effect=0.05,
        standard_error=0.01,
        n_treated=100,
        n_control=100,
    )


async def limit_messages(settings: Settings, topics: Iterable[str], size: int) -> None:
    resources = [ConfigResource(ConfigResourceType.TOPIC, topic, configs={"max.message.bytes": str(size)}) for topic in topics]
    async with open_admin(settings) as admin:
        await admin.alter_configs(resources)


async def page(settings: Settings, role: Role, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{settings.port_of(role)}/{path}") as reply:
        return reply.status, await reply.text()


async def tells(settings: Settings, role: Role) -> bool:
    (ready, problems), (_, metrics) = [await page(settings, role, path) for path in ("ready", "metrics")]
    is_named = f"the topic {WRITTEN[role]} does not take" in problems and "max.message.bytes" in problems
    return ready == 503 and is_named and 'twin_dependency_up{part="kafka"} 0' in metrics


async def test_a_topic_that_refuses_what_is_stored_parks_nothing_and_is_told_until_it_takes_it(
    settings: Settings, promoted: ModelEvent, pool: Pool, client: TwinClient, service_apart: Any, listener: Any, tmp_path: Path
):
    async with service_apart(ROLES):
        await limit_messages(settings, WRITTEN.values(), 100)
        await client.publish_outcomes([OutcomeEvent.model_validate(outcome(number)) for number in range(20)])
        await client.publish_bytes("experiment-results", None, an_experiment().model_dump_json().encode())
        for role in ROLES:
            await until(partial(tells, settings, role))
        assert await pool.fetchval("SELECT count(*) FROM experiments") == 1
        for role, topic in WRITTEN.items():
            lines = (tmp_path / "logs" / f"{role}.log").read_text(encoding="utf-8").splitlines()
            assert sum("kafka is out" in line and topic in line for line in lines) == 1

        await limit_messages(settings, WRITTEN.values(), 8 * 1024 * 1024)
        (effects,) = await listener.events(EffectsEvent, 1)
        assert effects.prior.version == 1
        for role, number in zip(ROLES, (20, 1), strict=True):
            await until(partial(page, settings, role, "ready"), lambda reply: reply[0] == 200)
            offsets = partial(committed_offsets, settings, READ_TOPICS[role])
            await until(offsets, lambda read, number=number: sum(read.values()) == number)
        assert await listener.count(topic_of(FidelityErrors)) > 0
        assert await pool.fetchval("SELECT count(*) FROM refused_records") == 0
