"""Many requests at once, on the real Kafka and the real Postgres: answered on twins in memory, and each as it would be alone."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from uuid import uuid4

import numpy as np

from engine import TwinGenerator
from engine.sample_tables import sample_hcps
from engine.twins import common_seed
from schemas import AnswerStatus, Brand, InterventionConfig, SimulationRequest, TwinType
from schemas.events import canonical_digest
from sql.ledger import Ledger
from sql.pin_store import NewRequest
from sql.simulation_store import find_runs
from streams.metrics import MODEL_CACHE, TWIN_CACHE
from streams.registry import MlflowRegistry
from streams.simulation import RequestIntake, Simulator, lane, reproduce
from tests.polling import until

EMAIL = InterventionConfig(intervention_type="email_campaign", channel="email", frequency="monthly", duration_weeks=12)
SPEAKERS = EMAIL.model_copy(update={"intervention_type": "speaker_program_invitation", "channel": "in_person"})


def a_request(**fields) -> SimulationRequest:
    defaults = {"simulation_id": uuid4(), "requested_at": datetime(2025, 3, 1, tzinfo=UTC), "twin_type": "hcp", "brand": "kisqali"}
    return SimulationRequest.model_validate({**defaults, "intervention": EMAIL, **fields})


def count_of(counter, result: str) -> float:
    return counter.labels(result=result)._value.get()


async def test_a_role_that_is_ready_has_the_champion_and_its_usual_twins_in_memory(service, client, promoted):
    async with service(["simulation"]):
        before = {counter: count_of(counter, "miss") for counter in (MODEL_CACHE, TWIN_CACHE)}
        answer = await client.request(a_request())
        assert {counter: count_of(counter, "miss") for counter in before} == before
    assert answer.result.affected_twin_count == 10_000


async def test_a_champion_that_cannot_be_loaded_keeps_no_role_from_being_ready(service, client, promoted, champion, pool):
    lost = champion.card.model_copy(update={"model_id": uuid4(), "brand": Brand.FABHALTA})
    await Ledger(pool).register_model(lost, "0" * 64)
    await Ledger(pool).promote(lost.line, lost.model_id, reason="a model whose files are nowhere")
    async with service(["simulation"]):
        answer = await client.request(a_request(twin_count=500))
    assert answer.status is AnswerStatus.COMPLETED


async def test_requests_in_company_have_the_answers_that_they_have_alone(service, client, promoted, pool, settings):
    campaigns = [{"intervention": EMAIL}, {"intervention": SPEAKERS}, {"alternatives": [SPEAKERS]}]
    filters = [{}, {"min_decile": 5}, {"specialty": ["oncology"]}]
    requests = [a_request(twin_count=500, **campaign, filters=each) for _ in range(3) for campaign in campaigns for each in filters]
    async with service(["simulation"]):
        answers = await asyncio.gather(*(client.request(request) for request in requests))
    assert {answer.status for answer in answers} == {AnswerStatus.COMPLETED}
    runs = await find_runs(pool, [request.simulation_id for request in requests])
    for request in requests:
        pinned = runs[request.simulation_id]
        expected = common_seed(promoted.champion, TwinType.HCP, request.filters.model_dump(exclude_none=True))
        assert (pinned.request.seed, pinned.recipe.seed) == (expected, expected)
    assert len({runs[request.simulation_id].recipe.population_id for request in requests}) == len(filters)
    for request in requests[:9]:  # computed again, alone and on new twins
        assert (await reproduce(settings, pool, request.simulation_id)).differences == {}
    assert await pool.fetchval("SELECT count(*) FROM simulation_queue") == 0


async def test_a_promotion_is_followed_at_once_by_requests_on_twins_in_memory(service, client, promoted, pool, settings, champion):
    async with service(["simulation"]):
        before = await client.request(a_request(twin_count=500))
        generator = TwinGenerator(twin_type=TwinType.HCP, brand=Brand.KISQALI, n_jobs=1, seed=1)
        generator.train(sample_hcps(1000, np.random.default_rng(1)))
        saved = await asyncio.to_thread(MlflowRegistry(settings.mlflow_uri).save, generator.model)
        successor = generator.model.card.model_copy(update={"mlflow_run_id": saved.mlflow_run_id})
        await Ledger(pool).register_model(successor, saved.sha256)
        await Ledger(pool).promote(successor.line, successor.model_id, reason="a better model")
        after = await client.request(a_request(twin_count=500))
    assert (before.model_id, after.model_id) == (champion.card.model_id, successor.model_id)
    expected = generator.model.generate(500, seed=common_seed(successor.model_id, TwinType.HCP, {}))
    run = (await find_runs(pool, [after.simulation_id]))[after.simulation_id]
    assert run.recipe.population_id == expected.population_id


async def test_a_request_that_finds_the_lane_free_is_computed_with_the_pins_in_memory(service, client, promoted, monkeypatch):
    read, find = [], lane.find_runs

    async def find_and_note(pool, ids):
        read.extend(ids)
        return await find(pool, ids)

    monkeypatch.setattr(lane, "find_runs", find_and_note)
    async with service(["simulation"]):
        answers = [await client.request(a_request(twin_count=500)) for _ in range(5)]
    assert [answer.status for answer in answers] == [AnswerStatus.COMPLETED] * 5
    assert len(read) < 5  # on a busy machine, one may come before the lane has ended with the one before


async def test_a_request_that_takes_long_holds_up_no_other_and_no_answer_is_lost(service, client, promoted, monkeypatch):
    slow, compute = a_request(twin_count=500, requested_by="slow"), Simulator.compute

    async def compute_slowly(self, pins, request):
        if request.simulation_id == slow.simulation_id:
            await asyncio.sleep(3.0)
        return await compute(self, pins, request)

    monkeypatch.setattr(Simulator, "compute", compute_slowly)
    others = [a_request(twin_count=500, requested_by=f"requester {number}") for number in range(6)]
    async with service(["simulation"]):
        answers = await asyncio.gather(*(client.request(request) for request in (slow, *others)))
    assert [answer.status for answer in answers] == [AnswerStatus.COMPLETED] * 7


async def test_a_stored_request_that_cannot_be_read_fails_alone(service, client, promoted, pool, settings, owner_pool):
    requests = [a_request(twin_count=500) for _ in range(4)]
    await RequestIntake(pool, settings, {}).accept([NewRequest(each, canonical_digest(each)) for each in requests])
    broken = requests[1].simulation_id
    await owner_pool.execute("""UPDATE simulation_runs SET request = '{"twin_type": "robot"}' WHERE simulation_id = $1""", broken)
    async with service(["simulation"]):
        answers = [await client.request(requests[number]) for number in (0, 2, 3)]
        await until(lambda: pool.fetchval("SELECT count(*) FROM simulation_queue"), lambda count: count == 0)
    assert [answer.status for answer in answers] == [AnswerStatus.COMPLETED] * 3
    assert await pool.fetchval("SELECT status::text FROM simulation_runs WHERE simulation_id = $1", broken) == "failed"


async def test_one_failure_in_a_batch_is_answered_alone(service, client, promoted, monkeypatch):
    bad, compute = a_request(twin_count=500), Simulator.compute

    async def compute_or_fail(self, pins, request):
        if request.simulation_id == bad.simulation_id:
            raise ArithmeticError("a number that cannot be")
        return await compute(self, pins, request)

    monkeypatch.setattr(Simulator, "compute", compute_or_fail)
    good = [a_request(twin_count=500) for _ in range(5)]
    async with service(["simulation"]):
        answers = await asyncio.gather(*(client.request(request) for request in (*good[:3], bad, *good[3:])))
    assert [answer.status.value for answer in answers] == ["completed"] * 3 + ["failed"] + ["completed"] * 2
    assert "a number that cannot be" in answers[3].reason
