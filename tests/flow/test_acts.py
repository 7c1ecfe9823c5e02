"""Decisions on the pages, in a real browser and a real Postgres: as a person makes them, by keyboard and on a telephone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID

import pytest
from playwright.async_api import Page
from pydantic import SecretStr

from schemas import ModelEvent
from sql.database import Pool
from sql.ledger import Ledger
from sql.retrain_store import enqueue, find_retrain
from streams.operations.api_tokens import issue_token
from streams.operations.operator import operator_name
from streams.settings import Settings
from tests.accessibility import violations
from tests.browsing import open_browser, watched_page
from tests.flow.line_fixture import LINE, add_history
from tests.http_api import Api, running
from tests.outcomes import retrain_event

NOW = datetime(2025, 3, 4, 12, tzinfo=UTC)
TELEPHONE = {"viewport": {"width": 390, "height": 800}}


@pytest.fixture
async def line(owner_pool: Pool) -> ModelEvent:
    """A line with a history; its last event, which has the champion."""
    await add_history(owner_pool, now=NOW)
    await owner_pool.execute("UPDATE digital_twin_models SET mlflow_run_id = 'run', artifact_sha256 = repeat('0', 64)")
    await owner_pool.execute("ALTER TABLE model_ledger ENABLE TRIGGER model_ledger_append_only")
    return await Ledger(owner_pool).state(LINE)


@pytest.fixture
async def api(fresh_database: str) -> AsyncIterator[Api]:
    async with running(postgres_dsn=fresh_database, postgres_read_dsn=fresh_database) as api:
        yield api


async def decide(page: Page, title: str, button: str, answer: str, reason: str = "") -> None:
    """Open a decision, give a reason, and confirm it, by keyboard."""
    await page.locator("summary", has_text=title).first.focus()
    await page.keyboard.press("Enter")
    if reason:
        await page.get_by_label("Reason, stored with your name").locator("visible=true").fill(reason)
    await page.get_by_role("button", name=button, exact=True).focus()
    await page.keyboard.press("Enter")
    await page.get_by_text(answer).wait_for()


async def test_a_retrain_is_refused_and_approved_after_all(line: ModelEvent, pool: Pool, api: Api):
    assert line.champion is not None
    await enqueue(pool, request := retrain_event(line.champion, attempt=7))
    async with open_browser() as browser, watched_page(browser, **TELEPHONE) as page:
        await page.goto(f"http://127.0.0.1:{api.port}/retrains/{request.retrain_id}")
        await decide(page, "Refuse", "Refuse the retrain", "Refused: it starts no training.", "the quarter is odd")
        assert (await find_retrain(pool, request.retrain_id)).status == "refused"
        await page.get_by_text(f"refused; by {operator_name()}; the quarter is odd").first.wait_for()
        assert await violations(page) == []
        assert await page.evaluate("document.documentElement.scrollWidth") <= 390
        await decide(page, "Approve", "Approve the retrain", "Approved: a trainer starts it next.")
    assert (await find_retrain(pool, request.retrain_id)).approved_at is not None
    events = (await Ledger(pool).history(LINE))[-2:]
    assert [(event.happened, event.decided_by) for event in events] == [("refused", operator_name()), ("approved", operator_name())]


async def test_a_line_gets_a_policy_and_thresholds_and_goes_back_to_the_champion_before(line: ModelEvent, pool: Pool, api: Api):
    async with open_browser() as browser, watched_page(browser) as page:
        await page.goto(f"http://127.0.0.1:{api.port}/lines/{LINE}")
        await page.locator("summary", has_text="Choose the policy").click()
        await page.get_by_label("Policy", exact=True).select_option("suggest")
        await page.get_by_role("button", name="Choose this policy").click()
        await page.get_by_text("The policy is chosen.").wait_for()
        await page.locator("summary", has_text="Change thresholds").click()
        await page.get_by_label("Smallest effect").fill("0.03")
        await page.get_by_role("button", name="Change the thresholds").click()
        await page.get_by_text("The thresholds are changed.").wait_for()
        await decide(page, "Roll back", "Roll back", "Rolled back: the champion before is champion again.")
        assert await violations(page) == []
    events = (await Ledger(pool).history(LINE))[-2:]
    assert [event.happened for event in events] == ["policy", "rolled_back"]
    assert events[-1].champion != line.champion
    assert await pool.fetchval("SELECT min_effect_threshold FROM line_thresholds WHERE line = $1", LINE) == 0.03


async def test_a_decision_that_the_line_does_not_allow_by_now_is_told_beside_its_button(line: ModelEvent, pool: Pool, api: Api):
    refused = "status of 409"
    async with open_browser() as browser, watched_page(browser, allowed=refused) as page:
        await page.goto(f"http://127.0.0.1:{api.port}/models/{line.champion}")
        await Ledger(pool).roll_back(LINE, "somebody was faster")
        await page.locator("summary", has_text="Roll back").click()
        await page.get_by_label("Reason, stored with your name").fill("it is worse")
        await page.get_by_role("button", name="Roll back", exact=True).click()
        await page.get_by_text("in the meantime").wait_for()
        assert await page.get_by_label("Reason, stored with your name").input_value() == "it is worse"


async def test_a_reader_is_told_which_scope_is_missing(line: ModelEvent, pool: Pool, fresh_database: str, migrating_database: str):
    owner = Settings(postgres_dsn=fresh_database, postgres_migrate_dsn=SecretStr(migrating_database))
    token = await issue_token(owner, "report", "read", None)
    refusal_id: UUID = await pool.fetchval("SELECT refusal_id FROM refused_records LIMIT 1")
    users = {"postgres_dsn": fresh_database, "postgres_read_dsn": fresh_database}
    async with running(web_behind_proxy=True, **users) as api, open_browser() as browser:
        root = f"http://127.0.0.1:{api.port}"
        async with watched_page(browser, allowed="status of 403") as page:
            await page.goto(f"{root}/models/{line.champion}")
            await page.get_by_label("Token").fill(token.secret)
            await page.keyboard.press("Enter")
            await page.wait_for_url(f"{root}/models/{line.champion}")
            await page.locator("summary", has_text="Roll back").click()
            await page.get_by_role("button", name="Roll back", exact=True).click()
            await page.get_by_text("The token report lacks the scope operate: it has read.").wait_for()
            await page.goto(f"{root}/refused/{refusal_id}")
            await page.get_by_role("heading", name="This needs the scope operate").wait_for()
            assert await violations(page) == []
            await page.get_by_role("link", name="Log in with another token").click()
            assert page.url == f"{root}/login?next=%2Frefused%2F{refusal_id}"
    assert (await Ledger(pool).state(LINE)).champion == line.champion


async def test_a_refused_record_is_corrected_in_place_and_a_bad_correction_is_told(line: ModelEvent, pool: Pool, api: Api):
    """Kafka is not there: what is checked before it is asked for."""
    refusal_id: UUID = await pool.fetchval("SELECT refusal_id FROM refused_records LIMIT 1")
    async with open_browser() as browser, watched_page(browser, allowed="status of (422|503)", **TELEPHONE) as page:
        await page.goto(f"http://127.0.0.1:{api.port}/refused/{refusal_id}")
        assert await violations(page) == []
        assert await page.evaluate("document.documentElement.scrollWidth") <= 390
        await page.locator("summary", has_text="Publish it again").click()
        value = page.get_by_label("Value; change it to correct the record")
        await value.fill('{"event_id": 1}')
        await page.get_by_role("button", name="Publish it again", exact=True).click()
        await page.get_by_text("Kafka").first.wait_for()
        assert await value.input_value() == '{"event_id": 1}'
