"""Outcomes on a real Kafka and a real PostgreSQL, with workers that are killed: counts are exact, and windows follow."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from schemas import DriftEvent, DriftState, FidelityErrors, FidelityWindow, OutcomeEvent, RetrainEvent
from schemas.events import canonical_digest
from sql.database import Pool
from streams.agents import fidelity as fidelity_agent
from streams.agents import outcomes as outcomes_agent
from streams.kafka import DEAD_LETTERS, create_topics, open_admin, open_consumer
from streams.metrics import REGISTRY
from streams.operations.verify import verify
from streams.settings import Settings
from streams.worker.bootstrap import run_role
from tests.outcomes import LINE, TOPIC, make_card, make_line, outcome
from tests.polling import committed_offsets, until

PANE_S, PARTITIONS, PATIENCE_S = 60.0, 4, 60.0
CHANGELOG = "twinstream-fidelity-fidelity-panes-changelog"
BEGAN = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)


@pytest.fixture
async def settings(settings: Settings) -> Settings:
    """Short panes and grace, and a line with a champion."""
    await make_line(settings.postgres_dsn.get_secret_value(), make_card(), pane_s=PANE_S, window_s=300.0)
    limits = dict.fromkeys(("statement", "lock", "idle_in_transaction", "tcp_user"), 4.0)
    return settings.model_copy(
        update={
            "pane_s": PANE_S,
            "window_s": 300.0,
            "grace_s": 2.0,
            "idle_s": 2.0,
            "session_timeout_s": 6.0,
            "slice_records": 50,
            **{f"postgres_{name}_timeout_s": seconds for name, seconds in limits.items()},
        }
    )


async def test_counts_are_exact_while_workers_are_killed_and_others_take_over(
    settings: Settings, pool: Pool, owner_pool: Pool, service_of: ServiceOf
):
    values = stream(seed=5, n=3000)
    async with service_of("fidelity"):
        async with workers(settings, 2) as alive:
            sending = asyncio.create_task(publish(settings, values, pause_s=0.02))
            for share in (0.2, 0.5):
                await until(lambda share=share: is_ingested(pool, share * len(values)))
                os.kill(alive.pop(0).pid, signal.SIGKILL)
                alive.append(await worker(settings))
            await sending
            await until(lambda: is_ingested(pool, count_elements(values)))

            assert await stored_panes(pool) == expected_panes(values)
            assert (await verify(settings, patience_s=PATIENCE_S)).mismatches == ()
            assert await pool.fetchval("SELECT count(*) FROM refused_records") == values.count(INVALID)
            await until(lambda: dead_letters_published(settings, pool))

        # no worker sends copies of refusals again by itself now
        await owner_pool.execute(
            "DELETE FROM fidelity_snapshots WHERE snapshot_id ="
            " (SELECT snapshot_id FROM fidelity_snapshots ORDER BY window_start LIMIT 1)"  # the least likely to be restated now
        )
        await pool.execute("UPDATE refused_records SET sent_at = NULL")
        window, *refusals = (await verify(settings, patience_s=2.0)).mismatches
        assert "has no snapshot" in window
        assert len(refusals) == values.count(INVALID)

        repaired = await verify(settings, repair=True, patience_s=PATIENCE_S)
        assert repaired.mismatches == ()
        assert repaired.resent > values.count(INVALID)


async def test_a_topic_that_is_read_again_changes_no_number_and_lost_dead_letters_are_sent_again(
    settings: Settings, pool: Pool, service_of: ServiceOf, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(outcomes_agent, "_SWEEP_S", 1.0)
    values = stream(seed=6, n=600)
    await publish(settings, values)
    async with service_of("outcomes"):
        await until(lambda: is_ingested(pool, count_elements(values)))
    before = await pool.fetch("SELECT * FROM fidelity_panes ORDER BY 1, 2, 3, 4, 5")
    assert await stored_panes(pool) == expected_panes(values)
    await commit_offsets(settings, 0)

    async with service_of("outcomes"):
        await until(lambda: committed_to_end(settings))
        await publish(settings, [outcome_at(5000)])
        await until(lambda: is_ingested(pool, count_elements(values) + 1))
        await pool.execute("UPDATE refused_records SET sent_at = NULL")
        await until(lambda: dead_letters_published(settings, pool))

    changed = {tuple(row) for row in await pool.fetch("SELECT * FROM fidelity_panes")} - {tuple(row) for row in before}
    assert (
        sum(row["n"] for row in await pool.fetch("SELECT n FROM fidelity_panes WHERE segment = 'all'"))
        == sum(n for (segment, _), (n, *_) in expected_panes(values).items() if segment == "all") + 1
    )
    assert len(changed) == 2


CODECS = ("gzip", "snappy", "lz4", "zstd")


async def test_outcomes_are_counted_whatever_codec_their_producer_compresses_with(
    settings: Settings, pool: Pool, service_of: ServiceOf
):
    values = [[outcome_at(100 * batch + number) for number in range(100)] for batch in range(len(CODECS))]
    async with service_of("outcomes"):
        for codec, outcomes in zip(CODECS, values, strict=True):
            await publish(settings, outcomes, codec=codec)
        await until(lambda: is_ingested(pool, 400))

    assert await fates(pool) == {"counted": 400}
    assert await stored_panes(pool) == expected_panes([element for outcomes in values for element in outcomes])


async def test_a_topic_that_was_recreated_is_another_incarnation_and_its_outcomes_count(
    settings: Settings, pool: Pool, service_of: ServiceOf
):
    await publish(settings, [outcome_at(number) for number in range(100)])
    async with service_of("outcomes"):
        await until(lambda: is_ingested(pool, 100))
    await recreate_topic(settings, TOPIC)
    await publish(settings, [outcome_at(number) for number in range(50, 250)])

    async with service_of("outcomes"):
        await until(lambda: is_ingested(pool, 300))

    incarnations = {row[0] for row in await pool.fetch("SELECT incarnation FROM source_positions WHERE elements > 0")}
    assert incarnations == {0, 1}
    assert await fates(pool) == {"counted": 250, "duplicate": 50}
    assert await stored_panes(pool) == expected_panes([outcome_at(number) for number in range(250)])


async def test_an_outcome_of_a_later_revision_restates_a_final_window(
    settings: Settings, pool: Pool, service_of: ServiceOf, listener: Any
):
    async with service_of("fidelity"), service_of("outcomes"):
        await publish(settings, [outcome_at(number) for number in range(600)])
        await until(lambda: all_windows_final(settings, pool))
        await publish(settings, [outcome_at(number, revision=1, actual_value=3.0) for number in (10, 599)])
        await until(lambda: is_ingested(pool, 602))
        await until(lambda: are_restated(pool, 20))
        report = await verify(settings, patience_s=PATIENCE_S)
        shown = REGISTRY.get_sample_value("twin_window_mae", {"line": LINE, "segment": "all"})

    assert report.mismatches == ()
    windows = await listener.events(FidelityWindow, await listener.count("fidelity-windows"))
    assert {"final", "restated"} <= {window.status for window in windows}
    fullest = max(window.window_start for window in windows) - timedelta(seconds=300 - PANE_S)
    event = max(
        (window for window in windows if (window.segment, window.window_start) == ("all", fullest)),
        key=lambda window: window.version,
    )
    snapshot = await pool.fetchrow(
        "SELECT mae, version, status FROM fidelity_snapshots WHERE segment = 'all' AND window_start = $1", fullest
    )
    assert tuple(snapshot) == (event.metrics.mae, event.version, event.status) == (shown, event.version, "restated")
    await check_how_sums_are_published(listener)


async def check_how_sums_are_published(listener: Any) -> None:
    """Sums have their line as key, all series of a batch in one message; watermarks of each source are in each partition."""
    records = await listener.records("fidelity-errors", await listener.count("fidelity-errors"))
    events = [(record, FidelityErrors.model_validate_json(record.value)) for record in records]
    sums = [(record, event) for record, event in events if event.rows]
    assert {(record.key, event.line) for record, event in sums} == {(LINE.encode(), LINE)}
    assert all({row.segment for row in event.rows} >= {"all"} for _, event in sums)
    batches = Counter((str(event.source), max(row.last_offset for row in event.rows)) for _, event in sums)
    assert set(batches.values()) == {1}
    watermarks = {(event.source.partition, record.partition) for record, event in events if not event.rows}
    assert watermarks == {(source, reader) for source in range(PARTITIONS) for reader in range(PARTITIONS)}


async def test_settled_panes_leave_tombstones_and_a_late_outcome_restates_them_all_the_same(
    settings: Settings, pool: Pool, service_of: ServiceOf, listener: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fidelity_agent, "_SWEEP_S", 1.0)
    async with service_of("fidelity"), service_of("outcomes"):
        await publish(settings, [outcome_at(number) for number in range(0, 3600, 12)])
        await until(lambda: all_windows_final(settings, pool))
        await until(lambda: leaves_tombstones(settings))
        await publish(settings, [outcome_at(120, revision=1, actual_value=3.0)])
        await until(lambda: is_ingested(pool, 301))
        await until(lambda: are_restated(pool, 10))
        report = await verify(settings, patience_s=PATIENCE_S)

    assert report.mismatches == ()
    windows = await listener.events(FidelityWindow, await listener.count("fidelity-windows"))
    assert {window.status for window in windows if window.window_start <= BEGAN + timedelta(seconds=120) < window.window_end} >= {
        "final",
        "restated",
    }


async def test_errors_that_grow_raise_one_alarm_and_ask_for_one_retrain(
    settings: Settings, pool: Pool, service_of: ServiceOf, listener: Any
):
    rnd = random.Random(8)
    quiet = [outcome_at(number, actual_value=outcome(number)["predicted_value"] + rnd.gauss(0, 1)) for number in range(800)]
    loud = [outcome_at(number, actual_value=outcome(number)["predicted_value"] + rnd.gauss(0, 3)) for number in range(800, 1600)]
    async with service_of("fidelity"), service_of("outcomes"):
        await publish(settings, quiet)
        await until(lambda: state_is(pool, "warning", "ok"))
        assert await listener.count("retrain-events") == 0
        await publish(settings, loud)
        await until(lambda: state_is(pool, "alarm"))
        (retrain,) = await listener.events(RetrainEvent, 1)
        await asyncio.sleep(3)

    assert await listener.count("retrain-events") == 1
    assert (retrain.line, retrain.model_id, retrain.attempt) == (LINE, make_card().model_id, 0)
    assert retrain.evidence["evidence_ratio"] >= 1
    drifts = [event for event in await listener.events(DriftEvent, await listener.count("drift-events")) if event.segment == "all"]
    assert drifts[-1].state is DriftState.ALARM
    assert all(before.state is after.previous for before, after in pairwise(drifts))


async def test_a_restarted_fidelity_worker_publishes_the_same_windows(
    settings: Settings, pool: Pool, service_of: ServiceOf, listener: Any
):
    async with service_of("outcomes"):
        async with service_of("fidelity"):
            await publish(settings, [outcome_at(number) for number in range(400)])
            await until(lambda: all_windows_final(settings, pool))
        await publish(settings, [outcome_at(number) for number in range(400, 700)])
        await until(lambda: is_ingested(pool, 700))
        async with service_of("fidelity"):
            report = await verify(settings, patience_s=PATIENCE_S)

    assert report.mismatches == ()
    by_version: defaultdict[Any, set[Any]] = defaultdict(set)
    for window in await listener.events(FidelityWindow, await listener.count("fidelity-windows")):
        by_version[window.segment, window.window_start, window.version].add(window.metrics.model_dump_json())
    assert all(len(contents) == 1 for contents in by_version.values())


# -- what is published

INVALID = b'{"event_id": "nobody"'


def outcome_at(number: int, **fields: Any) -> dict[str, Any]:
    return outcome(number, observed_at=(BEGAN + timedelta(seconds=number)).isoformat(), **fields)


def stream(seed: int, n: int) -> list[Any]:
    """Records with duplicates, corrections, retractions, invalid records and arrays among them."""
    rnd, outcomes, values = random.Random(seed), [], []
    for number in range(n):
        share = rnd.random()
        if outcomes and share < 0.15:
            old = rnd.choice(outcomes)
            changes = (
                {}
                if share < 0.08
                else {"revision": rnd.randint(0, 3), "actual_value": rnd.choice([None, round(rnd.gauss(0, 1), 3)])}
            )
            outcomes.append(old | changes)
        else:
            outcomes.append(outcome_at(number))
        values.append(rnd.choice([outcomes[-1], outcomes[-1], [outcomes[-1], outcome_at(n + number)]]))
        if rnd.random() < 0.01:
            values.append(INVALID)
    return values


def elements(values: Iterable[Any]) -> list[dict[str, Any]]:
    return [element for value in values if value != INVALID for element in (value if isinstance(value, list) else [value])]


def count_elements(values: Sequence[Any]) -> int:
    return len(elements(values)) + values.count(INVALID)


def expected_panes(values: Iterable[Any]) -> dict[tuple[str, float], tuple[int, int, int]]:
    """n, sum of actual and of absolute error by series and pane, in plain Python."""
    newest: dict[str, tuple[tuple[int, bytes], dict[str, Any]]] = {}
    for element in elements(values):
        rank = element.get("revision", 0), canonical_digest(OutcomeEvent.model_validate(element))[:16]
        if element["event_id"] not in newest or rank > newest[element["event_id"]][0]:
            newest[element["event_id"]] = rank, element
    sums: defaultdict[tuple[str, float], list[int]] = defaultdict(lambda: [0, 0, 0])
    for _, element in newest.values():
        if element["actual_value"] is not None:
            at = datetime.fromisoformat(element["observed_at"]).timestamp()
            predicted, actual = (round(element[name] / 2 / 1e-5) for name in ("predicted_value", "actual_value"))
            for series in ("all", f"region={element['segment']['region']}"):
                cell = sums[series, at // PANE_S * PANE_S]
                cell[0], cell[1], cell[2] = cell[0] + 1, cell[1] + actual, cell[2] + abs(predicted - actual)
    return {key: (n, actual, error) for key, (n, actual, error) in sums.items()}


async def publish(settings: Settings, values: Sequence[Any], *, pause_s: float = 0.0, codec: str | None = None) -> Sequence[Any]:
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap, compression_type=codec) as producer:
        for number, value in enumerate(values):
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            await producer.send(TOPIC, body, key=str(number).encode())
            if pause_s and number % 20 == 0:
                await asyncio.sleep(pause_s)
        await producer.flush()
    return values


# -- workers

ServiceOf = Callable[[str], Any]


@pytest.fixture
def service_of(settings: Settings) -> ServiceOf:
    @asynccontextmanager
    async def running(role: Any) -> AsyncIterator[None]:
        stop = asyncio.Event()
        running = asyncio.create_task(run_role(role, settings, stop))
        try:
            yield
        finally:
            stop.set()
            await running

    return running


async def worker(settings: Settings) -> asyncio.subprocess.Process:
    """A process of the outcomes role, without a port that another one may hold."""
    code = (
        "import asyncio\n"
        "from streams.worker.bootstrap import build_app\n"
        "from streams.settings import Settings\n"
        "async def main():\n"
        "    app = build_app('outcomes', Settings())\n"
        "    await app.start()\n"
        "    await app.wait(asyncio.Event().wait())\n"
        "asyncio.run(main())"
    )
    variables = {
        f"TWIN_{name.upper()}": str(value) for name, value in settings.model_dump(mode="json").items() if value not in {None, ""}
    }
    secrets = {"TWIN_POSTGRES_DSN": settings.postgres_dsn.get_secret_value(), "TWIN_KAFKA_PASSWORD": ""}
    return await asyncio.create_subprocess_exec(sys.executable, "-c", code, env={**os.environ, **variables, **secrets})


@asynccontextmanager
async def workers(settings: Settings, count: int) -> AsyncIterator[list[asyncio.subprocess.Process]]:
    alive = [await worker(settings) for _ in range(count)]
    try:
        yield alive
    finally:
        for process in alive:
            if process.returncode is None:
                process.kill()
            await process.wait()


# -- what is stored and published


async def is_ingested(pool: Pool, elements: float) -> bool:
    return float(await pool.fetchval("SELECT coalesce(sum(elements), 0) FROM source_positions")) >= elements


async def fates(pool: Pool) -> dict[str, int]:
    return Counter({row[0]: row[1] for row in await pool.fetch("SELECT fate::text, count(*) FROM fidelity_tracking GROUP BY 1")})


async def stored_panes(pool: Pool) -> dict[tuple[str, float], tuple[int, int, int]]:
    rows = await pool.fetch(
        "SELECT segment, floor(pane / $1) * $1, sum(n), sum(actual), sum(absolute_error) FROM fidelity_panes GROUP BY 1, 2", PANE_S
    )
    return {(row[0], row[1]): (int(row[2]), int(row[3]), int(row[4])) for row in rows if row[2]}


async def all_windows_final(settings: Settings, pool: Pool) -> bool:
    """Every window is final: sources are silent."""
    panes = await pool.fetchval("SELECT max(pane) FROM fidelity_panes")
    last = await pool.fetchval("SELECT max(extract(epoch FROM window_start)) FROM fidelity_snapshots WHERE segment = 'all'")
    return panes is not None and last is not None and float(last) == panes // PANE_S * PANE_S


async def are_restated(pool: Pool, count: int) -> bool:
    """Whether at least this many windows are restated; on a busy machine some are by the first outcomes already."""
    return bool(await pool.fetchval("SELECT count(*) >= $1 FROM fidelity_snapshots WHERE status = 'restated'", count))


async def first_records(settings: Settings, topic: str) -> list[Any]:
    """The first poll of a topic from its beginning."""
    async with open_consumer(settings, topic) as consumer:
        return [record for batch in (await consumer.getmany(timeout_ms=2000)).values() for record in batch]


async def leaves_tombstones(settings: Settings) -> bool:
    """Panes that were in the table once are gone from it."""
    records = await first_records(settings, CHANGELOG)
    gone = {record.key for record in records if record.value is None}
    return bool(gone) and gone <= {record.key for record in records if record.value is not None}


async def state_is(pool: Pool, *states: str) -> bool:
    return await pool.fetchval("SELECT state FROM drift_states WHERE segment = 'all' AND said") in states


async def dead_letters_published(settings: Settings, pool: Pool) -> bool:
    if await pool.fetchval("SELECT count(*) FROM refused_records WHERE sent_at IS NULL"):
        return False
    records = await first_records(settings, DEAD_LETTERS)
    ids = {dict(record.headers)["twin_refusal_id"].decode() for record in records}
    return ids == {str(row[0]) for row in await pool.fetch("SELECT refusal_id FROM refused_records")} and all(
        record.value == INVALID for record in records
    )


async def commit_offsets(settings: Settings, offset: int) -> None:
    """Set the group of the outcomes role back, as an operator would."""
    tps = [TopicPartition(TOPIC, partition) for partition in range(PARTITIONS)]
    group = {"group_id": "twinstream-outcomes", "enable_auto_commit": False}
    async with AIOKafkaConsumer(bootstrap_servers=settings.kafka_bootstrap, **group) as consumer:
        consumer.assign(tps)
        await consumer.commit(dict.fromkeys(tps, offset))


async def committed_to_end(settings: Settings) -> bool:
    committed = await committed_offsets(settings, TOPIC)
    async with open_consumer(settings) as consumer:
        ends = await consumer.end_offsets([TopicPartition(TOPIC, partition) for partition in range(PARTITIONS)])
    return committed == {tp.partition: end for tp, end in ends.items()}


async def recreate_topic(settings: Settings, topic: str) -> None:
    async with open_admin(settings) as admin:
        await admin.delete_topics([topic])
        await until(admin.list_topics, lambda topics: topic not in topics)
    await create_topics(settings)
