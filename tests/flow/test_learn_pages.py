"""The pages on which a table is uploaded and mapped, in a real browser, served by the role web from a real Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from playwright.async_api import Page

from deploy.stack.part import free_port
from engine.sample_tables import sample_hcps
from sql.database import Pool
from streams.api.server import serving_api
from streams.settings import Settings
from tests.accessibility import violations
from tests.browsing import open_browser, watched_page


@pytest.fixture
async def root(fresh_database: str) -> AsyncIterator[str]:
    """Address of the role web, without a broker."""
    port = free_port()
    settings = Settings(kafka_bootstrap="127.0.0.1:9", postgres_dsn=fresh_database, api_port=port, kafka_connect_timeout_s=1.0)
    async with serving_api(settings):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Prescribers under headers of somebody's own."""
    frame = sample_hcps(1200, np.random.default_rng(3))
    frame.insert(0, "Provider", [f"hcp-{number}" for number in range(len(frame))])
    path = tmp_path / "hcps.csv"
    frame.rename(columns={"specialty": "Fachgebiet"}).to_csv(path, index=False)
    return path


@asynccontextmanager
async def shown(address: str, **options: object) -> AsyncIterator[Page]:
    async with open_browser() as browser, watched_page(browser, **options) as page:
        await page.goto(address)
        yield page


async def upload(page: Page, file: Path) -> None:
    await page.get_by_label("File, CSV or Parquet").set_input_files(file)
    await page.get_by_role("button", name="Upload").click()


async def test_a_table_is_uploaded_mapped_and_checked_and_nothing_that_is_typed_is_lost(root: str, table: Path, pool: Pool):
    async with shown(f"{root}/learn", allowed="status of (422|503)") as page:
        await page.get_by_text("No table is stored. Upload one above").wait_for()
        await page.get_by_text("No table has been trained on yet.").wait_for()
        await upload(page, table)
        await page.get_by_role("heading", name="hcps.csv").wait_for()
        assert await page.get_by_label("Provider", exact=True).input_value() == ""

        await page.get_by_label("Provider", exact=True).fill("entity_id")
        await page.get_by_label("Fachgebiet", exact=True).fill("speciality")
        await page.get_by_role("button", name="Check").click()

        await page.get_by_text("unknown feature 'speciality'").wait_for()
        field = page.get_by_label("Fachgebiet", exact=True)
        assert (await field.input_value(), await field.get_attribute("aria-invalid")) == ("speciality", "true")
        assert await page.get_by_label("Provider", exact=True).input_value() == "entity_id"
        await field.fill("specialty")
        await page.get_by_role("button", name="Check").click()
        await page.get_by_text("it can be trained on").wait_for()

        await page.get_by_label("Brand").fill("aspirin")
        await page.get_by_role("button", name="Train").click()
        await page.locator("#line-error", has_text="aspirin").wait_for()
        assert await page.get_by_label("Fachgebiet", exact=True).input_value() == "specialty"
    assert await pool.fetchval("SELECT count(*) FROM trainings") == 0


async def test_a_file_that_cannot_be_read_is_refused_beside_its_field(root: str, tmp_path: Path):
    word, empty = tmp_path / "hcps.docx", tmp_path / "empty.csv"
    word.write_text("x")
    empty.write_text("")
    async with shown(f"{root}/learn", allowed="status of 422") as page:
        await page.get_by_label("Time zone").fill("Europe/Berlin")
        await upload(page, word)
        await page.get_by_text("hcps.docx is neither CSV (.csv, .txt, .tsv) nor Parquet (.parquet)").wait_for()
        await upload(page, empty)
        await page.get_by_role("alert").get_by_text("the body is empty").wait_for()
        assert await page.get_by_label("Time zone").input_value() == "Europe/Berlin"


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_pages_are_accessible_fit_the_screen_and_break_no_policy(root: str, table: Path, scheme: str):
    found: dict[str, list[str]] = {}
    async with open_browser() as browser:
        for width in (390, 1280):
            async with watched_page(browser, viewport={"width": width, "height": 900}, color_scheme=scheme) as page:
                await page.goto(f"{root}/learn")
                found[f"learn at {width}"] = await violations(page)
                await upload(page, table)
                await page.get_by_role("heading", name="hcps.csv").wait_for()
                wide = await page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
                found[f"table at {width}"] = [*await violations(page), *(["wider than the screen"] if wide else [])]
    assert {place: problems for place, problems in found.items() if problems} == {}


async def test_a_table_that_is_not_there_is_told_in_a_sentence(root: str):
    for name in ("x", "7f0c8a52-6c1e-4b3a-9f57-0d2f7f1f8a11"):
        async with shown(f"{root}/learn/{name}", allowed="status of 404") as page:
            await page.get_by_text("It was deleted, or is older than the tables that are kept: upload it again.").wait_for()
