"""A batch holds the twins that its outcomes name, and not the simulations that they come from."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID, uuid4

import numpy as np
import pytest

from streams.ingestion.pipeline import OutcomePipeline
from streams.ingestion.scoring_context import ContextLoader, SimulatedTwins
from streams.kafka.batch_consumer import PollBatch
from streams.kafka.dead_letters import REPLAY_OF_HEADER
from streams.registry import UntrustedModel
from tests.outcomes import TOPIC, record
from tests.populations import population


def simulated(simulation_id: UUID) -> SimulatedTwins:
    twins = population(50, population_id=simulation_id)
    rows = {twin_id: row for row, twin_id in enumerate(twins.twin_ids)}
    return SimulatedTwins(twins.model.line, twins.model_id, twins, np.arange(50) / 100, rows)


def test_a_selection_of_twins_keeps_their_values_changes_and_ids():
    twins = simulated(UUID(int=1))
    ids = twins.population.twin_ids
    few = twins.take([ids[7], uuid4(), ids[3]])
    assert few.rows == {ids[7]: 0, ids[3]: 1}
    assert few.population.twin_ids == (ids[7], ids[3])
    assert few.population.frame.equals(twins.population.frame.iloc[[7, 3]].reset_index(drop=True))
    assert few.changes.tolist() == [0.07, 0.03]
    assert twins.take([uuid4()]).rows == {}


async def test_the_twins_that_outcomes_name_are_selected_and_a_simulation_is_loaded_once():
    loaded = []

    async def find(simulation_id: UUID) -> SimulatedTwins | None:
        loaded.append(simulation_id)
        return None if simulation_id == UUID(int=9) else simulated(simulation_id)

    loader = ContextLoader(None, None, find)  # type: ignore[arg-type]  # neither models nor the database are needed
    ids = {number: simulated(UUID(int=number)).population.twin_ids for number in (1, 2)}
    named = [(UUID(int=1), ids[1][4]), (UUID(int=2), ids[2][5]), (UUID(int=1), ids[1][6]), (UUID(int=9), uuid4())]
    simulations = await loader._load_simulations(named, {})
    assert {number: set(simulations[UUID(int=number)].rows) for number in (1, 2)} == {1: {ids[1][4], ids[1][6]}, 2: {ids[2][5]}}
    assert simulations[UUID(int=1)].population.twin_count == 2
    await loader._load_simulations(named[:2], {})
    assert sorted(loaded) == [UUID(int=1), UUID(int=2), UUID(int=9)]


async def test_a_model_that_cannot_be_loaded_is_named_with_the_reason_and_not_tried_again_for_a_while():
    tried = []

    async def load(model_id: UUID) -> None:
        tried.append(model_id)
        raise UntrustedModel("the model's files have the digest b, stored is a")

    loader = ContextLoader(None, load, None)  # type: ignore[arg-type]  # neither simulations nor the database are needed
    for _ in range(3):
        unavailable = {}
        assert await loader._load_models({UUID(int=1)}, unavailable) == {}
        refusal = unavailable[UUID(int=1)]
    assert tried == [UUID(int=1)]
    assert (refusal.kind, refusal.exception) == ("parked", "UntrustedModel")
    assert refusal.reason.startswith(f"model {UUID(int=1)} cannot be loaded: UntrustedModel: the model's files have the digest")
    assert "Traceback" in refusal.traceback


async def test_an_outage_while_a_model_is_loaded_is_not_taken_for_its_fault():
    async def load(_: UUID) -> None:
        raise ConnectionRefusedError("MLflow is out")

    loader = ContextLoader(None, load, None)  # type: ignore[arg-type]  # neither simulations nor the database are needed
    with pytest.raises(ConnectionRefusedError):
        await loader._load_models({UUID(int=1)}, {})


async def test_a_replay_sees_a_model_that_was_repaired_since_it_could_not_be_loaded():
    class Repaired:
        """A model whose files are as registered again."""

    repaired = False

    async def load(_: UUID) -> Repaired:
        if not repaired:
            raise UntrustedModel("the model's files have the digest b, stored is a")
        return Repaired()

    loader = ContextLoader(None, load, None)  # type: ignore[arg-type]  # neither simulations nor the database are needed
    pipeline = OutcomePipeline(None, loader, 300.0, 3600.0)  # type: ignore[arg-type]  # nothing is stored
    replayed = replace(record(0, b"{}"), headers=((REPLAY_OF_HEADER, b"an id"),))
    assert await loader._load_models({UUID(int=1)}, {}) == {}
    repaired = True
    await pipeline.score(await pipeline.decode(PollBatch(TOPIC, 0, 0, [record(0, b"{}")])))
    assert await loader._load_models({UUID(int=1)}, {}) == {}
    await pipeline.score(await pipeline.decode(PollBatch(TOPIC, 0, 0, [record(1, b"{}"), replayed])))
    assert isinstance((await loader._load_models({UUID(int=1)}, {}))[UUID(int=1)], Repaired)
