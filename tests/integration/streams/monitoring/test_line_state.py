"""The state of a line with a real PostgreSQL: whatever was evicted, its windows are those of a state that evicts nothing."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
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
from streams.agents.fidelity import _Fidelity
from streams.ingestion import ContextLoader, OutcomePipeline
from streams.kafka import PARTITIONS
from streams.monitoring import line_state, window_events
from streams.monitoring.drift_detection import DriftEvaluator
from streams.monitoring.line_monitor import LineMonitor
from streams.monitoring.line_state import LineState, detector_states_before, load_line, read_series
from streams.monitoring.restatement_floor import floor_limit, raise_floor
from streams.monitoring.window_state import SeriesKey, WindowKey, WindowState
from streams.settings import Settings
from tests.outcomes import LINE, START, TOPIC, make_card, make_line, outcome, poll_batches, record

PANE_S, WINDOW_S, SOURCES = 60.0, 300.0, 4
ALL = SeriesKey(make_card().model_id, "all")
EVALUATOR = DriftEvaluator(50, 1e6, {make_card().model_id: make_card()})
INITIAL = EVALUATOR.initial_state(ALL)
START_S = START.timestamp()


@pytest.fixture
async def pool(fresh_database: str) -> AsyncIterator[Pool]:
    await make_line(fresh_database, make_card(), pane_s=PANE_S, window_s=WINDOW_S)
    opened = await open_pool(dsn=fresh_database)
    for partition in range(SOURCES):
        await source_position_store.begin_source(opened, SourceId(topic=TOPIC, partition=partition))
    yield opened
    await opened.close()


async def ingest(pool: Pool, seconds: Any, *, first: int = 0, partition: int = 0, **fields: Any) -> list[Any]:
    """Ingest outcomes of these seconds, and return the rows that they change."""
    contexts = ContextLoader(pool, None, None)  # type: ignore[arg-type]  # outcomes bring their predictions
    pipeline = OutcomePipeline(pool, contexts, skew_s=300.0, restatement_s=30 * 86_400.0)
    records = [record(first + position, outcome(second, **fields), partition=partition) for position, second in enumerate(seconds)]
    results = [await pipeline.ingest(batch) for batch in poll_batches(records, 500)]
    return [changed.row for result in results for changed in result.rows]


async def stored_line(pool: Pool) -> MonitoredLine:
    (model_line,) = await window_store.monitored_lines(pool)
    return model_line


async def loaded(pool: Pool) -> LineState:
    return await load_line(pool, await stored_line(pool), EVALUATOR, await clock(pool))


async def complete_state(pool: Pool) -> WindowState:
    """All stored rows in one state without eviction."""
    state = WindowState(PANE_S, WINDOW_S)
    for source, row in await window_store.live_rows(pool, LINE, -math.inf):
        state.apply_row(source, row)
    return state


def event_of(line: LineState, window: WindowKey, status: Any = "final") -> FidelityWindow:
    version, _ = line.window_state.window_sums(window)
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


async def store_snapshots(pool: Pool, line: LineState, *, below: float = math.inf) -> None:
    """Store the snapshots of windows, as the agent does when they close."""
    closed = {window for window in line.pending_snapshots if window.start < below}
    events = {window: event_of(line, window) for window in closed}
    await window_store.save_snapshots(pool, list(events.values()))
    line.snapshots.update({window: Snapshot(event.version, event.status) for window, event in events.items()})
    line.pending_snapshots -= closed
    line.unpublished -= closed


async def test_after_a_restart_exactly_the_windows_without_a_snapshot_are_pending(pool: Pool):
    await ingest(pool, range(0, 1800, 10))
    before = await loaded(pool)
    assert before.pending_snapshots == set((await complete_state(pool)).windows())
    await store_snapshots(pool, before, below=START_S + 600)
    behind = START + timedelta(seconds=300)
    await pool.execute("UPDATE fidelity_snapshots SET version = version - 1 WHERE window_start = $1", behind)

    line = await loaded(pool)

    pending = {
        window
        for window in before.pending_snapshots | before.snapshots.keys()
        if window.start >= START_S + 600 or window.start == START_S + 300
    }
    assert line.unpublished == line.pending_snapshots == pending
    complete = await complete_state(pool)
    assert all(line.window_state.window_sums(window) == complete.window_sums(window) for window in line.pending_snapshots)


async def test_rows_that_no_message_delivered_are_applied_by_the_sweep(pool: Pool):
    await ingest(pool, range(0, 600, 5))
    line = await loaded(pool)
    await store_snapshots(pool, line)
    missed = await ingest(pool, range(600, 900, 5), first=120)

    await line.catch_up(pool, await window_store.changed_rows(pool, LINE, -math.inf, line.read_at))

    complete = await complete_state(pool)
    assert line.unpublished == line.pending_snapshots
    assert {window.start for window in line.unpublished} == {
        pane - back * PANE_S for row in missed for back in range(5) for pane in [row.pane // PANE_S * PANE_S]
    }
    assert all(line.window_state.window_sums(window) == complete.window_sums(window) for window in line.unpublished)


async def test_a_late_outcome_restates_evicted_windows_and_changes_the_detector(pool: Pool):
    await ingest(pool, range(0, 7200, 10))
    line = await loaded(pool)
    await store_snapshots(pool, line)
    line.evict()
    late = await ingest(pool, [120], first=720, event_id="00000000-0000-0000-0000-000000000077", actual_value=9.0)

    panes = await line.ingest(pool, f"{TOPIC}:0:0", late)
    await line.rebuild_detectors(pool, line.window_state.stale_detectors)

    complete = await complete_state(pool)
    assert {start for _, start in panes} == {START_S + 120}
    changed = {SeriesKey(row.model_id, row.segment) for row in late}
    assert line.pending_snapshots == {
        window
        for window in complete.windows()
        if window.series in changed and window.start <= START_S + 120 < window.start + WINDOW_S
    }
    assert all(line.window_state.window_sums(window) == complete.window_sums(window) for window in line.pending_snapshots)
    assert all(line.snapshots[window].version < line.window_state.window_version(window) for window in line.pending_snapshots)
    assert line.window_state.detector_state(ALL, INITIAL) == complete.detector_state(ALL, INITIAL)


@pytest.mark.parametrize("seed", [1, 2])
async def test_windows_are_those_of_a_state_without_eviction_whenever_panes_are_evicted(pool: Pool, seed: int):
    rnd, line, complete = random.Random(seed), await loaded(pool), WindowState(PANE_S, WINDOW_S)
    offsets = [0] * SOURCES
    for step in range(12):
        partition = rnd.randrange(SOURCES)
        seconds = [rnd.choice((step * 600 + rnd.randrange(600), rnd.randrange(7200))) for _ in range(15)]
        event = f"00000000-0000-0000-0000-{step:012d}"
        rows = await ingest(pool, seconds, first=offsets[partition], partition=partition)
        rows += await ingest(pool, seconds[:1], first=offsets[partition] + 15, partition=partition, event_id=event)
        offsets[partition] += 16
        await line.ingest(pool, f"{TOPIC}:{partition}:0", rows)
        changed = {window for row in rows for window in complete.apply_row(f"{TOPIC}:{partition}:0", row)}
        assert all(line.window_state.window_sums(window) == complete.window_sums(window) for window in changed)
        if step % 3 == 2:
            await store_snapshots(pool, line)
            line.evict()
        if step % 5 == 4:
            line = await loaded(pool)
        await line.rebuild_detectors(pool, line.window_state.stale_detectors)
        assert line.window_state.detector_state(ALL, INITIAL) == complete.detector_state(ALL, INITIAL)
        assert line.window_state.latest_panes(ALL, 50) == complete.latest_panes(ALL, 50)


async def test_the_number_of_held_panes_does_not_grow_with_retention(pool: Pool):
    held = []
    for hour in range(3):
        await ingest(pool, range(3600 * hour, 3600 * (hour + 1), 10), first=360 * hour)
        line = await loaded(pool)
        await store_snapshots(pool, line)
        line.evict()
        held.append(sum(line.window_state.is_held(*row) for row in await stored(pool, 0)))

    stored_rows = await pool.fetchval("SELECT count(*) FROM fidelity_panes")
    assert held[2] == held[0] < stored_rows / 3


async def stored(pool: Pool, partition: int) -> list[tuple[str, Any]]:
    source = f"{TOPIC}:{partition}:0"
    return [tuple(row) for row in await window_store.live_rows(pool, LINE, -math.inf) if row.source == source]


async def test_settled_panes_are_evicted_and_no_longer_among_those_that_the_changelog_has(pool: Pool):
    await ingest(pool, range(0, 3600, 10))
    line = await loaded(pool)
    held = {(series, start) for series, start, _ in line.window_state.panes()}
    await store_snapshots(pool, line)

    line.evict()

    evicted = held - {(series, start) for series, start, _ in line.window_state.panes()}
    assert evicted
    assert all(start < START_S + 3600 - 2 * WINDOW_S for _, start in evicted)


async def test_a_long_history_is_loaded_in_parts_with_the_same_result(pool: Pool, monkeypatch: pytest.MonkeyPatch):
    await ingest(pool, range(0, 7200, 10))
    first = await loaded(pool)
    await store_snapshots(pool, first, below=START_S + 6000)
    await pool.execute(
        "UPDATE fidelity_snapshots SET version = version - 1 WHERE window_start < $1", START + timedelta(seconds=600)
    )
    at_once = await loaded(pool)
    monkeypatch.setattr(window_store, "pane_ranges", partial(window_store.pane_ranges, rows=7))
    monkeypatch.setattr(line_state, "_PANES_PER_READ", 3)
    steps: list[str] = []

    in_parts = await load_line(pool, await stored_line(pool), EVALUATOR, await clock(pool), steps.append)

    assert in_parts.pending_snapshots == at_once.pending_snapshots != set()
    assert sorted(in_parts.window_state.panes()) == sorted(at_once.window_state.panes())
    for series in at_once.window_state.series():
        initial = EVALUATOR.initial_state(series)
        assert in_parts.window_state.detector_state(series, initial) == at_once.window_state.detector_state(series, initial)
    assert len([step for step in steps if "parts of its history" in step]) > 50


async def test_alarms_are_confirmed_with_all_stored_rows_and_not_only_with_those_in_memory(pool: Pool):
    await ingest(pool, range(0, 3600, 10))
    line = await loaded(pool)
    await ingest(pool, range(3600, 3700, 5), first=360)  # not delivered to the agent yet

    state = await read_series(pool, line, ALL)

    complete = await complete_state(pool)
    assert state.detector_state(ALL, INITIAL) == complete.detector_state(ALL, INITIAL)
    assert state.latest_panes(ALL, 50) == complete.latest_panes(ALL, 50)
    assert state.latest_panes(ALL, 50) != line.window_state.latest_panes(ALL, 50)


async def test_a_snapshot_is_replaced_by_a_higher_version_only(pool: Pool):
    await ingest(pool, range(60))
    line = await loaded(pool)
    window = WindowKey(ALL, START_S)
    base = event_of(line, window)

    for version, n in ((3, 30), (4, 40), (2, 20), (4, 41)):
        event = base.model_copy(update={"version": version, "metrics": FidelityMetrics(n=n)})
        await window_store.save_snapshots(pool, [event])

    assert [tuple(row) for row in await pool.fetch("SELECT version, sample_size FROM fidelity_snapshots")] == [(4, 40)]


class BrokerStub:
    """An app whose broker is up or down."""

    rebalancing = in_recovery = should_stop = False
    restoring: str | None = None
    consumer = SimpleNamespace(assignment=set)  # of no partition

    def __init__(self, pool: Pool) -> None:
        self.pool, self.settings, self.n_sent, self.is_up = pool, Settings(grace_s=0.0), 0, False
        self.stops_after = math.inf

    def known_partitions(self, _topic: str, default: int) -> int:
        return default

    async def count_partitions(self, _topic: str) -> int:
        return SOURCES

    async def send_event(self, event: FidelityWindow, *, key: str) -> asyncio.Future[None]:
        sent = asyncio.get_running_loop().create_future()
        if self.is_up:
            self.n_sent += 1
            self.should_stop = self.n_sent == self.stops_after or self.should_stop
            sent.set_result(None)
        else:
            sent.set_exception(KafkaConnectionError("no broker"))
        return sent


async def test_a_snapshot_is_stored_only_after_its_window_was_published(pool: Pool):
    await ingest(pool, range(0, 900, 10))
    app = BrokerStub(pool)
    monitor, line = LineMonitor(app), await loaded(pool)  # type: ignore[arg-type]  # what is needed of an app here
    pending = set(line.pending_snapshots)
    monitor.watermarks.n_sources = SOURCES
    for partition in range(SOURCES):
        monitor.watermarks.update(SourceId(topic=TOPIC, partition=partition), START + timedelta(days=1))

    with pytest.raises(KafkaConnectionError):
        await monitor.publisher.publish(line)
    assert await pool.fetchval("SELECT count(*) FROM fidelity_snapshots") == 0
    assert line.pending_snapshots == line.unpublished == pending

    app.is_up = True
    await monitor.publisher.publish(line)
    assert await pool.fetchval("SELECT count(*) FROM fidelity_snapshots") == app.n_sent == len(pending)


async def test_a_worker_that_is_stopped_publishes_only_the_batch_it_has_started(pool: Pool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(window_events, "_WINDOWS_PER_BATCH", 10)
    await ingest(pool, range(0, 900, 10))
    app = BrokerStub(pool)
    monitor, line = LineMonitor(app), await loaded(pool)  # type: ignore[arg-type]  # what is needed of an app here
    pending = set(line.unpublished)
    app.is_up, app.stops_after = True, 15

    await monitor.publisher.publish(line)
    assert (app.n_sent, len(line.unpublished)) == (20, len(pending) - 20)

    app.should_stop = True
    await monitor.publisher.publish(line)
    assert app.n_sent == 20

    app.should_stop = False
    line.filling_published_at = -math.inf
    await monitor.publisher.publish(line)
    assert (app.n_sent, line.unpublished) == (len(pending), set())


async def test_a_worker_that_takes_a_line_over_publishes_only_what_was_not_published(pool: Pool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(window_events, "_WINDOWS_PER_BATCH", 10)
    await ingest(pool, range(0, 900, 10))
    first, app = await loaded(pool), BrokerStub(pool)
    publisher, app.is_up, app.stops_after = LineMonitor(app).publisher, True, 15  # type: ignore[arg-type]  # what is needed of an app
    total = len(first.unpublished)
    await publisher.publish(first)  # the first two batches, before it is stopped

    app.should_stop = False
    second = await loaded(pool)
    assert second.unpublished == first.unpublished
    assert len(second.unpublished) == total - app.n_sent == total - 20
    assert second.pending_snapshots == first.pending_snapshots
    await publisher.publish(second)
    assert (app.n_sent, (await loaded(pool)).unpublished) == (total, set())

    changed = await ingest(pool, [30], first=100, event_id="00000000-0000-0000-0000-000000000077")
    third = await loaded(pool)
    assert {window.start for window in third.unpublished} == {START_S - back * PANE_S for back in range(5)}
    assert {window.series.segment for window in third.unpublished} == {row.segment for row in changed}


async def test_a_window_that_was_published_open_is_published_once_more_when_it_closes(pool: Pool):
    await ingest(pool, range(0, 900, 10))
    app = BrokerStub(pool)
    monitor, app.is_up = LineMonitor(app), True  # type: ignore[arg-type]  # what is needed of an app here
    await monitor.publisher.publish(await loaded(pool))
    n_windows = app.n_sent
    assert await pool.fetchval("SELECT count(*) FROM published_windows") == n_windows

    restarted = await loaded(pool)
    monitor.watermarks.n_sources = SOURCES
    for partition in range(SOURCES):
        monitor.watermarks.update(SourceId(topic=TOPIC, partition=partition), START + timedelta(days=1))
    await monitor.publisher.publish(restarted)

    assert app.n_sent == 2 * n_windows
    assert await pool.fetchval("SELECT count(*) FROM fidelity_snapshots") == n_windows
    assert await pool.fetchval("SELECT count(*) FROM published_windows") == 0
    assert (await loaded(pool)).unpublished == set()


async def test_a_window_that_changed_a_hundred_times_is_published_once(pool: Pool):
    line, app = await loaded(pool), BrokerStub(pool)
    monitor, app.is_up = LineMonitor(app), True  # type: ignore[arg-type]  # what is needed of an app here
    for number in range(100):
        await line.ingest(pool, f"{TOPIC}:0:0", await ingest(pool, [number % 60], first=number, event_id=str(UUID(int=number))))

    await monitor.publisher.publish(line)

    windows = set((await complete_state(pool)).windows())
    assert app.n_sent == len(windows) < max(line.window_state.window_version(window) for window in windows)
    await monitor.publisher.publish(line)
    assert app.n_sent == len(windows)


class NoTable:
    async def sync(self, *_: object) -> None:
        """Write nothing."""


async def test_a_sweep_of_the_agent_applies_rows_that_no_message_delivered(pool: Pool):
    await ingest(pool, range(0, 600, 5))
    line = await loaded(pool)
    await store_snapshots(pool, line)
    agent = _Fidelity(BrokerStub(pool), SimpleNamespace(changelog_topic_name="panes"))  # type: ignore[arg-type]  # what is needed of an app here
    agent._monitor._lines[LINE] = line
    agent._panes = NoTable()  # type: ignore[assignment]  # there is no broker whose changelog could be compared
    missed = await ingest(pool, range(600, 900, 5), first=120)

    await agent.sweep()

    assert {(window.series.segment, window.start) for window in line.unpublished} >= {
        (row.segment, row.pane // PANE_S * PANE_S) for row in missed
    }


async def test_an_agent_loads_its_lines_again_after_every_assignment(pool: Pool):
    await ingest(pool, range(0, 600, 5))
    agent = _Fidelity(BrokerStub(pool), SimpleNamespace(changelog_topic_name="panes"))  # type: ignore[arg-type]  # what is needed of an app here
    held = await agent._monitor.line(LINE)
    assert held is not None
    await ingest(pool, range(600, 900, 5), first=120)  # while another worker had the line

    await agent.on_assigned(None, set())

    line = await agent._monitor.line(LINE)
    assert line is not None
    assert line.unpublished == set((await complete_state(pool)).windows()) > held.unpublished


async def test_a_snapshot_stores_every_metric_with_its_uncertainty(pool: Pool):
    await ingest(pool, range(60))
    line = await loaded(pool)
    window = WindowKey(ALL, START_S)
    metrics = fidelity_metrics(line.window_state.window_sums(window)[1], make_card().baseline).model_copy(
        update={"n_effective": 31.5}
    )

    await window_store.save_snapshots(pool, [event_of(line, window).model_copy(update={"metrics": metrics})])

    row = await pool.fetchrow("SELECT * FROM fidelity_snapshots")
    assert row is not None
    assert {name: tuple(ends) for name, ends in row["intervals"].items()} == metrics.intervals
    assert set(metrics.intervals) == {"correlation", "coverage_95pct"}
    assert row["standard_errors"] == metrics.standard_errors
    assert set(metrics.standard_errors) == {"mae", "rmse", "bias", "correlation", "coverage_95pct"}
    assert (row["n_effective"], row["sample_size"]) == (31.5, metrics.n)


# -- the floor


async def set_watermarks(pool: Pool, at: datetime, *, partitions: int = SOURCES) -> None:
    await pool.execute("UPDATE source_positions SET watermark = $1 WHERE partition < $2", at, partitions)


async def line_with_snapshots(pool: Pool, seconds: int) -> LineState:
    await ingest(pool, range(0, seconds, 10))
    line = await loaded(pool)
    await store_snapshots(pool, line)
    return line


LIMITS = Settings(restatement_s=1200.0)


async def test_the_floor_rises_to_the_limit_of_the_slowest_source_and_never_falls(pool: Pool):
    line = await line_with_snapshots(pool, 3600)
    await set_watermarks(pool, START + timedelta(seconds=3600))
    await set_watermarks(pool, START + timedelta(seconds=3000), partitions=1)

    await raise_floor(pool, line, LIMITS, N_SOURCES)
    assert (await stored_line(pool)).floor == line.window_state.floor == START_S + 1800

    await set_watermarks(pool, START + timedelta(seconds=2400), partitions=1)
    await raise_floor(pool, line, LIMITS, N_SOURCES)
    assert (await stored_line(pool)).floor == START_S + 1800


async def test_the_floor_stays_below_a_window_whose_snapshot_is_missing(pool: Pool, owner_pool: Pool):
    line = await line_with_snapshots(pool, 3600)
    await set_watermarks(pool, START + timedelta(seconds=3600))
    await owner_pool.execute("DELETE FROM fidelity_snapshots WHERE window_start = $1", START + timedelta(seconds=600))

    await raise_floor(pool, line, LIMITS, N_SOURCES)

    assert (await stored_line(pool)).floor is None


async def test_the_floor_rises_up_to_the_first_window_without_a_snapshot(pool: Pool):
    await ingest(pool, range(0, 3600, 10))
    line = await loaded(pool)
    await store_snapshots(pool, line, below=START_S + 600)
    await set_watermarks(pool, START + timedelta(seconds=3600))

    await raise_floor(pool, line, LIMITS, N_SOURCES)

    assert (await stored_line(pool)).floor == START_S + 600


async def test_the_floor_is_not_raised_when_rows_changed_before_the_lock(pool: Pool, monkeypatch: pytest.MonkeyPatch):
    line = await line_with_snapshots(pool, 3600)
    await set_watermarks(pool, START + timedelta(seconds=3600))
    version_between = window_store.version_between

    async def version_and_then_a_change(database: Any, *bounds: Any) -> int:
        version = await version_between(database, *bounds)
        if database is pool:
            await pool.execute("UPDATE fidelity_panes SET version = version + 1 WHERE pane = $1", START_S)
            await pool.execute("UPDATE fidelity_snapshots SET version = version + 1 WHERE window_start <= $1", START)
        return version

    monkeypatch.setattr(window_store, "version_between", version_and_then_a_change)
    await raise_floor(pool, line, LIMITS, N_SOURCES)

    assert (await stored_line(pool)).floor is None


async def test_the_detector_continues_from_the_floor_with_the_same_state_as_without_a_floor(pool: Pool):
    line = await line_with_snapshots(pool, 3600)
    complete = (await complete_state(pool)).detector_state(ALL, INITIAL)
    for seconds in (2400, 3600):  # twice, the second time from the first floor on
        await set_watermarks(pool, START + timedelta(seconds=seconds))
        await raise_floor(pool, line, LIMITS, N_SOURCES)

    after = await loaded(pool)

    assert after.window_state.floor == START_S + 2400
    assert after.window_state.detector_state(ALL, INITIAL) == complete
    rows = await window_store.live_rows(pool, LINE, -math.inf)
    below = sorted((row for _, row in rows if row.segment == "all" and row.pane < after.window_state.floor), key=_pane)
    expected = accumulate([add_sums([row.sums]) for row in below], INITIAL)
    assert (await detector_states_before(pool, await stored_line(pool), after.window_state.floor, EVALUATOR, [ALL]))[
        ALL
    ] == expected


async def test_the_floor_of_a_line_without_new_outcomes_stays_below_the_held_panes(pool: Pool):
    line = await line_with_snapshots(pool, 3600)
    complete = (await complete_state(pool)).detector_state(ALL, INITIAL)
    await set_watermarks(pool, START + timedelta(days=1))  # by the outcomes of other lines
    await raise_floor(pool, line, LIMITS, N_SOURCES)

    assert (await stored_line(pool)).floor == line.window_state.held_from
    single = await read_series(pool, line, ALL)
    assert single.detector_state(ALL, INITIAL) == line.window_state.detector_state(ALL, INITIAL) == complete


async def test_no_window_wholly_below_the_floor_is_published_again(pool: Pool):
    line = await line_with_snapshots(pool, 3600)
    await set_watermarks(pool, START + timedelta(seconds=3600))
    await raise_floor(pool, line, LIMITS, N_SOURCES)
    line.evict()

    for source, row in await stored(pool, 0):
        await line.ingest(pool, source, [row])

    assert min(window.start for window in line.unpublished) == line.window_state.floor - WINDOW_S + PANE_S


def _pane(row: Any) -> float:
    return float(row.pane)


def source_state(partition: int, watermark: int | None, *, read_to_end: int | None = None) -> SourceState:
    times = [None if second is None else datetime.fromtimestamp(second, UTC) for second in (watermark, read_to_end)]
    return SourceState(SourceId(topic=TOPIC, partition=partition), *times)


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
    ids=["the slowest", "read to its end just now", "read to its end long ago", "empty", "started and without a watermark"],
)
def test_a_source_that_was_read_to_its_end_recently_does_not_hold_the_floor_back(last: SourceState, limit: float | None):
    others = [source_state(partition, 9000 + partition) for partition in range(N_SOURCES - 1)]

    assert floor_limit([*others, last], N_SOURCES, datetime.fromtimestamp(10_000, UTC), 100.0, 1000.0) == limit
    assert floor_limit(others, N_SOURCES, datetime.fromtimestamp(10_000, UTC), 100.0, 1000.0) is None
