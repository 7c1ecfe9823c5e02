"""The role trainer measures stored populations by their own filters, once for equal filters, on a real PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from engine.twins import TwinModel
from schemas import InterventionConfig, PopulationFilter, SimulationRequest
from sql.database import Pool
from sql.ledger import Ledger
from sql.population_realism_store import FilterRealism, newest_realism, next_to_assess
from streams.registry import MlflowRegistry, ModelLoader, UntrustedModel
from streams.simulation import Simulator
from streams.training.population_realism import IDLE_S, RealismAssessor
from tests.models import hcp_model

EMAIL = InterventionConfig(intervention_type="email_campaign", channel="email", frequency="monthly", duration_weeks=12)


@pytest.fixture(scope="module")
def model() -> TwinModel:
    return hcp_model()


class Loads:
    """Loads one model, and counts how often."""

    def __init__(self, model: TwinModel) -> None:
        self.model, self.n = model, 0

    async def __call__(self, model_id: UUID) -> TwinModel:
        assert model_id == self.model.card.model_id
        self.n += 1
        return self.model


async def pinned(pool: Pool, model: TwinModel, **fields: object) -> UUID:
    """The population of a new request, which is stored as a recipe."""
    ledger = Ledger(pool)
    if await ledger.champion(model.card.line) is None:
        await ledger.register_model(model.card, "abc")
        await ledger.promote(model.card.line, model.card.model_id)
    request = SimulationRequest.model_validate(
        {"simulation_id": uuid4(), "requested_at": datetime.now(UTC), "twin_type": "hcp", "brand": "kisqali"}
        | {"intervention": EMAIL, **fields}
    )
    pins = await Simulator(pool, ModelLoader(pool, MlflowRegistry(""), size=1)).pin(request)
    assert pins.recipe is not None
    return pins.recipe.population_id


async def stored(pool: Pool, population_id: UUID) -> FilterRealism:
    """What is stored with a population."""
    row = await pool.fetchrow("SELECT model_id FROM twin_populations WHERE population_id = $1", population_id)
    filters = await pool.fetchval("SELECT filters_applied FROM twin_populations WHERE population_id = $1", population_id)
    found = {str(of.filters): of for of in await newest_realism(pool, row["model_id"], 10)}
    return found[str(filters)]


async def test_a_population_that_only_a_rejected_simulation_made_is_not_measured(pool: Pool, model: TwinModel) -> None:
    population = await pinned(pool, model, filters=PopulationFilter(region=["south"]))
    assert await next_to_assess(pool) is not None
    await pool.execute("UPDATE simulation_runs SET status = 'rejected' WHERE population_id = $1", population)
    assert await next_to_assess(pool) is None


async def test_a_stored_population_gets_the_figures_of_its_own_filters_once_for_equal_filters(pool: Pool, model: TwinModel) -> None:
    loads = Loads(model)
    assessor = RealismAssessor(pool, loads)
    south = await pinned(pool, model, filters=PopulationFilter(region=["south"]))
    assert not (await stored(pool, south)).is_known
    assert await assessor.assess_next() > IDLE_S
    figures = (await stored(pool, south)).realism
    assert figures == model.assess({"region": "south"}, model.seed)
    assert figures != model.card.metrics.realism

    again = await pinned(pool, model, filters=PopulationFilter(region=["south"]), seed=5)
    assert again != south
    assert await assessor.assess_next() == 0.0
    assert await assessor.assess_next() == IDLE_S
    assert await pool.fetchval("SELECT count(*) FROM twin_populations WHERE realism IS NOT NULL") == 2
    assert loads.n == 1


async def test_twins_of_too_few_real_rows_have_the_reason_and_those_without_filters_the_figures_of_training(
    pool: Pool, model: TwinModel
) -> None:
    loads = Loads(model)
    assessor = RealismAssessor(pool, loads)
    everyone = await pinned(pool, model)
    few = await pinned(pool, model, filters=PopulationFilter(min_decile=10, region=["south"]))
    assert await assessor.assess_next() >= IDLE_S  # the newest first
    assert await assessor.assess_next() == 0.0
    assert (await stored(pool, few)).verdict.reasons[0].startswith("only ")
    report = await pool.fetchval("SELECT realism FROM twin_populations WHERE population_id = $1", everyone)
    assert report == model.card.metrics.realism.model_dump(mode="json")
    assert loads.n == 1


async def test_a_population_that_cannot_be_measured_does_not_hold_up_the_others(pool: Pool, model: TwinModel) -> None:
    async def untrusted(_: UUID) -> TwinModel:
        raise UntrustedModel("other files")

    south = await pinned(pool, model, filters=PopulationFilter(region=["south"]))
    await RealismAssessor(pool, untrusted).assess_next()
    assert (await stored(pool, south)).verdict.reasons == (
        "the comparison with real rows failed: the log of the role trainer says why",
    )
