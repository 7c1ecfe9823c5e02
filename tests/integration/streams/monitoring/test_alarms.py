"""Alarms of all rows and of segments with a real PostgreSQL: which are latched, published and answered by a retrain request."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from aiokafka.errors import KafkaConnectionError

from engine.fidelity.error_sums import contributions
from schemas import DriftEvent, DriftState, RetrainEvent, SourceId
from schemas.events import SUM_FIELDS
from sql import drift_state_store as store
from sql import source_position_store, window_store
from sql.database import Pool, open_pool, transaction
from sql.retrain_decision_store import is_decided
from sql.retrain_store import finished_trainings
from streams.monitoring.alarms import Alarms
from streams.monitoring.drift_detection import DriftEvaluator
from streams.monitoring.line_monitor import LineMonitor
from streams.monitoring.line_state import LineState, load_line
from streams.monitoring.window_state import SeriesKey
from streams.settings import Settings
from tests.error_streams import sampled_baseline
from tests.outcomes import LINE, START, make_card, make_line

PANE_S = 60.0
N_PER_PANE = 400
LEVELS = 8
SIZES = np.linspace(0.5, 2.0, LEVELS)
SOURCE = SourceId(topic="outcome-events", partition=0)


def draw(rng: np.random.Generator, n: int, change: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draw errors whose size differs by region, multiplied by ``change`` since the model was trained."""
    level = rng.integers(0, LEVELS, n)
    return rng.normal(size=n) * (SIZES * change)[level], level


BEFORE = draw(np.random.default_rng(0), 20_000, np.ones(LEVELS))
CARD = make_card().model_copy(update={"baseline": sampled_baseline(BEFORE[0], BEFORE[1].astype(str))})
WHOLE = SeriesKey(CARD.model_id, "all")
SAME, ALL_LARGER, ONE_LARGER = np.ones(LEVELS), np.full(LEVELS, 1.6), np.array([1.0, 1.0, 1.8, *np.ones(LEVELS - 3)])


class Recorder:
    """Replaces the app: records the published events and provides pool and settings."""

    restoring: str | None = None

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.settings = Settings()
        self.events: list[Any] = []

    async def publish(self, event: Any, key: str) -> None:
        assert key == LINE
        self.events.append(event)

    def events_of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
async def pool(fresh_database: str) -> AsyncIterator[Pool]:
    await make_line(fresh_database, CARD, pane_s=PANE_S, window_s=300.0)
    opened = await open_pool(dsn=fresh_database)
    await source_position_store.begin_source(opened, SOURCE)
    yield opened
    await opened.close()


async def store_outcomes(pool: Pool, errors: np.ndarray, levels: np.ndarray, *, first: int = 0) -> None:
    """Store the sums of outcomes, 400 per pane, as ingestion does."""
    nothing = np.full(len(errors), np.nan)
    rows = contributions(np.zeros(len(errors)), errors, nothing, nothing, CARD.baseline)
    names = f"(model_id, segment, pane, width_s, source, line, last_offset, {', '.join(SUM_FIELDS)})"
    parameters = ", ".join(f"${number}" for number in range(1, 8 + len(SUM_FIELDS)))
    values = []
    for pane in range(len(rows) // N_PER_PANE):
        start = START.timestamp() // PANE_S * PANE_S + (first + pane) * PANE_S
        here = slice(pane * N_PER_PANE, (pane + 1) * N_PER_PANE)
        for segment, mask in [
            ("all", np.ones(N_PER_PANE, dtype=bool)),
            *((f"region={k}", levels[here] == k) for k in range(LEVELS)),
        ]:
            sums = rows[here][mask].sum(axis=0).tolist()
            values.append((CARD.model_id, segment, start, PANE_S, str(SOURCE), LINE, 0, *sums))
    await pool.executemany(f"INSERT INTO fidelity_panes {names} VALUES ({parameters})", values)


async def loaded(pool: Pool) -> LineState:
    """The line as a new worker loads it."""
    model_line = next(line for line in await window_store.monitored_lines(pool) if line.line == LINE)
    return await load_line(pool, model_line, DriftEvaluator(200, 1e6, {CARD.model_id: CARD}), datetime.now(UTC))


async def evaluated(pool: Pool) -> tuple[LineState, Recorder]:
    """The line as a new worker loads and evaluates it."""
    line, app = await loaded(pool), Recorder(pool)
    await Alarms(app).evaluate(line)
    return line, app


async def replace_outcomes(owner_pool: Pool, errors: np.ndarray, levels: np.ndarray) -> None:
    """Store other outcomes instead of all that are stored."""
    await owner_pool.execute("DELETE FROM fidelity_panes")
    await store_outcomes(owner_pool, errors, levels)


def states(app: Recorder) -> dict[str, str]:
    return {event.segment: event.state.value for event in app.events_of(DriftEvent)}


async def test_segments_whose_errors_were_always_large_raise_no_alarm(pool):
    await store_outcomes(pool, *draw(np.random.default_rng(1), 20_000, SAME))
    line, app = await evaluated(pool)
    assert line.alarmed == set()
    assert {state for segment, state in states(app).items() if segment != "all"} <= {"ok"}
    assert app.events_of(RetrainEvent) == []


async def test_outcomes_sorted_by_a_segment_are_left_to_it_and_raise_no_alarm_of_all_rows(pool):
    rng = np.random.default_rng(12)
    hardest = np.full(2_000, LEVELS - 1)
    await store_outcomes(pool, rng.normal(size=2_000) * SIZES[hardest], hardest)
    line, app = await evaluated(pool)
    assert line.alarmed == set()
    event = next(event for event in app.events_of(DriftEvent) if event.segment == "all")
    assert (event.state, event.carried_by) == (DriftState.WARNING, f"region={LEVELS - 1}")
    assert event.evidence_by_loss["size"] >= 1.0
    assert f"region={LEVELS - 1} carries it" in event.reason
    assert app.events_of(RetrainEvent) == []
    await store_outcomes(pool, *draw(rng, 4_000, SAME), first=5)
    line, app = await evaluated(pool)  # by another worker
    assert WHOLE in line.window_state.restarts
    assert line.window_state.detector_state(WHOLE, line.evaluator.initial_state(WHOLE)).peak_ratio() < 1.0
    assert line.alarmed == set()
    assert app.events_of(RetrainEvent) == []


async def test_one_changed_segment_raises_an_alarm_and_requests_a_retrain_while_all_rows_are_fine(pool):
    await store_outcomes(pool, *draw(np.random.default_rng(2), 12_000, ONE_LARGER))
    line, app = await evaluated(pool)
    assert SeriesKey(CARD.model_id, "region=2") in line.alarmed
    assert [event.segment for event in app.events_of(DriftEvent) if event.state is DriftState.ALARM] == ["region=2"]
    (request,) = app.events_of(RetrainEvent)
    assert request.evidence["segment"] == "region=2"
    assert await is_decided(pool, request)
    assert "rule and detector agree" in request.reason


async def test_a_detector_alarm_stays_until_the_rule_fires_as_well(pool):
    rng = np.random.default_rng(3)
    await store_outcomes(pool, *draw(rng, 2_000, ALL_LARGER))
    await store_outcomes(pool, *draw(rng, 10_000, 0.9 * SAME), first=5)
    line, app = await evaluated(pool)
    assert WHOLE in line.alarmed
    event = next(event for event in app.events_of(DriftEvent) if event.segment == "all")
    assert event.state is DriftState.WARNING
    assert "all outcomes together show that the error has changed" in event.reason
    await store_outcomes(pool, *draw(rng, 400, ALL_LARGER), first=30)
    _, later = await evaluated(pool)
    assert states(later)["all"] == "alarm"
    assert "all" in {event.evidence["segment"] for event in later.events_of(RetrainEvent)}


async def test_a_restatement_does_not_withdraw_an_alarm(pool, owner_pool):
    await store_outcomes(pool, *draw(np.random.default_rng(4), 2_000, ALL_LARGER))
    line, _ = await evaluated(pool)
    assert WHOLE in line.alarmed
    await replace_outcomes(owner_pool, *draw(np.random.default_rng(5), 2_000, SAME))
    again, app = await evaluated(pool)
    assert WHOLE in again.alarmed
    assert again.drift_states[WHOLE] is DriftState.ALARM
    assert app.events_of(RetrainEvent) == []


async def test_a_retrain_is_requested_again_only_after_a_finished_training(pool):
    await store_outcomes(pool, *draw(np.random.default_rng(6), 2_000, ALL_LARGER))
    _, first = await evaluated(pool)
    _, second = await evaluated(pool)
    assert len({event.retrain_id for event in first.events_of(RetrainEvent)}) == 1
    assert second.events_of(RetrainEvent) == []
    assert await finished_trainings(pool, CARD.model_id) == 0


async def test_a_worker_that_missed_the_alarm_of_another_one_does_not_withdraw_it(pool, owner_pool):
    await store_outcomes(pool, *draw(np.random.default_rng(7), 2_000, SAME))
    behind, app = await loaded(pool), Recorder(pool)
    await replace_outcomes(owner_pool, *draw(np.random.default_rng(8), 2_000, ALL_LARGER))
    await evaluated(pool)

    await Alarms(app).evaluate(behind)

    assert behind.drift_states[WHOLE] is DriftState.ALARM
    assert "all" not in states(app)
    assert await stored_state(pool) == ("alarm", True)


async def test_a_detector_alarm_needs_the_confirmation_of_the_stored_rows(pool, owner_pool):
    await store_outcomes(pool, *draw(np.random.default_rng(9), 2_000, ALL_LARGER))
    line, app = await loaded(pool), Recorder(pool)
    await replace_outcomes(owner_pool, *draw(np.random.default_rng(10), 2_000, SAME))

    await Alarms(app).evaluate(line)

    assert line.alarmed == await store.alarmed_series(pool, LINE) == set()
    assert DriftState.ALARM not in {event.state for event in app.events_of(DriftEvent)}


async def test_an_alarm_state_needs_a_rule_that_fires_on_the_stored_rows(pool, owner_pool):
    await store_outcomes(pool, *draw(np.random.default_rng(11), 2_000, ALL_LARGER))
    async with transaction(pool) as connection:
        await store.latch_alarm(connection, LINE, WHOLE)
    line, app = await loaded(pool), Recorder(pool)
    await replace_outcomes(owner_pool, *draw(np.random.default_rng(12), 2_000, SAME))

    await Alarms(app).evaluate(line)

    assert "all" not in states(app)
    assert await stored_state(pool) is None


class Offline(Recorder):
    """An app without a broker."""

    async def publish(self, event: Any, key: str) -> None:
        raise KafkaConnectionError(f"{event} for {key}")


@pytest.mark.parametrize(("change", "state"), [(ALL_LARGER, "alarm"), (SAME, "ok")], ids=["alarm", "ok"])
async def test_a_state_is_stored_before_it_is_published_and_published_by_the_next_worker(pool, change, state):
    await store_outcomes(pool, *draw(np.random.default_rng(13), 2_000, change))
    with pytest.raises(KafkaConnectionError):
        await Alarms(Offline(pool)).evaluate(await loaded(pool))
    assert await stored_state(pool) == (state, False)

    app = Recorder(pool)
    await LineMonitor(app).line(LINE)  # type: ignore[arg-type]  # what is needed of an app here

    assert states(app)["all"] == state
    assert await stored_state(pool) == (state, True)


async def stored_state(pool: Pool) -> tuple[str, bool] | None:
    """State of the series of all rows in Postgres, and whether it was published."""
    row = await pool.fetchrow("SELECT state, said FROM drift_states WHERE segment = 'all'")
    return None if row is None else tuple(row)
