"""A flood of log lines is limited by kind, and what is left out is counted."""

from __future__ import annotations

import io
import logging

import pytest

from streams.worker import log_limit
from streams.worker.log_limit import LimitedHandler, LineLimit
from tests.clock import Clock


def record(message: str, *args: object, name: str = "aiokafka", level: int = logging.ERROR) -> logging.LogRecord:
    return logging.LogRecord(name, level, "client.py", 1, message, args, None)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limit(clock: Clock) -> LineLimit:
    return LineLimit(clock)


def texts(records: list[logging.LogRecord | None]) -> list[str]:
    return [entry.getMessage() for entry in records if entry is not None]


def test_a_kind_is_a_logger_and_a_template_whatever_its_arguments(limit: LineLimit):
    records = [record("no broker %s", 1), record("no broker %s", 2), record("no broker %s", 3, name="faust"), record("other")]
    assert texts([limit.admit(entry) for entry in records]) == ["no broker 1", "no broker 3", "other"]


def test_numbers_in_a_finished_text_make_no_new_kind(limit: LineLimit):
    records = [record(f"Task <0x{number:x}> was destroyed, {number} pending") for number in range(10)]
    assert len(texts([limit.admit(entry) for entry in records])) == 1


def test_a_flood_of_ten_minutes_has_few_lines_which_count_the_others(limit: LineLimit, clock: Clock):
    lines = []
    for step in range(60_000):
        clock.now = step / 100
        lines += texts([limit.admit(record("no broker"))])
    suppressed = sum(int(line.partition("(... ")[2].split()[0].replace(",", "")) for line in lines[1:])
    assert len(lines) < 20
    assert lines[1].startswith("no broker (... 99 similar lines suppressed in 1 s)")
    assert len(lines) + suppressed + sum(flow.left_out for flow in limit._flows.values()) == 60_000


def test_information_has_a_line_a_second(limit: LineLimit, clock: Clock):
    lines = []
    for step in range(1000):
        clock.now = step / 100
        lines += texts([limit.admit(record("simulation %s", step, level=logging.INFO))])
    assert len(lines) == 10


def test_a_line_after_a_pause_is_written_unchanged(limit: LineLimit, clock: Clock):
    for _ in range(3):
        assert texts([limit.admit(record("once in a while"))]) == ["once in a while"]
        clock.now += 1.0


def test_lines_left_out_are_counted_also_when_no_other_follows(limit: LineLimit, clock: Clock):
    for number in range(4):
        limit.admit(record("no broker %d", number))
    assert limit.summaries(min_age_s=5.0) == []
    clock.now = 6.0
    assert texts(limit.summaries(min_age_s=5.0)) == ["no broker 3 (... 2 similar lines suppressed in 6 s)"]
    assert limit.summaries() == []


def test_the_memory_is_bounded_and_a_flood_of_many_kinds_is_one_kind(limit: LineLimit, clock: Clock):
    passed = texts([limit.admit(record("no broker", name=f"logger {number}")) for number in range(5000)])
    assert len(passed) == len(limit._flows) == log_limit._MAX_KINDS + 1
    clock.now = 100.0
    assert texts([limit.admit(record("later"))]) == ["later"]


def test_a_percent_sign_in_an_argument_survives_the_count(limit: LineLimit, clock: Clock):
    for _ in range(2):
        limit.admit(record("share %s", "50 %"))
    clock.now = 1.0
    assert texts([limit.admit(record("share %s", "50 %"))]) == ["share 50 % (... 1 similar lines suppressed in 1 s)"]


def test_a_handler_writes_counts_that_are_left_when_it_is_closed():
    stream = io.StringIO()
    handler = LimitedHandler(stream)
    for _ in range(1000):
        handler.handle(record("no broker"))
    handler.close()
    assert stream.getvalue() == "no broker\nno broker (... 998 similar lines suppressed in 0 s)\n"
