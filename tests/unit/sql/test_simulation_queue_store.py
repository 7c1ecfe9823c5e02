"""The queue of simulations on a real PostgreSQL: queued once, leased to one worker, and in an order that no flood can hold up."""

from __future__ import annotations

import asyncio
from functools import partial
from uuid import UUID, uuid4

import pytest

from schemas import AnswerStatus, SimulationAnswer
from sql.database import Pool, transaction
from sql.simulation_queue_store import (
    LANES,
    Lane,
    LaneBacklog,
    LostSimulationLease,
    QueuedSimulation,
    QueueEntry,
    SimulationLease,
    enqueue_simulations,
    finish_leased,
    lane_backlogs,
    lease_simulations,
    put_back_simulation,
    queued_simulation,
    remove_simulations,
    renew_simulation_leases,
)

BODY, MODEL = b"body", UUID(int=1)


async def entry(pool: Pool, flow: str = "a", *, lane: Lane = "small", work: int = 100, model_id: UUID | None = MODEL) -> QueueEntry:
    """A new pinned request, which is not queued yet."""
    simulation_id = uuid4()
    await pool.execute(
        "INSERT INTO simulation_runs (simulation_id, status, body_hash) VALUES ($1, 'running', $2)", simulation_id, BODY
    )
    return QueueEntry(simulation_id, lane, flow, work, model_id)


async def queue(pool: Pool, flow: str = "a", *, lane: Lane = "small", work: int = 100, model_id: UUID | None = MODEL) -> UUID:
    """Queue a new pinned request and return its id."""
    new = await entry(pool, flow, lane=lane, work=work, model_id=model_id)
    assert await enqueue_simulations(pool, [new]) == []
    return new.simulation_id


async def queue_for(pool: Pool, *entries: QueueEntry, holder: str = "a worker") -> list[SimulationLease]:
    """Queue requests that a worker leases at once where it may."""
    return await enqueue_simulations(pool, entries, {"small": holder}, lease_s=60.0)


async def lease(
    pool: Pool, lane: Lane = "small", worker: str = "a worker", *, lease_s: float = 60.0, without: tuple[UUID, ...] = ()
) -> SimulationLease | None:
    leases = await lease_simulations(pool, lane, worker, lease_s=lease_s, without_models=without)
    return leases[0] if leases else None


async def leased(pool: Pool, lane: Lane = "small", worker: str = "a worker", *, lease_s: float = 60.0) -> SimulationLease:
    held = await lease(pool, lane, worker, lease_s=lease_s)
    assert held is not None
    return held


async def order(pool: Pool, lane: Lane = "small") -> list[UUID]:
    """Ids of all requests of a lane, in the order in which they are computed."""
    ids = []
    while (held := await lease(pool, lane)) is not None:
        ids.append(held.simulation_id)
        assert not await remove_simulations(pool, [held])
    return ids


def an_answer(simulation_id: UUID, reason: str = "no reason") -> SimulationAnswer:
    return SimulationAnswer(simulation_id=simulation_id, status=AnswerStatus.REJECTED, reason=reason)


async def test_a_request_is_queued_once_and_leased_to_one_worker(pool: Pool) -> None:
    simulation_id = await queue(pool, work=500)
    await enqueue_simulations(pool, [QueueEntry(simulation_id, "small", "a", 500, MODEL)])
    leases = await asyncio.gather(*(lease(pool) for _ in range(4)))
    (held,) = [candidate for candidate in leases if candidate is not None]
    assert (held.simulation_id, held.lane, held.work, held.model_id) == (simulation_id, "small", 500, MODEL)
    assert (held.tries, held.fence, held.body_hash) == (1, 1, BODY)
    assert held.waited_s >= 0


async def test_requests_that_find_their_lane_free_are_leased_in_their_order_as_they_are_queued(pool: Pool) -> None:
    entries = [await entry(pool, work=500), await entry(pool, lane="large"), await entry(pool, "b")]
    leases = await queue_for(pool, *entries)
    assert [(held.simulation_id, held.tries, held.fence, held.body_hash, held.waited_s) for held in leases] == [
        (entries[0].simulation_id, 1, 1, BODY, 0.0),
        (entries[2].simulation_id, 1, 1, BODY, 0.0),
    ]
    assert await lease(pool) is None
    assert await finish_leased(pool, [(held, an_answer(held.simulation_id)) for held in leases]) == [
        an_answer(held.simulation_id) for held in leases
    ]
    assert not await remove_simulations(pool, leases)
    assert await order(pool, "large") == [entries[1].simulation_id]


async def test_none_is_leased_as_it_is_queued_before_one_that_waits(pool: Pool) -> None:
    waiting, new = await queue(pool), await entry(pool, "b")
    assert await queue_for(pool, new) == []
    held = await leased(pool)
    assert held.simulation_id == waiting  # and no longer waits
    assert await queue_for(pool, await entry(pool, "c")) == []  # but the one of flow b does
    await pool.execute("UPDATE simulation_queue SET holder = 'another', heartbeat_at = clock_timestamp()")
    assert len(await queue_for(pool, await entry(pool, "d"))) == 1
    await pool.execute("UPDATE simulation_queue SET heartbeat_at = heartbeat_at - interval '1 hour'")
    assert await queue_for(pool, await entry(pool, "e")) == []  # its former holder is dead


async def test_a_request_that_is_queued_again_is_leased_by_nobody_else(pool: Pool) -> None:
    new = await entry(pool)
    assert [held.simulation_id for held in await queue_for(pool, new)] == [new.simulation_id]
    assert await queue_for(pool, new, holder="another worker") == []


async def test_requests_that_are_queued_together_share_a_lane_as_those_that_come_one_by_one(pool: Pool) -> None:
    await enqueue_simulations(pool, many := [await entry(pool, "many") for _ in range(4)])
    few = [await entry(pool, "few") for _ in range(2)]
    more = [await entry(pool, "many") for _ in range(2)]
    await enqueue_simulations(pool, [few[0], more[0], few[1], more[1]])
    places = {simulation_id: place for place, simulation_id in enumerate(await order(pool))}
    assert [places[each.simulation_id] for each in (*many, *more)] == [0, 2, 4, 5, 6, 7]
    assert [places[each.simulation_id] for each in few] == [1, 3]


async def test_what_is_leased_at_once_moves_the_lane_on(pool: Pool) -> None:
    leases = await queue_for(pool, *[await entry(pool, "flood", work=1000) for _ in range(5)])
    assert len(leases) == 5
    late, flood = await queue(pool, "late", work=1000), [await queue(pool, "flood", work=1000) for _ in range(2)]
    assert await order(pool) == [late, *flood]
    assert await pool.fetchval("SELECT reached FROM simulation_lanes WHERE lane = 'small'") >= 4000


async def test_a_lane_has_its_own_requests(pool: Pool) -> None:
    small, large = await queue(pool), await queue(pool, lane="large")
    assert await order(pool, "large") == [large]
    assert await order(pool, "small") == [small]


async def test_requests_of_one_flow_keep_their_order(pool: Pool) -> None:
    ids = [await queue(pool, work=work) for work in (300, 100, 200)]
    assert await order(pool) == ids


async def test_a_flood_of_one_flow_delays_another_flow_by_one_request(pool: Pool) -> None:
    flood = [await queue(pool, "flood", work=1000) for _ in range(20)]
    for _ in range(5):
        assert not await remove_simulations(pool, [await leased(pool)])
    single = await queue(pool, "single", work=1000)
    assert (await order(pool)).index(single) <= 1
    assert len(flood) == 20


async def test_flows_share_a_lane_by_work_and_not_by_requests(pool: Pool) -> None:
    for _ in range(8):
        await queue(pool, "many", work=100)
    few = [await queue(pool, "few", work=400) for _ in range(2)]
    places = [place for place, simulation_id in enumerate(await order(pool)) if simulation_id in few]
    assert places == [1, 6]  # 400 of few, then 400 of many, and so on


async def test_a_flow_that_paused_has_no_claim_to_the_time_before(pool: Pool) -> None:
    early = [await queue(pool, "steady", work=1000) for _ in range(3)]
    for _ in early:
        assert not await remove_simulations(pool, [await leased(pool)])
    steady = [await queue(pool, "steady", work=1000) for _ in range(3)]
    late = [await queue(pool, "late", work=1000) for _ in range(3)]
    assert [simulation_id in late for simulation_id in (await order(pool))[:4]].count(True) == 2
    assert len(steady) == 3


async def test_requests_of_a_model_that_is_loaded_delay_no_other_and_stored_twins_need_none(pool: Pool) -> None:
    waiting, next_model, stored = await queue(pool), await queue(pool, model_id=UUID(int=2)), await queue(pool, model_id=None)
    leases = [await lease(pool, without=(MODEL,)) for _ in range(3)]
    assert {held.simulation_id for held in leases if held} == {next_model, stored}
    assert (await leased(pool)).simulation_id == waiting


async def test_a_lease_without_heartbeat_is_taken_over_and_its_holder_can_store_nothing(pool: Pool) -> None:
    simulation_id = await queue(pool)
    first = await leased(pool)
    assert await lease(pool) is None
    second = await leased(pool, worker="another", lease_s=0.0)
    assert (second.tries, second.fence) == (2, 2)
    with pytest.raises(LostSimulationLease, match="no longer leased with fencing number 1"):
        await put_back_simulation(pool, first)
    lost = [*await finish_leased(pool, [(first, an_answer(simulation_id))]), *await remove_simulations(pool, [first])]
    lost += await renew_simulation_leases(pool, [first, second])
    assert [str(error).endswith("no longer leased with fencing number 1") for error in lost] == [True, True, True]
    assert await finish_leased(pool, [(second, an_answer(simulation_id))]) == [an_answer(simulation_id)]


async def test_a_worker_that_leases_a_request_again_counts_as_one_try_and_another_worker_as_the_next(pool: Pool) -> None:
    await queue(pool)
    workers = ["a worker", "a worker", "a worker", "another", "another", "a worker"]
    leases = [await leased(pool, worker=worker, lease_s=0.0) for worker in workers]
    assert [(held.tries, held.fence) for held in leases] == [(1, 1), (1, 2), (1, 3), (2, 4), (2, 5), (3, 6)]
    await put_back_simulation(pool, leases[-1], count_try=True)  # its process has ended
    assert (await leased(pool)).tries == 4


async def test_a_worker_leases_no_request_again_whose_lease_it_has(pool: Pool) -> None:
    mine, other = await queue(pool), await queue(pool)
    assert (await leased(pool)).simulation_id == mine
    again = await lease_simulations(pool, "small", "a worker", lease_s=0.0, without=[mine], at_most=9, work=1000)
    assert [held.simulation_id for held in again] == [other]


async def test_leases_are_renewed_together_and_one_whose_row_is_locked_delays_and_loses_none(pool: Pool) -> None:
    ids = [await queue(pool) for _ in range(3)]
    leases = await lease_simulations(pool, "small", "a worker", lease_s=60.0, at_most=3, work=300)
    await pool.execute("UPDATE simulation_queue SET heartbeat_at = heartbeat_at - interval '1 hour'")
    async with transaction(pool) as locking:
        await locking.execute("SELECT FROM simulation_queue WHERE simulation_id = $1 FOR UPDATE", ids[0])
        assert await renew_simulation_leases(pool, leases) == []
    expired = await lease_simulations(pool, "small", "another", lease_s=60.0, at_most=3, work=300)
    assert [held.simulation_id for held in expired] == ids[:1]
    assert [lost.lease for lost in await renew_simulation_leases(pool, leases)] == leases[:1]


async def test_the_first_stored_answer_is_final_also_for_a_worker_that_takes_over(pool: Pool) -> None:
    simulation_id = await queue(pool)
    stored = await finish_leased(pool, [(await leased(pool), an_answer(simulation_id, "the first"))])
    later = await leased(pool, lease_s=0.0)
    assert await finish_leased(pool, [(later, an_answer(simulation_id, "the second"))]) == stored
    assert not await remove_simulations(pool, [later])
    assert await queued_simulation(pool, simulation_id) is None


async def test_requests_that_wait_together_are_leased_together_up_to_their_number_and_their_work(pool: Pool) -> None:
    ids = [await queue(pool, work=work) for work in (100, 100, 100, 500, 900, 100)]
    lease_up_to = partial(lease_simulations, pool, "small", "a worker", lease_s=60.0)
    batches = [[held.simulation_id for held in await lease_up_to(at_most=n, work=300)] for n in (2, 9, 9, 9, 9)]
    assert batches == [ids[:2], ids[2:3], ids[3:4], ids[4:5], ids[5:]]  # one above the work is leased alone


async def test_answers_are_stored_together_except_those_of_leases_that_are_lost(pool: Pool) -> None:
    ids = [await queue(pool) for _ in range(3)]
    leases = await lease_simulations(pool, "small", "a worker", lease_s=60.0, at_most=3, work=300)
    await put_back_simulation(pool, leases[1])
    stored = await finish_leased(pool, [(held, an_answer(held.simulation_id)) for held in leases])
    assert [isinstance(answer, LostSimulationLease) for answer in stored] == [False, True, False]
    assert [stored[0], stored[2]] == [an_answer(ids[0]), an_answer(ids[2])]
    rows = await pool.fetch("SELECT simulation_id FROM simulation_runs WHERE status = 'rejected'")
    assert {row["simulation_id"] for row in rows} == {ids[0], ids[2]}
    assert [lost.args for lost in await remove_simulations(pool, leases)] == [LostSimulationLease(leases[1]).args]
    assert await order(pool) == [ids[1]]


async def test_a_request_that_is_put_back_counts_a_try_only_when_it_should(pool: Pool) -> None:
    await queue(pool)
    await put_back_simulation(pool, await leased(pool))
    await put_back_simulation(pool, await leased(pool), count_try=True)
    held = await leased(pool)
    assert (held.tries, held.fence) == (2, 3)


async def test_a_request_that_waits_for_another_try_lets_the_others_pass(pool: Pool) -> None:
    first, second = await queue(pool), await queue(pool)
    await put_back_simulation(pool, await leased(pool), delay_s=60.0)
    assert await order(pool) == [second]
    await pool.execute("UPDATE simulation_queue SET due_at = clock_timestamp()")
    assert await order(pool) == [first]


async def test_the_backlog_counts_the_waiting_requests_of_each_lane(pool: Pool, owner_pool: Pool) -> None:
    assert await lane_backlogs(pool) == dict.fromkeys(LANES, LaneBacklog(0, 0.0))
    for _ in range(3):
        await queue(pool, lane="large")
    await owner_pool.execute("UPDATE simulation_queue SET queued_at = clock_timestamp() - interval '1 minute'")
    await leased(pool, "large")
    backlog = (await lane_backlogs(pool))["large"]
    assert backlog.waiting == 2
    assert backlog.oldest_s >= 60.0


async def test_the_place_of_a_request_in_the_queue_is_known(pool: Pool) -> None:
    first, second = await queue(pool, lane="large", work=700), await queue(pool, lane="large", work=900)
    await leased(pool, "large")
    assert await queued_simulation(pool, first) == QueuedSimulation("large", 700, computing=True, ahead=0)
    assert await queued_simulation(pool, second) == QueuedSimulation("large", 900, computing=False, ahead=1)
    assert await queued_simulation(pool, uuid4()) is None


async def test_a_run_that_is_deleted_leaves_the_queue(pool: Pool, owner_pool: Pool) -> None:
    simulation_id = await queue(pool)
    await owner_pool.execute("DELETE FROM simulation_runs WHERE simulation_id = $1", simulation_id)
    assert await lease(pool) is None
