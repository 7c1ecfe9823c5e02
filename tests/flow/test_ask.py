"""A campaign is asked in a real browser, on real Kafka and Postgres: the form, the answer, the pilot, the repetition, the files."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page

from deploy.stack.part import free_port
from engine.twins import TwinModel
from schemas import ModelEvent
from sql.database import Pool
from sql.ledger import Ledger
from streams.api.server import serving_api
from streams.settings import Settings
from tests.accessibility import violations
from tests.browsing import open_browser, watched_page

NARROW_AND_DARK = {"viewport": {"width": 390, "height": 900}, "color_scheme": "dark"}
WITHOUT_KAFKA = {"kafka_bootstrap": "127.0.0.1:9", "kafka_connect_timeout_s": 1.0}


async def problems_of(page: Page) -> list[str]:
    """What axe-core finds, and whether the page is wider than the screen."""
    wide = await page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
    return [*await violations(page), *(["wider than the screen"] if wide else [])]


async def download(page: Page, name: str, file: Path) -> Path:
    """The file behind a link."""
    async with page.expect_download() as started:
        await page.get_by_role("link", name=name, exact=True).click()
    await (await started.value).save_as(file)
    return file


@asynccontextmanager
async def served(dsn: str, **own: Any) -> AsyncIterator[str]:
    """Address of the role web on a database, without Kafka."""
    settings = Settings(postgres_dsn=dsn, postgres_read_dsn=dsn, api_port=free_port(), **WITHOUT_KAFKA, **own)
    async with serving_api(settings):
        yield f"http://127.0.0.1:{settings.api_port}"


async def test_an_analyst_asks_reads_plans_compares_repeats_and_takes_the_report_along(
    service: Any, settings: Settings, promoted: ModelEvent, tmp_path: Path
):
    root = f"http://127.0.0.1:{settings.api_address[1]}"
    async with service(["simulation", "web"]), open_browser() as browser, watched_page(browser) as page:
        await page.goto(root)
        await page.get_by_role("link", name="Ask", exact=True).click()
        await page.get_by_text("10,000 twins of all 1,500 real people.").wait_for()
        await page.get_by_label("south").check()
        await page.get_by_text(re.compile(r"^10,000 twins of \d{3} of the 1,500 real people\.$")).wait_for()
        assert await problems_of(page) == []

        await page.get_by_label("What it does").first.select_option("email_campaign")
        await page.get_by_label("What it does").nth(1).select_option("speaker_program_invitation")
        await page.get_by_label("Weeks").first.fill("20")
        await page.get_by_label("Twins", exact=True).fill("2,000")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/simulations/*")
        await page.get_by_role("heading", name="What would change the decision").wait_for()
        await page.get_by_role("heading", name="Compared on the same twins").wait_for()
        assert await page.locator("figure[data-chart] svg").count() == 3
        assert await problems_of(page) == []
        answer = page.url

        result = json.loads((await download(page, "JSON", tmp_path / "answer.json")).read_text())
        assert result["request"]["filters"] == {"region": ["south"]}
        assert result["answer"]["result"]["affected_twin_count"] == 2000
        rows = list(csv.DictReader((await download(page, "CSV", tmp_path / "answer.csv")).read_text().splitlines()))
        assert [row["name"] for row in rows[:2]] == ["email_campaign", "speaker_program_invitation"]
        assert float(rows[0]["effect"]) == result["answer"]["result"]["ate"]
        await _opens_without_a_network(browser, await download(page, "Report", tmp_path / "report.html"))

        await page.get_by_role("link", name="Design the pilot").click()
        await page.get_by_label("Effect to detect, %").fill("2")
        await page.keyboard.press("Enter")
        await page.get_by_role("heading", name="Plan").wait_for()
        assert await page.locator("figure[data-chart] svg").count() == 2
        assert await problems_of(page) == []

        await page.goto(answer)
        await page.get_by_role("link", name="Repeat bit for bit").click()
        await page.get_by_role("button", name="Compute it again").click()
        await page.get_by_text("the same to the last bit").wait_for()
        assert await problems_of(page) == []

        await page.goto(answer)
        await page.get_by_role("link", name="Compare", exact=True).click()
        assert await page.get_by_label("What it does").count() == 3
        assert await page.get_by_label("Weeks").first.input_value() == "20"
        assert await page.get_by_label("south").is_checked()
        async with watched_page(browser, **NARROW_AND_DARK) as small:
            for address in (f"{root}/ask", answer, f"{answer}/pilot", f"{answer}/repeat"):
                await small.goto(address)
                assert await problems_of(small) == [], address


async def _opens_without_a_network(browser: Browser, report: Path) -> None:
    async with watched_page(browser, offline=True) as page:
        await page.goto(report.as_uri())
        assert await page.locator("figure[data-chart] svg").count() == 3
        assert await violations(page) == []


async def test_a_refused_value_is_told_beside_its_field_and_nothing_typed_is_lost(
    fresh_database: str, owner_pool: Pool, champion: TwinModel
):
    await _promote(owner_pool, champion)
    refused = "status of (422|503)"
    async with served(fresh_database) as root, open_browser() as browser, watched_page(browser, allowed=refused) as page:
        await page.goto(f"{root}/ask")
        await page.get_by_label("Weeks").first.fill("200")
        await page.get_by_label("Variant").first.fill("B")
        await page.get_by_label("midwest").check()
        await page.get_by_role("button", name="Ask", exact=True).click()
        field = page.get_by_label("Weeks").first
        assert await page.locator("#problem-weeks").inner_text() == "'200' is not possible here: a whole number from 1 to 104."
        assert await field.evaluate("field => field === document.activeElement")
        assert await field.get_attribute("aria-describedby") == "problem-weeks"
        assert await problems_of(page) == []
        await field.fill("20")
        await page.get_by_role("button", name="Ask", exact=True).click()
        await page.get_by_text("Kafka does not answer for now").wait_for()
        assert [await page.get_by_label(name).first.input_value() for name in ("Weeks", "Variant")] == ["20", "B"]
        assert await page.get_by_label("midwest").is_checked()
        await page.get_by_role("button", name="Add another alternative").click()
        assert await page.get_by_label("What it does").count() == 2
        assert await page.get_by_label("Variant").first.input_value() == "B"


async def _promote(pool: Pool, champion: TwinModel) -> None:
    ledger = Ledger(pool)
    await ledger.register_model(champion.card, "0" * 64, pane_s=300.0, window_s=3600.0)
    await ledger.promote(champion.card.line, champion.card.model_id, reason="first model of the line")


@pytest.mark.parametrize("options", [{}, NARROW_AND_DARK])
async def test_without_a_model_the_page_tells_what_to_do_first(fresh_database: str, options: dict[str, Any]):
    async with served(fresh_database) as root, open_browser() as browser, watched_page(browser, **options) as page:
        await page.goto(f"{root}/ask")
        await page.get_by_text("twinstream train FILE").wait_for()
        assert await problems_of(page) == []
