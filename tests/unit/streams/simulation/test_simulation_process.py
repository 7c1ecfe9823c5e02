"""A large simulation in a process of its own: the result of the engine, its limits, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from asyncio.subprocess import Process
from collections.abc import Coroutine
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from engine.twins import TwinModel
from schemas import EffectPrior, SimulationRequest, SimulationResult
from sql.simulation_store import Pins, Recipe
from streams.settings import Settings
from streams.simulation import simulation_process
from streams.simulation.computation import DeadlineExceeded, prepare_twins, simulate_population
from streams.simulation.simulation_process import ProcessEnded, SimulationFailed, SimulationRefused, simulate_in_subprocess
from tests.simulation_requests import EMAIL, email_request

pytestmark = pytest.mark.usefixtures("scratch")
PRIORS = {"email_campaign": EffectPrior(intervention_type="email_campaign", mean=1 / 30, sd=0.01, version=3, n_experiments=2)}


async def simulate(model: TwinModel, n: int, request: SimulationRequest | None = None, **limits: Any) -> SimulationResult:
    request = request or email_request()
    recipe = Recipe(UUID(int=4), n, seed=5, filters=request.filters.model_dump(exclude_none=True))
    pins = Pins(request.simulation_id, request.line, model.card.model_id, 3, recipe, stored=False, request=request, answer=None)
    return await simulate_in_subprocess(Settings(**limits), pins, request, PRIORS, model)


def processes(scratch: Path) -> list[int]:
    """Ids of the processes with files in the folder."""
    lines = subprocess.run(["ps", "-axww", "-o", "pid=,command="], capture_output=True, text=True, check=True).stdout.splitlines()
    return [int(line.split()[0]) for line in lines if "-m streams.simulation " in line and str(scratch) in line]


async def started(scratch: Path) -> list[int]:
    while not (process_ids := processes(scratch)):  # noqa: ASYNC110  # the start of another process sets no event
        await asyncio.sleep(0.05)
    return process_ids


async def test_the_result_of_a_process_is_that_of_this_one_to_the_last_bit(model, scratch):
    speakers = EMAIL.model_copy(update={"intervention_type": "speaker_program_invitation", "channel": "in_person"})
    request = email_request(alternatives=[speakers], filters={"min_decile": 5, "region": ["south", "west"]}, confidence_level=0.9)
    here = simulate_population(prepare_twins(model.generate(3000, request.filters, 5)), PRIORS, request)
    assert await simulate(model, 3000, request) == here
    assert (processes(scratch), list(scratch.iterdir())) == ([], [])


async def test_twins_that_cannot_be_simulated_are_refused_with_the_reason_of_the_engine(model):
    with pytest.raises(SimulationRefused, match="no real row matches the filter"):
        await simulate(model, 3000, email_request(filters={"specialty": ["astrology"]}))


async def test_a_computation_beyond_the_deadline_is_ended(model, scratch):
    with pytest.raises(DeadlineExceeded, match=r"took longer than 0\.01 s \(TWIN_SIMULATION_DEADLINE_S\)"):
        await simulate(model, 1_000_000, simulation_deadline_s=0.01)
    assert (processes(scratch), list(scratch.iterdir())) == ([], [])


async def test_a_computation_beyond_its_memory_fails_and_names_the_setting(model):
    with pytest.raises(SimulationFailed, match=r"more than the 1,024 MB that it is allowed \(TWIN_SIMULATION_MEMORY_MB\)"):
        await simulate(model, 1_000_000, simulation_memory_mb=1024)


async def test_a_killed_process_can_be_tried_again(model, scratch):
    computation = asyncio.create_task(simulate(model, 200_000))
    os.kill((await started(scratch))[0], signal.SIGKILL)
    with pytest.raises(ProcessEnded, match="exit code -9"):
        await computation


async def test_a_process_that_stands_still_can_be_tried_again(model, scratch, monkeypatch):
    computing, watched = asyncio.Event(), simulation_process.while_computing

    async def watch(process: Process, work: Coroutine[Any, Any, int]) -> int:
        computing.set()
        return await watched(process, work, 1.0)

    monkeypatch.setattr(simulation_process, "while_computing", watch)
    computation = asyncio.create_task(simulate(model, 1_000_000))
    await computing.wait()
    os.kill(processes(scratch)[0], signal.SIGSTOP)
    with pytest.raises(ProcessEnded, match="stood still for 1 s and was killed"):
        await computation
    assert (processes(scratch), list(scratch.iterdir())) == ([], [])


async def test_a_cancelled_computation_leaves_no_process_and_no_file(model, scratch):
    computation = asyncio.create_task(simulate(model, 200_000))
    await started(scratch)
    computation.cancel()
    with pytest.raises(asyncio.CancelledError):
        await computation
    assert (processes(scratch), list(scratch.iterdir())) == ([], [])
