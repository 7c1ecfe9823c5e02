"""The three workflows of the brief, as a user would write them, on a real database."""

import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import numpy as np
import pandas as pd
import pytest

from engine import FidelityTracker, SimulationEngine, TwinGenerator
from engine.sample_tables import sample_hcps
from schemas import Brand, InterventionConfig, SimulationRecommendation, TwinType
from sql.twin_repository import TwinRepository


@pytest.fixture(scope="module")
def historical_hcps() -> pd.DataFrame:
    return sample_hcps(3000, np.random.default_rng(2025))


@pytest.fixture
async def repo(fresh_database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TwinRepository]:
    monkeypatch.setenv("TWIN_POSTGRES_DSN", fresh_database)
    async with TwinRepository() as repository:
        yield repository


async def test_the_three_workflows_run_as_documented(repo: TwinRepository, historical_hcps: pd.DataFrame) -> None:
    # Workflow 1: generate a twin population
    generator = TwinGenerator(twin_type=TwinType.HCP, brand=Brand.KISQALI)
    metrics = generator.train(historical_hcps, target_col="prescribing_change")
    assert metrics.training_samples == len(historical_hcps)

    population = generator.generate(n=10_000, filters={"specialty": ["oncology"], "tier": [1, 2]})
    population_id = await repo.save_population(population)
    assert isinstance(population_id, UUID)
    assert set(population.frame["specialty"]) == {"oncology"}
    assert set(population.frame["priority_tier"]) <= {1, 2}

    # Workflow 2: simulate an intervention
    population = await repo.load_population(population_id)
    intervention = InterventionConfig(
        intervention_type="speaker_program_invitation", channel="email", frequency="monthly", duration_weeks=12
    )
    engine = SimulationEngine(population)
    result = engine.simulate(intervention)
    assert result.recommendation in SimulationRecommendation
    assert result.ate_ci_lower < result.ate < result.ate_ci_upper
    assert result.affected_twin_count == 10_000

    # Workflow 3: monitor fidelity, here of a world in which nothing has changed
    tracker = FidelityTracker()
    rng = np.random.default_rng(7)
    twins = population.twins[:400]
    intervention_effect = result.ate
    experiment_results = {
        twin.twin_id: twin.baseline_behavior + intervention_effect + rng.normal(0.0, population.model.baseline.rmse)
        for twin in twins
    }
    for twin_id, actual_outcome in experiment_results.items():
        twin = await repo.load_twin(twin_id)
        predicted = twin.baseline_behavior + intervention_effect
        tracker.track(twin_id, predicted, actual_outcome)
    fidelity = tracker.calculate_fidelity(population_id, experiment_results)
    assert fidelity.n == 400
    assert fidelity.rmse == pytest.approx(population.model.baseline.rmse, rel=0.15)
    assert not tracker.check_drift(fidelity, fidelity)

    # ... and of one that has: every outcome moved by three typical errors
    moved = FidelityTracker()
    for twin_id, actual_outcome in experiment_results.items():
        twin = await repo.load_twin(twin_id)
        moved.track(twin_id, twin.baseline_behavior + intervention_effect, actual_outcome + 3 * population.model.baseline.mae)
    drifted = moved.calculate_fidelity(population_id, experiment_results)
    assert tracker.check_drift(
        moved.calculate_fidelity(population_id, {k: v + 3 * population.model.baseline.mae for k, v in experiment_results.items()}),
        fidelity,
    )
    assert drifted.n == 400

    updated = historical_hcps.assign(prescribing_change=historical_hcps["prescribing_change"] + 0.3)
    retrained = generator.retrain(updated)
    assert retrained.training_samples == len(updated)
    assert generator.predict(updated).mean() == pytest.approx(updated["prescribing_change"].mean(), abs=0.05)


WORKFLOWS = """
# 1. Train generator on historical data
generator = TwinGenerator(twin_type=TwinType.HCP, brand=Brand.KISQALI)
metrics = generator.train(historical_hcps, target_col="prescribing_change")

# 2. Generate synthetic population
population = generator.generate(
    n=10000,
    filters={"specialty": ["oncology"], "tier": [1, 2]}
)

# 3. Save to database
repo = TwinRepository()
population_id = repo.save_population(population)
---
# 1. Load population
repo = TwinRepository()
population = repo.load_population(population_id)

# 2. Configure intervention
intervention = InterventionConfig(
    intervention_type="speaker_program_invitation",
    channel="email",
    frequency="monthly",
    duration_weeks=12
)

# 3. Run simulation
engine = SimulationEngine(population)
result = engine.simulate(intervention)

# 4. Check recommendation
if result.recommendation == SimulationRecommendation.DEPLOY:
    print(f"Deploy! Expected ATE: {result.ate:.2%}")
---
# 1. After real experiment completes, track fidelity
tracker = FidelityTracker()

# 2. For each twin, compare prediction to actual
for twin_id, actual_outcome in experiment_results.items():
    twin = repo.load_twin(twin_id)
    predicted = twin.baseline_behavior + intervention_effect
    tracker.track(twin_id, predicted, actual_outcome)

# 3. Calculate population fidelity
fidelity = tracker.calculate_fidelity(population_id, experiment_results)

# 4. Check for drift
if tracker.check_drift(fidelity, baseline_fidelity):
    generator.retrain(updated_historical_data)
"""


async def run_workflow(text: str, names: dict[str, Any]) -> dict[str, Any]:
    """Run a workflow as it is written, with the calls of the repository awaited."""
    awaited = re.sub(r"= (repo\.\w+\()", r"= await \1", text)
    body = "".join(f"    {line}\n" for line in awaited.splitlines())
    bound = [name for name in dict.fromkeys(re.findall(r"^(\w+) = ", awaited, re.MULTILINE)) if name in names]
    scope = dict(names)
    exec(f"async def workflow({', '.join(bound)}):\n{body}    return locals()", scope)  # the text above
    return names | await scope["workflow"](**{name: names[name] for name in bound})


async def test_the_workflows_as_written_store_what_they_track(
    fresh_database: str, monkeypatch: pytest.MonkeyPatch, historical_hcps: pd.DataFrame
) -> None:
    monkeypatch.setenv("TWIN_POSTGRES_DSN", fresh_database)
    classes = (TwinGenerator, TwinType, Brand, TwinRepository, InterventionConfig, SimulationEngine, SimulationRecommendation)
    names = {entry.__name__: entry for entry in (*classes, FidelityTracker)} | {"historical_hcps": historical_hcps}
    first, second, third = WORKFLOWS.split("---")
    one = await run_workflow(first, names)
    two = await run_workflow(second, one)
    population, effect = two["population"], two["result"].ate
    rmse = population.model.baseline.rmse
    errors = np.random.default_rng(7).normal(0.0, rmse, 60)
    outcomes = [twin.baseline_behavior + effect + 9 * error for twin, error in zip(population.twins, errors, strict=False)]
    results = dict(zip(population.twin_ids[:60], [*outcomes[:59], None], strict=True))
    three = await run_workflow(
        third,
        two
        | {
            "experiment_results": results,
            "intervention_effect": effect,
            "baseline_fidelity": population.model.baseline,
            "updated_historical_data": historical_hcps,
        },
    )
    assert (three["fidelity"].n, three["fidelity"].n_skipped) == (59, 1)
    assert three["tracker"].check_drift(three["fidelity"], population.model.baseline)
    three["tracker"].track(UUID(int=5), 0.1, 0.2)  # a twin that is not stored
    for workflow in (one, two):
        await workflow["repo"].close()
    connection = await asyncpg.connect(fresh_database)
    rows = await connection.fetch(
        "SELECT twin_id, predicted_value, actual_value, error, line, fate::text AS fate FROM fidelity_tracking"
    )
    await connection.close()
    assert {row["twin_id"]: row["actual_value"] for row in rows} == {**results}
    assert {(row["line"], row["fate"]) for row in rows} == {("hcp:kisqali:prescribing_change", "tracked")}
    assert sum(row["error"] or 0.0 for row in rows) / 59 == pytest.approx(three["fidelity"].mae)


async def test_a_twin_has_the_model_date_and_fidelity_in_its_metadata(repo: TwinRepository, historical_hcps: pd.DataFrame) -> None:
    generator = TwinGenerator(twin_type=TwinType.HCP, brand=Brand.FABHALTA)
    metrics = generator.train(historical_hcps, target_col="prescribing_change")
    population_id = await repo.save_population(generator.generate(n=200))
    loaded = await repo.load_population(population_id)
    metadata = (await repo.load_twin(loaded.twin_ids[0])).metadata
    assert metadata["model_type"] in {"RandomForest", "GradientBoosting"}
    assert metadata["model_fidelity"] == pytest.approx(metrics.fidelity)
    assert loaded.model.trained_at is not None
    assert loaded.model.model_id == loaded.model_id


async def test_saving_a_population_is_idempotent(repo: TwinRepository, historical_hcps: pd.DataFrame) -> None:
    generator = TwinGenerator(twin_type=TwinType.HCP, brand=Brand.KISQALI)
    generator.train(historical_hcps, target_col="prescribing_change")
    first = await repo.save_population(generator.generate(n=150, seed=3))
    second = await repo.save_population(generator.generate(n=150, seed=3))
    assert first == second
    assert len(await repo.query_twins({"brand": "kisqali"})) == 150
