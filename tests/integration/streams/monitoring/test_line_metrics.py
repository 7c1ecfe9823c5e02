"""The metrics of a line on a real PostgreSQL: complete after a load, and removed with what they describe."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest

from schemas import DRIFT_RULES, SourceId
from sql import source_position_store
from sql.database import Pool, open_pool
from sql.ledger import Ledger
from sql.window_store import monitored_lines
from streams.ingestion import ContextLoader, OutcomePipeline
from streams.metrics import CHAMPION, REGISTRY, RETRAINING_STOPPED, VERDICTS
from streams.monitoring.line_metrics import remove_line_metrics
from streams.monitoring.line_monitor import LineMonitor
from streams.settings import Settings
from tests.outcomes import LINE, TOPIC, make_card, make_line, outcome, poll_batches, record

FIRST, SECOND = make_card("first"), make_card("second", mae=0.4)


class AppStub:
    """What a monitor needs of an app; windows are published into nothing."""

    should_stop = False
    restoring: str | None = None

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.settings = Settings(n_min=50, grace_s=10.0)

    async def send_event(self, event: Any, *, key: str) -> Any:
        async def sent() -> None:
            return None

        return sent()

    async def publish(self, event: Any, *, key: str) -> None:
        return None


@pytest.fixture
async def pool(fresh_database: str) -> AsyncIterator[Pool]:
    await make_line(fresh_database, FIRST, SECOND)
    opened = await open_pool(dsn=fresh_database)
    await source_position_store.begin_source(opened, SourceId(topic=TOPIC, partition=0))
    yield opened
    await opened.close()


@pytest.fixture
def monitor(pool: Pool) -> Iterable[LineMonitor]:
    remove_line_metrics(LINE)
    yield LineMonitor(AppStub(pool))  # type: ignore[arg-type]  # what is needed of an app here
    remove_line_metrics(LINE)


async def ingest(pool: Pool, numbers: Iterable[int], *, first: int = 0, **fields: Any) -> None:
    pipeline = OutcomePipeline(pool, ContextLoader(pool, None, None), 300.0, 30 * 86_400.0)  # type: ignore[arg-type]  # no model is needed
    records = [record(first + position, outcome(number, **fields)) for position, number in enumerate(numbers)]
    for batch in poll_batches(records, 500):
        await pipeline.ingest(batch)


async def evaluate(pool: Pool, monitor: LineMonitor) -> None:
    (line,) = await monitored_lines(pool)
    await monitor.evaluate(line)


def segments_with(metric: str) -> set[str]:
    samples = [sample for family in REGISTRY.collect() for sample in family.samples if sample.name == metric]
    return {sample.labels["segment"] for sample in samples if sample.labels["line"] == LINE}


def value_of(metric: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(metric, {"line": LINE, **labels})


async def test_a_line_that_is_loaded_shows_its_newest_windows_though_none_is_published_again(pool: Pool, monitor: LineMonitor):
    await ingest(pool, range(0, 200, 2))
    await evaluate(pool, monitor)
    before = value_of("twin_window_mae", segment="all")
    (line,) = monitor.lines
    line.unpublished.clear()

    monitor.drop_others(lambda _: False)
    assert segments_with("twin_window_mae") == set()
    await evaluate(pool, monitor)

    assert value_of("twin_window_mae", segment="all") == before
    assert segments_with("twin_window_mae") == {"all", "region=east", "region=south", "region=west"}
    assert value_of("twin_segment_values", dimension="region") == 3
    assert value_of("twin_segment_values", dimension="specialty") == 0


async def test_every_gauge_of_a_line_is_removed_when_another_worker_reads_it(pool: Pool, monitor: LineMonitor):
    for gauge in (CHAMPION, RETRAINING_STOPPED):  # of the role trainer, which other tests run in this process
        gauge.clear()
    await ingest(pool, range(0, 200, 2))
    await evaluate(pool, monitor)
    (line,) = monitor.lines
    await monitor.estimate(line)

    monitor.remove_metrics(lambda name: name == "another line")

    gauges = [
        sample.name
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.labels.get("line") == LINE and family.type == "gauge"
    ]
    assert gauges == []


async def test_the_drift_verdicts_of_a_line_start_at_zero(pool: Pool, monitor: LineMonitor):
    VERDICTS.clear()  # other tests of this process have lines that drift
    await ingest(pool, [1])
    await evaluate(pool, monitor)

    assert {rule.name: value_of("twin_drift_verdicts_total", rule=rule.name) for rule in DRIFT_RULES} == dict.fromkeys(
        [rule.name for rule in DRIFT_RULES], 0.0
    )


async def test_a_new_champion_shows_nothing_of_its_predecessor(pool: Pool, monitor: LineMonitor):
    await ingest(pool, range(0, 200, 2))
    await evaluate(pool, monitor)
    assert value_of("twin_baseline_mae") == 0.8

    await Ledger(pool).promote(LINE, SECOND.model_id, reason="better")
    await evaluate(pool, monitor)

    assert segments_with("twin_window_mae") == set()
    assert value_of("twin_baseline_mae") == 0.4


async def test_a_segment_without_recent_outcomes_has_no_gauges(pool: Pool, monitor: LineMonitor):
    await ingest(pool, range(60), segment={"region": "closed"})
    await ingest(pool, range(4000, 4060), first=60, segment={"region": "open"})
    await evaluate(pool, monitor)
    assert segments_with("twin_window_mae") == {"all", "region=open"}

    await ingest(pool, range(8000, 8060), first=120, segment={"region": "new"})
    (line,) = monitor.lines
    await monitor.catch_up(line)
    await evaluate(pool, monitor)
    await monitor.refresh_segments(line)

    for metric in ("twin_window_mae", "twin_window_outcomes", "twin_detector_evidence_ratio"):
        assert segments_with(metric) <= {"all", "region=new"}
