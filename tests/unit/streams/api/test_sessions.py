"""Browsers where requests need a token, without servers behind the API: where they are sent, and what they may send."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from streams.api.access import SESSION_COOKIE
from tests.http_api import Api, running

PAGE = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
FORM = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"}
COOKIE = {"Cookie": f"{SESSION_COOKIE}=twin_guess"}


@pytest.fixture
async def exposed() -> AsyncIterator[Api]:
    """The API behind a proxy, where every request needs a token."""
    async with running(web_behind_proxy=True) as api:
        yield api


async def test_a_browser_without_a_token_is_sent_to_the_log_in_and_a_program_is_told_of_the_header(exposed: Api):
    page = await exposed.ask("GET", "/?from=week&q=ä", **PAGE)
    assert (page.status, page.headers["Location"]) == (303, "/login?next=%2F%3Ffrom%3Dweek%26q%3D%25C3%25A4")
    assert (await exposed.ask("GET", "/")).status == 401
    assert (await exposed.ask("GET", "/api/v1/models", **PAGE)).body["status"] == 401


async def test_a_link_of_another_site_is_loaded_again_as_the_browser_sends_no_cookie_with_it(exposed: Api):
    page = await exposed.ask("GET", "/?q=a%22b", Sec_Fetch_Site="cross-site", **PAGE)
    assert page.status == 401
    assert '<meta http-equiv="refresh" content="0;url=/?q=a%22b">' in page.body


async def test_the_log_in_is_a_form_without_scripts_that_loads_its_style(exposed: Api):
    page = await exposed.ask("GET", "/login?next=/lines", **PAGE)
    assert page.status == 200
    assert '<input type="hidden" name="next" value="/lines">' in page.body
    assert "<script" not in page.body
    assert page.headers["Referrer-Policy"] == "same-origin"
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert page.headers["Cache-Control"] == "no-store"
    assert (await exposed.ask("GET", "/access.css")).headers["Content-Type"].startswith("text/css")


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", "/login"])
async def test_the_log_in_leads_to_nobody_elses_page(exposed: Api, target: str):
    page = await exposed.ask("GET", f"/login?next={target}", **PAGE)
    assert '<input type="hidden" name="next" value="/">' in page.body


async def test_an_empty_token_is_told_beside_the_field(exposed: Api):
    page = await exposed.ask("POST", "/login", b"token=++&next=%2Flines", **FORM, **PAGE)
    assert page.status == 422
    assert 'aria-describedby="problem"' in page.body
    assert '<p id="problem" class="bad">Enter a token.</p>' in page.body
    assert 'name="next" value="/lines"' in page.body


@pytest.mark.parametrize(
    ("body", "headers", "status", "detail"),
    [
        (b"token=a", {"Content-Type": "application/json", "Sec-Fetch-Site": "same-origin"}, 415, "takes a form"),
        (b"token=a", {"Content-Type": "application/x-www-form-urlencoded"}, 403, "comes from a page of this service"),
        (b"token=a", {**FORM, "Sec-Fetch-Site": "cross-site"}, 403, "may not send requests"),
        (b"&".join([b"a=1"] * 20), FORM, 400, "the body is no form"),
        (b"\xff", FORM, 400, "the body is no form"),
        (b"token=a", FORM, 503, "Postgres does not answer"),
    ],
)
async def test_what_is_no_form_of_the_own_page_logs_nobody_in(
    exposed: Api, body: bytes, headers: dict[str, str], status: int, detail: str
):
    reply = await exposed.ask("POST", "/login", body, **headers)
    assert reply.status == status
    assert detail in reply.body["detail"]
    assert "Set-Cookie" not in reply.headers


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 503),  # it was taken, and Postgres has the token
    ],
)
async def test_the_cookie_decides_only_from_a_page_of_the_service(exposed: Api, headers: dict[str, str], status: int):
    reply = await exposed.ask("POST", f"/api/v1/retrains/{uuid4()}/approval", **headers, **COOKIE)
    assert reply.status == status
    origin = await exposed.ask("POST", f"/api/v1/retrains/{uuid4()}/approval", Origin=f"http://127.0.0.1:{exposed.port}", **COOKIE)
    assert origin.status == 503


async def test_logging_out_makes_the_browser_forget_the_token(exposed: Api):
    reply = await exposed.ask("POST", "/logout", **FORM, **COOKIE)
    assert (reply.status, reply.headers["Location"]) == (303, "/login")
    assert reply.headers["Set-Cookie"].startswith(f'{SESSION_COOKIE}="";')
    assert "Max-Age=0" in reply.headers["Set-Cookie"]


async def test_where_nobody_needs_a_token_there_is_no_log_in_and_a_cookie_means_nothing():
    async with running() as api:
        reply = await api.ask("GET", "/login?next=/lines", **PAGE)
        assert (reply.status, reply.headers["Location"]) == (303, "/lines")
        assert (await api.ask("GET", "/", **COOKIE)).status == 200


async def test_a_browser_reads_errors_as_sentences(exposed: Api):
    async with running() as api:
        page = await api.ask("GET", "/campaigns", **PAGE)
    assert page.status == 404
    assert '<h1 id="heading">Not Found</h1>' in page.body
    assert "There is nothing at this address" in page.body
