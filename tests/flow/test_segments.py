"""Thousands of values of one segment dimension through a real service: bounded series, metrics and page, and exact sums."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import uuid5

import aiohttp
import pytest
from aiokafka import AIOKafkaProducer

from sql.database import Pool
from streams.agents import fidelity as fidelity_agent
from streams.operations.verify import verify
from streams.settings import Settings
from streams.web.dashboard import serve_dashboard
from tests.flow.conftest import Service, Twinstream
from tests.outcomes import LINE, SPACE, TOPIC, make_card, make_line, outcome
from tests.polling import until

VALUES, FOLLOWED, PER_RECORD = 5000, 200, 50
BEGAN = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)


@pytest.fixture
async def settings(settings: Settings) -> Settings:
    await make_line(settings.postgres_dsn.get_secret_value(), make_card(), pane_s=60.0, window_s=300.0)
    return settings.model_copy(update={"pane_s": 60.0, "window_s": 300.0, "grace_s": 2.0, "idle_s": 2.0})


async def publish(settings: Settings, values: list[dict[str, object]]) -> None:
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap) as producer:
        for first in range(0, len(values), PER_RECORD):
            await producer.send_and_wait(TOPIC, json.dumps(values[first : first + PER_RECORD]).encode(), partition=first % 4)


def outcome_at(number: int, **fields: object) -> dict[str, object]:
    """Outcome ``number``, each with a region of its own, all within two panes."""
    at = (BEGAN + timedelta(seconds=number % 100)).isoformat()
    event_id = str(uuid5(SPACE, f"segment {number}"))
    return outcome(number, event_id=event_id, observed_at=at, segment={"region": f"r{number}"}, **fields)


async def get(address: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(address) as reply:
        assert reply.status == 200
        return await reply.text()


async def test_five_thousand_values_of_a_dimension_make_two_hundred_series_and_every_sum_is_exact(
    settings: Settings, pool: Pool, service: Service, twinstream: Twinstream, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fidelity_agent, "_SWEEP_S", 1.0)

    def n_stored(n: int) -> object:
        async def is_stored() -> bool:
            return bool(await pool.fetchval("SELECT count(*) FROM fidelity_tracking") == n)

        return is_stored

    async with service(["outcomes", "fidelity"]):
        metrics = f"http://127.0.0.1:{settings.port_of('outcomes')}/metrics"
        counter = f'twin_segment_other_outcomes_total{{dimension="region",line="{LINE}"}}'
        assert f"{counter} 0.0" in await get(metrics)
        await publish(settings, [outcome_at(number) for number in range(VALUES)])
        await until(n_stored(VALUES))
        await publish(settings, [outcome_at(number, revision=1, actual_value=None) for number in range(0, VALUES, 2)])
        await until(n_stored(VALUES + VALUES // 2))
        report = await verify(settings, patience_s=60.0)

        text = await get(metrics)
        shown = f'twin_segment_values{{dimension="region",line="{LINE}"}} 200.0'
        fidelity_metrics = partial(get, f"http://127.0.0.1:{settings.port_of('fidelity')}/metrics")
        scrape = await until(fidelity_metrics, lambda text: shown in text)

    assert report.mismatches == ()
    series = {
        row["segment"]: row["n"] for row in await pool.fetch("SELECT segment, sum(n)::int AS n FROM fidelity_panes GROUP BY 1")
    }
    assert len(series) == FOLLOWED + 2
    assert series["all"] == VALUES // 2 == sum(n for name, n in series.items() if name != "all")
    assert [float(value) for value in re.findall(re.escape(counter) + r" (\S+)", text)] == [VALUES - FOLLOWED]
    assert len(scrape) < 1_000_000

    async with serve_dashboard(settings) as address:
        page = await get(f"{address}lines/{LINE}")
    assert "region: all other values" in page
    assert len(page) < 200_000
    assert "region: all other values" in await twinstream("fidelity")
