"""How things are measured: ours and a baseline take turns, and the medians are told as a ratio."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Literal, NamedTuple

__all__ = ["Aim", "Figure", "Times", "interleaved"]


class Aim(NamedTuple):
    """What a figure should be: at most its ratio, our own value, or how far ours stays below the baseline; at least our rate."""

    of: Literal["ratio", "ours", "shortfall", "rate"]
    limit: float


@dataclass(frozen=True)
class Figure:
    """One row of the report; ``ours`` and ``baseline`` are of the same run: medians of ``repeats`` turns, or sums over them."""

    work: str
    data: str
    unit: str
    ours: float
    baseline: float
    named: str
    repeats: int
    aim: Aim | None = None
    note: str = ""

    @property
    def ratio(self) -> float:
        """Ours as a share of the baseline."""
        return self.ours / self.baseline

    @property
    def met(self) -> bool | None:
        """Whether the aim is met; None without one."""
        if self.aim is None:
            return None
        if self.aim.of == "rate":
            return self.ours >= self.aim.limit
        judged = {"ratio": self.ratio, "ours": self.ours, "shortfall": self.baseline - self.ours}
        return judged[self.aim.of] <= self.aim.limit


class Times(NamedTuple):
    """Seconds of each repeat."""

    ours: list[float]
    baseline: list[float]

    def figure(self, work: str, data: str, named: str, *, aim: Aim | None = None, note: str = "", unit: str = "s") -> Figure:
        """The medians."""
        return Figure(work, data, unit, median(self.ours), median(self.baseline), named, len(self.ours), aim, note)


def interleaved(
    ours: Callable[[], object],
    baseline: Callable[[], object],
    repeats: int,
    *,
    at_most_s: float = math.inf,
    clock: Callable[[], float] = time.process_time,
) -> Times:
    """Time both in turn, who begins alternating; no repeat begins that would likely end after ``at_most_s``.

    Processor time is the default: for work on one thread it is the time of a quiet machine, whoever else is busy on this one.
    """
    times, began = Times([], []), time.perf_counter()
    for repeat in range(repeats):
        pair = [(ours, times.ours), (baseline, times.baseline)]
        for run, into in pair if repeat % 2 == 0 else reversed(pair):
            into.append(_seconds(run, clock))
        spent = time.perf_counter() - began
        if spent * (repeat + 2) / (repeat + 1) > at_most_s:
            break
    return times


def _seconds(run: Callable[[], object], clock: Callable[[], float]) -> float:
    began = clock()
    run()
    return clock() - began
