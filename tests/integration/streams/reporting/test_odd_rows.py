"""Whatever is stored is shown: times at the ends of the calendar, and evidence of another form, hide nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from sql.database import Pool, open_pool
from sql.ledger import Ledger
from sql.retrain_store import enqueue
from streams.reporting.retrain_report import load_retrain_report
from streams.settings import Settings
from tests.outcomes import LINE, make_card, make_line, retrain_event
from tests.pages import NO_PARAMETERS, pages_of

FIRST, LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
EVIDENCE = [
    {"metrics": {"mae": "x"}, "verdicts": [{}], "evidence_ratio": "y"},
    {"metrics": 5, "verdicts": 5, "comparison": {"a": 1}},
    {"metrics": {"n": 1, "mae": 1.0}, "window_start": "yesterday", "segment": ["x"], "verdicts": None},
]


@pytest.fixture
async def pool(fresh_database: str) -> AsyncIterator[Pool]:
    await make_line(fresh_database, make_card())
    opened = await open_pool(dsn=fresh_database)
    yield opened
    await opened.close()


@pytest.mark.parametrize("at", [FIRST, LAST, FIRST + timedelta(hours=1)])
async def test_the_pages_show_retrains_of_any_year(pool: Pool, fresh_database: str, at: datetime):
    event = retrain_event(make_card().model_id, requested_at=at, reason="forged \x1b[2J" * 100)
    await enqueue(pool, event)

    async with pages_of(fresh_database) as pages:
        answers = await pages.line(LINE, NO_PARAMETERS), await pages.listed("retrains", NO_PARAMETERS)
        answers += (await pages.single("retrains", str(event.retrain_id)),)

    assert [status for status, html in answers if str(event.retrain_id) in html] == [200] * 3
    assert not any("\x1b" in html for _, html in answers)


@pytest.mark.parametrize("evidence", EVIDENCE)
async def test_a_report_shows_evidence_of_another_form_as_such(pool: Pool, fresh_database: str, evidence: dict[str, object]):
    event = retrain_event(make_card().model_id, requested_at=FIRST, evidence=evidence)
    await enqueue(pool, event)

    report = await load_retrain_report(pool, event.retrain_id, Settings().retrain_limits)

    assert "what is stored has another form and cannot be shown" in report.format_text()
    assert report.to_dict()["request"]["reason"] == event.reason
    async with pages_of(fresh_database) as pages:
        assert (await pages.line(LINE, NO_PARAMETERS)).status == 200
        assert "what is stored has another form" in (await pages.single("retrains", str(event.retrain_id))).html
    assert await Ledger(pool).history(LINE)
