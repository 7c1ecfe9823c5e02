"""Measures for how long no process of a role is alive."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from streams.settings import Role, Settings
from tests.chaos.environment import is_answered

__all__ = ["RoleWatch"]

_INTERVAL_S = 0.5


@dataclass
class RoleWatch:
    """Polls ``/live`` of roles, each of which may run in several workers.

    Attributes:
        longest_down_s: longest time without a living process, by role.
    """

    longest_down_s: dict[str, float] = field(default_factory=dict)
    _alive_s: dict[str, float] = field(default_factory=dict)
    _looked_s: float = 0.0

    async def watch(self, processes: Sequence[tuple[Settings, Role]]) -> None:
        """Poll these processes until cancelled."""
        while True:
            answers = await asyncio.gather(*(is_answered(settings, role, "/live") for settings, role in processes))
            alive = {role for (_, role), is_alive in zip(processes, answers, strict=True) if is_alive}
            self.update({role: role in alive for _, role in processes}, time.monotonic())
            await asyncio.sleep(_INTERVAL_S)

    def is_alive(self, role: Role) -> bool:
        """Whether a process of a role was alive at the last look."""
        return self._looked_s - self._alive_s.get(role, self._looked_s) == 0.0

    def update(self, alive: Mapping[str, bool], now: float) -> None:
        """Note which roles are alive at a time of the monotonic clock."""
        self._looked_s = now
        for role, is_alive in alive.items():
            if is_alive:
                self._alive_s[role] = now
            down_s = now - self._alive_s.setdefault(role, now)
            self.longest_down_s[role] = max(self.longest_down_s.get(role, 0.0), down_s)

    def format_text(self) -> str:
        """The times as text."""
        return ", ".join(f"{role} {down_s:.0f} s" for role, down_s in self.longest_down_s.items())
