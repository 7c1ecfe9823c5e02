"""Measurement: ours and a baseline run alternately, and their medians are reported as a ratio."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Literal, NamedTuple

__all__ = ["Aim", "Figure", "Times", "interleaved"]


class Aim(NamedTuple):
    """The target of a figure: an upper limit of ratio, own value, excess over the baseline or shortfall; a lower one of a rate or,
    as ``times``, of the ratio.
    """

    measure: Literal["ratio", "ours", "excess", "shortfall", "rate", "times"]
    limit: float


@dataclass(frozen=True)
class Figure:
    """One row of the report; ``ours`` and ``baseline`` are from the same run: medians of ``repeats`` repeats, or sums over them."""

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
        if self.aim.measure == "rate":
            return self.ours >= self.aim.limit
        if self.aim.measure == "times":
            return self.ratio >= self.aim.limit
        excess = self.ours - self.baseline
        values = {"ratio": self.ratio, "ours": self.ours, "excess": excess, "shortfall": -excess}
        return values[self.aim.measure] <= self.aim.limit


class Times(NamedTuple):
    """Seconds of each repeat."""

    ours: list[float]
    baseline: list[float]

    def figure(self, work: str, data: str, named: str, *, aim: Aim | None = None, note: str = "", unit: str = "s") -> Figure:
        """The figure of the medians."""
        return Figure(work, data, unit, median(self.ours), median(self.baseline), named, len(self.ours), aim, note)


def interleaved(
    ours: Callable[[], object],
    baseline: Callable[[], object],
    repeats: int,
    *,
    at_most_s: float = math.inf,
    clock: Callable[[], float] = time.process_time,
) -> Times:
    """Time both alternately, with alternating order; no repeat starts that would probably end after ``at_most_s``.

    Processor time is the default: for work on one thread it does not depend on other processes on the machine.
    """
    times, start = Times([], []), time.perf_counter()
    for repeat in range(repeats):
        pair = [(ours, times.ours), (baseline, times.baseline)]
        for run, seconds in pair if repeat % 2 == 0 else reversed(pair):
            seconds.append(_time(run, clock))
        spent = time.perf_counter() - start
        if spent * (repeat + 2) / (repeat + 1) > at_most_s:
            break
    return times


def _time(run: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    run()
    return clock() - start
