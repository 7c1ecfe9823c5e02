"""A line as the fidelity agent holds it, on a real PostgreSQL: whatever was forgotten, it says what a whole view would say."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from aiokafka.errors import KafkaConnectionError

from engine.fidelity.e_detector import accumulate
from engine.fidelity.error_sums import add_sums, fidelity_metrics
from schemas import DriftState, FidelityMetrics, FidelityWindow, SourceId
from sql import source_position_store, window_store
from sql.database import Pool, clock, open_pool
from sql.window_store import MonitoredLine, Snapshot, SourceState
from streams.agents import fidelity
from streams.agents.fidelity import _Fidelity
from streams.ingestion.pipeline import OutcomePipeline
from streams.ingestion.scoring_context import ContextLoader
from streams.kafka.topics import PARTITIONS
from streams.monitoring.drift_detection import DriftEvaluator
from streams.monitoring.line_state import LineState, evidence_before, load_line, read_series
from streams.monitoring.restatement_floor import limit_of, raise_floor
from streams.monitoring.window_state import SeriesKey, WindowKey, WindowState
from streams.settings import Settings
from tests.outcomes import LINE, START, TOPIC, cut, make_card, make_line, outcome, record

PANE_S, WINDOW_S, SOURCES = 60.0, 300.0, 4
ALL = SeriesKey(make_card().model_id, "all")
JUDGE = DriftEvaluator(50, 1e6, {make_card().model_id: make_card()})
BEGAN = START.timestamp()


@pytest.fixture
async def pool(fresh_database: str) -> AsyncIterator[Pool]:
    await make_line(fresh_database, make_card(), pane_s=PANE_S, window_s=WINDOW_S)
    opened = await open_pool(dsn=fresh_database)
    for partition in range(SOURCES):
        await source_position_store.begin_source(opened, SourceId(topic=TOPIC, partition=partition))
    yield opened
    await opened.close()


async def take_in(pool: Pool, numbers: Any, *, first: int = 0, partition: int = 0, **said: Any) -> list[Any]:
    """Take outcomes of these seconds in, and return the rows that are told."""
    library = ContextLoader(pool, None, None)  # type: ignore[arg-type]  # outcomes bring their predictions
    intake = OutcomePipeline(pool, library, skew_s=300.0, restatement_s=30 * 86_400.0)
    records = [record(first + place, outcome(number, **said), partition=partition) for place, number in enumerate(numbers)]
    done = [await intake.take(each) for each in cut(records, 500)]
    return [found.row for each in done for found in each.rows]


async def state(pool: Pool) -> MonitoredLine:
    (found,) = await window_store.monitored_lines(pool)
    return found


async def loaded(pool: Pool) -> LineState:
    return await load_line(pool, await state(pool), JUDGE, await clock(pool))


async def whole(pool: Pool) -> WindowState:
    """All that is stored, in one view that forgets nothing."""
    view = WindowState(PANE_S, WINDOW_S)
    for source, found in await window_store.live_rows(pool, LINE, -math.inf):
        view.apply(source, found.row)
    return view


def said_of(line: LineState, window: WindowKey, status: Any = "final") -> FidelityWindow:
    version, _ = line.view.window(window)
    start = datetime.fromtimestamp(window.start, UTC)
    return FidelityWindow(
        line=LINE,
        model_id=window.series.model_id,
        metric_type="prescribing_change",
        segment=window.series.segment,
        window_start=start,
        window_end=start + timedelta(seconds=WINDOW_S),
        status=status,
        version=version,
        metrics=FidelityMetrics(n=1),
        state=DriftState.OK,
    )


async def settle(pool: Pool, line: LineState, *, below: float = math.inf) -> None:
    """What an agent does when windows close."""
    closing = {window for window in line.unsettled if window.start < below}
    events = {window: said_of(line, window) for window in closing}
    await window_store.save_snapshots(pool, list(events.values()))
    line.snapshots.update({window: Snapshot(event.version, event.status) for window, event in events.items()})
    line.unsettled -= closing
    line.due -= closing


async def test_what_no_snapshot_covers_is_owed_after_a_restart_and_nothing_else(pool: Pool):
    await take_in(pool, range(0, 1800, 10))
    before = await loaded(pool)
    assert before.unsettled == set((await whole(pool)).windows())
    await settle(pool, before, below=BEGAN + 600)
    behind = START + timedelta(seconds=300)
    await pool.execute("UPDATE fidelity_snapshots SET version = version - 1 WHERE window_start = $1", behind)

    line = await loaded(pool)

    owed = {
        window
        for window in before.unsettled | before.snapshots.keys()
        if window.start >= BEGAN + 600 or window.start == BEGAN + 300
    }
    assert line.due == line.unsettled == owed
    everything = await whole(pool)
    assert all(line.view.window(window) == everything.window(window) for window in line.unsettled)


async def test_rows_that_no_message_told_of_are_found_by_the_sweep(pool: Pool):
    await take_in(pool, range(0, 600, 5))
    line = await loaded(pool)
    await settle(pool, line)
    untold = await take_in(pool, range(600, 900, 5), first=120)

    await line.catch_up(pool, await window_store.changed_rows(pool, LINE, -math.inf, line.seen_at))

    everything = await whole(pool)
    assert line.due == line.unsettled
    assert {window.start for window in line.due} == {
        pane - back * PANE_S for row in untold for back in range(5) for pane in [row.pane // PANE_S * PANE_S]
    }
    assert all(line.view.window(window) == everything.window(window) for window in line.due)


async def test_a_late_outcome_restates_windows_that_were_forgotten_and_moves_the_detector(pool: Pool):
    await take_in(pool, range(0, 7200, 10))
    line = await loaded(pool)
    await settle(pool, line)
    line.forget()
    late = await take_in(pool, [120], first=720, event_id="00000000-0000-0000-0000-000000000077", actual_value=9.0)

    panes = await line.take(pool, f"{TOPIC}:0:0", late)
    await line.refold(pool, line.view.stale)

    everything = await whole(pool)
    assert {start for _, start in panes} == {BEGAN + 120}
    changed = {SeriesKey(row.model_id, row.segment) for row in late}
    assert line.unsettled == {
        window
        for window in everything.windows()
        if window.series in changed and window.start <= BEGAN + 120 < window.start + WINDOW_S
    }
    assert all(line.view.window(window) == everything.window(window) for window in line.unsettled)
    assert all(line.snapshots[window].version < line.view.version(window) for window in line.unsettled)
    assert line.view.evidence(ALL, JUDGE.first(ALL)) == everything.evidence(ALL, JUDGE.first(ALL))


@pytest.mark.parametrize("seed", [1, 2])
async def test_whatever_comes_whenever_something_is_forgotten_windows_are_those_of_a_view_that_forgets_nothing(
    pool: Pool, seed: int
):
    rnd, line, everything = random.Random(seed), await loaded(pool), WindowState(PANE_S, WINDOW_S)
    offsets = [0] * SOURCES
    for step in range(12):
        partition = rnd.randrange(SOURCES)
        numbers = [rnd.choice((step * 600 + rnd.randrange(600), rnd.randrange(7200))) for _ in range(15)]
        event = f"00000000-0000-0000-0000-{step:012d}"
        rows = await take_in(pool, numbers, first=offsets[partition], partition=partition)
        rows += await take_in(pool, numbers[:1], first=offsets[partition] + 15, partition=partition, event_id=event)
        offsets[partition] += 16
        await line.take(pool, f"{TOPIC}:{partition}:0", rows)
        changed = {window for row in rows for window in everything.apply(f"{TOPIC}:{partition}:0", row)}
        assert all(line.view.window(window) == everything.window(window) for window in changed)
        if step % 3 == 2:
            await settle(pool, line)
            line.forget()
        if step % 5 == 4:
            line = await loaded(pool)
        await line.refold(pool, line.view.stale)
        assert line.view.evidence(ALL, JUDGE.first(ALL)) == everything.evidence(ALL, JUDGE.first(ALL))
        assert line.view.latest(ALL, 50) == everything.latest(ALL, 50)


async def test_what_is_held_does_not_grow_with_the_time_that_is_kept(pool: Pool):
    held = []
    for hour in range(3):
        await take_in(pool, range(3600 * hour, 3600 * (hour + 1), 10), first=360 * hour)
        line = await loaded(pool)
        await settle(pool, line)
        line.forget()
        held.append(sum(line.view.holds(*row) for row in await stored(pool, 0)))

    stored_rows = await pool.fetchval("SELECT count(*) FROM fidelity_panes")
    assert held[2] == held[0] < stored_rows / 3


async def stored(pool: Pool, partition: int) -> list[tuple[str, Any]]:
    source = f"{TOPIC}:{partition}:0"
    return [(each.source, each.found.row) for each in await window_store.live_rows(pool, LINE, -math.inf) if each.source == source]


async def test_forgotten_panes_are_named_so_that_they_leave_tombstones(pool: Pool):
    await take_in(pool, range(0, 3600, 10))
    line = await loaded(pool)
    held = {(window.series, window.start) for window in line.view.windows()}
    await settle(pool, line)

    dropped = line.forget()

    assert dropped
    assert set(dropped) <= held
    assert all(start < BEGAN + 3600 - 2 * WINDOW_S for _, start in dropped)


async def test_an_alarm_is_judged_by_all_that_is_stored_and_not_by_what_is_held(pool: Pool):
    await take_in(pool, range(0, 3600, 10))
    line = await loaded(pool)
    await take_in(pool, range(3600, 3700, 5), first=360)  # what the agent has not heard yet

    view = await read_series(pool, line, ALL)

    everything = await whole(pool)
    assert view.evidence(ALL, JUDGE.first(ALL)) == everything.evidence(ALL, JUDGE.first(ALL))
    assert view.latest(ALL, 50) == everything.latest(ALL, 50)
    assert view.latest(ALL, 50) != line.view.latest(ALL, 50)


async def test_a_snapshot_is_replaced_by_a_higher_version_only(pool: Pool):
    await take_in(pool, range(60))
    line = await loaded(pool)
    window = WindowKey(ALL, BEGAN)
    told = said_of(line, window)

    for version, n in ((3, 30), (4, 40), (2, 20), (4, 41)):
        event = told.model_copy(update={"version": version, "metrics": FidelityMetrics(n=n)})
        await window_store.save_snapshots(pool, [event])

    assert [tuple(row) for row in await pool.fetch("SELECT version, sample_size FROM fidelity_snapshots")] == [(4, 40)]


class Voice:
    """An app whose broker takes messages, or none."""

    rebalancing = in_recovery = should_stop = False

    def __init__(self, pool: Pool) -> None:
        self.pool, self.settings, self.heard, self.is_heard = pool, Settings(grace_s=0.0), 0, False
        self.leaves_after = math.inf

    async def send_event(self, event: FidelityWindow, *, key: str) -> asyncio.Future[None]:
        sent = asyncio.get_running_loop().create_future()
        if self.is_heard:
            self.heard += 1
            self.should_stop = self.heard == self.leaves_after or self.should_stop
            sent.set_result(None)
        else:
            sent.set_exception(KafkaConnectionError("no broker"))
        return sent


async def test_a_window_is_kept_as_final_only_after_it_was_said(pool: Pool):
    await take_in(pool, range(0, 900, 10))
    voice = Voice(pool)
    agent, line = _Fidelity(voice, {}), await loaded(pool)  # type: ignore[arg-type]  # what is needed of an app here
    owed = set(line.unsettled)
    for partition in range(SOURCES):
        agent._watermarks.note(SourceId(topic=TOPIC, partition=partition), START + timedelta(days=1))

    with pytest.raises(KafkaConnectionError):
        await agent._say(line)
    assert await pool.fetchval("SELECT count(*) FROM fidelity_snapshots") == 0
    assert line.unsettled == line.due == owed

    voice.is_heard = True
    await agent._say(line)
    assert await pool.fetchval("SELECT count(*) FROM fidelity_snapshots") == voice.heard == len(owed)


async def test_a_worker_that_is_asked_to_leave_says_no_more_windows_than_it_has_in_hand(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fidelity, "_SAID_AT_ONCE", 10)
    await take_in(pool, range(0, 900, 10))
    voice = Voice(pool)
    agent, line = _Fidelity(voice, {}), await loaded(pool)  # type: ignore[arg-type]  # what is needed of an app here
    owed = set(line.due)
    voice.is_heard, voice.leaves_after = True, 15

    await agent._say(line)
    assert (voice.heard, len(line.due)) == (20, len(owed) - 20)

    voice.should_stop = True
    await agent._say(line)
    assert voice.heard == 20

    voice.should_stop = False
    line.said_at = -math.inf
    await agent._say(line)
    assert (voice.heard, line.due) == (len(owed), set())


async def test_a_window_that_changed_a_hundred_times_is_said_once(pool: Pool):
    line, voice = await loaded(pool), Voice(pool)
    agent, voice.is_heard = _Fidelity(voice, {}), True  # type: ignore[arg-type]  # what is needed of an app here
    for number in range(100):
        await line.take(pool, f"{TOPIC}:0:0", await take_in(pool, [number % 60], first=number, event_id=str(UUID(int=number))))

    await agent._say(line)

    windows = set((await whole(pool)).windows())
    assert voice.heard == len(windows) < max(line.view.version(window) for window in windows)
    await agent._say(line)
    assert voice.heard == len(windows)


async def test_a_sweep_of_the_agent_finds_rows_that_no_message_told_of(pool: Pool):
    await take_in(pool, range(0, 600, 5))
    line = await loaded(pool)
    await settle(pool, line)
    agent = _Fidelity(Voice(pool), {})  # type: ignore[arg-type]  # what is needed of an app here
    agent._lines[LINE] = line
    untold = await take_in(pool, range(600, 900, 5), first=120)

    await agent.sweep()

    assert {(window.series.segment, window.start) for window in line.due} >= {
        (row.segment, row.pane // PANE_S * PANE_S) for row in untold
    }


async def test_an_agent_begins_anew_with_every_assignment(pool: Pool):
    await take_in(pool, range(0, 600, 5))
    agent = _Fidelity(Voice(pool), {})  # type: ignore[arg-type]  # what is needed of an app here
    held = await agent._line(LINE)
    assert held is not None
    await take_in(pool, range(600, 900, 5), first=120)  # while another worker had the line

    await agent.on_assigned(None, set())

    line = await agent._line(LINE)
    assert line is not None
    assert line.due == set((await whole(pool)).windows()) > held.due


async def test_a_snapshot_keeps_every_figure_with_how_sure_it_is(pool: Pool):
    await take_in(pool, range(60))
    line = await loaded(pool)
    window = WindowKey(ALL, BEGAN)
    said = fidelity_metrics(line.view.window(window)[1], make_card().baseline).model_copy(update={"n_effective": 31.5})

    await window_store.save_snapshots(pool, [said_of(line, window).model_copy(update={"metrics": said})])

    row = await pool.fetchrow("SELECT * FROM fidelity_snapshots")
    assert row is not None
    assert {name: tuple(ends) for name, ends in row["intervals"].items()} == said.intervals
    assert set(said.intervals) == {"correlation", "coverage_95pct"}
    assert row["standard_errors"] == said.standard_errors
    assert set(said.standard_errors) == {"mae", "rmse", "bias", "correlation", "coverage_95pct"}
    assert (row["n_effective"], row["sample_size"]) == (31.5, said.n)


# -- the floor


async def reach(pool: Pool, at: datetime, *, partitions: int = SOURCES) -> None:
    await pool.execute("UPDATE source_positions SET watermark = $1 WHERE partition < $2", at, partitions)


async def settled_hours(pool: Pool, seconds: int) -> LineState:
    await take_in(pool, range(0, seconds, 10))
    line = await loaded(pool)
    await settle(pool, line)
    return line


LIMITS = Settings(restatement_s=1200.0)


async def test_the_floor_rises_to_the_limit_of_the_slowest_source_and_never_falls(pool: Pool):
    line = await settled_hours(pool, 3600)
    await reach(pool, START + timedelta(seconds=3600))
    await reach(pool, START + timedelta(seconds=3000), partitions=1)

    await raise_floor(pool, line, LIMITS)
    assert (await state(pool)).floor == line.view.floor == BEGAN + 1800

    await reach(pool, START + timedelta(seconds=2400), partitions=1)
    await raise_floor(pool, line, LIMITS)
    assert (await state(pool)).floor == BEGAN + 1800


async def test_the_floor_stops_at_a_window_whose_snapshot_is_behind(pool: Pool):
    line = await settled_hours(pool, 3600)
    await reach(pool, START + timedelta(seconds=3600))
    await pool.execute("DELETE FROM fidelity_snapshots WHERE window_start = $1", START + timedelta(seconds=600))

    await raise_floor(pool, line, LIMITS)

    assert (await state(pool)).floor is None


async def test_the_floor_rises_as_far_as_windows_are_settled(pool: Pool):
    await take_in(pool, range(0, 3600, 10))
    line = await loaded(pool)
    await settle(pool, line, below=BEGAN + 600)
    await reach(pool, START + timedelta(seconds=3600))

    await raise_floor(pool, line, LIMITS)

    assert (await state(pool)).floor == BEGAN + 600


async def test_the_floor_waits_where_a_slice_came_between_the_fold_and_the_lock(pool: Pool, monkeypatch: pytest.MonkeyPatch):
    line = await settled_hours(pool, 3600)
    await reach(pool, START + timedelta(seconds=3600))
    looked = window_store.version_between

    async def and_then_a_slice(database: Any, *where: Any) -> int:
        found = await looked(database, *where)
        if database is pool:
            await pool.execute("UPDATE fidelity_panes SET version = version + 1 WHERE pane = $1", BEGAN)
            await pool.execute("UPDATE fidelity_snapshots SET version = version + 1 WHERE window_start <= $1", START)
        return found

    monkeypatch.setattr(window_store, "version_between", and_then_a_slice)
    await raise_floor(pool, line, LIMITS)

    assert (await state(pool)).floor is None


async def test_the_detector_goes_on_from_the_floor_as_if_there_were_none(pool: Pool):
    line = await settled_hours(pool, 3600)
    everything = (await whole(pool)).evidence(ALL, JUDGE.first(ALL))
    for seconds in (2400, 3600):  # twice, the second time from the first floor on
        await reach(pool, START + timedelta(seconds=seconds))
        await raise_floor(pool, line, LIMITS)

    after = await loaded(pool)

    assert after.view.floor == BEGAN + 2400
    assert after.view.evidence(ALL, JUDGE.first(ALL)) == everything
    rows = await window_store.live_rows(pool, LINE, -math.inf)
    below = sorted((found.row for _, found in rows if found.row.segment == "all" and found.row.pane < after.view.floor), key=_pane)
    expected = accumulate([add_sums([row.sums]) for row in below], JUDGE.first(ALL))
    assert (await evidence_before(pool, await state(pool), after.view.floor, JUDGE, [ALL]))[ALL] == expected


async def test_the_floor_of_a_line_that_fell_silent_stays_below_what_is_held(pool: Pool):
    line = await settled_hours(pool, 3600)
    everything = (await whole(pool)).evidence(ALL, JUDGE.first(ALL))
    await reach(pool, START + timedelta(days=1))  # by the outcomes of other lines
    await raise_floor(pool, line, LIMITS)

    assert (await state(pool)).floor == line.view.held_from
    alone = await read_series(pool, line, ALL)
    assert alone.evidence(ALL, JUDGE.first(ALL)) == line.view.evidence(ALL, JUDGE.first(ALL)) == everything


async def test_no_window_wholly_below_the_floor_is_said_again(pool: Pool):
    line = await settled_hours(pool, 3600)
    await reach(pool, START + timedelta(seconds=3600))
    await raise_floor(pool, line, LIMITS)
    line.forget()

    for source, row in await stored(pool, 0):
        await line.take(pool, source, [row])

    assert min(window.start for window in line.due) == line.view.floor - WINDOW_S + PANE_S


def _pane(row: Any) -> float:
    return float(row.pane)


def source_state(partition: int, reached: int | None, *, read_to_end: int | None = None) -> SourceState:
    marks = [None if second is None else datetime.fromtimestamp(second, UTC) for second in (reached, read_to_end)]
    return SourceState(SourceId(topic=TOPIC, partition=partition), *marks)


N_SOURCES = PARTITIONS[TOPIC]


@pytest.mark.parametrize(
    ("last", "limit"),
    [
        (source_state(N_SOURCES - 1, 7000), 6000),
        (source_state(N_SOURCES - 1, 7000, read_to_end=9990), 8000),
        (source_state(N_SOURCES - 1, 7000, read_to_end=9000), 6000),
        (source_state(N_SOURCES - 1, None, read_to_end=9990), 8000),
        (source_state(N_SOURCES - 1, None), None),
    ],
    ids=["the slowest", "read to its end just now", "read to its end long ago", "empty", "begun and silent"],
)
def test_a_source_that_was_read_to_its_end_does_not_hold_the_floor_back(last: SourceState, limit: float | None):
    others = [source_state(partition, 9000 + partition) for partition in range(N_SOURCES - 1)]

    assert limit_of([*others, last], datetime.fromtimestamp(10_000, UTC), 100.0, 1000.0) == limit
    assert limit_of(others, datetime.fromtimestamp(10_000, UTC), 100.0, 1000.0) is None
