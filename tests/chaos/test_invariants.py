"""Tests of the chaos harness: its plan, its expected result, and that each of its invariants can fail."""

from __future__ import annotations

import ast
import asyncio
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from tests.chaos import expected as expected_module
from tests.chaos.expected import ElementPosition, ExpectedState, PublishedRecord, WindowFigures, expected_state
from tests.chaos.invariants import INVARIANTS, violations
from tests.chaos.observed import DeadLetterCopy, ObservedState
from tests.chaos.plan import CODECS, OUTCOMES, POISON, SUMS, PlannedRecord, Scenario, plan, with_history
from tests.chaos.proxy import Proxy
from tests.chaos.schedule import KILLS, FaultKind, long_mix, schedule

BEGINS = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
SCENARIO = Scenario(
    seed=1, begins=BEGINS, seconds=60.0, outcomes=4000, requests=40, center=0.0, scale=1.0, rmse=0.5, pane_s=60.0, window_s=120.0
)


# -- the schedule of faults


@pytest.mark.parametrize("seed", range(5))
def test_a_schedule_is_drawn_from_its_seed_alone_and_lies_within_the_stream(seed: int):
    faults = schedule(seed, 10, long_mix(10))
    assert faults == schedule(seed, 10, long_mix(10)) != schedule(seed + 1, 10, long_mix(10))
    assert faults == sorted(faults)
    assert all(0 < fault.start_s < 600 for fault in faults)


def test_the_long_mix_has_every_kind_of_fault_and_at_least_twenty_kills():
    kinds = Counter(fault.kind for fault in schedule(1, 10, long_mix(10)))
    assert kinds.keys() == set(FaultKind)
    assert sum(kinds[kind] for kind in KILLS) >= 20
    assert long_mix(0.1) == long_mix(10)
    assert long_mix(20)[FaultKind.KILL_ROLE] == 2 * long_mix(10)[FaultKind.KILL_ROLE]


# -- the plan


def test_a_plan_is_drawn_from_its_seed_alone_in_the_order_of_publishing():
    records = plan(SCENARIO)
    assert records == plan(SCENARIO) != plan(replace(SCENARIO, seed=2))
    assert [record.due_s for record in records] == sorted(record.due_s for record in records)


def test_a_hundredth_of_a_plan_is_invalid_and_a_twentieth_is_duplicated():
    records = plan(replace(SCENARIO, outcomes=20_000))
    values = Counter(record.value for record in records if record.value not in {None, b"[]"})
    flaws = Counter(record.flaw for record in records if record.topic != SUMS)
    assert POISON.keys() | {"future", ""} == flaws.keys()
    assert sum(flaws[kind] for kind in POISON) / len(records) == pytest.approx(0.0135, abs=0.004)
    assert sum(count - 1 for count in values.values()) / len(records) == pytest.approx(0.05, abs=0.01)


def test_a_plan_has_forged_sums_and_every_codec():
    records = plan(SCENARIO)
    assert sum(record.topic == SUMS for record in records) == SCENARIO.outcomes // 500
    assert {record.codec for record in records} == set(CODECS)


def test_a_plan_mixes_hostile_records_into_the_topics_that_are_read_and_into_those_of_the_service():
    scenario = replace(SCENARIO, hostile=2000, topics=(OUTCOMES, SUMS))
    records = [record for record in plan(scenario) if record.is_hostile]
    assert records == [record for record in plan(scenario) if record.is_hostile]
    topics = Counter(record.topic for record in records)
    assert {OUTCOMES, SUMS, "dead-letters", "fidelity-windows"} <= topics.keys()
    assert topics.keys().isdisjoint({"simulation-requests", "retrain-events"})
    assert (
        min(record.due_s for record in records)
        < SCENARIO.seconds / 50
        < 50 * SCENARIO.seconds / 51
        < max(record.due_s for record in records)
    )
    assert with_history(scenario, 500)[0] == with_history(SCENARIO, 500)[0]


def test_the_history_of_a_run_is_observed_before_its_stream():
    history, stream = with_history(SCENARIO, 500)
    assert stream == plan(SCENARIO)
    assert {record.due_s for record in history} == {0.0}
    observed = [datetime.fromisoformat(body["observed_at"]) for record in history for body in record.outcomes if body is not None]
    assert max(observed) < BEGINS + timedelta(seconds=SCENARIO.skew_s)


def test_a_plan_has_late_early_too_late_corrected_retracted_and_unordered_outcomes():
    outcomes = [(record.due_s, body) for record in plan(SCENARIO) for body in record.outcomes if body is not None]
    ages = [due_s - (datetime.fromisoformat(body["observed_at"]) - BEGINS).total_seconds() for due_s, body in outcomes]
    assert min(ages) < -5
    assert sum(100 < age < 2000 for age in ages) > 40
    assert max(ages) > SCENARIO.restatement_s
    corrections = [body for _, body in outcomes if body.get("revision", 0)]
    assert {1, 2} <= {body["revision"] for body in corrections}
    assert any(body["actual_value"] is None for body in corrections)
    observed = [body["observed_at"] for _, body in outcomes]
    assert sum(before > after for before, after in pairwise(observed)) > len(observed) / 4


# -- the expected result


def make_outcome(
    number: int, observed_s: float, actual: float | None, predicted: float = 0.0, **fields: object
) -> dict[str, object]:
    return {
        "event_id": f"00000000-0000-4000-8000-{number:012}",
        "observed_at": (BEGINS + timedelta(seconds=observed_s)).isoformat(),
        "twin_type": "hcp",
        "brand": "kisqali",
        "metric_type": "prescribing_change",
        "actual_value": actual,
        "predicted_value": predicted,
        "segment": {"region": "west"},
    } | fields


def publish(*bodies: dict[str, object] | None) -> list[PublishedRecord]:
    return [
        PublishedRecord(offset, PlannedRecord(0.0, OUTCOMES, b"", b"bytes", (body,), "" if body else "cut short"), 0, offset)
        for offset, body in enumerate(bodies)
    ]


def test_the_expected_result_counts_each_event_once_by_its_highest_revision():
    expected = expected_state(
        SCENARIO,
        publish(
            make_outcome(1, 10, 9.0, revision=0),
            make_outcome(1, 10, 1.0, 4.0, revision=2, predicted_lower=3.0, predicted_upper=5.0),
            make_outcome(1, 10, 2.0, revision=1),
            make_outcome(2, 20, -1.0),
            make_outcome(2, 20, -1.0),
            make_outcome(3, 30, 5.0),
            make_outcome(3, 30, None, revision=1),
            make_outcome(4, 70, 0.5),
            None,
            make_outcome(5, -8000, 1.0),
        ),
    )
    pane, following = BEGINS.timestamp(), BEGINS.timestamp() + 60
    assert {key[1] for key in expected.panes} == {pane, following}
    assert expected.panes["all", pane] == (2, 1, 0, 400_000, 0, 160_000_000_000, 20_000_000_000, 40_000_000_000, 400_000)
    assert expected.windows["region=west", pane] == pytest.approx((3, 1.5, (10.25 / 3) ** 0.5, 3.5 / 3, 0.0))
    assert expected.windows["all", following] == WindowFigures(1, 0.5, 0.5, -0.5, None)
    assert Counter(expected.fates.values()) == {"counted": 8, "refused": 1, "too_late": 1}


def test_the_expected_result_shares_no_code_with_the_service():
    tree = ast.parse(Path(expected_module.__file__).read_text(encoding="utf-8"))
    packages = {node.module.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert packages <= {"schemas", "tests", *sys.stdlib_module_names}


# -- the invariants


@pytest.fixture(scope="module")
def expected() -> ExpectedState:
    records = plan(SCENARIO)
    published = [PublishedRecord(index, record, index % 4, index // 4) for index, record in enumerate(records)]
    return expected_state(SCENARIO, published)


@pytest.fixture
def observed(expected: ExpectedState) -> ObservedState:
    """What a faultless service stores and publishes."""
    positions = [position for position, fate in expected.fates.items() if fate == "refused"]
    refusals = {str(number): position for number, position in enumerate(positions)}
    values = {position: expected.values.get(position, b"an element") for position in positions}
    return ObservedState(
        fates={position: [fate] for position, fate in expected.fates.items()},
        refusals=refusals,
        values=values,
        panes=dict(expected.panes),
        windows=dict(expected.windows),
        answers={name: {f'{{"status":"{status}"}}'.encode()} for name, status in expected.answers.items()},
        copies=[DeadLetterCopy(refusal, *position[:3], values[position]) for refusal, position in refusals.items()],
    )


def lose_a_row(observed: ObservedState) -> None:
    del observed.fates[next(position for position, fates in observed.fates.items() if fates == ["counted"])]


def double_a_row(observed: ObservedState) -> None:
    next(fates for fates in observed.fates.values() if fates == ["counted"]).append("duplicate")


def miscount_a_pane(observed: ObservedState) -> None:
    key, (n, *rest) = next(iter(observed.panes.items()))
    observed.panes[key] = (n + 1, *rest)


def count_in_a_pane_without_outcomes(observed: ObservedState) -> None:
    observed.panes["all", 0.0] = (1, *[0] * 8)


def refuse_twice(observed: ObservedState) -> None:
    observed.refusals["again"] = next(iter(observed.refusals.values()))


def change_the_bytes_of_a_refused_record(observed: ObservedState) -> None:
    position = next(position for position, value in observed.values.items() if value and value != b"an element")
    observed.values[position] = b"{}"


def omit_a_dead_letter(observed: ObservedState) -> None:
    observed.copies.pop()


def answer_twice(observed: ObservedState) -> None:
    next(iter(observed.answers.values())).add(b'{"status":"completed", "other": 1}')


def answer_with_another_status(observed: ObservedState) -> None:
    observed.answers[next(iter(observed.answers))] = {b'{"status":"failed"}'}


def publish_an_outdated_window(observed: ObservedState) -> None:
    key, figures = next(iter(observed.windows.items()))
    observed.windows[key] = figures._replace(n=figures.n - 1)


def lose_an_acknowledged_record(observed: ObservedState) -> None:
    observed.missing.append(7)


def report_a_mismatch(observed: ObservedState) -> None:
    observed.mismatches.append("a head without outcomes")


def leave_a_role_down(observed: ObservedState) -> None:
    observed.downtimes = {"fidelity": 31.0}


def let_another_line_wait(observed: ObservedState) -> None:
    observed.standstill_s = 31.0


def lose_an_outcome_of_another_line(observed: ObservedState) -> None:
    observed.unstored = frozenset({"an event"})


def lose_a_hostile_record(observed: ObservedState) -> None:
    observed.traceless = ["outcome-events:0:7: b'{'"]


def store_a_record_that_nobody_published(observed: ObservedState) -> None:
    observed.fates[ElementPosition(OUTCOMES, 3, 10**9, 0)] = ["too_late"]


FLAWS: dict[Callable[[ObservedState], None], str] = {
    lose_a_row: "every element has one row",
    double_a_row: "every element has one row",
    miscount_a_pane: "every valid outcome counts once in its pane",
    count_in_a_pane_without_outcomes: "every valid outcome counts once in its pane",
    refuse_twice: "every invalid record is refused once",
    change_the_bytes_of_a_refused_record: "every invalid record is refused once",
    omit_a_dead_letter: "every refused record has a dead letter",
    answer_twice: "every request has one answer",
    answer_with_another_status: "every request has one answer",
    publish_an_outdated_window: "every window has the expected figures",
    lose_an_acknowledged_record: "every acknowledged record is on its topic",
    report_a_mismatch: "verify reports no mismatch",
    leave_a_role_down: "no role is down for long",
    let_another_line_wait: "no other line waits",
    lose_an_outcome_of_another_line: "no other line waits",
    lose_a_hostile_record: "every bad record is found by its offset",
    store_a_record_that_nobody_published: "every element has one row",
}


def test_a_faultless_service_violates_no_invariant(expected: ExpectedState, observed: ObservedState):
    assert violations(expected, observed) == {}


@pytest.mark.parametrize("flaw", FLAWS, ids=lambda flaw: flaw.__name__.replace("_", " "))
def test_each_flaw_violates_its_invariant(flaw: Callable[[ObservedState], None], expected: ExpectedState, observed: ObservedState):
    flaw(observed)
    assert FLAWS[flaw] in violations(expected, observed)


def test_what_becomes_of_a_hostile_record_violates_nothing(expected: ExpectedState, observed: ObservedState):
    position = ElementPosition(OUTCOMES, 3, 10**9, 0)
    expected.foreign, expected.foreign_requests = {position[:3]}, {"a simulation"}
    observed.fates[position], observed.refusals["its refusal"], observed.values[position] = ["refused"], position, b"{"
    observed.copies.append(DeadLetterCopy("its refusal", *position[:3], b"{"))
    observed.answers["a simulation"] = {b'{"status":"rejected"}'}
    assert violations(expected, observed) == {}


def test_each_invariant_can_fail():
    assert set(FLAWS.values()) == INVARIANTS.keys()


# -- the proxy


async def test_a_cut_ends_the_connections_of_a_proxy_which_accepts_new_ones_afterwards():
    proxy = Proxy()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", proxy.broker_port)
    async with server, proxy.listening(), asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.public_port)
        writer.write(b"one")
        assert await reader.read(3) == b"one"
        cutting = asyncio.create_task(proxy.cut(0.2))
        with pytest.raises(ConnectionError):
            await _read_until_it_breaks(reader, writer)
        with pytest.raises(ConnectionError):
            await _read_until_it_breaks(*await asyncio.open_connection("127.0.0.1", proxy.public_port))
        await cutting
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.public_port)
        writer.write(b"two")
        assert await reader.read(3) == b"two"
        writer.close()


async def _read_until_it_breaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"?")
    if not await reader.read(1):
        raise ConnectionError
