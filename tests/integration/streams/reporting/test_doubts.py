"""Missing outcomes and outliers of the newest window are counted and named, by the newest revision of each event."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from schemas import SourceId
from sql.database import Pool, open_pool
from sql.source_position_store import begin_source
from streams.ingestion import ContextLoader, OutcomePipeline
from streams.reporting.overview import read_overview
from streams.reporting.text import windows_dict, windows_text
from tests.outcomes import LINE, TOPIC, make_card, make_line, outcome, poll_batches, record
from tests.pages import NO_PARAMETERS, pages_of


@pytest.fixture
async def pool(fresh_database: str) -> AsyncIterator[Pool]:
    await make_line(fresh_database, make_card())
    async with await open_pool(dsn=fresh_database) as opened:
        await begin_source(opened, SourceId(topic=TOPIC, partition=0))
        yield opened


def far(number: int, actual: float, **fields: Any) -> dict[str, Any]:
    return outcome(number, predicted_value=0.0, predicted_lower=None, predicted_upper=None, actual_value=actual, **fields)


async def ingest(pool: Pool, outcomes: list[dict[str, Any]]) -> None:
    async def nothing(_: Any) -> None:
        return None

    pipeline = OutcomePipeline(pool, ContextLoader(pool, nothing, nothing), skew_s=300.0, restatement_s=1e6)  # type: ignore[arg-type]
    for batch in poll_batches([record(offset, value) for offset, value in enumerate(outcomes)], 7):
        await pipeline.ingest(batch)


async def test_the_newest_window_names_what_is_missing_and_what_is_far_off(pool: Pool, fresh_database: str):
    outcomes = [outcome(number) for number in range(250)]
    outcomes += [outcome(number, actual_value=None) for number in (250, 251, 252)]
    outcomes += [outcome(252, revision=1), far(253, 900.0), far(254, -50.0), far(255, 70.0), far(255, 0.5, revision=1)]
    await ingest(pool, outcomes)

    (line,) = (await read_overview(pool, 200)).lines

    assert line.overall is not None
    metrics = line.overall.metrics
    assert (metrics.n, metrics.n_skipped, metrics.n_outliers) == (254, 2, 2)
    assert [(str(row.event_id), row.actual) for row in line.outliers] == [
        (outcomes[-4]["event_id"], 900.0),
        (outcomes[-3]["event_id"], -50.0),
    ]
    assert metrics.mae is not None
    assert metrics.mae_robust is not None
    assert metrics.mae > 4
    assert metrics.mae_robust < 0.6
    (rule,) = [verdict for verdict in line.overall.verdicts if verdict.rule == "mae_increase"]
    assert not rule.fired
    assert "by outliers only (2 beyond 3 standard deviations)" in rule.reason
    text = windows_text(line)
    assert "2 outcomes without an actual value are skipped" in text
    assert f"event {outcomes[-4]['event_id']}: predicted 0, actual 900" in text
    payload = windows_dict(line)
    assert [row["error"] for row in payload["outliers"]] == [900.0, 50.0]
    assert next(window for window in payload["windows"] if window["segment"] == "all")["metrics"]["n_skipped"] == 2
    async with pages_of(fresh_database) as pages:
        assert outcomes[-4]["event_id"] in (await pages.line(LINE, NO_PARAMETERS)).html
