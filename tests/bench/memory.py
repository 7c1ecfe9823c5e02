"""What the process of each role holds while nothing happens, against a process that has only imported the libraries."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

from streams.settings import ROLES, Settings
from streams.worker.supervisor import Workers
from tests.bench.measure import Aim, Figure

__all__ = ["memory_figures"]

LIBRARIES = "import sys, faust, aiokafka, asyncpg, pandas, sklearn.ensemble; print(flush=True); sys.stdin.read()"
NAMED = "a Python process that has imported faust, aiokafka, asyncpg, pandas and scikit-learn's forests"
LOOKS, PAUSE_S = 3, 1.5
KB_A_MB = 1024


class Held(NamedTuple):
    """Megabytes of a process: resident, its fair part of shared pages, and its own alone."""

    resident: float
    proportional: float
    private: float


def memory_figures(settings: Settings) -> list[Figure]:
    """A figure a role; none where the system does not tell (it is Linux that does)."""
    if not Path("/proc/self/smaps_rollup").exists():
        return []
    with Workers(ROLES, settings, log_folder=settings.home / "logs") as workers, _only_imported() as bare:
        workers.wait_ready()
        pids = {"libraries": bare, **{str(role): pid for role, pid in workers.pids.items()}}
        looks = [_look(pids) for _ in range(LOOKS)]
    found = {name: Held(*map(median, zip(*(look[name] for look in looks), strict=True))) for name in looks[0]}
    return [_figure(role, found[role], found["libraries"]) for role in ROLES]


def _figure(role: str, held: Held, bare: Held) -> Figure:
    note = f"{held.private:.0f} MB its own, {held.proportional:.0f} MB with its part of what it shares"
    return Figure(f"memory of {role}", "idle", "MB", held.resident, bare.resident, NAMED, LOOKS, Aim("ours", 400.0), note)


@contextmanager
def _only_imported() -> Iterator[int]:
    command = [sys.executable, "-c", LIBRARIES]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid


def _look(pids: dict[str, int]) -> dict[str, Held]:
    time.sleep(PAUSE_S)
    return {name: _held(pid) for name, pid in pids.items()}


def _held(pid: int) -> Held:
    lines = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:])
    size = {name.rstrip(":"): int(kilobytes) / KB_A_MB for name, kilobytes, _ in lines}
    return Held(size["Rss"], size["Pss"], size["Private_Clean"] + size["Private_Dirty"])
