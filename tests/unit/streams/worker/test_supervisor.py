"""Ends of roles: settings that cannot work end the worker at its start, anything later is a restart of that role alone."""

from __future__ import annotations

import logging
import multiprocessing as mp
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from streams.settings import Settings
from streams.silence import Silence
from streams.worker import supervisor
from streams.worker.role_process import Report
from streams.worker.startup import Activity
from streams.worker.supervisor import LONGEST_PAUSE_S, STEADY_S, WorkerFailed, Workers, _Child

PORT_TAKEN = Report("cannot_start", "cannot listen on 127.0.0.1:6066 (Address already in use): set TWIN_WEB_PORT")


def ended(status: int, *reports: Report) -> tuple[Any, Any]:
    """A process that has ended, and the connection with its reports."""
    receiver, sender = mp.Pipe(duplex=False)
    with sender:
        for report in reports:
            sender.send(report)
    return SimpleNamespace(exitcode=status, sentinel=None, pid=None), receiver


def running(*reports: Report) -> tuple[Any, Any]:
    """A process that runs, and the connection with its reports."""
    return ended(None, *reports)  # type: ignore[arg-type]  # as multiprocessing has it


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Workers:
    """Workers whose processes are those in ``spawned``, the last one again and again."""
    workers = Workers(["outcomes", "fidelity"], Settings(heartbeat_limit_s=15.0), log_folder=Path("/logs"))
    workers.spawned = []  # type: ignore[attr-defined]  # of this test
    monkeypatch.setattr(workers, "_spawn", lambda role, exits: workers.spawned.pop(0))  # type: ignore[attr-defined]
    return workers


def child_of(workers: Workers, process: tuple[Any, Any]) -> _Child:
    child = _Child("outcomes", *process, started_at=0.0)
    workers._children = [child]
    return child


def test_a_start_that_cannot_work_ends_the_worker_and_names_the_setting_and_the_log(workers: Workers):
    child = child_of(workers, ended(1, PORT_TAKEN))
    workers._update(child, 1.0)
    with pytest.raises(WorkerFailed, match=r"the role outcomes cannot be started: .* set TWIN_WEB_PORT; see /logs/outcomes\.log"):
        workers.check()


def test_the_same_start_is_only_a_pause_for_a_role_that_was_ready_once(workers: Workers, caplog: pytest.LogCaptureFixture):
    child = child_of(workers, running(Report("ready")))
    workers._update(child, 1.0)
    assert child.was_ready
    child.process, child.reports = ended(1, PORT_TAKEN)
    workers._update(child, 2.0)
    workers.check()
    assert child.restart_at == 2.0
    assert "set TWIN_WEB_PORT" in caplog.text


@pytest.mark.parametrize("error", ["ValueError: no number", "OSError: no space left", "UnsupportedCodecError: lz4"])
def test_an_error_of_a_run_never_ends_the_worker_however_often_it_comes(workers: Workers, error: str):
    child, now = child_of(workers, ended(1, Report("error", error))), 0.0
    pauses = []
    for _ in range(2000):
        workers._update(child, now)
        assert child.restart_at is not None
        pauses.append(child.restart_at - now)
        now = child.restart_at
        workers.spawned.append(ended(1, Report("error", error)))  # type: ignore[attr-defined]
        workers._update(child, now)
    workers.check()
    assert pauses[:7] == pytest.approx([0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0])
    assert max(pauses) == pytest.approx(LONGEST_PAUSE_S)
    assert child.exits == 2000


def test_the_pauses_start_again_after_a_steady_run(workers: Workers):
    child = child_of(workers, running())
    assert [child.count_exit(1.0) for _ in range(4)] == [0.0, 0.5, 1.0, 2.0]
    child.started_at = 10.0
    assert child.count_exit(10.0 + STEADY_S) == 0.0
    assert child.count_exit(11.0) == 0.5
    assert child.exits == 6


@pytest.mark.parametrize(
    ("status", "reports", "reason"),
    [
        (1, [Report("ready"), Report("error", "ValueError: no number")], "ValueError: no number"),
        (-9, [], "killed by SIGKILL"),
        (-40, [], "killed by signal 40"),
        (3, [], "exit status 3"),
    ],
)
def test_each_exit_is_logged_once_with_its_reason_and_its_number(workers, caplog, status, reports, reason):
    child = child_of(workers, ended(status, *reports))
    child.exits = child.exits_in_a_row = 1
    with caplog.at_level(logging.WARNING):
        workers._update(child, 1.0)
        workers._update(child, 1.1)
    (record,) = caplog.records
    assert record.getMessage() == (
        f"the role outcomes ended ({reason}); exit 2 of this role, which is restarted in 0.5 s; see /logs/outcomes.log"
    )


def test_the_reason_of_an_end_is_kept_while_the_process_stops(workers: Workers, caplog: pytest.LogCaptureFixture):
    child = child_of(workers, running(Report("ready"), Report("error", "ValueError: a timer fails")))
    workers._update(child, 1.0)
    child.process, child.reports = ended(1, Report("beat"))
    workers._update(child, 7.0)
    assert "the role outcomes ended (ValueError: a timer fails)" in caplog.text


def hang(child: _Child, *reports: Report) -> list[str]:
    """Let the process of a child run, and note what is done to it."""
    calls: list[str] = []
    child.process, child.reports = running(*reports)
    child.process.kill, child.process.join = lambda: calls.append("kill"), lambda _timeout: calls.append("join")
    child.silence = Silence(lambda _pid: None)
    return calls


def test_a_process_without_heartbeats_is_killed_and_restarted_at_once(workers: Workers, caplog):
    child = child_of(workers, running())
    calls, limit_s = hang(child), workers._settings.heartbeat_limit_s
    for step in range(int(2 * limit_s) + 1):  # the supervisor looks twice a second
        workers._update(child, step / 2)
    assert calls == []
    workers._update(child, limit_s + 0.5)
    assert calls == ["kill", "join"]
    assert child.restart_at == limit_s + 0.5
    assert f"its event loop stood still for {limit_s:g} s (TWIN_HEARTBEAT_LIMIT_S)" in caplog.text
    workers.check()


def test_a_process_that_sends_heartbeats_is_never_killed(workers: Workers):
    child = child_of(workers, running())
    calls = hang(child)
    for step in range(1000):
        child.reports = running(Report("beat"))[1]
        workers._update(child, float(step))
    assert calls == []


def test_a_process_that_reports_what_hangs_is_killed_at_once(workers: Workers, caplog):
    child = child_of(workers, running())
    calls = hang(child, Report("beat"), Report("hangs", "the role is stopping for 13 s, TWIN_STOP_LIMIT_S is 12"))
    workers._update(child, 1.0)
    assert calls == ["kill", "join"]
    assert "the role is stopping for 13 s, TWIN_STOP_LIMIT_S is 12; it was killed" in caplog.text


def test_a_process_has_the_whole_limit_again_after_a_restart(workers: Workers):
    child = child_of(workers, running())
    hang(child)
    for step in range(32):
        workers._update(child, step / 2)
    workers.spawned.append(running())  # type: ignore[attr-defined]
    assert child.restart_at is not None
    workers._update(child, child.restart_at)
    assert child.restart_at is None
    assert child.silence.seconds(None, child.started_at) == 0.0


def hang_time(workers: Workers, child: _Child, *reports: Report) -> float:
    """Seconds after which a child without heartbeats is killed."""
    calls, start_s = hang(child, *reports), child.started_at
    now = start_s
    while not calls:
        workers._update(child, now)
        now += 0.5
    workers.spawned.append(running())  # type: ignore[attr-defined]
    assert child.restart_at is not None
    workers._update(child, child.restart_at)
    return now - 0.5 - start_s


def test_a_role_that_hangs_again_and_again_before_it_is_ready_gets_more_time(workers: Workers):
    child = child_of(workers, running())
    limit_s = workers._settings.heartbeat_limit_s
    times = [hang_time(workers, child) for _ in range(6)]
    assert times == [limit_s * factor + 0.5 for factor in (1, 2, 4, 8, 16, 16)]
    assert hang_time(workers, child, Report("ready")) == limit_s + 0.5
    assert hang_time(workers, child) == limit_s + 0.5


def test_a_restart_that_the_machine_refuses_is_tried_again(workers: Workers, monkeypatch: pytest.MonkeyPatch):
    def refuse(role: str, exits: int) -> Any:
        raise OSError("no process left")

    child = child_of(workers, ended(1))
    workers._update(child, 0.0)
    monkeypatch.setattr(workers, "_spawn", refuse)
    workers._update(child, 0.5)
    assert child.restart_at == 0.5 + LONGEST_PAUSE_S
    workers.check()


def test_a_start_without_progress_fails_with_the_last_activity_and_the_last_reason(workers, monkeypatch):
    monkeypatch.setattr(supervisor, "read_activity", lambda settings, role: Activity("waiting for its partitions"))
    child = child_of(workers, ended(1, Report("error", "ValueError: no number")))
    workers._update(child, 0.0)
    expected = (
        r"no progress for 0\.1 s \(TWIN_START_STALL_S\): outcomes: waiting for its partitions"
        r" \(exits: 1, the last one: ValueError: no number\), see /logs/outcomes\.log"
    )
    with pytest.raises(WorkerFailed, match=expected):
        workers.wait_ready(0.1)
