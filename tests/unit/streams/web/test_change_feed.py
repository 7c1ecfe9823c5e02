"""Changes are told to those who listen, and nothing is read while nobody does."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from streams.web import change_feed
from streams.web.change_feed import ChangeFeed, TooManyListeners


async def test_a_listener_is_told_of_each_change_and_hears_a_heartbeat_without_one():
    marks = ["first"]

    async def read() -> str:
        return marks[-1]

    feed = ChangeFeed(read, poll_s=0.01, heartbeat_s=0.05)
    async with feed.running(), aclosing(feed.listen()) as changes:
        assert await anext(changes) is False
        assert await anext(changes) is True  # whatever was before may be out of date
        assert await anext(changes) is False
        marks.append("second")
        while not await anext(changes):
            pass
        assert await anext(changes) is False


async def test_nothing_is_read_while_nobody_listens():
    readings = 0
    was_read = asyncio.Event()

    async def read() -> str:
        nonlocal readings
        readings += 1
        was_read.set()
        return ""

    feed = ChangeFeed(read, poll_s=0.001)
    async with feed.running():
        await asyncio.sleep(0.02)
        assert readings == 0
        async with aclosing(feed.listen()) as changes:
            await anext(changes)
            await was_read.wait()


async def test_more_listeners_than_may_are_refused_and_one_that_leaves_makes_room(monkeypatch: pytest.MonkeyPatch):
    async def read() -> str:
        return ""

    monkeypatch.setattr(change_feed, "MAX_LISTENERS", 1)
    feed = ChangeFeed(read)
    async with aclosing(feed.listen()) as first:
        await anext(first)
        with pytest.raises(TooManyListeners, match="1 pages listen"):
            await anext(feed.listen())
    async with aclosing(feed.listen()) as second:
        assert await anext(second) is False
