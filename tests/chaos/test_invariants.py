"""The harness itself: what it plans, what it takes for true, and that each of its invariants can fail."""

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

from tests.chaos import expected as truth_module
from tests.chaos.environment import Door
from tests.chaos.expected import Figures, Published, Truth, truth_of
from tests.chaos.invariants import INVARIANTS, breaches
from tests.chaos.observed import Copy, Found
from tests.chaos.plan import OUTCOMES, POISON, Said, Scenario, plan
from tests.chaos.schedule import KILLS, Kind, long_mix, schedule

BEGINS = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
SCENARIO = Scenario(
    seed=1, begins=BEGINS, seconds=60.0, outcomes=4000, requests=40, center=0.0, scale=1.0, rmse=0.5, pane_s=60.0, window_s=120.0
)


# -- what is broken when


@pytest.mark.parametrize("seed", range(5))
def test_a_schedule_is_drawn_from_its_seed_alone_and_lies_within_the_stream(seed: int):
    faults = schedule(seed, 10, long_mix(10))
    assert faults == schedule(seed, 10, long_mix(10)) != schedule(seed + 1, 10, long_mix(10))
    assert faults == sorted(faults)
    assert all(0 < fault.at_s < 600 for fault in faults)


def test_the_long_run_breaks_everything_and_kills_at_least_twenty_times():
    kinds = Counter(fault.kind for fault in schedule(1, 10, long_mix(10)))
    assert kinds.keys() == set(Kind)
    assert sum(kinds[kind] for kind in KILLS) >= 20
    assert long_mix(0.1) == long_mix(10)
    assert long_mix(20)[Kind.KILL_ROLE] == 2 * long_mix(10)[Kind.KILL_ROLE]


# -- what is published


def test_a_plan_is_drawn_from_its_seed_alone_in_the_order_of_publishing():
    said = plan(SCENARIO)
    assert said == plan(SCENARIO) != plan(replace(SCENARIO, seed=2))
    assert [record.due_s for record in said] == sorted(record.due_s for record in said)


def test_a_plan_holds_a_hundredth_of_poison_of_ten_kinds_and_a_twentieth_of_duplicates():
    said = plan(replace(SCENARIO, outcomes=20_000))
    values = Counter(record.value for record in said if record.value not in {None, b"[]"})
    flaws = Counter(record.flaw for record in said)
    assert len(POISON) == 10
    assert POISON.keys() | {"future", ""} == flaws.keys()
    assert sum(flaws[kind] for kind in POISON) / len(said) == pytest.approx(0.0135, abs=0.004)
    assert sum(count - 1 for count in values.values()) / len(said) == pytest.approx(0.05, abs=0.01)


def test_a_plan_comes_late_early_too_late_corrected_retracted_and_out_of_order():
    said = [(record.due_s, body) for record in plan(SCENARIO) for body in record.outcomes if body is not None]
    ages = [due_s - (datetime.fromisoformat(body["observed_at"]) - BEGINS).total_seconds() for due_s, body in said]
    assert min(ages) < -5
    assert sum(100 < age < 2000 for age in ages) > 40
    assert max(ages) > SCENARIO.restatement_s
    later = [body for _, body in said if body.get("revision", 0)]
    assert {1, 2} <= {body["revision"] for body in later}
    assert any(body["actual_value"] is None for body in later)
    observed = [body["observed_at"] for _, body in said]
    assert sum(one > other for one, other in pairwise(observed)) > len(observed) / 4


# -- what is true


def an_outcome(name: int, at_s: float, actual: float | None, predicted: float = 0.0, **more: object) -> dict[str, object]:
    return {
        "event_id": f"00000000-0000-4000-8000-{name:012}",
        "observed_at": (BEGINS + timedelta(seconds=at_s)).isoformat(),
        "twin_type": "hcp",
        "brand": "kisqali",
        "metric_type": "prescribing_change",
        "actual_value": actual,
        "predicted_value": predicted,
        "segment": {"region": "west"},
    } | more


def published(*bodies: dict[str, object] | None) -> list[Published]:
    return [
        Published(offset, Said(0.0, OUTCOMES, b"", b"bytes", (body,), "" if body else "cut short"), 0, offset)
        for offset, body in enumerate(bodies)
    ]


def test_the_truth_counts_each_event_once_by_its_highest_revision():
    truth = truth_of(
        SCENARIO,
        published(
            an_outcome(1, 10, 9.0, revision=0),
            an_outcome(1, 10, 1.0, 4.0, revision=2, predicted_lower=3.0, predicted_upper=5.0),
            an_outcome(1, 10, 2.0, revision=1),
            an_outcome(2, 20, -1.0),
            an_outcome(2, 20, -1.0),
            an_outcome(3, 30, 5.0),
            an_outcome(3, 30, None, revision=1),
            an_outcome(4, 70, 0.5),
            None,
            an_outcome(5, -8000, 1.0),
        ),
    )
    pane, following = BEGINS.timestamp(), BEGINS.timestamp() + 60
    assert {key[1] for key in truth.panes} == {pane, following}
    assert truth.panes["all", pane] == (2, 1, 0, 400_000, 0, 160_000_000_000, 20_000_000_000, 40_000_000_000, 400_000)
    assert truth.windows["region=west", pane] == pytest.approx((3, 1.5, (10.25 / 3) ** 0.5, 3.5 / 3, 0.0))
    assert truth.windows["all", following] == Figures(1, 0.5, 0.5, -0.5, None)
    assert Counter(truth.fates.values()) == {"counted": 8, "refused": 1, "too_late": 1}


def test_the_truth_owes_nothing_to_the_service():
    tree = ast.parse(Path(truth_module.__file__).read_text(encoding="utf-8"))
    rooms = {node.module.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert rooms <= {"schemas", "tests", *sys.stdlib_module_names}


# -- what is found


@pytest.fixture(scope="module")
def truth() -> Truth:
    said = plan(SCENARIO)
    return truth_of(SCENARIO, [Published(number, record, number % 4, number // 4) for number, record in enumerate(said)])


@pytest.fixture
def found(truth: Truth) -> Found:
    """What a service without a flaw leaves behind."""
    refused = {str(number): place for number, place in enumerate(place for place, fate in truth.fates.items() if fate == "refused")}
    values = {place: truth.values.get(place, b"an element") for place in refused.values()}
    return Found(
        fates={place: [fate] for place, fate in truth.fates.items()},
        refusals=refused,
        values=values,
        panes=dict(truth.panes),
        view=dict(truth.windows),
        answers={name: {f'{{"status":"{status}"}}'.encode()} for name, status in truth.answers.items()},
        letters=[Copy(refusal, *place[:3], values[place]) for refusal, place in refused.items()],
    )


def lose_a_row(found: Found) -> None:
    del found.fates[next(place for place, fates in found.fates.items() if fates == ["counted"])]


def double_a_row(found: Found) -> None:
    next(fates for fates in found.fates.values() if fates == ["counted"]).append("duplicate")


def miscount_a_pane(found: Found) -> None:
    key, (n, *rest) = next(iter(found.panes.items()))
    found.panes[key] = (n + 1, *rest)


def count_in_a_pane_of_nobody(found: Found) -> None:
    found.panes["all", 0.0] = (1, *[0] * 8)


def refuse_twice(found: Found) -> None:
    found.refusals["again"] = next(iter(found.refusals.values()))


def change_what_was_refused(found: Found) -> None:
    place = next(place for place, value in found.values.items() if value and value != b"an element")
    found.values[place] = b"{}"


def send_no_letter(found: Found) -> None:
    found.letters.pop()


def answer_twice(found: Found) -> None:
    next(iter(found.answers.values())).add(b'{"status":"completed", "other": 1}')


def answer_otherwise(found: Found) -> None:
    found.answers[next(iter(found.answers))] = {b'{"status":"failed"}'}


def leave_a_window_behind(found: Found) -> None:
    key, figures = next(iter(found.view.items()))
    found.view[key] = figures._replace(n=figures.n - 1)


def lose_an_acknowledged_record(found: Found) -> None:
    found.unsent.append(7)


def disagree_with_itself(found: Found) -> None:
    found.mismatches.append("a head without outcomes")


FLAWS: dict[Callable[[Found], None], str] = {
    lose_a_row: "every element has its one row",
    double_a_row: "every element has its one row",
    miscount_a_pane: "every good outcome counts once in its pane",
    count_in_a_pane_of_nobody: "every good outcome counts once in its pane",
    refuse_twice: "every bad record is refused once",
    change_what_was_refused: "every bad record is refused once",
    send_no_letter: "every refusal is among the dead letters",
    answer_twice: "all answers to a request are the same",
    answer_otherwise: "all answers to a request are the same",
    leave_a_window_behind: "windows say the truth",
    lose_an_acknowledged_record: "what was acknowledged is there",
    disagree_with_itself: "the service agrees with itself",
}


def test_a_service_without_a_flaw_breaks_no_invariant(truth: Truth, found: Found):
    assert breaches(truth, found) == {}


@pytest.mark.parametrize("flaw", FLAWS, ids=lambda flaw: flaw.__name__.replace("_", " "))
def test_each_flaw_is_named(flaw: Callable[[Found], None], truth: Truth, found: Found):
    flaw(found)
    assert FLAWS[flaw] in breaches(truth, found)


def test_each_invariant_can_fail():
    assert set(FLAWS.values()) == INVARIANTS.keys()


# -- what breaks


async def test_a_door_that_is_cut_ends_its_connections_and_opens_again():
    door = Door()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", door.behind)
    async with server, door.standing(), asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", door.front)
        writer.write(b"one")
        assert await reader.read(3) == b"one"
        cutting = asyncio.create_task(door.cut(0.2))
        with pytest.raises(ConnectionError):
            await _until_it_breaks(reader, writer)
        with pytest.raises(ConnectionError):
            await _until_it_breaks(*await asyncio.open_connection("127.0.0.1", door.front))
        await cutting
        reader, writer = await asyncio.open_connection("127.0.0.1", door.front)
        writer.write(b"two")
        assert await reader.read(3) == b"two"
        writer.close()


async def _until_it_breaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"?")
    if not await reader.read(1):
        raise ConnectionError
