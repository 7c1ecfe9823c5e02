"""The ways to a prediction with a real model: features that the champion predicts from, and twins of a simulation."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pandas as pd
import pytest

from engine import SimulationEngine
from engine.twins import TwinModel
from schemas import InterventionConfig, OutcomeEvent, SimulationAnswer, SimulationRequest
from streams.ingestion import scoring_context
from streams.operations.findings import Findings
from streams.operations.recomputation import recompute

EMAIL = InterventionConfig(intervention_type="email_campaign", channel="email", frequency="monthly", duration_weeks=12)
BEGAN = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=10)


def outcome(number: int, **fields: Any) -> OutcomeEvent:
    defaults = {
        "event_id": uuid4(),
        "observed_at": BEGAN + timedelta(seconds=number),
        "twin_type": "hcp",
        "brand": "kisqali",
        "metric_type": "prescribing_change",
        "actual_value": 0.1,
    }
    return OutcomeEvent.model_validate(defaults | fields)


async def stored(pool: Any, count: int) -> list[Any]:
    async with asyncio.timeout(60):
        while await pool.fetchval("SELECT coalesce(sum(elements), 0) FROM source_positions") < count:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    return await pool.fetch("SELECT * FROM fidelity_tracking ORDER BY observed_at")


@pytest.fixture
def people(champion: TwinModel) -> pd.DataFrame:
    return champion.generate(40, seed=3).frame[list(champion.card.features)]


def features(people: pd.DataFrame, row: int) -> dict[str, Any]:
    return {str(name): None if pd.isna(value) else value for name, value in people.iloc[[row]].to_dict("records")[0].items()}


async def test_the_champion_predicts_from_features_with_its_interval(service, client, promoted, champion, pool, settings, people):
    outcomes = [outcome(n, entity_id=f"hcp-{n}", features=features(people, n)) for n in range(40)]
    outcomes[7] = outcome(7, entity_id="hcp-7", features=features(people, 7), treated=True)
    async with service(["outcomes"]):
        await client.publish_outcomes(outcomes)
        rows = await stored(pool, 40)

    expected, lower, upper = champion.predict_all(people)
    np.testing.assert_array_equal([row["predicted_value"] for row in rows], expected)
    np.testing.assert_array_equal([row["predicted_lower"] for row in rows], lower)
    np.testing.assert_array_equal([row["predicted_upper"] for row in rows], upper)
    assert {row["model_id"] for row in rows} == {promoted.champion}
    assert rows[7]["segments"] == []
    assert f"specialty={people['specialty'].iloc[0]}" in rows[0]["segments"]
    assert await pool.fetchval("SELECT sum(n) FROM fidelity_panes WHERE segment = 'all'") == 39
    findings = Findings()
    await recompute(settings.postgres_dsn.get_secret_value(), findings)
    assert findings.mismatches() == ()


async def test_an_outcome_with_impossible_features_is_refused_alone(service, client, promoted, pool, people):
    impossible = features(people, 1) | {"decile": "high"}
    outcomes = [outcome(0, entity_id="a", features=features(people, 0)), outcome(1, entity_id="b", features=impossible)]
    async with service(["outcomes"]):
        await client.publish_outcomes(outcomes)
        (row,) = await stored(pool, 2)

    assert row["entity_id"] == "a"
    refused = await pool.fetchrow("SELECT kind, reason FROM refused_records")
    assert refused["kind"] == "features"
    assert "decile" in refused["reason"]


async def test_a_twin_of_a_simulation_is_predicted_with_the_effect_unless_it_was_not_treated(
    service, client, promoted, champion, pool, settings
):
    request = SimulationRequest(
        simulation_id=uuid4(), requested_at=BEGAN, twin_type="hcp", brand="kisqali", intervention=EMAIL, twin_count=200, seed=5
    )
    population = champion.generate(200, {}, 5)
    engine = SimulationEngine(population, seed=5)
    twins, change = population.twin_ids, engine.twin_changes(EMAIL)
    outcomes = [
        outcome(n, simulation_id=request.simulation_id, twin_id=twins[n], treated=None if n % 2 else False) for n in range(20)
    ]
    outcomes += [
        outcome(20, simulation_id=request.simulation_id, twin_id=UUID(int=1)),
        outcome(21, simulation_id=UUID(int=2), twin_id=twins[0]),
    ]
    async with service(["outcomes", "simulation"]):
        await client.request(request)
        await client.publish_outcomes(outcomes)
        rows = await stored(pool, 22)

    expected = population.frame["baseline_behavior"].to_numpy()[:20] + np.where(np.arange(20) % 2, change[:20], 0.0)
    np.testing.assert_array_equal([row["predicted_value"] for row in rows], expected)
    assert [row["twin_id"] for row in rows] == list(twins[:20])
    assert {row["population_id"] for row in rows} == {population.population_id}
    assert {row[0] for row in await pool.fetch("SELECT kind FROM refused_records")} == {"twin", "simulation"}
    assert await pool.fetchval("SELECT count(*) FROM digital_twins") == 20
    assert await pool.fetchval("SELECT sum(n) FROM fidelity_panes WHERE segment = 'all'") == 20


async def test_a_champion_whose_files_are_damaged_parks_only_what_needs_it_and_fails_its_simulations(
    service, client, listener, promoted, pool, people, twinstream, monkeypatch
):
    monkeypatch.setattr(scoring_context, "_UNAVAILABLE_S", 0.5)
    sha256 = await pool.fetchval("SELECT artifact_sha256 FROM digital_twin_models")
    await pool.execute("UPDATE digital_twin_models SET artifact_sha256 = repeat('0', 64)")
    needs_it = outcome(0, entity_id="a", features=features(people, 0))
    others = [outcome(n, predicted_value=0.1, predicted_lower=0.0, predicted_upper=0.2) for n in range(1, 20)]
    request = SimulationRequest(
        simulation_id=uuid4(), requested_at=BEGAN, twin_type="hcp", brand="kisqali", intervention=EMAIL, twin_count=200, seed=5
    )
    async with service(["outcomes", "simulation"]):
        await client.publish_outcomes([needs_it, *others])
        await client.publish(request)
        assert len(await stored(pool, 20)) == 19
        refused = await pool.fetchrow("SELECT kind, reason, exception, traceback FROM refused_records")
        assert (refused["kind"], refused["exception"]) == ("parked", "UntrustedModel")
        assert f"model {promoted.champion} cannot be loaded" in refused["reason"]
        (answer,) = await listener.events(SimulationAnswer, 1)
        assert (answer.status.value, "UntrustedModel" in (answer.reason or "")) == ("failed", True)

        await pool.execute("UPDATE digital_twin_models SET artifact_sha256 = $1", sha256)
        await asyncio.sleep(1.0)
        replay = await twinstream("dlq", "replay", "--kind", "parked", "--json")
        assert replay["replayed"][0]["replays"][-1]["came_of_it"] == "counted"
