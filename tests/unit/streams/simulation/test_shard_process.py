"""The process that computes shards: sums to the last bit, whatever size the shards have, and nothing left behind."""

from __future__ import annotations

import os
import signal
from typing import Any
from uuid import UUID

import pytest

from engine.effects import ExactSums
from engine.twins import TwinModel
from schemas import SimulationRequest
from sql.shard_store import NewShard
from sql.simulation_store import Pins, Recipe
from streams.child_process import while_computing
from streams.settings import Settings
from streams.simulation.computation import sum_recipe
from streams.simulation.shard_process import ShardProcess
from streams.simulation.shards import shards_of
from streams.simulation.simulation_process import ProcessEnded, SimulationFailed
from tests.simulation_requests import email_request

pytestmark = pytest.mark.usefixtures("scratch")
TWINS = 140_000


def pinned(model: TwinModel, twin_count: int = TWINS, **fields: Any) -> tuple[Pins, SimulationRequest]:
    request = email_request(**fields)
    recipe = Recipe(UUID(int=4), twin_count, 5, request.filters.model_dump(exclude_none=True))
    return Pins(request.simulation_id, request.line, model.card.model_id, 3, recipe, False, request, None), request


async def test_the_sums_of_a_process_are_those_of_this_one_to_the_last_bit(model, scratch):
    pins, request = pinned(model)
    async with ShardProcess.start(Settings(), pins, request, {}, model) as process:
        parts = [ExactSums.from_bytes(await process.compute(*shard[:2])) for shard in (NewShard(2, 3, 1), NewShard(0, 2, 1))]
    here = sum_recipe(model, {}, recipe=pins.recipe, blocks=range(3), request=request)
    assert ExactSums.merge_all(parts) == here
    assert list(scratch.iterdir()) == []


async def test_a_killed_process_can_be_tried_again_and_an_impossible_shard_fails_with_its_reason(model):
    pins, request = pinned(model, filters={"specialty": ["astrology"]})
    async with ShardProcess.start(Settings(), pins, request, {}, model) as process:
        with pytest.raises(SimulationFailed, match="no real row matches the filter"):
            await process.compute(0, 1)
        os.kill(process._process.pid, signal.SIGKILL)
        with pytest.raises(ProcessEnded, match="exit code -9"):
            await process.compute(1, 2)


async def test_a_process_that_stands_still_is_given_up_as_one_that_can_be_tried_again(model, scratch, monkeypatch):
    monkeypatch.setattr(while_computing, "__defaults__", (1.0,))
    pins, request = pinned(model)
    async with ShardProcess.start(Settings(), pins, request, {}, model) as process:
        await process.compute(2, 3)
        os.kill(process._process.pid, signal.SIGSTOP)
        with pytest.raises(ProcessEnded, match="stood still for 1 s and was killed"):
            await process.compute(0, 2)
    assert list(scratch.iterdir()) == []


def test_shards_cover_all_blocks_once(model):
    pins, _ = pinned(model, 10_000_000)
    for shard_twins, count in ((1, 153), (262_144, 39), (10**9, 1)):
        shards = shards_of(pins, shard_twins)
        assert len(shards) == count
        assert [block for shard in shards for block in range(shard.first_block, shard.end_block)] == list(range(153))
        assert sum(shard.twins for shard in shards) == 10_000_000
