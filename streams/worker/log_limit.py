"""Limits the lines of a log by kind, and counts those that it leaves out.

A kind is a logger with a message template; numbers in it make no difference. The first line of a kind is written at once, the next
one a second later at the earliest. Warnings and errors that keep coming get pauses that double up to a minute. How many lines were
left out is written with the next line of the kind, or, when none follows, a few seconds later.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import TextIO

__all__ = ["LimitedHandler", "LineLimit"]

_MAX_KINDS = 500
_MAX_TEMPLATE_CHARACTERS = 200
_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_SUMMARY_INTERVAL_S = 5.0
_NUMBERS = re.compile(r"0x[0-9a-fA-F]+|\d+")
_Kind = tuple[str, str]
_OTHER: _Kind = ("", "lines of many kinds")


@dataclass
class _Flow:
    """The lines of one kind.

    Attributes:
        last: the newest line that was left out.
        first_left_out_s: when the first line was left out since the last one that was written.
        quiet_from_s: when the pause of the last written line ends.
    """

    pause_s: float = 0.0
    quiet_from_s: float = 0.0
    left_out: int = 0
    first_left_out_s: float = 0.0
    last: logging.LogRecord | None = None


class LineLimit:
    """Passes at most one line per second and kind.

    Args:
        clock: the monotonic clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._flows: dict[_Kind, _Flow] = {}

    def admit(self, record: logging.LogRecord) -> logging.LogRecord | None:
        """The record, with the number of lines that were left out before it, or None to leave it out."""
        now = self._clock()
        with self._lock:
            flow = self._flow(record, now)
            if now < flow.quiet_from_s:
                flow.first_left_out_s = flow.first_left_out_s if flow.left_out else now
                flow.left_out, flow.last = flow.left_out + 1, record
                return None
            return self._pass(flow, record, now)

    def summaries(self, min_age_s: float = 0.0) -> list[logging.LogRecord]:
        """Lines with the number of those left out, of kinds whose pause has ended and left out a line ``min_age_s`` ago.

        Without an age, of all kinds.
        """
        now = self._clock()
        with self._lock:
            due = [flow for flow in self._flows.values() if flow.left_out and self._is_due(flow, now, min_age_s)]
            return [self._pass(flow, flow.last, now) for flow in due if flow.last is not None]

    def _is_due(self, flow: _Flow, now: float, min_age_s: float) -> bool:
        return min_age_s == 0.0 or (now >= flow.quiet_from_s and now - flow.first_left_out_s >= min_age_s)

    def _pass(self, flow: _Flow, record: logging.LogRecord, now: float) -> logging.LogRecord:
        grows = flow.left_out > 0 and record.levelno >= logging.WARNING
        flow.pause_s = min(_LONGEST_PAUSE_S, 2 * flow.pause_s) if grows else _PAUSE_S
        flow.quiet_from_s = now + flow.pause_s
        if flow.left_out:
            record = _with_count(record, flow.left_out - (record is flow.last), now - flow.first_left_out_s)
        flow.left_out, flow.last = 0, None
        return record

    def _flow(self, record: logging.LogRecord, now: float) -> _Flow:
        kind = (record.name, _NUMBERS.sub("#", str(record.msg)[:_MAX_TEMPLATE_CHARACTERS]))
        if kind not in self._flows and len(self._flows) >= _MAX_KINDS:
            self._flows = {name: flow for name, flow in self._flows.items() if flow.left_out or now < flow.quiet_from_s}
            kind = kind if len(self._flows) < _MAX_KINDS else _OTHER
        return self._flows.setdefault(kind, _Flow())


def _with_count(record: logging.LogRecord, left_out: int, seconds: float) -> logging.LogRecord:
    counted = copy(record)
    if left_out:
        counted.msg = f"{record.getMessage()} (... {left_out:,} similar lines suppressed in {seconds:.0f} s)"
        counted.args = ()
    return counted


class LimitedHandler(logging.StreamHandler):  # type: ignore[type-arg]  # generic only in the stubs
    """Writes the lines that a :class:`LineLimit` passes; a thread writes the counts of kinds that have ended."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._limit = LineLimit()
        self._closed = threading.Event()
        threading.Thread(target=self._write_summaries, name="log summaries", daemon=True).start()

    def handle(self, record: logging.LogRecord) -> bool:
        """Write a record unless the limit leaves it out."""
        admitted = self._limit.admit(record)
        return admitted is not None and bool(super().handle(admitted))

    def close(self) -> None:
        """Write the counts that are left, and close."""
        self._closed.set()
        for record in self._limit.summaries():
            super().handle(record)
        super().close()

    def _write_summaries(self) -> None:
        while not self._closed.wait(_SUMMARY_INTERVAL_S):
            for record in self._limit.summaries(_SUMMARY_INTERVAL_S):
                super().handle(record)
