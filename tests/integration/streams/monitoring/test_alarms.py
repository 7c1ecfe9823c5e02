"""Alarms of the whole and of segments against a real PostgreSQL: what is latched, what is said, and what is asked for."""

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
from sql import source_position_store
from sql import window_store as store
from sql.database import Pool, open_pool, transaction
from sql.retrain_store import finished_trainings
from streams.agents.fidelity import _Fidelity
from streams.monitoring.alarms import Alarms
from streams.monitoring.drift_detection import DriftEvaluator
from streams.monitoring.line_state import LineState, load_line
from streams.monitoring.window_state import SeriesKey
from streams.settings import Settings
from tests.error_streams import sampled_baseline
from tests.outcomes import LINE, START, make_card, make_line

PANE_S = 60.0
A_PANE = 400
LEVELS = 8
SIZES = np.linspace(0.5, 2.0, LEVELS)
SOURCE = SourceId(topic="outcome-events", partition=0)


def draw(rng: np.random.Generator, n: int, change: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Errors whose size differs by region by nature, and by ``change`` since the model was trained."""
    level = rng.integers(0, LEVELS, n)
    return rng.normal(size=n) * (SIZES * change)[level], level


BEFORE = draw(np.random.default_rng(0), 20_000, np.ones(LEVELS))
CARD = make_card().model_copy(update={"baseline": sampled_baseline(BEFORE[0], BEFORE[1].astype(str))})
WHOLE = SeriesKey(CARD.model_id, "all")
SAME, ALL_LARGER, ONE_LARGER = np.ones(LEVELS), np.full(LEVELS, 1.6), np.array([1.0, 1.0, 1.8, *np.ones(LEVELS - 3)])


class Recorder:
    """Takes what is said, and gives the pool: all that alarms need of the app."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.settings = Settings()
        self.said: list[Any] = []

    async def publish(self, event: Any, key: str) -> None:
        assert key == LINE
        self.said.append(event)

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.said if isinstance(event, kind)]


@pytest.fixture
async def pool(fresh_database: str) -> AsyncIterator[Pool]:
    await make_line(fresh_database, CARD, pane_s=PANE_S, window_s=300.0)
    opened = await open_pool(dsn=fresh_database)
    await source_position_store.begin_source(opened, SOURCE)
    yield opened
    await opened.close()


async def tell(pool: Pool, errors: np.ndarray, levels: np.ndarray, *, first: int = 0) -> None:
    """Store the sums of outcomes, 400 a pane, as a slice would."""
    nothing = np.full(len(errors), np.nan)
    rows = contributions(np.zeros(len(errors)), errors, nothing, nothing, CARD.baseline)
    names = f"(model_id, segment, pane, width_s, source, line, last_offset, {', '.join(SUM_FIELDS)})"
    places = ", ".join(f"${place}" for place in range(1, 8 + len(SUM_FIELDS)))
    kept = []
    for pane in range(len(rows) // A_PANE):
        start = START.timestamp() // PANE_S * PANE_S + (first + pane) * PANE_S
        here = slice(pane * A_PANE, (pane + 1) * A_PANE)
        for segment, chosen in [("all", np.ones(A_PANE, dtype=bool)), *((f"region={k}", levels[here] == k) for k in range(LEVELS))]:
            sums = rows[here][chosen].sum(axis=0).tolist()
            kept.append((CARD.model_id, segment, start, PANE_S, str(SOURCE), LINE, 0, *sums))
    await pool.executemany(f"INSERT INTO fidelity_panes {names} VALUES ({places})", kept)


async def found(pool: Pool) -> LineState:
    """The line as somebody who comes anew finds it."""
    state = next(each for each in await store.monitored_lines(pool) if each.line == LINE)
    return await load_line(pool, state, DriftEvaluator(200, 1e6, {CARD.model_id: CARD}), datetime.now(UTC))


async def judged(pool: Pool) -> tuple[LineState, Recorder]:
    """The line as somebody who comes anew finds and judges it."""
    line, app = await found(pool), Recorder(pool)
    await Alarms(app).judge(line)
    return line, app


async def tell_instead(pool: Pool, errors: np.ndarray, levels: np.ndarray) -> None:
    """Store other outcomes in the place of all that were told."""
    await pool.execute("DELETE FROM fidelity_panes")
    await tell(pool, errors, levels)


def states(app: Recorder) -> dict[str, str]:
    return {event.segment: event.state.value for event in app.of(DriftEvent)}


async def test_segments_with_large_errors_by_nature_are_no_cause_of_alarm(pool):
    await tell(pool, *draw(np.random.default_rng(1), 20_000, SAME))
    line, app = await judged(pool)
    assert line.alarmed == set()
    assert {state for segment, state in states(app).items() if segment != "all"} <= {"ok"}
    assert app.of(RetrainEvent) == []


async def test_one_segment_that_changed_is_found_and_asks_for_a_retrain_while_the_whole_is_fine(pool):
    await tell(pool, *draw(np.random.default_rng(2), 12_000, ONE_LARGER))
    line, app = await judged(pool)
    assert SeriesKey(CARD.model_id, "region=2") in line.alarmed
    assert [event.segment for event in app.of(DriftEvent) if event.state is DriftState.ALARM] == ["region=2"]
    (asked,) = app.of(RetrainEvent)
    assert asked.evidence["segment"] == "region=2"
    assert "rule and detector agree" in asked.reason


async def test_an_alarm_of_the_detector_stays_and_meets_the_rule_later(pool):
    rng = np.random.default_rng(3)
    await tell(pool, *draw(rng, 2_000, ALL_LARGER))
    await tell(pool, *draw(rng, 10_000, 0.9 * SAME), first=5)
    line, app = await judged(pool)
    assert WHOLE in line.alarmed
    told = next(event for event in app.of(DriftEvent) if event.segment == "all")
    assert told.state is DriftState.WARNING
    assert "all outcomes together show that the error has grown" in told.reason
    await tell(pool, *draw(rng, 400, ALL_LARGER), first=30)
    _, later = await judged(pool)
    assert states(later)["all"] == "alarm"
    assert "all" in {event.evidence["segment"] for event in later.of(RetrainEvent)}


async def test_a_restatement_takes_no_alarm_back(pool):
    await tell(pool, *draw(np.random.default_rng(4), 2_000, ALL_LARGER))
    line, _ = await judged(pool)
    assert WHOLE in line.alarmed
    await tell_instead(pool, *draw(np.random.default_rng(5), 2_000, SAME))
    again, app = await judged(pool)
    assert WHOLE in again.alarmed
    assert again.states[WHOLE] is DriftState.ALARM
    assert app.of(RetrainEvent) == []


async def test_asking_again_takes_another_finished_training(pool):
    await tell(pool, *draw(np.random.default_rng(6), 2_000, ALL_LARGER))
    _, first = await judged(pool)
    _, second = await judged(pool)
    assert len({event.retrain_id for event in first.of(RetrainEvent)}) == 1
    assert second.of(RetrainEvent) == []
    assert await finished_trainings(pool, CARD.model_id) == 0


async def test_whoever_missed_the_alarm_of_another_worker_does_not_take_it_back(pool):
    await tell(pool, *draw(np.random.default_rng(7), 2_000, SAME))
    behind, app = await found(pool), Recorder(pool)
    await tell_instead(pool, *draw(np.random.default_rng(8), 2_000, ALL_LARGER))
    await judged(pool)

    await Alarms(app).judge(behind)

    assert behind.states[WHOLE] is DriftState.ALARM
    assert "all" not in states(app)
    assert await kept(pool) == ("alarm", True)


async def test_a_detector_raises_no_alarm_that_the_stored_rows_do_not_confirm(pool):
    await tell(pool, *draw(np.random.default_rng(9), 2_000, ALL_LARGER))
    line, app = await found(pool), Recorder(pool)
    await tell_instead(pool, *draw(np.random.default_rng(10), 2_000, SAME))

    await Alarms(app).judge(line)

    assert line.alarmed == await store.alarms(pool, LINE) == set()
    assert DriftState.ALARM not in {event.state for event in app.of(DriftEvent)}


async def test_a_state_of_alarm_takes_a_rule_that_fires_on_the_stored_rows(pool):
    await tell(pool, *draw(np.random.default_rng(11), 2_000, ALL_LARGER))
    async with transaction(pool) as connection:
        await store.latch_alarm(connection, LINE, WHOLE)
    line, app = await found(pool), Recorder(pool)
    await tell_instead(pool, *draw(np.random.default_rng(12), 2_000, SAME))

    await Alarms(app).judge(line)

    assert "all" not in states(app)
    assert await kept(pool) is None


class Mute(Recorder):
    """No broker takes what it says."""

    async def publish(self, event: Any, key: str) -> None:
        raise KafkaConnectionError(f"{event} for {key}")


@pytest.mark.parametrize(("change", "state"), [(ALL_LARGER, "alarm"), (SAME, "ok")], ids=["alarm", "ok"])
async def test_a_state_is_kept_before_it_is_said_and_said_by_the_next_worker(pool, change, state):
    await tell(pool, *draw(np.random.default_rng(13), 2_000, change))
    with pytest.raises(KafkaConnectionError):
        await Alarms(Mute(pool)).judge(await found(pool))
    assert await kept(pool) == (state, False)

    app = Recorder(pool)
    await _Fidelity(app, {})._line(LINE)

    assert states(app)["all"] == state
    assert await kept(pool) == (state, True)


async def kept(pool: Pool) -> tuple[str, bool] | None:
    """State of the whole in Postgres, and whether it was said."""
    row = await pool.fetchrow("SELECT state, said FROM drift_states WHERE segment = 'all'")
    return None if row is None else tuple(row)
