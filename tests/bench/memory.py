"""Memory of the idle process of each role, against a process that has only imported the libraries."""

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
SAMPLES, PAUSE_S = 3, 1.5
KB_PER_MB = 1024


class ProcessMemory(NamedTuple):
    """Megabytes of a process: resident, with its proportional share of shared pages, and private."""

    resident: float
    proportional: float
    private: float


def memory_figures(settings: Settings) -> list[Figure]:
    """One figure per role; none on systems without ``/proc/self/smaps_rollup``, which is Linux only."""
    if not Path("/proc/self/smaps_rollup").exists():
        return []
    with Workers(ROLES, settings, log_folder=settings.home / "logs") as workers, _only_imported() as bare:
        workers.wait_ready()
        pids = {"libraries": bare, **{str(role): pid for role, pid in workers.pids.items()}}
        samples = [_sample(pids) for _ in range(SAMPLES)]
    medians = {name: ProcessMemory(*map(median, zip(*(sample[name] for sample in samples), strict=True))) for name in samples[0]}
    return [_figure(role, medians[role], medians["libraries"]) for role in ROLES]


def _figure(role: str, memory: ProcessMemory, bare: ProcessMemory) -> Figure:
    note = f"{memory.private:.0f} MB private, {memory.proportional:.0f} MB with its share of shared pages"
    return Figure(f"memory of {role}", "idle", "MB", memory.resident, bare.resident, NAMED, SAMPLES, Aim("ours", 400.0), note)


@contextmanager
def _only_imported() -> Iterator[int]:
    command = [sys.executable, "-c", LIBRARIES]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid


def _sample(pids: dict[str, int]) -> dict[str, ProcessMemory]:
    time.sleep(PAUSE_S)
    return {name: _memory_of(pid) for name, pid in pids.items()}


def _memory_of(pid: int) -> ProcessMemory:
    lines = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:])
    size = {name.rstrip(":"): int(kilobytes) / KB_PER_MB for name, kilobytes, _ in lines}
    return ProcessMemory(size["Rss"], size["Pss"], size["Private_Clean"] + size["Private_Dirty"])
