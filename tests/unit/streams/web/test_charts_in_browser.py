"""Charts in a real browser: drawn from their data in one file without a network, with numbers written as Python writes them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.async_api import Page

from streams.reporting.charts import Curve, EventMarker, ReferenceLine, curves_chart
from streams.reporting.charts import chart_table as table_of
from streams.web.rendering import render_report
from tests.browsing import open_browser, watched_page
from tests.evidence.page import render, to_dict
from tests.evidence.part import Part, Plot
from tests.unit.streams.web.overviews import NOW, overview_with_charts

VALUES = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    0.951,
    -0.012,
    12.5,
    0.125,
    999.4,
    1234.5678,
    21_600.0,
    1e6,
    1.5e9,
    0.00012,
    3e-7,
    -2.5e-5,
    0.1 + 0.2,
]
FORMS = [".0%", ".1%", "+.1%", ".3g", "g", ",.0f", ".2f", ".0f", "+.2f", ",.3g", ".2%"]
REPORT = {
    "succeeded": True,
    "table": {"source": "a table", "rows": 1, "left_out": []},
    "model": overview_with_charts().lines[0].champion.model_dump(mode="json"),
    "outcomes": 21_600,
    "shift": "none",
    "delay_outcomes": 388,
    "fidelity": {},
    "verify": {"mismatches": []},
    "seconds": {"training": 1.0},
}


def python_text(value: float, form: str) -> str:
    """A value as Python writes it, with a minus sign where it is not rounded to zero, and an exponent without a zero in front."""
    if not re.search("[1-9]", format(value, form)):
        value = 0.0
    return re.sub(r"e([+-])0", r"e\1", format(value + 0.0, form)).replace("-", "−")


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """The report of a demonstration as a file."""
    markers = [EventMarker(NOW - timedelta(minutes=minutes), "worker killed", "bad") for minutes in (100, 101, 150)]
    file = tmp_path / "report.html"
    file.write_text(render_report(overview_with_charts(), REPORT, "as text", markers), encoding="utf-8")
    return file


async def open_file(page: Page, file: Path) -> None:
    await page.goto(file.as_uri())
    await page.locator("figure[data-chart] svg path").first.wait_for(state="attached")


async def test_a_report_draws_its_charts_without_a_network_and_without_a_violation_of_its_policy(report: Path):
    async with open_browser() as browser, watched_page(browser, offline=True) as page:
        await open_file(page, report)
        assert await page.locator("figure[data-chart] svg").count() == 3
        names = [await plot.get_attribute("aria-label") for plot in await page.locator(".plot[role=img]").all()]
    assert names[0].startswith("Mean absolute error over time. Mean absolute error in")
    assert names[2].startswith("Simulated effects. Average effect of each")


async def test_the_script_writes_numbers_as_python_does(report: Path):
    pairs = [(value, form) for form in FORMS for value in VALUES]
    async with open_browser() as browser, watched_page(browser) as page:
        await open_file(page, report)
        texts = await page.evaluate("pairs => pairs.map(([value, form]) => twinstream.formatValue(value, form))", pairs)
    assert dict(zip(pairs, texts, strict=True)) == {pair: python_text(*pair) for pair in pairs}


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1600, "dark")])
async def test_a_report_fits_the_screen_and_its_texts_are_in_the_colour_of_the_scheme(report: Path, width: int, scheme: str):
    async with (
        open_browser() as browser,
        watched_page(browser, viewport={"width": width, "height": 800}, color_scheme=scheme) as page,
    ):
        await open_file(page, report)
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        label = page.locator("figure[data-chart] svg text", has_text="limit").first
        colour = await label.get_attribute("fill")
    assert (
        colour
        in {
            "light": ("#b3261e", "rgb(179, 38, 30)", "rgb(179,38,30)"),
            "dark": ("#ff8a80", "rgb(255, 138, 128)", "rgb(255,138,128)"),
        }[scheme]
    )


async def test_the_numbers_of_a_chart_are_reached_with_the_keyboard_and_files_have_them(report: Path, tmp_path: Path):
    async with open_browser() as browser, watched_page(browser) as page:
        await open_file(page, report)
        numbers = page.locator("figure[data-chart] details.numbers").first
        await numbers.locator("summary").focus()
        await page.keyboard.press("Enter")
        cells = await numbers.locator("tbody tr").first.locator("td").all_inner_texts()
        assert cells[0] == "model 17c2e1a3"
        assert re.fullmatch(r"2026-03-01 \d\d:\d\d:00 UTC", cells[1])
        for kind, first_bytes in (("PNG", b"\x89PNG"), ("SVG", b"<svg"), ("CSV", b"Curve,Time (UTC),Value")):
            async with page.expect_download() as started:
                await page.get_by_role("button", name=f"Download Mean absolute error over time as {kind}").click()
            file = tmp_path / f"chart.{kind}"
            await (await started.value).save_as(file)
            assert file.read_bytes().startswith(first_bytes), kind
            assert (await started.value).suggested_filename == f"mean-absolute-error-over-time.{kind.lower()}"


async def test_a_chart_is_printed_in_light_colours(report: Path):
    async with open_browser() as browser, watched_page(browser, color_scheme="dark") as page:
        await open_file(page, report)
        await page.evaluate("dispatchEvent(new Event('beforeprint'))")
        label = page.locator("figure[data-chart] svg text", has_text="limit").first
        on_paper = await label.get_attribute("fill")
        await page.evaluate("dispatchEvent(new Event('afterprint'))")
        on_screen = await label.get_attribute("fill")
    assert on_paper != on_screen


async def test_the_evidence_page_draws_curves_on_logarithmic_axes_without_a_network(tmp_path: Path):
    chart = curves_chart(
        [
            Curve("width", [1_000, 10_000, 100_000], [1.0, 0.9, 0.95], [0.1, 0.1, 0.1]),
            Curve("other", [1_000, 100_000], [0.5, 0.6], tone="two"),
        ],
        title="Widths",
        description="By twins.",
        x_label="twins",
        x_form=",.0f",
        log_x=True,
        lines=[ReferenceLine(1.05, "+5 %", "bad")],
    )
    part = Part("Some part", ("A sentence.",), plots=(Plot("A caption", chart, wide=True),))
    file = tmp_path / "evidence.html"
    file.write_text(
        render({"about": "here", "parts": {"some": {**to_dict(part), "seconds": 3, "measured": f"{datetime.now(UTC):%Y}"}}}),
        encoding="utf-8",
    )
    async with open_browser() as browser, watched_page(browser, offline=True) as page:
        await open_file(page, file)
        labels = await page.locator("figure[data-chart] svg text").all_text_contents()
        rows = await page.locator("figure[data-chart] tbody tr").count()
    assert {"10,000", "twins", "width", "other", "+5 %"} <= set(labels)
    assert rows == len(table_of(chart)[1])
