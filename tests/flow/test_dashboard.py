"""The dashboard: served over HTTP, from the tables of a real Postgres."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from functools import partial

import aiohttp
import pytest
from pydantic import SecretStr

from deploy.stack.part import free_port
from schemas import DriftState
from sql.database import Pool, open_pool
from streams.reporting import EventMarker
from streams.reporting.overview import read_overview
from streams.settings import Settings
from streams.web.dashboard import serve_dashboard
from streams.web.rendering import render_report
from tests.flow.line_fixture import LINE, add_history
from tests.polling import until

NOW = datetime(2025, 3, 4, 12, tzinfo=UTC)


@pytest.fixture
async def page_settings(fresh_database: str, reading_database: str) -> Settings:
    return Settings(postgres_dsn=fresh_database, postgres_read_dsn=reading_database)


@pytest.fixture
async def page_pool(owner_pool: Pool) -> Pool:
    """Connections that may also write a past into the ledger."""
    return owner_pool


def text_of(html: str) -> str:
    body = re.sub(r"<(style|script|desc|title)\b.*?</\1>", " ", html, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


async def test_an_empty_service_names_the_first_commands(page_settings):
    async with serve_dashboard(page_settings) as address:
        texts = [await get(f"{address}{section}") for section in ("", "simulations", "retrains", "models", "refused")]
    first, simulations, retrains, models, refused = texts
    assert "No model line yet" in first
    assert "twinstream train FILE" in first
    assert "No simulation has been requested yet" in simulations
    assert "No retrain has been requested yet" in retrains
    assert "No model has been trained yet" in models
    assert "No record has been refused." in refused


async def test_the_overview_has_the_exact_newest_window_of_every_segment(page_pool):
    await add_history(page_pool, now=NOW)
    (line,) = (await read_overview(page_pool, 200)).lines
    windows = {window.segment: window for window in line.windows}
    assert line.line == LINE
    assert set(windows) == {"all", "region=south", "region=west"}
    assert windows["all"].metrics.n == 12 * 200
    assert windows["region=south"].metrics.n + windows["region=west"].metrics.n == 12 * 200
    assert windows["all"].metrics.mae == pytest.approx(0.063 * (2 / 3.141592653589793) ** 0.5, rel=0.05)
    assert windows["all"].state is DriftState.OK
    assert line.scored_model == line.champion
    assert [series.card.model_id for series in line.series][-1] == line.champion.model_id
    assert sum(point.metrics.n for series in line.series for point in series.points) == 108 * 200


async def test_rules_apply_only_from_the_minimum_number_of_outcomes(page_pool):
    await add_history(page_pool, now=NOW)
    (line,) = (await read_overview(page_pool, n_min=1_000_000)).lines
    assert all("too few to judge" in verdict.reason for verdict in line.overall.verdicts)


async def test_the_pages_show_everything_and_escape_foreign_text(page_settings, page_pool):
    await add_history(page_pool, now=NOW)
    shown = {
        "": ["HCP · Kisqali", "prescribing change", "21,600 outcomes ingested"],
        f"lines/{LINE}": ["MAE 0.0761 is above 0.06144", "the second challenger was promoted", "challenger MAE", "2 segments"],
        "simulations": ["Speaker program", "6.1% to 15.8%", "do not deploy", "on an assumption"],
        "refused": ["outcome-events:2 @ 41", "the record is no JSON"],
    }
    async with serve_dashboard(page_settings) as address, aiohttp.ClientSession() as session:
        for path, texts in shown.items():
            async with session.get(f"{address}{path}") as reply:
                html, policy = await reply.text(), reply.headers["Content-Security-Policy"]
            for text_part in texts:
                assert text_part in text_of(html), text_part
            assert "script-src 'self'; style-src 'self'" in policy
            assert not re.search(r"<script(?! (src=\"/static/|type=\"application/json\"))|<style| style=| on[a-z]+=", html)
            assert not re.search(r"""(src|href)=["']https?://(?!127\.0\.0\.1)""", html)
        async with session.get(f"{address}refused/{await page_pool.fetchval('SELECT refusal_id FROM refused_records')}") as reply:
            html = await reply.text()
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)" in html


async def test_charts_have_markers_of_the_retrain_and_the_promotion(page_settings, page_pool):
    await add_history(page_pool, now=NOW)
    async with (
        serve_dashboard(page_settings) as address,
        aiohttp.ClientSession() as session,
        session.get(f"{address}lines/{LINE}") as reply,
    ):
        html = await reply.text()
    blocks = re.findall(r'<script type="application/json">(.*?)</script>', html)
    error = next(chart for chart in map(json.loads, blocks) if chart["title"] == "Mean absolute error over time")
    assert {"retrain requested", "challenger rejected", "promoted"} <= {marker["label"] for marker in error["markers"]}
    assert {"baseline", "limit +20%"} == {line["label"] for line in error["lines"]}


async def test_without_postgres_the_dashboard_shows_the_last_figures_and_recovers(
    page_settings: Settings, page_pool: Pool, fresh_database: str, postgres_dsn: str
):
    await add_history(page_pool, now=NOW)
    name = fresh_database.rpartition("/")[2]
    async with serve_dashboard(page_settings) as address, await open_pool(page_settings, dsn=postgres_dsn) as admin:
        before = await get(address)
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        meanwhile = await until(partial(get, address), lambda text: "Postgres has not answered since" in text)
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        await until(partial(get, address), lambda text: "cannot be read" not in text and "Postgres has not" not in text)
    assert "21,600 outcomes ingested" in before
    assert "21,600 outcomes ingested" in meanwhile
    assert "nothing is stored or counted; records wait in Kafka" in meanwhile
    assert "The figures below are those of" in meanwhile


async def test_a_dashboard_that_starts_without_postgres_has_no_figures_and_says_why():
    settings = Settings(postgres_dsn=SecretStr(f"postgresql://nobody@127.0.0.1:{free_port()}/none"))
    async with serve_dashboard(settings) as address:
        text = await get(address)
    assert "The figures cannot be read now" in text
    assert "No model line yet" not in text


async def get(address: str) -> str:
    """The text of the page, which is there whatever is out."""
    async with aiohttp.ClientSession(raise_for_status=True) as session, session.get(address) as reply:
        return text_of(await reply.text())


async def test_scripts_and_styles_are_kept_by_browsers_and_change_their_address_with_their_content(page_settings):
    async with serve_dashboard(page_settings) as address, aiohttp.ClientSession(address) as session:
        async with session.get("/") as reply:
            paths = re.findall(r'(?:src|href)="(/static/[^"]+)"', await reply.text())
        assert [path.rpartition("/")[2] for path in paths] == ["page.css", "echarts.min.js", "charts.js", "live.js", "act.js"]
        for path in paths:
            async with session.get(path) as reply:
                assert reply.status == 200
                assert "immutable" in reply.headers["Cache-Control"]
                assert reply.headers["Content-Encoding"] in ("gzip", "deflate")
        async with session.get("/static/0000000000000000/page.css") as reply:
            assert (reply.status, await reply.text()) == (404, "this script or style is of another version: load the page again\n")


async def test_a_report_loads_nothing_and_has_markers_of_its_own(page_pool):
    await add_history(page_pool, now=NOW)
    overview = await read_overview(page_pool, 200)
    report = {
        "succeeded": True,
        "table": {"source": "a table", "rows": 1, "left_out": []},
        "model": overview.lines[0].champion.model_dump(mode="json"),
        "outcomes": 21_600,
        "shift": "none",
        "delay_outcomes": 388,
        "fidelity": {},
        "verify": {"mismatches": []},
        "seconds": {"training": 1.0},
    }
    html = render_report(overview, report, "AS TEXT <&>", [EventMarker(NOW - timedelta(hours=3), "injected shift", "warn")])
    assert "<script src" not in html
    assert html.count('"label": "injected shift"') == 2
    assert "AS TEXT &lt;&amp;&gt;" in html
