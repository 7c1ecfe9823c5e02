"""Large requests on the real Kafka and the real Postgres: they delay no small one, and each is answered once whatever is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from engine import SimulationEngine
from schemas import AnswerStatus, Brand, InterventionConfig, SimulationAnswer, SimulationRequest, SimulationResult
from schemas.events import canonical_digest
from sql.ledger import Ledger
from sql.pin_store import NewRequest
from sql.simulation_queue_store import finish_leased, lease_simulations, queued_simulation
from sql.simulation_store import find_runs
from sql.twin_repository import TwinRepository
from streams.registry import MlflowRegistry
from streams.settings import Settings
from streams.simulation import RequestIntake, Simulator, rejected
from streams.worker.supervisor import Workers
from tests.polling import until

EMAIL = InterventionConfig(intervention_type="email_campaign", channel="email", frequency="monthly", duration_weeks=12)
ALTERNATIVES = [EMAIL.model_copy(update={"duration_weeks": weeks}) for weeks in range(1, 11)]
TWINS, SEED, WAIT_S = 250_000, 7, 300.0


def a_request(**fields: Any) -> SimulationRequest:
    names = {"simulation_id": uuid4(), "requested_at": datetime(2025, 3, 1, tzinfo=UTC), "twin_type": "hcp", "brand": "kisqali"}
    return SimulationRequest.model_validate({**names, "intervention": EMAIL, "seed": SEED, "twin_count": 100, **fields})


def a_large_request(**fields: Any) -> SimulationRequest:
    return a_request(**{"twin_count": TWINS, "alternatives": ALTERNATIVES, "requested_by": "large", **fields})


@pytest.fixture(scope="module")
def expected(champion) -> SimulationResult:
    """The result of every large request, computed directly."""
    population = champion.generate(TWINS, None, SEED)
    return SimulationEngine(population, seed=SEED).simulate(EMAIL, alternatives=ALTERNATIVES, simulation_id=UUID(int=0))


def is_expected(answer: SimulationAnswer | None, expected: SimulationResult) -> bool:
    """Whether an answer is that of the direct computation, except for what a service adds."""
    if answer is None or answer.result is None:
        return False
    own = {name: getattr(answer.result, name) for name in ("simulation_id", "simulated_at", "track_record")}
    return answer.result == expected.model_copy(update=own)


async def test_large_requests_delay_no_small_one_and_have_the_results_of_the_engine(
    service_apart, client, promoted, pool, expected
):
    large, small = [a_large_request() for _ in range(4)], a_request()
    async with service_apart(["simulation"]):
        answers = [asyncio.create_task(client.request(request, timeout_s=WAIT_S)) for request in large]
        await until(lambda: queued_simulation(pool, large[-1].simulation_id))
        assert (await client.request(small, timeout_s=WAIT_S)).status is AnswerStatus.COMPLETED
        answered_before = sum(answer.done() for answer in answers)
        assert all(is_expected(answer, expected) for answer in await asyncio.gather(*answers))
    assert answered_before < len(large)
    finished = dict(await pool.fetch("SELECT simulation_id, completed_at FROM simulation_runs"))
    assert finished[small.simulation_id] < sorted(finished[request.simulation_id] for request in large)[1]
    assert await pool.fetchval("SELECT count(*) FROM simulation_queue") == 0


async def test_a_kill_in_the_middle_leaves_no_request_without_its_one_answer(
    settings: Settings, tmp_path, client, listener, promoted, pool, expected
):
    large, small = [a_large_request() for _ in range(2)], [a_request() for _ in range(20)]
    workers = await asyncio.to_thread(Workers(["simulation"], settings, log_folder=tmp_path / "logs").__enter__)
    try:
        await asyncio.to_thread(workers.wait_ready, WAIT_S)
        await asyncio.gather(*(client.publish(request) for request in [*large, *small, *large]))
        await until(lambda: _computing(pool, large), within_s=WAIT_S)
        os.kill(workers.pids["simulation"], signal.SIGKILL)
        await until(lambda: _unanswered(pool), lambda count: count == 0, within_s=WAIT_S)
        answers = await listener.events(SimulationAnswer, len(large) + len(small), WAIT_S)
    finally:
        await asyncio.to_thread(workers.stop)
    stored = {
        simulation_id: pins.answer
        for simulation_id, pins in (await find_runs(pool, [r.simulation_id for r in [*large, *small]])).items()
    }
    assert {answer.status for answer in stored.values()} == {AnswerStatus.COMPLETED}
    assert all(is_expected(stored[request.simulation_id], expected) for request in large)
    assert all(answer == stored[answer.simulation_id] for answer in answers)


async def _computing(pool, requests) -> bool:
    places = [await queued_simulation(pool, request.simulation_id) for request in requests]
    return any(place is not None and place.computing for place in places)


async def _unanswered(pool) -> int:
    queued = await pool.fetchval("SELECT count(*) FROM simulation_queue")
    return queued + await pool.fetchval("SELECT count(*) FROM simulation_runs WHERE status = 'running'")


async def test_a_request_above_a_bound_is_rejected_and_names_value_bound_and_setting(
    service, client, promoted, champion, pool, settings
):
    population = champion.generate(300, None, seed=1)
    await TwinRepository(pool=pool).save_population(population)
    bounded = settings.model_copy(update={"max_simulated_twins": 1000, "max_filter_values": 3})
    bodies = {
        "1,100 simulated twins: at most 1,000 are allowed for one request (TWIN_MAX_SIMULATED_TWINS)": {
            "twin_count": 100,
            "alternatives": ALTERNATIVES,
        },
        "300 twins with 10 alternatives are 3,300": {
            "twin_count": None,
            "population_id": population.population_id,
            "alternatives": ALTERNATIVES,
        },
        "filter 'region' lists 4 values: at most 3 are allowed (TWIN_MAX_FILTER_VALUES)": {
            "filters": {"region": ["a", "b", "c", "d"]}
        },
    }
    async with service(["simulation"], bounded):
        answers = {part: await client.request(a_request(**fields)) for part, fields in bodies.items()}
    for part, answer in answers.items():
        assert answer.status is AnswerStatus.REJECTED
        assert part in answer.reason


async def test_a_stored_population_is_loaded_and_simulated_in_a_process_of_its_own(
    service, client, promoted, champion, pool, settings
):
    population = champion.generate(500, {"specialty": ["oncology"]}, seed=11)
    await TwinRepository(pool=pool).save_population(population)
    stored = {"twin_count": None, "population_id": population.population_id}
    async with service(["simulation"], settings.model_copy(update={"large_simulation_twins": 0})):
        answer = await client.request(a_request(**stored), timeout_s=WAIT_S)
        empty = await client.request(a_request(**stored, filters={"specialty": ["dermatology"]}), timeout_s=WAIT_S)
    direct = SimulationEngine(population, seed=SEED).simulate(EMAIL, simulation_id=UUID(int=0))
    assert is_expected(answer, direct)
    assert empty.status is AnswerStatus.REJECTED
    assert "oncology" in empty.reason


@pytest.mark.parametrize("twins", [100, TWINS])
async def test_a_request_beyond_its_deadline_fails_and_the_next_one_is_answered(service, client, promoted, settings, twins):
    hasty = settings.model_copy(update={"simulation_deadline_s": 0.001})
    async with service(["simulation"], hasty):
        answer = await client.request(a_request(twin_count=twins), timeout_s=WAIT_S)
    async with service(["simulation"]):
        assert (await client.request(a_request(), timeout_s=WAIT_S)).status is AnswerStatus.COMPLETED
    assert answer.status is AnswerStatus.FAILED
    assert "took longer than 0.001 s (TWIN_SIMULATION_DEADLINE_S)" in answer.reason


async def test_a_model_that_is_not_loaded_delays_no_request_of_another_line(
    service, client, promoted, champion, saved, pool, monkeypatch
):
    other = champion.card.model_copy(update={"model_id": uuid4(), "brand": Brand.FABHALTA, "mlflow_run_id": "silent"})
    await Ledger(pool).register_model(other, saved.sha256)
    await Ledger(pool).promote(other.line, other.model_id, reason="first model of the line")
    answers_again, load = threading.Event(), MlflowRegistry.load

    def load_or_hang(self, artifact):
        if artifact.mlflow_run_id == "silent":
            answers_again.wait()
            artifact = saved
        return load(self, artifact)

    monkeypatch.setattr(MlflowRegistry, "load", load_or_hang)
    async with service(["simulation"]):
        waiting = [asyncio.create_task(client.request(a_request(brand="fabhalta"), timeout_s=WAIT_S)) for _ in range(3)]
        await until(lambda: pool.fetchval("SELECT count(*) = 3 FROM simulation_queue"))
        assert (await client.request(a_request(), timeout_s=WAIT_S)).status is AnswerStatus.COMPLETED
        assert not any(task.done() for task in waiting)
        answers_again.set()
        assert {(await task).status for task in waiting} == {AnswerStatus.COMPLETED}


@pytest.fixture
def intake(pool, settings) -> RequestIntake:
    """Accepts requests as the agent does."""
    return RequestIntake(pool, settings, {})


async def test_a_request_of_a_dead_worker_is_taken_over_and_one_that_three_did_not_survive_fails(
    service, client, promoted, pool, intake
):
    abandoned, deadly = a_request(), a_request()
    for request, tries in ((abandoned, 1), (deadly, 3)):
        assert await intake.accept([NewRequest(request, canonical_digest(request))]) == [None]
        await pool.execute(
            "UPDATE simulation_queue SET holder = 'a dead worker', heartbeat_at = clock_timestamp() - interval '1 hour', tries = $2"
            " WHERE simulation_id = $1",
            request.simulation_id,
            tries,
        )
    async with service(["simulation"]):
        await until(lambda: _unanswered(pool), lambda count: count == 0)
        assert (await client.request(abandoned)).status is AnswerStatus.COMPLETED
        failed = await client.request(deadly)
    assert failed.status is AnswerStatus.FAILED
    assert failed.reason == "given up: 3 workers started this simulation and none finished it"


async def test_an_answer_that_was_stored_and_not_published_is_published_and_not_computed_again(
    service, listener, promoted, pool, intake, settings, monkeypatch
):
    request = a_request()
    assert await intake.accept([NewRequest(request, canonical_digest(request))]) == [None]
    assert await intake.accept([NewRequest(request, canonical_digest(request))]) == [None]
    assert await pool.fetchval("SELECT count(*) FROM simulation_queue") == 1
    (lease,) = await lease_simulations(pool, "small", "a worker that dies before it publishes", lease_s=60.0)
    (stored,) = await finish_leased(pool, [(lease, rejected(request.simulation_id, "the answer of the dead worker"))])
    monkeypatch.setattr(Simulator, "compute", None)
    async with service(["simulation"], settings.model_copy(update={"simulation_lease_s": 0.5})):
        assert await listener.events(SimulationAnswer, 1) == [stored]
        await until(lambda: _unanswered(pool), lambda count: count == 0)
    assert await listener.count("simulation-results") == 1
