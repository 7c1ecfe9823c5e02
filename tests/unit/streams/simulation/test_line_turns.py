"""Results of a line are stored one at a time."""

from __future__ import annotations

import asyncio

from streams.simulation.line_turns import LineTurns


async def test_one_result_of_a_line_is_stored_at_a_time_in_the_order_of_arrival_and_other_lines_beside_it():
    turns, steps = LineTurns(), list[str]()

    async def store(line: str, name: str) -> None:
        async with turns.of(line):
            steps.append(f"{name} begins")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            steps.append(f"{name} ends")

    await asyncio.gather(store("a", "a1"), store("a", "a2"), store("b", "b1"), store("a", "a3"))
    of_a = [step for step in steps if step.startswith("a")]
    assert of_a == ["a1 begins", "a1 ends", "a2 begins", "a2 ends", "a3 begins", "a3 ends"]
    assert steps.index("b1 begins") < steps.index("a1 ends")


async def test_a_line_that_nobody_waits_for_takes_no_memory():
    turns = LineTurns()
    for number in range(100):
        async with turns.of(f"line {number}"):
            pass
    assert len(turns._locks) <= 1
