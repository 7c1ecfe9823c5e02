"""Tells what a command waits for, how long it has waited, and when it gives up."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

__all__ = ["Notify", "WaitNotices", "no_notices"]

Notify = Callable[[str], None]

_PERIOD_S = 10.0


def no_notices(_line: str) -> None:
    """Take a notice and print nothing."""


class WaitNotices:
    """Notices of work that waits, at once and then every ten seconds, or when the kind of work changes.

    Args:
        notify: is given each notice, one line.
        limit_s: how long is waited at most.
    """

    def __init__(self, notify: Notify, limit_s: float) -> None:
        self._notify = notify
        self._limit_s = limit_s
        self._began_s = time.monotonic()
        self._last: tuple[str, float] = ("", -math.inf)

    @property
    def is_over(self) -> bool:
        """Whether the limit is reached."""
        return time.monotonic() > self._began_s + self._limit_s

    def update(self, kind: str, waits_for: str) -> None:
        """Tell, unless that was told a moment ago, what is waited for."""
        now = time.monotonic()
        last_kind, last_s = self._last
        if kind == last_kind and now < last_s + _PERIOD_S:
            return
        self._last = kind, now
        self._notify(f"waiting for {waits_for}: {now - self._began_s:.0f} s of at most {self._limit_s:g} s")
