"""Starts servers of the local stack again when they end by themselves, with growing pauses and without a last attempt.

A server that is stopped or killed through its :class:`Part` stays stopped, and one that is only suspended has not ended.

No library serves: the servers have to be children of this process, so that they end with it; supervisord and circus are processes
of their own.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from deploy.stack.child import LastingThread, StackError, Steps, describe_exit
from deploy.stack.part import Part

__all__ = ["Keeper", "Watch"]

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 20.0
STEADY_S = 60.0
"""A server that ran this long is started again after the first pause."""
REMINDER_S = 60.0
"""A server that ends again and again is reported this often."""
STEP_INTERVAL_S = 0.05


class Watch:
    """Watches one server, and starts it again in steps.

    Args:
        part: the server, which has been started.
        notify: called with a line when the server has ended and when it is ready again; at most once in 60 s while it keeps ending.
        clock: returns the monotonic time.
    """

    def __init__(self, part: Part, notify: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.part = part
        self._notify, self._clock = notify, clock
        self._started_at = clock()
        self._ended_at = self._restart_at = 0.0
        self._noticed_at = -math.inf
        self._ends = 0
        self._reason = ""
        self._starting: Steps | None = None
        self._is_noticed = False

    @property
    def problem(self) -> str:
        """What happens to a server that has ended, on one line; empty while it runs, or is stopped on purpose."""
        if self._starting is not None:
            return f"{self._end_text()}; it is being started again"
        if self._reason:
            return f"{self._end_text()}; it is started again in {max(0.0, self._restart_at - self._clock()):.0f} s"
        return ""

    def tick(self) -> None:
        """Look at the server, and do the next step."""
        if self._starting is not None:
            self._advance(self._starting)
        elif not self.part.has_ended:
            self._reason = ""
        elif not self._reason:
            self._handle_end(describe_exit(self.part.exit_status))
        elif self._clock() >= self._restart_at:
            self._starting = self.part.restarting()

    def remind(self, line: str) -> None:
        """Report a line about the progress of a start, unless another one about this server was reported less than 60 s ago."""
        if self._clock() - self._noticed_at >= REMINDER_S:
            self._noticed_at = self._clock()
            self._notify(line)

    def close(self) -> None:
        """Give up a start that is in work."""
        if self._starting is not None:
            self._starting.close()
        self._starting, self._reason = None, ""

    def _advance(self, starting: Steps) -> None:
        try:
            next(starting)
        except StopIteration:
            self._handle_ready()
        except (StackError, OSError) as error:
            self._starting = None
            self._handle_end(str(error).partition("\n")[0].partition("; the end of ")[0])  # the line names the log anyway

    def _handle_end(self, reason: str) -> None:
        now, was_out = self._clock(), bool(self._reason)
        steady = self._ends == 0 or (not was_out and now - self._started_at >= STEADY_S)
        self._ends = 1 if steady else self._ends + 1
        self._ended_at = self._ended_at if was_out else now
        self._reason = reason
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self._ends - 1, 30))
        self._restart_at = now + pause_s
        is_due = steady or now - self._noticed_at >= REMINDER_S
        self._is_noticed = is_due or (self._is_noticed and was_out)
        if is_due:
            self._noticed_at = now
            self._notify(f"{self._end_text()}; it is started again in {pause_s:g} s; see {self.part.log}")

    def _handle_ready(self) -> None:
        self._starting, self._reason = None, ""
        self._started_at = self._clock()
        if self._is_noticed:
            self._notify(f"{self.part.name} is ready again, {self._started_at - self._ended_at:.1f} s after its end")

    def _end_text(self) -> str:
        again = f" {self._ends} times in a row, the last time" if self._ends > 1 else ""
        return f"{self.part.name} of the local stack ended{again} ({self._reason})"


class Keeper:
    """Watches servers in a thread of its own, from :meth:`start` to :meth:`stop`."""

    def __init__(self, parts: Iterable[Part], notify: Callable[[str], None]) -> None:
        self._notify = notify
        self._watches = [Watch(part, self._notify_safely) for part in parts]
        self._stopped = threading.Event()
        self._thread = LastingThread(target=self._run, name="local stack", daemon=True)

    def problems(self) -> list[str]:
        """What happens to each server that has ended."""
        return [problem for watch in self._watches if (problem := watch.problem)]

    def start(self) -> None:
        """Begin to watch."""
        for watch in self._watches:
            watch.part.notify = watch.remind
        self._thread.start()

    def stop(self) -> None:
        """End the watch; servers that run stay under the control of their parts, and are asked to stop as this thread ends."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(STEP_INTERVAL_S):
            for watch in self._watches:
                self._tick_safely(watch)
        for watch in self._watches:
            watch.close()

    def _notify_safely(self, line: str) -> None:
        """A terminal that was closed must not end the watch."""
        with suppress(Exception):
            self._notify(line)

    def _tick_safely(self, watch: Watch) -> None:
        """What fails unforeseen must not end the thread: servers end with the thread that has started them."""
        try:
            watch.tick()
        except Exception as error:  # noqa: BLE001  # reported, and tried again
            watch.close()
            watch.remind(f"{watch.part.name} of the local stack could not be watched: {type(error).__name__}: {error}")
