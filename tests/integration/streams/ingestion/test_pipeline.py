"""Batches of outcomes against a real PostgreSQL: whatever arrives, in whatever cut and however often, the sums are right."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NoReturn
from uuid import UUID, uuid5

import asyncpg
import pytest

from sql.database import Pool, transaction
from sql.dead_letter_store import RefusalQuery, list_refused
from sql.ledger import Ledger
from streams.ingestion import ContextLoader, IngestResult, OutcomePipeline
from streams.kafka.batch_consumer import PollBatch
from streams.kafka.parking import unreadable_record
from streams.operations.findings import Findings
from streams.operations.recomputation import recompute
from tests.outcomes import LINE, SPACE, START, TOPIC, make_card, outcome, poll_batches, record

PANE_S = 60.0


async def no_model(model_id: UUID) -> NoReturn:
    raise LookupError(f"no model {model_id} is needed here")


async def no_simulation(simulation_id: UUID) -> None:
    return None


@pytest.fixture
def pipeline(pool: Pool) -> OutcomePipeline:
    return make_pipeline(pool)


def make_pipeline(pool: Pool, *, restatement_s: float = 30 * 86_400.0) -> OutcomePipeline:
    return OutcomePipeline(pool, ContextLoader(pool, no_model, no_simulation), skew_s=300.0, restatement_s=restatement_s)


async def ingest(
    pipeline: OutcomePipeline, values: Iterable[Any], *, size: int = 100, first: int = 0, partition: int = 0
) -> list[IngestResult]:
    records = [record(first + number, value, partition=partition) for number, value in enumerate(values)]
    return [await pipeline.ingest(batch) for batch in poll_batches(records, size)]


async def fates(pool: Pool) -> dict[str, int]:
    return {row[0]: row[1] for row in await pool.fetch("SELECT fate::text, count(*) FROM fidelity_tracking GROUP BY 1")}


async def panes(pool: Pool) -> dict[tuple[str, float], tuple[int, Decimal, Decimal]]:
    """n, sum of actual and of absolute error by series and pane, over all sources and cells."""
    rows = await pool.fetch(
        "SELECT segment, floor(pane / $1) * $1 AS pane, sum(n), sum(actual), sum(absolute_error) FROM fidelity_panes GROUP BY 1, 2",
        PANE_S,
    )
    return {(row[0], row[1]): tuple(row)[2:] for row in rows if row[2] or row[3]}


def expected_panes(outcomes: Iterable[dict[str, Any]]) -> dict[tuple[str, float], tuple[int, int, int]]:
    """The same, in plain Python, from the highest revision of each event (equal revisions are not told apart here)."""
    newest: dict[str, dict[str, Any]] = {}
    for event in outcomes:
        before = newest.get(event["event_id"])
        if before is None or event.get("revision", 0) > before.get("revision", 0):
            newest[event["event_id"]] = event
    sums: defaultdict[tuple[str, float], list[int]] = defaultdict(lambda: [0, 0, 0])
    for event in newest.values():
        if event["actual_value"] is None:
            continue
        at = datetime.fromisoformat(event["observed_at"]).timestamp()
        predicted, actual = (round(event[name] / 2 / 1e-5) for name in ("predicted_value", "actual_value"))  # the scale is 2
        for series in ("all", f"region={event['segment']['region']}"):
            cell = sums[series, at // PANE_S * PANE_S]
            cell[0] += 1
            cell[1] += actual
            cell[2] += abs(predicted - actual)
    return {key: tuple(value) for key, value in sums.items()}  # type: ignore[misc]


async def test_every_outcome_is_counted_once_in_each_of_its_series(pipeline: OutcomePipeline, pool: Pool):
    outcomes = [outcome(number) for number in range(1000)]

    await ingest(pipeline, outcomes)

    assert await fates(pool) == {"counted": 1000}
    assert await panes(pool) == expected_panes(outcomes)


async def test_a_topic_that_is_replayed_from_the_start_changes_nothing_and_publishes_every_row_again(
    pipeline: OutcomePipeline, pool: Pool
):
    outcomes = [outcome(number) for number in range(300)]
    await ingest(pipeline, outcomes, size=100)
    before = await pool.fetch("SELECT * FROM fidelity_panes ORDER BY 1, 2, 3, 4")

    (again,) = await ingest(pipeline, outcomes, size=300)

    assert await pool.fetch("SELECT * FROM fidelity_panes ORDER BY 1, 2, 3, 4") == before
    assert again.n_replayed == 300
    assert not again.fates
    assert len(again.rows) == len(before)


async def test_a_batch_of_the_log_that_cannot_be_read_is_refused_with_its_first_and_last_offset(
    pipeline: OutcomePipeline, pool: Pool
):
    unreadable = unreadable_record(TOPIC, 0, 3, 9, 1_000_000, b"raw", ValueError("decompression failed"))

    await pipeline.ingest(PollBatch(TOPIC, 0, 0, [record(2, outcome(2)), unreadable, record(10, outcome(10))]))

    (refused,) = await list_refused(pool, RefusalQuery(TOPIC, "parked", offset=5), 10)
    assert (refused.first_offset, refused.offset, refused.value) == (3, 9, b"raw")
    assert await fates(pool) == {"counted": 2}


async def test_a_batch_that_is_half_stored_counts_the_other_half(pipeline: OutcomePipeline, pool: Pool):
    outcomes = [outcome(number) for number in range(150)]
    await ingest(pipeline, outcomes[:100], size=100)

    (mixed,) = await ingest(pipeline, outcomes[50:], first=50, size=100)

    assert mixed.n_replayed == 50
    assert await panes(pool) == expected_panes(outcomes)
    assert {row.last_offset for _, row in mixed.rows} == {99, 149}


@pytest.mark.parametrize("size", [1, 3, 10])
async def test_an_outcome_without_a_value_is_missing_whatever_the_cut_and_a_correction_counts(
    pipeline: OutcomePipeline, pool: Pool, size: int
):
    nothing = outcome(2, actual_value=None)
    outcomes = [outcome(1), nothing, nothing, outcome(3, actual_value=None), outcome(3, revision=1), outcome(4)]

    results = await ingest(pipeline, outcomes, size=size)

    assert await fates(pool) == {"counted": 3, "duplicate": 1, "missing": 2}
    assert sum(result.fates.get((LINE, "missing"), 0) for result in results) == 2
    assert await panes(pool) == expected_panes(outcomes)
    await ingest(pipeline, [outcome(2, revision=1, actual_value=0.5)], first=10)
    assert await panes(pool) == expected_panes([*outcomes, outcome(2, revision=1, actual_value=0.5)])


async def test_outlying_errors_are_named_by_their_events(pipeline: OutcomePipeline, pool: Pool):
    far = outcome(1, predicted_value=0.0, predicted_lower=None, predicted_upper=None, actual_value=3.5)
    near = outcome(2, predicted_value=0.0, predicted_lower=None, predicted_upper=None, actual_value=2.5)

    (result,) = await ingest(pipeline, [far, near, far])

    assert {line: list(map(str, events)) for line, events in result.outliers.items()} == {LINE: [far["event_id"]]}


async def test_an_event_that_is_sent_twice_is_a_duplicate(pipeline: OutcomePipeline, pool: Pool):
    outcomes = [outcome(1), outcome(2), outcome(1)]

    await ingest(pipeline, outcomes, size=2)

    assert await fates(pool) == {"counted": 2, "duplicate": 1}
    assert await panes(pool) == expected_panes(outcomes[:2])


@pytest.mark.parametrize("size", [1, 2, 3])
async def test_a_correction_moves_its_event_whatever_the_cut(pipeline: OutcomePipeline, pool: Pool, size: int):
    later = (START + timedelta(minutes=7)).isoformat()
    corrected = outcome(1, revision=1, actual_value=3.0, observed_at=later, segment={"region": "north"})
    outcomes = [outcome(1), outcome(2), corrected]

    await ingest(pipeline, outcomes, size=size)

    assert await fates(pool) == {"counted": 3}
    assert await panes(pool) == expected_panes(outcomes)


async def test_a_lower_revision_that_comes_later_is_only_stored(pipeline: OutcomePipeline, pool: Pool):
    outcomes = [outcome(1, revision=2, actual_value=1.0), outcome(1, revision=1, actual_value=9.0)]

    await ingest(pipeline, outcomes)

    assert await fates(pool) == {"counted": 1, "superseded": 1}
    assert await panes(pool) == expected_panes(outcomes[:1])


async def test_a_retraction_leaves_nothing_and_a_later_value_counts_again(pipeline: OutcomePipeline, pool: Pool):
    await ingest(pipeline, [outcome(1), outcome(1, revision=1, actual_value=None)])
    assert await panes(pool) == {}

    await ingest(pipeline, [outcome(1, revision=2, actual_value=0.25)], first=2)

    assert await panes(pool) == expected_panes([outcome(1, actual_value=0.25)])


@pytest.mark.parametrize("size", [1, 2])
async def test_equal_revisions_with_different_content_are_a_conflict_that_the_digest_decides(
    pool: Pool, owner_pool: Pool, size: int
):
    outcomes = [outcome(1, actual_value=0.1), outcome(1, actual_value=0.2)]
    ends = set()
    for order in (outcomes, outcomes[::-1]):
        await owner_pool.execute("TRUNCATE fidelity_tracking, event_heads, fidelity_panes")
        await owner_pool.execute("UPDATE source_positions SET last_offset = -1")
        await ingest(make_pipeline(pool), order, size=size)
        ends.add(await pool.fetchval("SELECT sum(actual) FROM fidelity_panes WHERE segment = 'all'"))
        assert await pool.fetchval("SELECT count(*) FROM fidelity_tracking WHERE conflict") == 1

    assert len(ends) == 1


async def test_a_correction_from_another_source_goes_into_the_rows_of_the_source_that_brought_it(
    pipeline: OutcomePipeline, pool: Pool
):
    await ingest(pipeline, [outcome(1)])

    await ingest(pipeline, [outcome(1, revision=1, actual_value=2.0)], partition=1)

    rows = await pool.fetch("SELECT source, n, version FROM fidelity_panes WHERE segment = 'all' ORDER BY source")
    assert [tuple(row) for row in rows] == [(f"{TOPIC}:0:0", 1, 1), (f"{TOPIC}:1:0", 0, 1)]
    assert await panes(pool) == expected_panes([outcome(1, actual_value=2.0)])


async def test_an_outcome_far_below_its_source_is_too_late_and_moves_nothing(pool: Pool):
    pipeline = make_pipeline(pool, restatement_s=600.0)
    late, inside = outcome(0), outcome(1000, observed_at=(START + timedelta(seconds=3600 - 600)).isoformat())
    outcomes = [outcome(3600), late, inside]

    await ingest(pipeline, outcomes, size=3)

    assert await fates(pool) == {"counted": 2, "too_late": 1}
    assert await panes(pool) == expected_panes([outcomes[0], inside])


async def test_a_correction_of_an_event_that_was_counted_too_long_ago_is_too_late(pool: Pool):
    pipeline = make_pipeline(pool, restatement_s=600.0)
    moved = outcome(0, revision=1, observed_at=outcome(3600)["observed_at"])

    await ingest(pipeline, [outcome(0), outcome(3600), moved], size=1)

    assert await fates(pool) == {"counted": 2, "too_late": 1}
    assert await panes(pool) == expected_panes([outcome(0), outcome(3600)])


@pytest.mark.parametrize("size", [1, 2])
async def test_a_correction_is_not_made_late_by_its_own_time(pool: Pool, size: int):
    moved = outcome(0, revision=1, observed_at=outcome(3600)["observed_at"])

    await ingest(make_pipeline(pool, restatement_s=600.0), [outcome(0), moved], size=size)

    assert await fates(pool) == {"counted": 2}
    assert await panes(pool) == expected_panes([moved])


async def test_an_outcome_below_the_floor_of_its_line_is_too_late(pipeline: OutcomePipeline, pool: Pool):
    await pool.execute("UPDATE model_lines SET floor = $1", START + timedelta(minutes=2))

    await ingest(pipeline, [outcome(60), outcome(130)])

    assert await fates(pool) == {"counted": 1, "too_late": 1}


REFUSED = {
    "no json": (b"\xff{", "json"),
    "not closed": (b'[{"event_id":', "json"),
    "a word": (b'"outcome"', "invalid"),
    "nothing": (None, "empty"),
    "empty array": ([], "empty"),
    "unknown field": (outcome(1, weight=3), "invalid"),
    "no time zone": (outcome(1, observed_at="2026-03-02T08:00:01"), "invalid"),
    "no number": (outcome(1, actual_value=float("nan")), "invalid"),
    "NUL": (outcome(1, segment={"region": "we\x00st"}), "json"),
    "control characters": (outcome(1, segment={"region": "we\x1fst"}), "segment"),
    "from the future": (outcome(1, observed_at=(START + timedelta(days=2)).isoformat()), "future"),
    "another line's model": (outcome(1, model_id=str(uuid5(SPACE, "nobody's"))), "model"),
    "a line without champion": (outcome(1, brand="fabhalta"), "champion"),
    "beyond all measure": (outcome(1, actual_value=1e9), "range"),
    "unknown simulation": (
        outcome(1, predicted_value=None, predicted_lower=None, predicted_upper=None)
        | {"simulation_id": str(UUID(int=1)), "twin_id": str(UUID(int=2))},
        "simulation",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_bad_record_is_refused_with_its_reason_and_the_next_one_counts(pipeline: OutcomePipeline, pool: Pool, case: str):
    value, kind = REFUSED[case]

    (result,) = await ingest(pipeline, [value, outcome(2)])

    assert [refused.kind for refused in result.refused] == [kind]
    row = await pool.fetchrow("SELECT kind, reason, key, source_offset, sent_at FROM refused_records")
    assert (row["kind"], row["key"], row["source_offset"], row["sent_at"]) == (kind, b"key", 0, None)
    assert len(row["reason"]) > 10
    assert await fates(pool) == {"counted": 1}


async def test_the_elements_of_an_array_stand_alone(pipeline: OutcomePipeline, pool: Pool):
    (result,) = await ingest(pipeline, [[outcome(1), {"event_id": 7}, outcome(2)], outcome(3)])

    assert result.fates == {(LINE, "counted"): 3}
    assert await pool.fetchval("SELECT value FROM refused_records") == b'{"event_id": 7}'
    assert [tuple(row) for row in await pool.fetch("SELECT source_offset, element FROM fidelity_tracking ORDER BY 1, 2")] == [
        (0, 0),
        (0, 2),
        (1, 0),
    ]
    assert await pool.fetchval("SELECT elements FROM source_positions WHERE partition = 0") == 4


async def test_a_jump_in_the_offsets_leaves_a_gap(pipeline: OutcomePipeline, pool: Pool):
    records = [record(offset, outcome(offset)) for offset in (2, 3, 7)]

    for batch in poll_batches(records, 2):
        await pipeline.ingest(batch)

    assert [tuple(row) for row in await pool.fetch("SELECT first_offset, last_offset FROM source_gaps ORDER BY 1")] == [
        (0, 1),
        (4, 6),
    ]


async def test_a_record_that_comes_into_a_gap_later_counts(pipeline: OutcomePipeline, pool: Pool):
    (around,) = poll_batches([record(0, outcome(0)), record(2, outcome(2))], 2)
    await pipeline.ingest(around)

    (late,) = await ingest(pipeline, [outcome(1)], first=1)

    assert late.fates == {(LINE, "counted"): 1}
    assert await panes(pool) == expected_panes(outcome(number) for number in range(3))


async def test_outcomes_are_scored_by_the_champion_of_their_time(pipeline: OutcomePipeline, pool: Pool):
    await ingest(pipeline, [outcome(1)])
    second = make_card("second")
    promoted = await Ledger(pool).promote(LINE, second.model_id, reason="better")
    assert promoted.effective_from is not None
    after = (promoted.effective_from + timedelta(seconds=1)).isoformat()
    records = [record(1, outcome(2)), record(2, outcome(3, observed_at=after), at=promoted.effective_from)]

    await pipeline.ingest(next(iter(poll_batches(records, 2))))

    rows = await pool.fetch("SELECT model_id FROM fidelity_tracking ORDER BY source_offset")
    assert [row[0] for row in rows] == [make_card("first").model_id] * 2 + [second.model_id]


async def test_a_correction_inherits_nothing_from_what_it_corrects(pipeline: OutcomePipeline, pool: Pool):
    first, second = make_card("first").model_id, make_card("second").model_id
    inside = outcome(1, model_id=str(second), segment={"region": "north"})
    corrected = {name: value for name, value in outcome(1, revision=1, segment={}).items() if not name.endswith("er")}

    await ingest(pipeline, [inside, corrected], size=1)

    rows = await pool.fetch("SELECT model_id, segment, n, n_interval FROM fidelity_panes WHERE n > 0 OR n_interval > 0")
    assert [tuple(row) for row in rows] == [(first, "all", 1, 0)]
    assert await pool.fetchval("SELECT count(*) FROM fidelity_panes WHERE model_id = $1 AND n = 0", second) == 2


async def test_what_is_refused_moves_no_watermark(pool: Pool):
    pipeline = make_pipeline(pool, restatement_s=600.0)
    ahead = outcome(7200, model_id=str(uuid5(SPACE, "nobody's")))

    (result,) = await ingest(pipeline, [outcome(10), ahead, outcome(0)])

    assert result.watermark == START + timedelta(seconds=10)
    assert await fates(pool) == {"counted": 2}


async def test_a_batch_that_fails_leaves_no_trace(pipeline: OutcomePipeline, pool: Pool, owner_pool: Pool):
    await owner_pool.execute("ALTER TABLE fidelity_panes ADD CONSTRAINT broken CHECK (n < 10)")
    with pytest.raises(asyncpg.CheckViolationError):
        await ingest(pipeline, [outcome(number) for number in range(50)])

    assert await fates(pool) == {}
    assert await pool.fetchval("SELECT count(*) FROM event_heads") == 0
    assert await pool.fetchval("SELECT max(last_offset) FROM source_positions") == -1


async def test_two_sources_with_the_same_events_do_not_deadlock(pool: Pool):
    numbers = list(range(400))
    outcomes = [outcome(number) for number in numbers]
    shuffled = random.Random(4).sample(outcomes, len(outcomes))

    await asyncio.gather(
        ingest(make_pipeline(pool), outcomes, size=40), ingest(make_pipeline(pool), shuffled, size=40, partition=1)
    )

    assert await fates(pool) == {"counted": 400, "duplicate": 400}
    assert await panes(pool) == expected_panes(outcomes)


async def test_a_batch_locks_its_line_before_it_waits_for_a_head(pipeline: OutcomePipeline, pool: Pool):
    await ingest(pipeline, [outcome(1)])
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with transaction(pool) as blocker:
        await blocker.execute("SELECT FROM event_heads FOR UPDATE")
        taking = asyncio.create_task(ingest(pipeline, [outcome(1, revision=1)], first=1))
        async with asyncio.timeout(60):
            while await pool.fetchval(waiting) == 0:  # noqa: ASYNC110  # Postgres does not signal that it waits
                await asyncio.sleep(0.01)
        with pytest.raises(asyncpg.LockNotAvailableError):
            await pool.execute("SELECT FROM model_lines FOR UPDATE NOWAIT")
    await taking


async def test_cells_split_while_a_pane_holds_many_outcomes_and_windows_do_not_change(pipeline: OutcomePipeline, pool: Pool):
    outcomes = [outcome(number, observed_at=(START + timedelta(milliseconds=20 * number)).isoformat()) for number in range(3000)]

    await ingest(pipeline, outcomes, size=250)

    widths = Counter(row[0] for row in await pool.fetch("SELECT width_s FROM fidelity_panes WHERE segment = 'all'"))
    assert len(widths) > 1
    assert min(widths) == PANE_S / await pool.fetchval("SELECT splits FROM detector_cells")
    assert await panes(pool) == expected_panes(outcomes)


def mixture(seed: int, n: int) -> list[Any]:
    """Outcomes with duplicates, corrections, retractions, late ones, bad ones and arrays among them."""
    rnd = random.Random(seed)
    outcomes: list[dict[str, Any]] = []
    for number in range(n):
        kind = rnd.random()
        if outcomes and kind < 0.1:
            outcomes.append(rnd.choice(outcomes))
        elif outcomes and kind < 0.2:
            old = rnd.choice(outcomes)
            value = None if rnd.random() < 0.3 else round(rnd.gauss(0, 1), 3)
            outcomes.append(old | {"revision": old.get("revision", 0) + rnd.choice((0, 1, 2)), "actual_value": value})
        else:
            moved = START + timedelta(seconds=number + rnd.choice((0, 0, 0, -900)))
            outcomes.append(outcome(number, observed_at=moved.isoformat()))
    values: list[Any] = []
    while outcomes:
        size = rnd.choice((1, 1, 3))
        values.append(outcomes[:size] if size > 1 else outcomes[0])
        outcomes = outcomes[size:]
        if rnd.random() < 0.05:
            values.append(b"{broken")
    return values


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_any_cut_any_replay_and_any_interleaving_of_sources_end_in_what_verify_recomputes(
    fresh_database: str, pool: Pool, seed: int
):
    pipeline, rnd = make_pipeline(pool, restatement_s=1200.0), random.Random(seed)
    records = {
        partition: [record(n, value, partition=partition) for n, value in enumerate(mixture(7, 250))] for partition in (0, 1)
    }
    next_up = {0: 0, 1: 0}
    while any(next_up[partition] < len(records[partition]) for partition in next_up):
        partition = rnd.choice([p for p in next_up if next_up[p] < len(records[p])])
        first = max(0, next_up[partition] - rnd.choice((0, 0, 5, 40)))
        last = next_up[partition] + rnd.randint(1, 40)
        await pipeline.ingest(next(iter(poll_batches(records[partition][first:last], 200))))
        next_up[partition] = max(next_up[partition], min(last, len(records[partition])))

    findings = Findings()
    await recompute(fresh_database, findings)

    assert findings.mismatches() == ()
    assert findings.counts["elements"] == sum(len(value) if isinstance(value, list) else 1 for value in mixture(7, 250)) * 2


TABLES = {
    "fidelity_tracking": "DELETE FROM fidelity_tracking WHERE tracking_id = "
    "(SELECT tracking_id FROM fidelity_tracking WHERE fate = $1 LIMIT 1)",
    "refused_records": "DELETE FROM refused_records WHERE $1 <> ''",
    "event_heads": "DELETE FROM event_heads WHERE event_id = (SELECT min(event_id::text)::uuid FROM event_heads WHERE $1 <> '')",
    "fidelity_panes": "DELETE FROM fidelity_panes WHERE (model_id, segment, pane) = "
    "(SELECT model_id, segment, pane FROM fidelity_panes WHERE $1 <> '' LIMIT 1)",
    "source_gaps": "DELETE FROM source_gaps WHERE $1 <> ''",
    "source_positions": "UPDATE source_positions SET elements = elements + 1 WHERE partition = 0 AND $1 <> ''",
}


@pytest.mark.parametrize(
    ("table", "fate"),
    [*((table, "counted") for table in TABLES), *(("fidelity_tracking", fate) for fate in ("duplicate", "superseded", "too_late"))],
)
async def test_a_row_that_is_removed_is_reported(fresh_database: str, pool: Pool, owner_pool: Pool, table: str, fate: str):
    outcomes = [outcome(0), outcome(3600, revision=1), outcome(3600), outcome(3600, revision=1), outcome(1), b"bad", outcome(3601)]
    records = [record(number + 2 * (number > 3), value) for number, value in enumerate(outcomes)]
    await make_pipeline(pool, restatement_s=600.0).ingest(next(iter(poll_batches(records, 10))))
    untouched, touched = Findings(), Findings()
    await recompute(fresh_database, untouched)
    assert untouched.mismatches() == ()

    assert await owner_pool.execute(TABLES[table], fate) in {"DELETE 1", "UPDATE 1"}

    await recompute(fresh_database, touched)
    assert touched.mismatches()


async def test_a_batch_scored_before_a_promotion_is_scored_again_when_another_batch_met_the_promotion_first(
    pipeline: OutcomePipeline, pool: Pool
):
    """A: scored | promotion | B: scored again, stored | A: stored."""
    second = make_card("second")
    at = datetime.now(UTC) + timedelta(seconds=60)
    ahead, other = (
        next(iter(poll_batches([record(0, outcome(number, observed_at=at.isoformat()), at=at, partition=partition)], 10)))
        for partition, number in enumerate((1, 2))
    )
    scored = await pipeline.score(await pipeline.decode(ahead))
    await Ledger(pool).promote(LINE, second.model_id, reason="better")
    await pipeline.ingest(other)
    await pipeline.store(scored)
    rows = await pool.fetch("SELECT model_id FROM fidelity_tracking")
    assert [row["model_id"] for row in rows] == [second.model_id] * 2
