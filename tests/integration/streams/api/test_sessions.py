"""Browsers log in with a token that Postgres knows: over HTTP, and with a real Chromium."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http.cookies import SimpleCookie
from uuid import uuid4

import pytest
from aiohttp import web
from pydantic import SecretStr

from deploy.stack.part import free_port
from streams.api.access import SESSION_COOKIE
from streams.operations.api_tokens import NewToken, issue_token, withdraw_token
from streams.settings import Settings
from tests.accessibility import violations
from tests.browsing import open_browser, watched_page
from tests.http_api import Api, running

PAGE = {"Accept": "text/html,*/*;q=0.8"}
FORM = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def owner(fresh_database: str, migrating_database: str) -> Settings:
    """Settings with the user who creates tokens."""
    return Settings(postgres_dsn=fresh_database, postgres_migrate_dsn=SecretStr(migrating_database))


@pytest.fixture
async def exposed(fresh_database: str) -> AsyncIterator[Api]:
    """The API behind a proxy, where every request needs a token."""
    async with running(web_behind_proxy=True, postgres_dsn=fresh_database) as api:
        yield api


async def log_in(api: Api, token: NewToken) -> Mapping[str, str]:
    """Log in by the form, and return the header with the cookie."""
    reply = await api.ask("POST", "/login", f"token={token.secret}&next=%2Flogin%3F".encode(), **FORM)
    assert (reply.status, reply.headers["Location"]) == (303, "/")
    return {"Cookie": reply.headers["Set-Cookie"].partition(";")[0]}


async def test_a_token_is_kept_by_the_browser_alone_and_allows_pages_and_the_api(
    exposed: Api, owner: Settings, caplog: pytest.LogCaptureFixture
):
    token = await issue_token(owner, "report", "ask", 1)
    reply = await exposed.ask("POST", "/login", f"token=+{token.secret}%0A&next=%2Flines%3Fq%3Da".encode(), **FORM, **PAGE)
    assert (reply.status, reply.headers["Location"]) == (303, "/lines?q=a")
    (cookie,) = SimpleCookie(reply.headers["Set-Cookie"]).values()
    assert (cookie.key, cookie.value, cookie["path"], cookie["domain"]) == (SESSION_COOKIE, token.secret, "/", "")
    assert (cookie["httponly"], cookie["secure"], cookie["samesite"]) == (True, True, "strict")
    assert 86_000 < int(cookie["max-age"]) <= 86_400

    headers = {"Cookie": f"{SESSION_COOKIE}={token.secret}"}
    assert (await exposed.ask("GET", "/", **PAGE, **headers)).status == 200
    assert (await exposed.ask("GET", "/api/v1/models", **headers)).status == 200
    own_page = {"Origin": f"http://127.0.0.1:{exposed.port}", **headers}
    assert (await exposed.post("/api/v1/designs", {}, **own_page)).status == 422
    assert (await exposed.post("/api/v1/designs", {}, **headers)).status == 403
    denied = await exposed.post(f"/api/v1/retrains/{uuid4()}/approval", {}, **own_page)
    assert (denied.status, denied.body["missing_scope"]) == (403, "operate")
    shown = await exposed.ask("GET", "/login", **PAGE, **headers)
    assert "You are logged in with the token report, which allows read, ask." in shown.body
    assert token.secret not in shown.body
    assert token.secret not in caplog.text


async def test_a_token_that_is_unknown_logs_nobody_in_and_is_not_shown(exposed: Api):
    reply = await exposed.ask("POST", "/login", b"token=twin_guess&next=%2Flines", **FORM, **PAGE)
    assert reply.status == 401
    assert '<p id="problem" class="bad">The token is unknown, revoked or expired.</p>' in reply.body
    assert "twin_guess" not in reply.body
    assert "Set-Cookie" not in reply.headers


async def test_a_revoked_token_is_refused_within_seconds_and_the_browser_forgets_it(exposed: Api, owner: Settings):
    headers = await log_in(exposed, await issue_token(owner, "report", "read", None))
    await withdraw_token(owner, "report")
    async with asyncio.timeout(30):
        while (await exposed.ask("GET", "/api/v1/models", **headers)).status == 200:  # noqa: ASYNC110  # until it is looked up again
            await asyncio.sleep(0.2)
    page = await exposed.ask("GET", "/", **PAGE, **headers)
    assert (page.status, page.headers["Location"]) == (303, "/login?next=%2F")
    shown = await exposed.ask("GET", page.headers["Location"], **PAGE, **headers)
    assert "You were logged out, as the token is unknown, revoked or expired." in shown.body
    assert "Max-Age=0" in shown.headers["Set-Cookie"]


async def test_an_analyst_logs_in_by_keyboard_and_out_again(exposed: Api, owner: Settings):
    token, address = await issue_token(owner, "report", "read", None), f"http://127.0.0.1:{exposed.port}"
    async with open_browser() as browser, watched_page(browser, viewport={"width": 390, "height": 800}) as page:
        await page.goto(f"{address}/")
        assert page.url == f"{address}/login?next=%2F"
        assert await violations(page) == []
        assert await page.evaluate("document.documentElement.scrollWidth") <= 390
        await page.keyboard.type(token.secret)
        await page.keyboard.press("Enter")
        await page.wait_for_url(f"{address}/")
        assert await page.evaluate("document.cookie") == ""
        await page.goto(f"{address}/login")
        assert await violations(page) == []
        await page.get_by_role("button", name="Log out").click()
        await page.wait_for_url(f"{address}/login")
        await page.goto(f"{address}/")
        assert page.url == f"{address}/login?next=%2F"


async def test_a_page_of_somebody_else_cannot_use_the_cookie_of_an_analyst(exposed: Api, owner: Settings):
    """A page of another port of this machine is of the same site, so that a browser sends the cookie with its requests."""
    token, address = await issue_token(owner, "board", "operate", None), f"http://127.0.0.1:{exposed.port}"
    target = f"{address}/api/v1/models/hcp:kisqali:a/rollbacks"
    form = f'<form method="post" enctype="text/plain" action="{target}"><button>Win</button></form>'
    async with foreign_page(form) as foreign, open_browser() as browser:
        page = await (await browser.new_context()).new_page()
        await page.goto(f"{address}/login")
        await page.get_by_label("Token").fill(token.secret)
        await page.get_by_role("button", name="Log in").click()
        await page.wait_for_url(f"{address}/")
        own = await page.evaluate(_SEND, target)
        await page.goto(foreign)
        async with page.expect_response(target) as answered:
            await page.get_by_role("button", name="Win").click()
        sent = await answered.value
        status, text = sent.status, await sent.text()
        await page.goto(foreign)
        failed = await page.evaluate(_SEND, target)
    assert own == 404  # there is no such line, and the page may decide
    assert status == 403
    assert re.search(r"a page of '?http://127.0.0.1:\d+'? may not send requests", text)
    assert failed == "refused"


_SEND = """async address => {
    try {
        return (await fetch(address, {method: "POST", headers: {"Content-Type": "application/json"}, body: "{}"})).status;
    } catch (error) {
        return "refused";
    }
}"""


@asynccontextmanager
async def foreign_page(body: str) -> AsyncIterator[str]:
    """The address of a page on another port of this machine."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text=f"<!doctype html><title>Win</title>{body}", content_type="text/html")

    app, port = web.Application(), free_port()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield f"http://127.0.0.1:{port}/"
    await runner.cleanup()
