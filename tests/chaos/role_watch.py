"""Measures for how long no process of a role is alive."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos.environment import Worker, is_answered

__all__ = ["RoleWatch"]

_INTERVAL_S = 0.5


@dataclass
class RoleWatch:
    """Polls ``/live`` of every role of every worker.

    Attributes:
        longest_down_s: longest time without a living process, by role.
    """

    longest_down_s: dict[str, float] = field(default_factory=dict)
    _alive_s: dict[str, float] = field(default_factory=dict)

    async def watch(self, workers: Sequence[Worker]) -> None:
        """Poll until cancelled."""
        while True:
            checks = [(role, is_answered(worker.settings, role, "/live")) for worker in workers for role in worker.roles]
            answers = await asyncio.gather(*(check for _, check in checks))
            alive = {role for (role, _), is_alive in zip(checks, answers, strict=True) if is_alive}
            self.update({role: role in alive for role, _ in checks}, time.monotonic())
            await asyncio.sleep(_INTERVAL_S)

    def update(self, alive: Mapping[str, bool], now: float) -> None:
        """Note which roles are alive at a time of the monotonic clock."""
        for role, is_alive in alive.items():
            if is_alive:
                self._alive_s[role] = now
            down_s = now - self._alive_s.setdefault(role, now)
            self.longest_down_s[role] = max(self.longest_down_s.get(role, 0.0), down_s)

    def format_text(self) -> str:
        """The times as text."""
        return ", ".join(f"{role} {down_s:.0f} s" for role, down_s in self.longest_down_s.items())
