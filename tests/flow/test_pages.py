"""The pages in a real browser, from the tables of a real Postgres: each of them, lists with many rows, and live updates."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import aiohttp
import pytest
from playwright.async_api import Page

from sql.database import Pool
from streams.settings import Settings
from streams.web.dashboard import serve_dashboard
from tests.accessibility import violations
from tests.browsing import open_browser, watched_page
from tests.flow.line_fixture import LINE, add_history
from tests.flow.page_fixture import add_many

NOW = datetime(2025, 3, 4, 12, tzinfo=UTC)
KINDS = {
    "simulations": "simulation_runs",
    "retrains": "retrain_requests",
    "models": "digital_twin_models",
    "refused": "refused_records",
}
IDS = {"simulations": "simulation_id", "retrains": "retrain_id", "models": "model_id", "refused": "refusal_id"}


@pytest.fixture
def page_settings(fresh_database: str, reading_database: str) -> Settings:
    return Settings(postgres_dsn=fresh_database, postgres_read_dsn=reading_database)


@pytest.fixture
async def addresses(owner_pool: Pool) -> list[str]:
    """The path of each page of a line with a history."""
    await add_history(owner_pool, now=NOW)
    singles = [
        f"{kind}/{await owner_pool.fetchval(f'SELECT {IDS[kind]} FROM {table} ORDER BY 1 LIMIT 1')}"
        for kind, table in KINDS.items()
    ]
    segments = f"lines/{LINE}?segment=all&segment=region%3Dsouth&hours=24"
    return ["", f"lines/{LINE}", segments, *KINDS, *singles, "simulations?q=nothing", f"lines/{LINE}x", "models?page=x"]


@asynccontextmanager
async def shown(address: str, **options: object) -> AsyncIterator[Page]:
    async with open_browser() as browser, watched_page(browser, **options) as page:
        await page.goto(address)
        yield page


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_page_is_accessible_fits_the_screen_and_breaks_no_policy(page_settings, addresses: list[str], scheme: str):
    found: dict[str, list[str]] = {}
    async with serve_dashboard(page_settings) as root, open_browser() as browser:
        for width in (390, 1280):
            options = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
            for path in addresses:
                refused = "status of (400|404)" if path.endswith("x") else None
                async with watched_page(browser, allowed=refused, **options) as page:
                    await page.goto(f"{root}{path}")
                    await page.get_by_text("live", exact=True).wait_for()
                    wide = await page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
                    found[f"{path} at {width}"] = [*await violations(page), *(["wider than the screen"] if wide else [])]
    assert {place: problems for place, problems in found.items() if problems} == {}


async def test_lists_of_a_hundred_lines_and_a_thousand_simulations_are_paged_searched_and_sorted(page_settings, owner_pool):
    await add_history(owner_pool, now=NOW)
    await add_many(owner_pool, now=NOW, lines=99, simulations=1000)
    async with serve_dashboard(page_settings) as root, shown(root) as page:
        await page.get_by_text("100 found, page 1 of 2").wait_for()
        states = await page.locator("tbody .badge:first-child").all_inner_texts()
        assert await page.locator("tbody tr").count() == 50
        assert states[:10] == ["alarm"] * 10
        assert states[10:20] == ["warning"] * 10
        await page.get_by_role("link", name="next page").click()
        await page.get_by_text("100 found, page 2 of 2").wait_for()
        await page.get_by_label("Search").fill("brand_17")
        await page.get_by_role("button", name="Show").click()
        await page.get_by_text("1 found").wait_for()
        await page.get_by_role("link", name="Simulations", exact=True).click()
        await page.get_by_text("1,004 found, page 1 of 21").wait_for()
        await page.get_by_label("State").select_option("test_further")
        await page.get_by_role("button", name="Show").click()
        await page.get_by_text(re.compile(r"^33\d found, page 1 of 7$")).wait_for()
        assert set(await page.locator("table.wide td:nth-child(5)").all_inner_texts()) == {"test further"}


async def test_a_page_shows_what_has_changed_and_leaves_open_what_the_reader_opened(page_settings, owner_pool):
    await add_history(owner_pool, now=NOW)
    async with serve_dashboard(page_settings) as root, shown(f"{root}refused") as page:
        await page.get_by_text("the record is no JSON").wait_for()
        await page.get_by_text("live", exact=True).wait_for()
        await owner_pool.execute("DELETE FROM refused_records")
        await page.get_by_text("No record has been refused.").wait_for()
        await page.goto(f"{root}lines/{LINE}")
        await page.locator("summary", has_text="2 segments").click()
        await owner_pool.execute("UPDATE retrain_requests SET outcome = 'told anew', finished_at = now() + interval '1 minute'")
        await page.get_by_text("Result: told anew").wait_for()
        assert await page.locator("td", has_text="region=south").is_visible()
        assert await page.locator("figure[data-chart] svg").count() == 2


async def test_a_page_notices_that_the_service_has_gone_and_goes_on_when_it_is_back(page_settings, owner_pool):
    await add_history(owner_pool, now=NOW)
    async with open_browser() as browser, watched_page(browser, allowed="ERR_CONNECTION_REFUSED|ERR_INCOMPLETE|ERR_EMPTY") as page:
        async with serve_dashboard(page_settings) as root:
            await page.goto(f"{root}refused")
            await page.get_by_text("live", exact=True).wait_for()
        await page.get_by_text("not reachable, trying again").wait_for()
        await owner_pool.execute("DELETE FROM refused_records")
        async with serve_dashboard(page_settings, int(root.rstrip("/").rpartition(":")[2])):
            await page.get_by_text("live", exact=True).wait_for()
            await page.get_by_text("No record has been refused.").wait_for()


async def test_the_keyboard_alone_reaches_content_search_and_numbers(page_settings, owner_pool):
    await add_history(owner_pool, now=NOW)
    async with serve_dashboard(page_settings) as root, shown(f"{root}simulations") as page:
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.textContent") == "Skip to the content"
        await page.keyboard.press("Enter")
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.id") == "q"
        await page.keyboard.type("e-mail")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/simulations?q=e-mail**")


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("lines/hcp:none:x", 404, "There is no line 'hcp:none:x'."),
        ("simulations/xyz", 404, "'xyz' is no id: it has 32 hexadecimal digits"),
        (
            "models/00000000-0000-0000-0000-000000000001",
            404,
            "There is nothing with the id 00000000-0000-0000-0000-000000000001 here.",
        ),
        ("retrains?state=odd", 400, "There is no state 'odd' in this list: use queued, running,"),
        ("simulations?page=0", 400, "The parameter page is '0': it has to be a whole number, from 1 to 100000"),
        ("simulations?hours=5", 400, "The parameter hours is '5': it has to be a whole number, one of 0, 1, 24, 168, 720"),
        (f"lines/{LINE}?" + "&".join(f"segment=s{n}" for n in range(7)), 400, "7 segments are more than the 6 that a chart shows"),
    ],
)
async def test_what_an_address_does_not_take_is_told_with_what_it_takes(page_settings, path: str, status: int, sentence: str):
    async with serve_dashboard(page_settings) as root, aiohttp.ClientSession() as session, session.get(f"{root}{path}") as reply:
        html = (await reply.text()).replace("&#39;", "'")
        assert reply.status == status
    assert sentence in html
