"""Outages begin, last and end by the failures of their witnesses, with one log line each and a reminder a minute."""

from __future__ import annotations

import logging

import asyncpg
import pytest
from aiokafka.errors import KafkaConnectionError
from faust.exceptions import ProducerSendError
from mlflow.exceptions import MlflowException

from streams.metrics import PARTS, REGISTRY
from streams.outages import Outages, part_of
from tests.clock import Clock

ERROR = ConnectionRefusedError("refused")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outages(clock: Clock) -> Outages:
    return Outages(clock)


def fail(outages: Outages, witness: str, times: int = 1, part: str = "kafka", threshold: int = 2) -> None:
    for _ in range(times):
        outages.record_failure(part, witness, ERROR, threshold=threshold)


def test_a_single_failure_is_no_outage(outages: Outages):
    fail(outages, "probe")
    outages.recover("probe")
    fail(outages, "probe")
    assert not outages.is_out("kafka")


def test_an_outage_lasts_from_the_first_failure_to_the_recovery(outages: Outages, clock: Clock, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    fail(outages, "probe")
    clock.now += 2.5
    fail(outages, "probe")
    (outage,) = outages.current()
    assert (outage.part, outage.failures, outage.error) == ("kafka", 2, "ConnectionRefusedError: refused")
    assert outages.steady_s() == 0.0
    clock.now += 7.5
    outages.recover("probe")
    assert outages.current() == []
    clock.now += 4.0
    assert outages.steady_s() == 4.0
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "kafka is out (ConnectionRefusedError",
        "kafka answers again after 10.0 s; 2 attempts failed",
    ]


def test_an_outage_of_ten_minutes_has_one_line_a_minute_however_many_attempts_fail(outages, clock, caplog):
    caplog.set_level(logging.INFO)
    for _ in range(4800):
        fail(outages, "probe")
        clock.now += 0.125
    outages.recover("probe")
    lines = [record.getMessage() for record in caplog.records if record.name == "streams.outages"]
    assert len(lines) == 11
    assert lines[1] == "kafka is still out after 60 s (ConnectionRefusedError: refused): 482 attempts failed"
    assert lines[-1] == "kafka answers again after 600.0 s; 4800 attempts failed"


def test_the_last_of_several_witnesses_ends_the_outage(outages: Outages):
    fail(outages, "probe", 2)
    fail(outages, "action", 3, threshold=3)
    outages.recover("probe")
    assert outages.is_out("kafka")
    outages.recover("action")
    assert not outages.is_out("kafka")


def test_a_witness_below_its_threshold_does_not_prolong_an_outage(outages: Outages):
    fail(outages, "probe", 2)
    fail(outages, "action", threshold=3)
    outages.recover("probe")
    assert not outages.is_out("kafka")


def test_outages_of_two_parts_are_independent(outages: Outages, caplog: pytest.LogCaptureFixture):
    fail(outages, "first", 2, part="postgres")
    fail(outages, "second", 2, part="mlflow")
    outages.recover("first")
    assert [outage.part for outage in outages.current()] == ["mlflow"]
    assert all(record.levelno == logging.WARNING for record in caplog.records)


def test_an_action_that_fails_at_another_part_witnesses_that_one(outages: Outages):
    fail(outages, "action", 2, part="postgres")
    fail(outages, "action", 2, part="kafka")
    assert [outage.part for outage in outages.current()] == ["kafka"]


def test_an_error_of_many_lines_and_characters_is_shortened(outages: Outages):
    for _ in range(2):
        outages.record_failure("kafka", "probe", OSError("x\n" * 5000), threshold=2)
    assert len(outages.current()[0].error) < 450
    assert "\n" not in outages.current()[0].error


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (asyncpg.TooManyConnectionsError("full"), "postgres"),
        (asyncpg.InterfaceError("connection is closed"), "postgres"),
        (KafkaConnectionError("no broker"), "kafka"),
        (ProducerSendError("sending"), "kafka"),
        (MlflowException("busy"), "mlflow"),
        (ConnectionRefusedError("refused"), "default"),
    ],
)
def test_an_error_names_the_part_whose_client_raised_it(error: Exception, part: str):
    assert part_of(error, "default") == part


def raised(error: Exception, package: str) -> Exception:
    """The error as it is caught when code of a package raised it."""
    names = {"__name__": f"{package}.connection", "error": error}
    try:
        exec("def connect():\n    raise error", names)  # a frame of that package
        names["connect"]()  # type: ignore[operator]  # defined in the line above
    except Exception as caught:  # noqa: BLE001  # what is tested
        return caught
    raise AssertionError("unreachable")


@pytest.mark.parametrize(
    ("package", "part"), [("asyncpg", "postgres"), ("aiokafka", "kafka"), ("urllib3", "mlflow"), ("json", "?")]
)
@pytest.mark.parametrize("error", [ConnectionRefusedError, TimeoutError, OSError])
def test_an_error_of_the_operating_system_is_of_the_part_whose_client_it_was_raised_in(
    error: type[Exception], package: str, part: str
):
    caught = raised(error("no answer"), package)
    assert part_of(caught, "?") == part
    wrapped = RuntimeError("wrapped")
    wrapped.__cause__ = caught
    assert part_of(wrapped, "?") == part


def test_an_attempt_that_any_part_may_fail_is_that_of_the_one_that_is_out(outages: Outages):
    assert outages.likely_part("mlflow") == "mlflow"
    for _ in range(2):
        outages.record_failure("postgres", "probe", OSError("refused"), threshold=2)
    assert outages.likely_part("mlflow") == "postgres"
    for _ in range(2):
        outages.record_failure("mlflow", "other probe", OSError("refused"), threshold=2)
    assert outages.likely_part("mlflow") == "mlflow"


def test_the_metric_of_a_part_agrees_with_its_outages_also_where_only_actions_fail(outages: Outages):
    def is_up() -> float | None:
        return REGISTRY.get_sample_value("twin_dependency_up", {"part": "postgres"})

    for _ in range(2):
        outages.record_failure("postgres", "action", asyncpg.LockNotAvailableError("lock"), threshold=2)
    assert (is_up(), outages.has("postgres")) == (0, True)
    outages.recover("action")
    assert (is_up(), outages.has("postgres")) == (1, False)


def test_failed_attempts_are_counted_from_zero_on_for_every_part():
    for part in PARTS:
        assert REGISTRY.get_sample_value("twin_outages_total", {"part": part}) is not None


def test_a_lock_that_is_not_granted_is_no_outage_and_says_who_holds_locks(outages: Outages, caplog: pytest.LogCaptureFixture):
    error = asyncpg.LockNotAvailableError("canceling statement due to lock timeout")
    error.add_note("the oldest transaction that holds locks is that of process 7")
    for _ in range(2):
        outages.record_failure("postgres", "action", error, threshold=2)

    (outage,) = outages.current()

    assert not outages.is_out("postgres")
    assert outage.state == "answers but grants no lock"
    (message,) = caplog.messages
    assert message == (
        "postgres answers but grants no lock (LockNotAvailableError: canceling statement due to lock timeout; the oldest"
        " transaction that holds locks is that of process 7): 2 attempts failed; what needs it waits and is tried again until it"
        " answers"
    )
