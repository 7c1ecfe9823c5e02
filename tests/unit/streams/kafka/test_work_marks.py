"""Marks of what a role has in work: they outlive its process, and name the record that ends it."""

from __future__ import annotations

import asyncio
import multiprocessing as mp
import os
import signal
from collections.abc import MutableSequence
from datetime import UTC, datetime

import pytest

from sql.interrupted_work_store import InterruptedWork
from streams.kafka.parking import EndedRole, Parking
from streams.kafka.work_marks import MARKS, WorkMarks, shared_slots

AT = datetime(2026, 3, 1, tzinfo=UTC)


def test_marks_are_there_while_the_work_runs_and_are_taken_once():
    marks = WorkMarks()
    with marks.mark(0, 5, 9), marks.mark(3, 2**40, 2**40):
        with marks.mark(0, 10, 19):
            pass
        assert marks.take(AT) == [InterruptedWork(0, 5, 9, AT), InterruptedWork(3, 2**40, 2**40, AT)]
        assert marks.take(AT) == []
    with pytest.raises(ValueError, match="fails"), marks.mark(1, 0, 0):
        raise ValueError("fails")
    assert marks.take(AT) == []


def test_more_work_than_there_are_slots_for_goes_on_without_marks():
    marks = WorkMarks([0] * 9)
    with marks.mark(0, 0, 0), marks.mark(1, 1, 1), marks.mark(2, 2, 2):
        assert [work.partition for work in marks.take(AT)] == [0, 1]
    with marks.mark(0, 0, 0), marks.mark(1, 1, 1), marks.mark_opening(2, 2, 2):
        assert [work.partition for work in marks.take(AT)] == [0, 1, ~2]


def die_at_work(slots: MutableSequence[int]) -> None:
    marks = WorkMarks()
    marks.share(slots, ())
    with marks.mark(2, 7, 8):
        os.kill(os.getpid(), signal.SIGKILL)


def test_the_marks_of_a_process_that_was_killed_are_read_by_its_supervisor():
    slots = shared_slots()
    process = mp.get_context("fork").Process(target=die_at_work, args=(slots,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert WorkMarks(slots).take(AT) == [InterruptedWork(2, 7, 8, AT)]


def after_ends(*ranges: tuple[int, int, int]) -> Parking:
    """The parking of a role that has ended with these partitions and offsets in work, and parks after 4 attempts."""
    parking = Parking(4, "experiment-results")
    parking._interrupted = [InterruptedWork(*work, AT) for work in ranges]
    return parking


def test_what_was_in_work_twice_is_suspected_and_parked_after_as_many_ends_as_attempts():
    parking = after_ends((1, 10, 20), (1, 15, 25), (1, 17, 17), (1, 17, 17), (0, 0, 99))

    assert parking.suspected(1, range(30)) == [15, 16, 17, 18, 19, 20]
    assert parking.suspected(0, range(30)) == []
    assert parking.requested_offsets(1, range(30)) == [17]
    parking.check(1, 16)
    with pytest.raises(EndedRole, match="ended 4 times while this record was in work, and TWIN_PARK_ATTEMPTS is 4"):
        parking.check(1, 17)


def test_suspects_are_tried_together_fewer_with_each_end_and_alone_before_one_is_parked():
    parking = Parking(5, "outcome-events")
    parking._interrupted = [InterruptedWork(1, *work, AT) for work in ((0, 3999), (0, 3999), (500, 999), (525, 549))]

    assert [parking.suspects_together(1, offset) for offset in (0, 500, 525)] == [500, 25, 1]
    assert after_ends((1, 0, 9), (1, 0, 9)).suspects_together(1, 0) == 25  # 4 attempts
    parking = Parking(3, "outcome-events")  # the next end would park the record: so it is alone before
    parking._interrupted = [InterruptedWork(1, 0, 9, AT)] * 2
    assert parking.suspects_together(1, 0) == 1


async def test_suspected_records_are_in_work_one_after_another_and_the_others_meanwhile():
    parking = after_ends((0, 1, 1), (0, 1, 1), (1, 2, 2), (1, 2, 2))
    entered: list[int] = []
    release = asyncio.Event()

    async def work(partition: int, offset: int) -> None:
        async with parking.in_work(partition, [offset]):
            entered.append(offset)
            await release.wait()

    tasks = [asyncio.create_task(work(partition, offset)) for partition, offset in ((0, 1), (1, 2), (2, 3))]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert entered == [1, 3]
    assert [work.first_offset for work in MARKS.take(AT)] == [1, 3]
    release.set()
    await asyncio.gather(*tasks)
    assert entered == [1, 3, 2]
