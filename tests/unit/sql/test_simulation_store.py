"""Runs on a real PostgreSQL: pinned at the first write, answered once."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4, uuid5

import pandas as pd
import pytest

from schemas import (
    AnswerStatus,
    Baseline,
    Brand,
    ExperimentResult,
    InterventionConfig,
    ModelCard,
    PopulationFilter,
    SimulationAnswer,
    SimulationRecommendation,
    SimulationRequest,
    SimulationResult,
    TwinModelMetrics,
    TwinPopulation,
    TwinType,
)
from schemas.effect_priors import EFFECTS_METHOD
from sql.database import Pool
from sql.erasure_store import NamesErased, begin_erasure
from sql.experiment_store import add_experiment, answered_simulations
from sql.ledger import Ledger
from sql.pin_store import NewRequest, NoChampion, WrongLine, pin, pin_all
from sql.simulation_store import DifferentBody, Pins, Recipe, find_runs, finish
from sql.twin_repository import TwinRepository, UnknownPopulation
from tests.unit.sql.test_experiment_store import an_experiment, average

NOW = datetime(2026, 3, 1, tzinfo=UTC)
LINE = "hcp:kisqali:prescribing_change"
EMAIL = InterventionConfig(intervention_type="email_campaign", channel="email", frequency="monthly", duration_weeks=12)
BODY, OTHER_BODY = b"body", b"another body"


def card(brand: Brand = Brand.KISQALI) -> ModelCard:
    return ModelCard(
        model_id=uuid4(),
        twin_type=TwinType.HCP,
        brand=brand,
        target="prescribing_change",
        model_type="RandomForest",
        features=("decile",),
        hyperparameters={},
        training_samples=1000,
        metrics=TwinModelMetrics(
            train_r2=0.7, train_mae=0.05, train_rmse=0.1, cv_r2_mean=0.6, cv_r2_std=0.02, training_samples=1000
        ),
        baseline=Baseline(n=1000, mae=0.1, rmse=0.13, center=0.0, scale=0.2, clip=0.6, clipped_mean=0.15, clipped_sd=0.1),
    )


async def promoted(pool: Pool) -> UUID:
    model = card()
    ledger = Ledger(pool)
    await ledger.register_model(model, "abc")
    await ledger.promote(model.line, model.model_id)
    return model.model_id


def a_request(**more: Any) -> SimulationRequest:
    fields = {"simulation_id": uuid4(), "requested_at": NOW, "twin_type": TwinType.HCP, "brand": Brand.KISQALI, **more}
    return SimulationRequest(intervention=EMAIL, **fields)


def recipe(model_id: UUID) -> Recipe:
    return Recipe(uuid5(model_id, "recipe"), twin_count=5000, seed=7, filters={"decile": [9, 10]})


def recipe_of(request: SimulationRequest, model_id: UUID) -> Recipe:
    """That of all requests without a seed, and one for each seed."""
    if request.seed is None:
        return recipe(model_id)
    return replace(recipe(model_id), population_id=uuid5(model_id, str(request.seed)), seed=request.seed)


def completed(simulation_id: UUID, ate: float = 1 / 3) -> SimulationAnswer:
    result = SimulationResult(
        simulation_id=simulation_id,
        ate=ate,
        ate_ci_lower=-1e-17,
        ate_ci_upper=0.1 + 0.2,
        recommendation=SimulationRecommendation.TEST_FURTHER,
        recommendation_reason="not sure yet",
        affected_twin_count=5000,
        intervention=EMAIL,
    )
    return SimulationAnswer(simulation_id=simulation_id, status=AnswerStatus.COMPLETED, result=result)


async def pinned(pool: Pool, request: SimulationRequest, body: bytes = BODY) -> Pins:
    return await pin(pool, request, body, recipe)


async def test_the_first_write_pins_champion_effects_version_and_recipe(pool: Pool) -> None:
    model_id = await promoted(pool)
    request = a_request(filters=PopulationFilter(min_decile=9), alternatives=(EMAIL,))
    pins = await pinned(pool, request)
    assert (pins.line, pins.model_id, pins.effects_version, pins.answer, pins.stored) == (LINE, model_id, 0, None, False)
    assert pins.recipe == recipe(model_id)
    assert pins.request == request.model_copy(update={"seed": 7})  # that of the recipe, as it names none
    assert pins.effects_method == EFFECTS_METHOD
    assert (await find_runs(pool, [request.simulation_id])) == {request.simulation_id: pins}


async def test_requests_are_pinned_together_as_they_would_be_alone(pool: Pool) -> None:
    model_id = await promoted(pool)
    stored, other_line = a_request(), a_request(brand=Brand.FABHALTA)
    await pinned(pool, stored)
    seeded, keeps, goes = a_request(seed=3), a_request(), a_request(expires_at=NOW + timedelta(days=1))
    unknown = a_request(population_id=uuid4())
    requests = [stored, other_line, seeded, unknown, keeps, goes]
    async with pool.acquire() as connection, connection.transaction():
        new = [NewRequest(request, BODY) for request in requests]
        results = await pin_all(connection, new, recipe_of)
        (changed,) = await pin_all(connection, [NewRequest(seeded, OTHER_BODY)], recipe_of)
    assert isinstance(results[1], NoChampion)
    assert str(results[1]).endswith(f"lines with one: {LINE}")
    assert isinstance(results[3], UnknownPopulation)
    assert isinstance(changed, DifferentBody)
    runs = await find_runs(pool, [request.simulation_id for request in requests])
    assert [results[i] for i in (0, 2, 4, 5)] == [runs[requests[i].simulation_id] for i in (0, 2, 4, 5)]
    assert runs[keeps.simulation_id].model_id == model_id
    assert set(runs) == {requests[i].simulation_id for i in (0, 2, 4, 5)}
    shared = runs[keeps.simulation_id].recipe.population_id
    assert shared == runs[goes.simulation_id].recipe.population_id != runs[seeded.simulation_id].recipe.population_id
    assert await pool.fetchval("SELECT expires_at FROM twin_populations WHERE population_id = $1", shared) is None  # one needs it


async def test_a_run_from_before_methods_were_pinned_has_the_first_one(pool: Pool, owner_pool: Pool) -> None:
    await promoted(pool)
    request = a_request()
    await pinned(pool, request)
    await owner_pool.execute("UPDATE simulation_runs SET effects_method = NULL")
    assert (await pinned(pool, request)).effects_method == 1


async def test_a_population_of_several_requests_stays_as_long_as_one_of_them_needs_it(pool: Pool) -> None:
    await promoted(pool)

    async def expiry(expires_at: datetime | None) -> datetime | None:
        pins = await pinned(pool, a_request(expires_at=expires_at))
        found: datetime | None = await pool.fetchval(
            "SELECT expires_at FROM twin_populations WHERE population_id = $1", pins.recipe and pins.recipe.population_id
        )
        return found

    first, later = NOW + timedelta(days=1), NOW + timedelta(days=3)
    assert await expiry(first) == first
    assert await expiry(later) == later
    assert await expiry(first) == later
    assert await expiry(None) is None
    assert await expiry(first) is None


async def test_a_repeated_request_uses_the_pins_whatever_has_changed_since(pool: Pool) -> None:
    await promoted(pool)
    request = a_request()
    first = await pinned(pool, request)
    successor = await promoted(pool)
    await pool.execute("INSERT INTO effect_versions (line, version, experiments) VALUES ($1, 1, '{a}')", LINE)
    assert await pinned(pool, request) == first
    later = await pinned(pool, a_request())
    assert (later.model_id, later.effects_version) == (successor, 1)


async def test_concurrent_requests_with_one_id_get_the_same_pins(pool: Pool) -> None:
    await promoted(pool)
    request = a_request()
    pins = await asyncio.gather(*(pinned(pool, request) for _ in range(6)))
    assert all(row == pins[0] for row in pins)
    assert await pool.fetchval("SELECT count(*) FROM twin_populations") == 1


async def test_another_body_under_the_same_id_is_refused_also_when_concurrent(pool: Pool) -> None:
    await promoted(pool)
    request = a_request()
    ends = await asyncio.gather(*(pinned(pool, request, body) for body in (BODY, OTHER_BODY) * 3), return_exceptions=True)
    assert {isinstance(end, Pins) for end in (ends[0], ends[2], ends[4])} != {isinstance(end, Pins) for end in ends[1::2]}
    assert sum(isinstance(end, DifferentBody) for end in ends) == 3


async def test_a_track_record_rests_on_the_newest_experiments_that_tested_a_simulation(pool: Pool) -> None:
    await promoted(pool)
    tested = a_request()
    await pinned(pool, tested)
    await finish(pool, completed(tested.simulation_id, 0.1), BODY)
    for name, effect in (("a", 0.1), ("b", 0.2), ("c", 0.3)):
        await add_experiment(pool, an_experiment(name, effect), average)
    assert [row[4] for row in (await pinned(pool, a_request())).compared or ()] == [0.1, 0.2, 0.3]
    assert [row[4] for row in await answered_simulations(pool, LINE, "email_campaign", newest=2)] == [0.2, 0.3]


async def test_an_experiment_is_compared_with_the_run_that_named_it_else_with_the_newest_before_it_of_its_campaign(
    pool: Pool,
) -> None:
    await promoted(pool)
    runs = {
        0.1: a_request(experiment_id="named"),
        0.2: a_request(),
        0.3: a_request(),  # the newest of the campaign, without filters
        0.4: a_request(filters={"decile": [9, 10]}),
    }
    for ate, request in runs.items():
        await pinned(pool, request)
        await finish(pool, completed(request.simulation_id, ate), BODY)
    for name, day in (("named", 0), ("unnamed", 1)):
        await add_experiment(pool, an_experiment(name, day=day), average)
    filtered = an_experiment("filtered", day=2).model_dump() | {"filters": {"decile": [9.0, 10.0]}}
    await add_experiment(pool, ExperimentResult.model_validate(filtered), average)
    later = a_request()
    await pinned(pool, later)
    await finish(pool, completed(later.simulation_id, 0.5), BODY)
    assert [row[0] for row in await answered_simulations(pool, LINE, "email_campaign")] == [0.4, 0.1, 0.3]


async def test_a_request_to_a_line_without_champion_is_refused_and_not_stored(pool: Pool) -> None:
    request = a_request()
    with pytest.raises(NoChampion, match=LINE):
        await pinned(pool, request)
    await Ledger(pool).register_model(card(), "abc")
    with pytest.raises(NoChampion, match=LINE):
        await pinned(pool, request)
    assert await find_runs(pool, [request.simulation_id]) == {}


async def saved(pool: Pool, model: ModelCard, expires_at: datetime | None = None) -> UUID:
    frame = pd.DataFrame({"decile": [1, 2], "baseline_behavior": [0.0, 0.1]})
    return await TwinRepository(pool=pool).save_population(
        TwinPopulation(
            population_id=uuid4(),
            model_id=model.model_id,
            name="saved",
            twin_count=2,
            model=model,
            frame=frame,
            seed=3,
            expires_at=expires_at,
        )
    )


async def test_a_request_that_names_a_population_is_pinned_to_its_model(pool: Pool) -> None:
    await promoted(pool)
    model = card()
    population_id = await saved(pool, model)
    pins = await pinned(pool, a_request(population_id=population_id))
    assert (pins.model_id, pins.stored) == (model.model_id, True)
    assert pins.recipe == Recipe(population_id, twin_count=2, seed=3)


async def test_a_population_that_cannot_be_used_is_refused_by_name(pool: Pool) -> None:
    await promoted(pool)
    lost, gone, foreign = uuid4(), await saved(pool, card(), NOW), await saved(pool, card(Brand.FABHALTA))
    for population_id, error in ((lost, UnknownPopulation), (gone, UnknownPopulation), (foreign, WrongLine)):
        with pytest.raises(error, match=str(population_id)):
            await pinned(pool, a_request(population_id=population_id))


async def test_the_stored_answer_is_the_computed_one_to_the_last_digit_with_its_pins(pool: Pool) -> None:
    model_id = await promoted(pool)
    request = a_request()
    await pinned(pool, request)
    answer = completed(request.simulation_id)
    stored = await finish(pool, answer, BODY)
    assert stored.result == answer.result
    assert (stored.model_id, stored.effects_version) == (model_id, 0)
    assert (await pinned(pool, request)).answer == stored
    row = await pool.fetchrow("SELECT recommendation::text, recommendation_reason, completed_at FROM simulation_runs")
    assert row is not None
    assert (row["recommendation"], row["recommendation_reason"]) == ("test_further", "not sure yet")
    assert row["completed_at"] is not None


async def test_the_first_answer_is_final(pool: Pool) -> None:
    await promoted(pool)
    request = a_request()
    await pinned(pool, request)
    first = await finish(pool, completed(request.simulation_id, 0.1), BODY)
    failed = SimulationAnswer(simulation_id=request.simulation_id, status=AnswerStatus.FAILED, reason="too late")
    assert await finish(pool, failed, BODY) == first
    with pytest.raises(DifferentBody):
        await finish(pool, failed, OTHER_BODY)


async def test_a_rejection_of_a_request_that_was_not_pinned_is_stored_and_found(pool: Pool) -> None:
    request = a_request()
    rejected = SimulationAnswer(simulation_id=request.simulation_id, status=AnswerStatus.REJECTED, reason="no champion")
    assert await finish(pool, rejected, BODY) == rejected
    pins = await pinned(pool, request)
    assert (pins.answer, pins.recipe, pins.model_id, pins.request) == (rejected, None, None, None)
    with pytest.raises(DifferentBody):
        await pinned(pool, request, OTHER_BODY)


PERSON = "6f1c2d34-0000-4000-8000-1234567890ab"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("requested_by", PERSON),
        ("requested_by", f"about {PERSON}, urgent"),
        ("experiment_id", PERSON),
        ("filters", {"region": ["west", PERSON]}),
        ("simulation_id", UUID(PERSON)),
        ("population_id", UUID(PERSON)),
    ],
)
async def test_a_request_that_names_an_erased_person_is_refused_and_not_stored(pool: Pool, field: str, value: Any) -> None:
    await promoted(pool)
    await begin_erasure(pool, PERSON, "", "a test")
    request = a_request(**{field: value})

    with pytest.raises(NamesErased, match=f"^the request names a person who was erased, in {field}: leave the id out$") as error:
        await pinned(pool, request)
    rejected = SimulationAnswer(simulation_id=request.simulation_id, status=AnswerStatus.REJECTED, reason=str(error.value))
    assert await finish(pool, rejected, BODY, request) == rejected

    stored = [
        row[0] for table in ("simulation_runs", "twin_populations") for row in await pool.fetch(f"SELECT t::text FROM {table} t")
    ]
    assert sum(PERSON in text for text in stored) == (field == "simulation_id")  # as the key of the answer, which is published


async def test_a_request_about_another_twin_type_than_that_of_the_erasure_is_pinned(pool: Pool) -> None:
    await promoted(pool)
    await begin_erasure(pool, PERSON, "patient", "a test")

    assert (await pinned(pool, a_request(requested_by=PERSON))).request is not None


async def test_the_reason_of_an_answer_that_quotes_an_erased_person_is_stored_without_the_id(pool: Pool) -> None:
    await begin_erasure(pool, PERSON, "", "a test")
    answer = SimulationAnswer(simulation_id=uuid4(), status=AnswerStatus.REJECTED, reason=f"region: must be known, not '{PERSON}'")

    assert (await finish(pool, answer, BODY)).reason == "region: must be known, not '[erased]'"


async def test_a_request_that_was_answered_before_an_erasure_has_its_answer_after_it(pool: Pool) -> None:
    await promoted(pool)
    request = a_request(requested_by=PERSON)
    await pinned(pool, request)
    answer = await finish(pool, completed(request.simulation_id), BODY)
    await begin_erasure(pool, PERSON, "", "a test")

    assert (await pinned(pool, request)).answer == answer


async def test_a_population_that_names_an_erased_person_is_refused(pool: Pool) -> None:
    model = card()
    await begin_erasure(pool, PERSON, "", "a test")
    population = TwinPopulation(
        population_id=uuid4(),
        model_id=model.model_id,
        model=model,
        name=f"like {PERSON}",
        twin_count=1,
        frame=pd.DataFrame({"decile": [1], "baseline_behavior": [0.1], "baseline_lower": [0.0], "baseline_upper": [1.0]}),
    )

    with pytest.raises(NamesErased, match="the population names a person who was erased, in name"):
        await TwinRepository(pool=pool).save_population(population)


async def test_runs_are_found_by_id_and_unknown_ones_are_absent(pool: Pool) -> None:
    await promoted(pool)
    requests = [a_request(seed=seed) for seed in range(3)]
    for request in requests:
        await pinned(pool, request)
    runs = await find_runs(pool, [requests[0].simulation_id, requests[2].simulation_id, uuid4()])
    assert {pins.request for pins in runs.values()} == {requests[0], requests[2]}
    assert all(pins.answer is None for pins in runs.values())
