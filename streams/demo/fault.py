"""Injects the fault of the demonstration: kills the process that ingests outcomes, and measures how long the recovery takes."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sql.database import Pool
from sql.overview_store import count_ingested_outcomes
from streams.settings import Role
from streams.worker.local_stack import Notify
from streams.worker.supervisor import Workers

__all__ = ["InjectedFault", "kill_worker"]

KILLED_ROLE: Role = "outcomes"
_POLL_S = 0.2
_COMMIT_S = 0.5  # the database may still finish a commit of the killed process


@dataclass
class InjectedFault:
    """The kill of a process, and the recovery from it.

    Attributes:
        published: outcomes that were published before the kill.
        recovery_s: seconds from the kill until outcomes are ingested again; None before that.
    """

    role: Role
    pid: int
    at: datetime
    published: int
    recovery_s: float | None = None

    def __str__(self) -> str:
        recovery = f"resumed {self.recovery_s:.1f} s later" if self.recovery_s is not None else "has not resumed yet"
        killed = f"process {self.pid} of the role {self.role} was killed (SIGKILL)"
        return f"after {self.published:,} outcomes, {killed}; ingestion {recovery}"

    def to_dict(self) -> dict[str, Any]:
        """The fault as JSON values."""
        return {"role": self.role, "pid": self.pid, "at": self.at, "after": self.published, "back_s": self.recovery_s}

    async def watch_recovery(self, pool: Pool, notify: Notify) -> None:
        """Wait until outcomes are ingested again, and report it."""
        started = time.monotonic()
        await asyncio.sleep(_COMMIT_S)
        before = await count_ingested_outcomes(pool)
        while await count_ingested_outcomes(pool) == before:  # noqa: ASYNC110  # another process changes it
            await asyncio.sleep(_POLL_S)
        self.recovery_s = round(time.monotonic() - started, 1)
        notify(f"  ingestion resumed {self.recovery_s:.1f} s after the kill, from the offset that was committed last")


def kill_worker(workers: Workers, published: int, notify: Notify) -> InjectedFault:
    """Kill the process that ingests outcomes with SIGKILL; its supervisor starts another one."""
    pid = workers.pids[KILLED_ROLE]
    os.kill(pid, signal.SIGKILL)
    notify(f"  killed process {pid} of the role {KILLED_ROLE} while it ingests (SIGKILL)")
    return InjectedFault(KILLED_ROLE, pid, datetime.now(UTC), published)
