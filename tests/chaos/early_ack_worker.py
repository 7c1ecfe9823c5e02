"""A worker with a deliberate fault: it acknowledges a batch before it stores it, and starts at the group's committed offsets.

When it is killed in between, it loses acknowledged batches. The invariants must detect that.
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
from streams.worker import bootstrap

DELAY_S = 2.0

build_app = bootstrap.build_app
pending: set[asyncio.Task[None]] = set()


async def acknowledge_early(_app: Any, work: Callable[[], Awaitable[None]], _refuse: Any) -> None:
    """Return at once, so that the batch is acknowledged, and do the work later."""
    task = asyncio.create_task(_work_later(work))
    pending.add(task)
    task.add_done_callback(pending.discard)


async def _work_later(work: Callable[[], Awaitable[None]]) -> None:
    await asyncio.sleep(DELAY_S)
    await retry_transient(work, part="postgres")


def build_faulty_app(role: Role, settings: Settings, member: str | None = None) -> TwinApp:
    """The app of a role, which starts at the committed offset even where the stored position is lower."""
    app = build_app(role, settings, member)
    exact = app.find_start_offsets

    async def find_start_offsets(committed: Mapping[TP, int | None]) -> Mapping[TP, StartOffset]:
        starts = await exact(committed)
        return {tp: StartOffset(max(start.offset, committed[tp] or 0), start.incarnation) for tp, start in starts.items()}

    app.find_start_offsets = find_start_offsets
    return app


if __name__ == "__main__":
    outcomes.process_event = acknowledge_early  # type: ignore[assignment]  # the deliberate fault
    bootstrap.build_app = build_faulty_app
    asyncio.run(bootstrap.run_role("outcomes", Settings(), asyncio.Event()))
