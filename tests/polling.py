"""Waits for what other processes do, and reads the offsets that a role has committed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from streams.kafka import open_admin, reader_group
from streams.settings import Settings

T = TypeVar("T")


async def until(
    read: Callable[[], Awaitable[T]], is_expected: Callable[[T], object] = bool, *, within_s: float = 90.0, every_s: float = 0.1
) -> T:
    """The first expected value that is read; without a condition, the first true one."""
    async with asyncio.timeout(within_s):
        while not is_expected(value := await read()):  # noqa: ASYNC110  # other processes change it, and set no event
            await asyncio.sleep(every_s)
        return value


async def committed_offsets(settings: Settings, topic: str) -> dict[int, int]:
    """Offsets that the role of a topic has committed, by partition."""
    async with open_admin(settings) as admin:
        offsets = await admin.list_consumer_group_offsets(reader_group(topic))
    return {tp.partition: committed.offset for tp, committed in offsets.items() if tp.topic == topic}
