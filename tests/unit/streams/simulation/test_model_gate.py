"""Models are loaded beside the lanes: a lane never waits for one, and a failed load is reported once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from streams.registry import UntrustedModel
from streams.simulation.model_gate import ModelGate

FAST, SLOW, BAD, OUT = (UUID(int=number) for number in range(1, 5))


class Models:
    """Loads models: ``SLOW`` once the event is set, ``BAD`` never, ``OUT`` after one outage."""

    def __init__(self) -> None:
        self.loaded: set[UUID] = set()
        self.attempts: list[UUID] = []
        self.answers = asyncio.Event()

    def __contains__(self, model_id: UUID) -> bool:
        return model_id in self.loaded

    async def load(self, model_id: UUID) -> UUID:
        self.attempts.append(model_id)
        if model_id == SLOW:
            await self.answers.wait()
        if model_id == BAD:
            raise UntrustedModel("other files than those that were registered")
        if model_id == OUT and self.attempts.count(OUT) == 1:
            raise ConnectionError("MLflow does not answer")
        self.loaded.add(model_id)
        return model_id


@pytest.fixture
async def models() -> Models:
    return Models()


@pytest.fixture
async def gate(models: Models) -> AsyncIterator[ModelGate]:
    woken = asyncio.Event()
    gate = ModelGate(models, woken.set)
    gate.woken = woken
    yield gate
    gate.close()
    await asyncio.sleep(0)


async def ended(gate: ModelGate) -> None:
    async with asyncio.timeout(30):
        await gate.woken.wait()
    gate.woken.clear()


async def test_stored_twins_and_models_in_memory_are_admitted_at_once(gate, models):
    models.loaded.add(FAST)
    assert gate.admits(None)
    assert gate.admits(FAST)
    assert models.attempts == []


async def test_a_model_is_loaded_once_while_others_are_admitted(gate, models):
    models.loaded.add(FAST)
    assert not gate.admits(SLOW)
    await asyncio.sleep(0)
    assert not gate.admits(SLOW)
    assert gate.admits(FAST)
    assert gate.loading == [SLOW]
    models.answers.set()
    await ended(gate)
    assert gate.loading == []
    assert gate.admits(SLOW)
    assert models.attempts == [SLOW]


async def test_a_model_that_was_evicted_since_its_load_is_admitted_all_the_same(gate, models):
    gate.admits(FAST)
    await ended(gate)
    models.loaded.clear()
    assert gate.admits(FAST)


async def test_a_failed_load_is_raised_once_and_tried_again_for_the_next_request(gate, models):
    for _ in range(2):
        assert not gate.admits(BAD)
        await ended(gate)
        with pytest.raises(UntrustedModel):
            gate.admits(BAD)
    assert models.attempts == [BAD, BAD]


async def test_an_outage_is_waited_for(gate, models):
    assert not gate.admits(OUT)
    await ended(gate)
    assert gate.admits(OUT)
    assert models.attempts == [OUT, OUT]
