"""A real browser for tests of the pages: the system's Chromium."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Browser, Page, async_playwright

__all__ = ["open_browser", "watched_page"]

_PATIENCE_MS = 90_000.0  # on a busy machine a page that reads a table takes longer than the 30 s of Playwright


@asynccontextmanager
async def open_browser() -> AsyncIterator[Browser]:
    """A Chromium without a window; without one installed the test is skipped, and fails where ``CI`` is set."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("no chromium on the PATH")
        pytest.skip("no chromium on the PATH")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        await browser.close()


@asynccontextmanager
async def watched_page(browser: Browser, *, allowed: str | None = None, **options: Any) -> AsyncIterator[Page]:
    """A page of a context with these options; what its console tells, and errors of its scripts, fail the test at the end.

    Args:
        browser: where it is opened.
        allowed: pattern of what the console may tell, where the test makes something fail.
        options: of the context, such as its ``viewport``.
    """
    context = await browser.new_context(**options)
    page = await context.new_page()
    page.set_default_timeout(_PATIENCE_MS)
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    yield page
    await context.close()
    assert [message for message in messages if allowed is None or not re.search(allowed, message)] == []
