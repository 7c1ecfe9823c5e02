"""The three workflows of the brief, as a user would write them, on a real database."""

from collections.abc import AsyncIterator
from uuid import UUID

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
