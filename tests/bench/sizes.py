"""Growth with size: training, generating, simulating, saving and loading, each ten times as large as the one before.

Each runs in a process of its own, ``python -m tests.bench.sizes STEP SIZE FOLDER SHA256``, so that its peak memory is its own.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor

from engine import SimulationEngine, TwinGenerator
from engine.sample_tables import sample_hcps
from engine.twins import HYPERPARAMETERS, LEARNS_ALL_ROWS, TwinModel, build_training_table
from engine.twins.large_tables import MOST_ROWS
from schemas import Brand, TwinType
from sql.twin_repository import TwinRepository
from streams.registry import read_parts, write_parts
from streams.settings import Settings
from tests.bench.measure import Aim, Figure
from tests.bench.tables import SEED, TARGET, Measured
from tests.bench.twins import INTERVENTION

__all__ = ["in_process", "peak_bytes", "size_figures"]

SIZES = (1_000, 10_000, 100_000, 1_000_000)
AIMED = (MOST_ROWS, SIZES[-1])  # the largest table that is learned whole, and the largest sizes
EXPONENT = 1.05
LINEAR = "linear growth: ten times what a tenth of the size takes, of the same run"
MODEL = "model"
_MB = 2**20


class _Cost(NamedTuple):
    """Seconds of processor time, or of clock time where a database works too, and bytes at the peak beyond those before."""

    seconds: float
    peak: float


def size_figures(measured: Measured, settings: Settings) -> list[Figure]:
    """Time and peak memory of every step by size; an exponent of 1 is linear."""
    figures = []
    with tempfile.TemporaryDirectory(prefix="bench-sizes-") as folder:
        sha256 = write_parts(measured.model.to_parts(), Path(folder) / MODEL)
        dsn = settings.postgres_dsn.get_secret_value()
        for step in GROWING:
            costs = [in_process(step, size, folder, sha256, dsn) for size in SIZES]
            figures += [_figure(step, size, *pair) for size, pair in zip(SIZES[1:], pairwise(costs), strict=True)]
    return figures


def _figure(step: str, size: int, small: _Cost, cost: _Cost) -> Figure:
    aim = Aim("ratio", 10 ** (EXPONENT - 1)) if size in AIMED else None
    what = "rows" if step == "train" else "twins"
    memory = f"{cost.peak / _MB:,.0f} MB at the peak"
    if small.peak >= _MB:
        memory += f", exponent {math.log10(max(cost.peak, 1.0) / small.peak):.2f}"
    note = f"exponent {math.log10(cost.seconds / small.seconds):.2f}; {memory}"
    return Figure(f"{step} {size:,} {what}", "sample", "s", cost.seconds, 10 * small.seconds, LINEAR, 1, aim, note)


def in_process(step: str, size: int, folder: str = "", sha256: str = "", dsn: str = "") -> _Cost:
    """What a step costs in a process of its own on one thread; twins need the ``folder`` of a model, stored ones a database."""
    command = [sys.executable, "-m", "tests.bench.sizes", step, str(size), folder, sha256]
    environment = {**os.environ, "TWIN_POSTGRES_DSN": dsn, "TWIN_POSTGRES_STATEMENT_TIMEOUT_S": "600"}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    done = subprocess.run(command, env=environment | threads, stdout=subprocess.PIPE, check=True)
    return _Cost(**json.loads(done.stdout))


def _model(folder: str, sha256: str) -> TwinModel:
    return TwinModel.from_parts(read_parts(Path(folder) / MODEL, sha256))


def _train(size: int, _folder: str, _sha256: str) -> Callable[[], object]:
    """The forest, and of a large table what is trained on one by default."""
    table, kind = sample_hcps(size, np.random.default_rng(SEED)), "RandomForest" if size <= MOST_ROWS else LEARNS_ALL_ROWS
    generator = TwinGenerator(TwinType.HCP, Brand.KISQALI, TARGET, model_type=kind, n_jobs=1, seed=SEED)
    return lambda: generator.train(table)


def _boost(size: int, _folder: str, _sha256: str) -> Callable[[], object]:
    table = build_training_table(sample_hcps(size, np.random.default_rng(SEED)), TwinType.HCP, TARGET)
    features = table.features.astype(dict.fromkeys(table.categorical, "category"))
    parameters = {**HYPERPARAMETERS[LEARNS_ALL_ROWS], "categorical_features": "from_dtype", "random_state": SEED}
    return lambda: HistGradientBoostingRegressor(**parameters).fit(features, table.target)


def _generate(size: int, folder: str, sha256: str) -> Callable[[], object]:
    model = _model(folder, sha256)
    model.generate(1000, seed=1)  # what is imported and compiled at the first use
    return lambda: model.generate(size, seed=SEED)


def _simulate(size: int, folder: str, sha256: str) -> Callable[[], object]:
    twins = _model(folder, sha256).generate(size, seed=SEED)
    return lambda: SimulationEngine(twins).simulate(INTERVENTION)


def _save(size: int, folder: str, sha256: str) -> Callable[[], object]:
    twins, runner = _model(folder, sha256).generate(size, seed=size), asyncio.Runner()
    repository = TwinRepository()
    return lambda: runner.run(repository.save_population(twins))


def _load(size: int, folder: str, sha256: str) -> Callable[[], object]:
    """Of the population that was saved before."""
    population_id, runner = _model(folder, sha256).population_id(size, seed=size), asyncio.Runner()
    repository = TwinRepository()
    return lambda: runner.run(repository.load_population(population_id))


STEPS: dict[str, Callable[[int, str, str], Callable[[], object]]] = {
    "train": _train,
    "generate": _generate,
    "simulate": _simulate,
    "save": _save,
    "load": _load,
    "boost": _boost,
}
GROWING = tuple(STEPS)[:-1]
CLOCKS = {"save": time.perf_counter, "load": time.perf_counter}


def _measure(step: str, size: int, folder: str, sha256: str) -> _Cost:
    run, clock = STEPS[step](size, folder, sha256), CLOCKS.get(step, time.process_time)
    ctypes.CDLL(None).malloc_trim(0)  # memory that the preparation has left would be used again unseen
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is that from now on
    before, start = peak_bytes(), clock()
    result = run()
    seconds = clock() - start
    peak = peak_bytes() - before
    del result
    return _Cost(seconds, peak)


def peak_bytes() -> int:
    """The peak of this process's memory, since it was started or the peak was reset."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4])._asdict()))
