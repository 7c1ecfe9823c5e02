"""What is broken when: faults drawn from a seed, the same ones each time."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

__all__ = ["KILLS", "SHORT", "Fault", "Kind", "long_mix", "schedule"]


class Kind(StrEnum):
    """Ways to break something; the value tells it to people."""

    KILL_ROLE = "SIGKILL to one role"
    KILL_WORKER = "SIGKILL to a whole worker"
    TERMINATE = "SIGTERM to a worker"
    FREEZE = "SIGSTOP for longer than the session"
    CUT = "connections to the broker cut"
    STALL = "connections to the broker silent"
    BROKER_RESTART = "broker restarted"
    BROKER_CRASH = "broker killed and started"
    POSTGRES_RESTART = "Postgres killed and started"
    POSTGRES_OUTAGE = "Postgres stopped for a while"
    SCALE = "one worker, three, one again"


@dataclass(frozen=True, order=True)
class Fault:
    """One thing that is broken.

    Attributes:
        at_s: seconds after the stream began; ``lasts_s`` is how long it stays broken.
        slot: which worker, ``role`` which of its processes, where the kind hits one; else whichever runs.
    """

    at_s: float
    kind: Kind
    lasts_s: float = 0.0
    slot: int = 0
    role: str = ""

    def __str__(self) -> str:
        return f"{self.at_s:7.1f} s  {self.kind}{f', {self.lasts_s:g} s' if self.lasts_s else ''}"


KILLS = (Kind.KILL_ROLE, Kind.KILL_WORKER)
ROLES = ("outcomes", "outcomes", "fidelity", "simulation")  # outcomes carry most of what can be lost
LASTS_S = {Kind.FREEZE: 10.0, Kind.CUT: 4.0, Kind.STALL: 8.0, Kind.POSTGRES_OUTAGE: 30.0, Kind.SCALE: 60.0}
FIRST, LAST = 0.08, 0.94

SHORT: Mapping[Kind, int] = {
    Kind.KILL_ROLE: 2,
    Kind.KILL_WORKER: 1,
    Kind.TERMINATE: 1,
    Kind.FREEZE: 1,
    Kind.CUT: 1,
    Kind.BROKER_RESTART: 1,
    Kind.POSTGRES_RESTART: 1,
}
"""One of each fault that does not take long."""

_LONG: Mapping[Kind, int] = {
    Kind.KILL_ROLE: 16,
    Kind.KILL_WORKER: 6,
    Kind.TERMINATE: 4,
    Kind.FREEZE: 3,
    Kind.CUT: 3,
    Kind.STALL: 1,
    Kind.BROKER_RESTART: 2,
    Kind.BROKER_CRASH: 1,
    Kind.POSTGRES_RESTART: 2,
    Kind.POSTGRES_OUTAGE: 1,
    Kind.SCALE: 1,
}


def long_mix(minutes: float) -> Mapping[Kind, int]:
    """Every kind, at least 20 kills, and more of each the longer it takes."""
    return {kind: max(count, round(count * minutes / 10)) for kind, count in _LONG.items()}


def schedule(seed: int, minutes: float, mix: Mapping[Kind, int]) -> list[Fault]:
    """Faults in the order of their moments.

    Kills come at random moments, also while something else is broken; all others begin one after another, in random order.

    Example:
        >>> schedule(1, 10, SHORT) == schedule(1, 10, SHORT)
        True
    """
    rnd = random.Random(seed)
    turns = [kind for kind, count in mix.items() if kind not in KILLS for _ in range(count)]
    rnd.shuffle(turns)
    kills = [Fault(_moment(rnd, minutes, 0, 1), kind) for kind in KILLS for _ in range(mix.get(kind, 0))]
    taken = [Fault(_moment(rnd, minutes, turn, len(turns)), kind, LASTS_S.get(kind, 0.0)) for turn, kind in enumerate(turns)]
    return [replace(fault, slot=rnd.randrange(3), role=rnd.choice(ROLES)) for fault in sorted(kills + taken)]


def _moment(rnd: random.Random, minutes: float, turn: int, turns: int) -> float:
    """A moment in the first part of a turn; the turns divide the time between ``FIRST`` and ``LAST``."""
    share = (turn + rnd.random() * (0.5 if turns > 1 else 1.0)) / turns
    return round(60 * minutes * (FIRST + (LAST - FIRST) * share), 1)
