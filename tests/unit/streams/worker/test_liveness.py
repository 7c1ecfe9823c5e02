"""A role is alive unless something in it hangs, and ready while it processes events; outages and pauses are no hang."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from sql.interrupted_work_store import InterruptedWork
from streams.kafka.parking import Parking
from streams.outages import Outages
from streams.settings import Settings
from streams.worker import liveness
from streams.worker.liveness import RoleLiveness

SETTINGS = Settings(event_limit_s=900.0, heartbeat_limit_s=15.0, stop_limit_s=12.0, progress_limit_s=120.0)
TP0 = TP("outcome-events", 0)


@dataclass
class Consumer:
    """A Kafka consumer whose thread answers."""

    polled_at: float | None = None
    thread_answers: bool = True
    offsets: dict[TP, int] = field(default_factory=dict)
    ends: dict[TP, int] = field(default_factory=dict)

    def ping(self, answer: Callable[[], None]) -> bool:
        if self.thread_answers:
            answer()
        return True

    def positions(self) -> dict[TP, int]:
        return self.offsets

    def lag(self) -> dict[TP, int]:
        return {tp: self.ends[tp] - offset for tp, offset in self.offsets.items()}


class Role:
    """A role with a fake clock, which ticks once a second."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, role: Any = "outcomes") -> None:
        self.now = 1000.0
        self.event_since: float | None = None
        self.outages = Outages(lambda: self.now)
        self.consumer = Consumer()
        self.liveness = RoleLiveness(role, SETTINGS, self.outages, lambda: self.now)
        monkeypatch.setattr(liveness, "oldest_unfinished_s", lambda _: self.now - self.event_since if self.event_since else 0.0)
        self.app: Any = SimpleNamespace(
            started=True, rebalancing=False, rebalancing_count=1, should_stop=False, restoring=None, consumer=self.consumer
        )
        self.app.parking = SimpleNamespace(blocked={})
        self.app.finished = Counter()
        self.liveness.observe(self.app)

    def run(self, seconds: float, *, polls: bool = True) -> None:
        for _ in range(int(seconds)):
            self.now += 1.0
            if polls:
                self.consumer.polled_at = self.now
            self.liveness.tick()

    def fail(self) -> None:
        for _ in range(2):
            self.outages.record_failure("postgres", "probe", OSError("gone"), threshold=2)


@pytest.fixture
def role(monkeypatch: pytest.MonkeyPatch) -> Role:
    return Role(monkeypatch)


def test_an_idle_role_is_alive_and_ready(role: Role):
    role.run(10_000)
    assert role.liveness.live_problems() == []
    assert role.liveness.ready_problems() == []


def test_a_supervisor_that_stands_still_is_named_and_is_no_reason_to_restart_the_role(monkeypatch: pytest.MonkeyPatch):
    role = Role(monkeypatch)
    pulse = role.now
    role.liveness._supervisor_silence_s = lambda: role.now - pulse
    role.run(15)
    assert role.liveness.all_live_problems() == []
    role.run(1)
    hang = "the worker that supervises this role stands still for 16 s, TWIN_HEARTBEAT_LIMIT_S is 15"
    assert role.liveness.all_live_problems() == [hang]
    assert role.liveness.tick() == []
    role.now += 60.0  # the whole machine was suspended
    role.liveness.tick()
    assert role.liveness.all_live_problems() == []
    role.run(16)
    assert len(role.liveness.all_live_problems()) == 1
    role.liveness.begin_stop()
    assert role.liveness.all_live_problems() == [], "a worker that stops its roles looks after them no longer"


def test_an_event_in_work_for_too_long_hangs(role: Role):
    role.event_since = role.now
    role.run(900)
    assert role.liveness.live_problems() == []
    role.run(1)
    assert role.liveness.live_problems() == ["one event is in work for 901 s, TWIN_EVENT_LIMIT_S is 900"]


def test_a_partition_whose_records_all_fail_alike_makes_its_role_not_ready_and_leaves_it_alive(role: Role):
    role.app.parking.blocked[0] = "outcome-events:0 waits at offset 4: every record fails alike, by KeyError: 'x'"
    role.event_since = role.now
    role.run(5000)
    assert role.liveness.live_problems() == []
    assert role.app.parking.blocked[0] in role.liveness.ready_problems()


def test_a_training_may_take_twice_its_limit(monkeypatch: pytest.MonkeyPatch):
    trainer = Role(monkeypatch, "trainer")
    trainer.event_since = trainer.now
    trainer.run(3600)
    assert trainer.liveness.live_problems() == []
    trainer.run(1)
    assert trainer.liveness.live_problems()


def test_an_event_that_waits_for_a_part_does_not_hang_and_has_the_whole_limit_afterwards(role: Role):
    role.event_since = role.now
    role.fail()
    role.run(5000)
    assert role.liveness.live_problems() == []
    role.outages.recover("probe")
    role.run(900)
    assert role.liveness.live_problems() == []
    role.run(1)
    assert role.liveness.live_problems()


def test_a_pause_of_the_process_or_the_machine_is_no_hang(role: Role):
    role.run(5)
    role.event_since = role.now
    role.now += 86_400.0
    role.liveness.tick()
    assert role.liveness.live_problems() == []


def test_a_consumer_thread_that_does_not_answer_hangs(role: Role):
    role.consumer.thread_answers = False
    role.run(15)
    assert role.liveness.live_problems() == []
    role.run(1)
    (problem,) = role.liveness.live_problems()
    assert problem.startswith("the thread that reads Kafka hangs for 16 s")


def test_a_consumer_thread_that_answers_late_does_not_hang(role: Role):
    role.consumer.thread_answers = False
    role.run(10)
    role.consumer.thread_answers = True
    role.run(1)
    role.consumer.thread_answers = False
    role.run(14)
    assert role.liveness.live_problems() == []


def test_a_role_that_polls_no_more_hangs(role: Role):
    role.run(1)
    role.run(35, polls=False)
    assert role.liveness.live_problems() == []
    role.run(1, polls=False)
    assert role.liveness.live_problems() == [
        "Kafka was not polled for 36 s, TWIN_SESSION_TIMEOUT_S and TWIN_HEARTBEAT_LIMIT_S are 35 together"
    ]


def test_a_role_that_stops_for_too_long_hangs_and_is_not_ready(role: Role):
    role.liveness.begin_stop()
    role.run(12)
    assert role.liveness.live_problems() == []
    assert role.liveness.ready_problems() == ["stopping"]
    role.run(1)
    assert role.liveness.live_problems() == ["the role is stopping for 13 s, TWIN_STOP_LIMIT_S is 12"]


def test_a_role_is_not_ready_while_a_part_is_out_and_names_it(role: Role):
    role.fail()
    (problem,) = role.liveness.ready_problems()
    assert problem.startswith("postgres is out since ")
    assert problem.endswith("UTC (OSError: gone): 2 attempts failed")
    role.outages.recover("probe")
    assert role.liveness.ready_problems() == []


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"rebalancing": True}, "waiting for its partitions"),
        ({"rebalancing_count": 0}, "waiting for its partitions"),
        ({"restoring": "3 of 7 lines"}, "restoring 3 of 7 lines"),
        ({"should_stop": True}, "stopping"),
    ],
)
def test_a_role_that_does_not_process_events_names_the_reason(role: Role, state: dict[str, Any], reason: str):
    vars(role.app).update(state)
    assert role.liveness.ready_problems() == [reason]


def test_a_role_without_an_app_names_the_server_that_it_waits_for():
    role = RoleLiveness("outcomes", SETTINGS, Outages(), lambda: 7.0)
    role.awaits("Kafka")
    role.tick()
    assert role.ready_problems() == ["waiting for Kafka for 0 s"]
    assert role.live_problems() == []


def test_a_partition_that_makes_no_progress_makes_its_role_not_ready_and_leaves_it_alive(role: Role):
    role.consumer.offsets, role.consumer.ends = {TP0: 7}, {TP0: 1241}
    role.run(121)
    assert role.liveness.ready_problems() == []
    role.run(1)
    assert role.liveness.ready_problems() == ["outcome-events 0: 1,234 records wait, and none was finished for 121 s"]
    assert role.liveness.live_problems() == []
    role.consumer.offsets[TP0] = 8
    role.run(1)
    assert role.liveness.ready_problems() == []


def test_a_partition_stands_still_also_while_outages_come_and_go_and_through_rebalances(role: Role):
    other = TP("outcome-events", 1)
    role.consumer.offsets, role.consumer.ends = {TP0: 7, other: 0}, {TP0: 10, other: 10_000}
    for _ in range(13):
        role.consumer.offsets[other] += 1
        role.fail()  # the statement of the one partition ends at its timeout, as it does every time
        role.run(12)
        role.outages.recover("probe")
        role.app.rebalancing = True
        role.run(1)
        role.app.rebalancing = False
        role.run(10)

    assert role.liveness.ready_problems() == ["outcome-events 0: 3 records wait, and none was finished for 130 s"]
    assert role.liveness.standstill_s() == {TP0: 130.0, other: 10.0}


def test_a_changelog_that_only_is_written_is_no_backlog(role: Role):
    changelog = TP("twinstream-fidelity-fidelity-panes-changelog", 0)
    role.consumer.offsets, role.consumer.ends = {changelog: 7}, {changelog: 1241}
    role.run(1000)
    assert role.liveness.ready_problems() == []


def test_a_large_backlog_that_shrinks_is_progress(role: Role):
    role.consumer.offsets, role.consumer.ends = {TP0: 0}, {TP0: 10_000_000}
    for _ in range(100):
        role.run(100)
        role.consumer.offsets[TP0] += 1
    assert role.liveness.ready_problems() == []


def test_no_progress_during_an_outage_is_explained_by_the_outage(role: Role):
    role.consumer.offsets, role.consumer.ends = {TP0: 0}, {TP0: 1}
    role.fail()
    role.run(1000)
    assert len(role.liveness.ready_problems()) == 1
    role.outages.recover("probe")
    assert role.liveness.ready_problems() == []


def test_what_is_finished_inside_of_a_batch_is_progress_though_its_offset_moves_only_at_its_end(role: Role):
    role.consumer.offsets, role.consumer.ends = {TP0: 7}, {TP0: 400}
    for _ in range(20):
        role.run(20)
        role.app.finished[0] += 1
    assert role.liveness.ready_problems() == []
    role.run(122)
    assert role.liveness.ready_problems() == ["outcome-events 0: 393 records wait, and none was finished for 121 s"]


def test_a_role_is_not_ready_before_it_has_passed_a_batch_whose_opening_ended_earlier_processes_of_it(role):
    parking = Parking(5, TP0.topic)
    parking._interrupted = [InterruptedWork(~0, 40, 59, datetime(2026, 3, 1, tzinfo=UTC))] * 2
    role.app.parking = parking
    role.consumer.offsets = {TP0: 40}
    assert role.liveness.all_ready_problems() == [
        "outcome-events 0: this role ended 2 times while it opened the batch of offset 40"
    ]
    assert role.liveness.ready_problems() == []  # it has started all the same
    role.consumer.offsets = {TP0: 60}
    assert role.liveness.all_ready_problems() == []
