"""A worker that is wrong on purpose: it acknowledges a slice before it takes it in, and trusts the group's offsets when it starts.

Killed in between, it loses what it said it had. The judge has to notice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from faust.types import TP

from streams.agents import outcomes
from streams.kafka.app import TwinApp
from streams.kafka.batch_consumer import StartOffset
from streams.retries import retry_transient
from streams.settings import Role, Settings
from streams.worker import bootstrap as role

LATE_S = 2.0

build_app = role.build_app
taking: set[asyncio.Task[None]] = set()


async def settle_later(_app: Any, work: Callable[[], Awaitable[None]], _refuse: Any) -> None:
    """Promise to do it."""
    task = asyncio.create_task(_take(work))
    taking.add(task)
    task.add_done_callback(taking.discard)


async def _take(work: Callable[[], Awaitable[None]]) -> None:
    await asyncio.sleep(LATE_S)
    await retry_transient(work, part="postgres")


def trusting_app_of(name: Role, settings: Settings) -> TwinApp:
    """The app, which begins where the group stopped."""
    app = build_app(name, settings)
    exact = app.find_start_offsets

    async def find_start_offsets(committed: Mapping[TP, int | None]) -> Mapping[TP, StartOffset]:
        starts = await exact(committed)
        return {tp: StartOffset(max(start.offset, committed[tp] or 0), start.incarnation) for tp, start in starts.items()}

    app.find_start_offsets = find_start_offsets
    return app


if __name__ == "__main__":
    outcomes.process_event = settle_later  # type: ignore[assignment]  # wrong on purpose
    role.build_app = trusting_app_of
    asyncio.run(role.run_role("outcomes", Settings(), asyncio.Event()))
