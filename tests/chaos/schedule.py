"""Draws the faults of a run and their times from a seed: equal seeds give equal schedules."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

__all__ = ["KILLS", "SHORT", "Fault", "FaultKind", "long_mix", "schedule"]


class FaultKind(StrEnum):
    """Kinds of faults; the value is their text in reports."""

    KILL_ROLE = "SIGKILL to one role"
    KILL_WORKER = "SIGKILL to a whole worker"
    TERMINATE = "SIGTERM to a worker"
    FREEZE = "SIGSTOP for longer than the session timeout"
    CUT = "connections to the broker cut"
    STALL = "connections to the broker stalled"
    BROKER_RESTART = "broker restarted"
    BROKER_CRASH = "broker killed and started"
    POSTGRES_RESTART = "Postgres killed and started"
    POSTGRES_OUTAGE = "Postgres stopped for a while"
    BROKER_FREEZE = "SIGSTOP to the broker"
    POSTGRES_FREEZE = "SIGSTOP to Postgres"
    MLFLOW_FREEZE = "SIGSTOP to MLflow"
    SCALE = "scaled to one worker, three, and one"


@dataclass(frozen=True, order=True)
class Fault:
    """A fault to inject.

    Attributes:
        start_s: seconds after the stream began.
        lasts_s: how long it lasts; 0 for a fault without a duration.
        slot: the worker that it hits, where the kind hits one; the next one where that is not running.
        role: the role that it hits, where the kind hits one process.
    """

    start_s: float
    kind: FaultKind
    lasts_s: float = 0.0
    slot: int = 0
    role: str = ""

    def __str__(self) -> str:
        return f"{self.start_s:7.1f} s  {self.kind}{f', {self.lasts_s:g} s' if self.lasts_s else ''}"


KILLS = (FaultKind.KILL_ROLE, FaultKind.KILL_WORKER)
ROLES = ("outcomes", "outcomes", "fidelity", "simulation")  # outcomes twice: a loss would most likely happen there
LASTS_S = {
    FaultKind.FREEZE: 10.0,
    FaultKind.CUT: 4.0,
    FaultKind.STALL: 8.0,
    FaultKind.POSTGRES_OUTAGE: 30.0,
    FaultKind.BROKER_FREEZE: 20.0,
    FaultKind.POSTGRES_FREEZE: 20.0,
    FaultKind.MLFLOW_FREEZE: 20.0,
    FaultKind.SCALE: 60.0,
}
FIRST, LAST = 0.08, 0.94
"""Part of the stream in which faults begin, as fractions of its length."""

SHORT: Mapping[FaultKind, int] = {
    FaultKind.KILL_ROLE: 2,
    FaultKind.KILL_WORKER: 1,
    FaultKind.TERMINATE: 1,
    FaultKind.FREEZE: 1,
    FaultKind.CUT: 1,
    FaultKind.BROKER_RESTART: 1,
    FaultKind.POSTGRES_RESTART: 1,
}
"""The kinds of faults that do not take long."""

_LONG: Mapping[FaultKind, int] = {
    FaultKind.KILL_ROLE: 16,
    FaultKind.KILL_WORKER: 6,
    FaultKind.TERMINATE: 4,
    FaultKind.FREEZE: 3,
    FaultKind.CUT: 3,
    FaultKind.STALL: 1,
    FaultKind.BROKER_RESTART: 2,
    FaultKind.BROKER_CRASH: 1,
    FaultKind.POSTGRES_RESTART: 2,
    FaultKind.POSTGRES_OUTAGE: 1,
    FaultKind.BROKER_FREEZE: 1,
    FaultKind.POSTGRES_FREEZE: 1,
    FaultKind.MLFLOW_FREEZE: 1,
    FaultKind.SCALE: 1,
}


def long_mix(minutes: float) -> Mapping[FaultKind, int]:
    """Number of faults of each kind: all kinds, at least 20 kills, and more of each beyond 10 minutes."""
    return {kind: max(count, round(count * minutes / 10)) for kind, count in _LONG.items()}


def schedule(seed: int, minutes: float, mix: Mapping[FaultKind, int]) -> list[Fault]:
    """Faults in the order of their times.

    Kills come at random times, also during other faults. All others begin one after another, in random order.

    Example:
        >>> schedule(1, 10, SHORT) == schedule(1, 10, SHORT)
        True
    """
    rng = random.Random(seed)
    turns = [kind for kind, count in mix.items() if kind not in KILLS for _ in range(count)]
    rng.shuffle(turns)
    kills = [Fault(_start_s(rng, minutes, 0, 1), kind) for kind in KILLS for _ in range(mix.get(kind, 0))]
    others = [Fault(_start_s(rng, minutes, turn, len(turns)), kind, LASTS_S.get(kind, 0.0)) for turn, kind in enumerate(turns)]
    return [replace(fault, slot=rng.randrange(3), role=rng.choice(ROLES)) for fault in sorted(kills + others)]


def _start_s(rng: random.Random, minutes: float, turn: int, turns: int) -> float:
    """A time in the first half of a turn; the turns divide the time between ``FIRST`` and ``LAST`` evenly."""
    share = (turn + rng.random() * (0.5 if turns > 1 else 1.0)) / turns
    return round(60 * minutes * (FIRST + (LAST - FIRST) * share), 1)
