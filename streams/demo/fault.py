"""The accident of the demonstration: the process that takes outcomes in is killed in the middle of its work."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from sql.database import Pool
from sql.overview_store import count_ingested_outcomes
from streams.settings import Role
from streams.worker.supervisor import Workers

__all__ = ["InjectedFault", "kill"]

VICTIM: Role = "outcomes"
_GLANCE_S = 0.2
_LAST_BREATH_S = 0.5  # what the database had begun to commit when the process died


@dataclass
class InjectedFault:
    """What was killed, and how it went on.

    Attributes:
        after: outcomes that had been published.
        back_s: seconds until outcomes were taken in again; None while they are not.
    """

    role: Role
    pid: int
    at: datetime
    after: int
    back_s: float | None = None

    def __str__(self) -> str:
        back = f"taken in again {self.back_s:.1f} s later" if self.back_s is not None else "not yet taken in again"
        return f"{self.after:,} outcomes in, process {self.pid} of the role {self.role} was killed (SIGKILL); outcomes {back}"

    async def watch(self, pool: Pool, say: Callable[[str], None]) -> None:
        """Wait until somebody takes outcomes in again, and say so."""
        began = time.monotonic()
        await asyncio.sleep(_LAST_BREATH_S)
        before = await count_ingested_outcomes(pool)
        while await count_ingested_outcomes(pool) == before:  # noqa: ASYNC110  # it is another process that changes it
            await asyncio.sleep(_GLANCE_S)
        self.back_s = round(time.monotonic() - began, 1)
        say(f"  a successor takes outcomes in, {self.back_s:.1f} s after the kill, from where the dead process had committed")


def kill(workers: Workers, published: int, say: Callable[[str], None]) -> InjectedFault:
    """End the process that takes outcomes in, without a warning; its supervisor starts another."""
    pid = workers.pids[VICTIM]
    os.kill(pid, signal.SIGKILL)
    say(f"  killed process {pid}, the role {VICTIM}, in the middle of its work (SIGKILL)")
    return InjectedFault(VICTIM, pid, datetime.now(UTC), published)
