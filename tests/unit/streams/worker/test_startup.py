"""The start of roles by a clock of the test: it may take any time while it advances, and fails when it does not."""

from __future__ import annotations

import pytest

from streams.worker.startup import Activity, StartStalled, Startup
from tests.clock import Clock

STALL_S = 60.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def startup(clock: Clock) -> Startup:
    return Startup(STALL_S, clock)


def test_a_start_that_advances_may_take_any_time(startup: Startup, clock: Clock):
    for restored in range(200):
        clock.now += STALL_S - 1
        startup.update({"fidelity": Activity(f"restoring {restored:,} of 200 lines")})


def test_a_start_without_progress_fails_and_names_the_setting(startup: Startup, clock: Clock):
    startup.update({"fidelity": Activity("waiting for its partitions")})
    clock.now += STALL_S
    startup.update({"fidelity": Activity("waiting for its partitions")})
    clock.now += 0.1
    with pytest.raises(StartStalled, match=r"no progress for 60 s \(TWIN_START_STALL_S\)"):
        startup.update({"fidelity": Activity("waiting for its partitions")})


def test_a_role_that_starts_over_again_and_again_makes_no_progress(startup: Startup, clock: Clock):
    activities = ("starts its process", "waiting for Postgres for 0 s", "restoring 3 of 9 lines") * 6
    for activity in activities:
        startup.update({"fidelity": Activity(activity)})
        clock.now += 4
    with pytest.raises(StartStalled):
        startup.update({"fidelity": Activity(activities[0])})


def test_a_duration_that_grows_is_no_progress(startup: Startup, clock: Clock):
    for second in range(int(STALL_S) + 1):
        startup.update({"outcomes": Activity(f"41 records wait, and none was finished for {second} s")})
        clock.now += 1
    with pytest.raises(StartStalled):
        startup.update({"outcomes": Activity("41 records wait, and none was finished for 61 s")})


def test_the_wait_for_a_server_that_does_not_answer_has_no_limit(startup: Startup, clock: Clock):
    for second in range(0, 86_400, 10):
        clock.now += 10
        startup.update({"outcomes": Activity(f"waiting for Kafka for {second} s", waits_for_server=True)})


def test_a_role_without_progress_is_waited_for_while_another_one_advances(startup: Startup, clock: Clock):
    for restored in range(10):
        clock.now += STALL_S / 2
        startup.update({"trainer": Activity("starts its process"), "fidelity": Activity(f"restoring {restored} of 10 lines")})


def test_numbers_that_change_are_shown_every_ten_seconds_and_another_activity_soon(startup: Startup, clock: Clock):
    shown = []
    for second in range(40):
        activity = "starts its process" if second < 15 else f"restoring {second:,} of 40 panes"
        if line := startup.update({"fidelity": Activity(activity)}):
            shown.append((second, line.removeprefix("starting: fidelity: ")))
        clock.now += 1
    assert shown == [
        (3, "starts its process"),
        (13, "starts its process"),
        (16, "restoring 16 of 40 panes"),
        (26, "restoring 26 of 40 panes"),
        (36, "restoring 36 of 40 panes"),
    ]


def test_nothing_is_shown_when_every_role_is_ready(startup: Startup):
    assert startup.update({}) is None
