"""Computes a large request in a process of its own, with limits on time and memory; the process ends when its parent ends.

The parent writes the pinned request and its model into a scratch folder and starts ``python -m streams.simulation FOLDER``
(:mod:`streams.simulation.__main__`). The child loads the model (or stored twins), reports that it computes, and writes the result.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from engine.twins import TwinModel
from schemas import EffectPrior, SimulationRequest, SimulationResult, in_effect
from schemas.base import Frozen
from schemas.thresholds import LineThresholds
from sql.simulation_store import Pins, Recipe
from streams.child_process import ProcessStalled, child_process, while_computing, write_catalogue
from streams.registry import write_parts
from streams.settings import Settings
from streams.simulation.computation import DeadlineExceeded

__all__ = [
    "COMPUTING",
    "MODEL_FOLDER",
    "RESULT_FILE",
    "SPEC_FILE",
    "ProcessEnded",
    "SimulationFailed",
    "SimulationRefused",
    "SimulationSpec",
    "simulate_in_subprocess",
    "spec_of",
]

SPEC_FILE, MODEL_FOLDER = "spec.json", "model"
"""What the parent writes."""

RESULT_FILE, COMPUTING = "result.json", b"computing\n"
"""What the child writes: a file with ``result``, ``refused``, ``failed`` or ``unavailable``, and a line on its standard output."""


_SHORTEST_LOAD_LIMIT_S = 60.0


class SimulationRefused(ValueError):
    """The twins of the request cannot be simulated; the message has the reason."""


class SimulationFailed(RuntimeError):
    """The request cannot be computed by any process: it needs too much memory, or met an error in the code."""


class ProcessEnded(RuntimeError):
    """The process ended without a result: it was killed, stood still, or did not load in time what it needs: try again."""


class SimulationSpec(Frozen):
    """What the child computes, and the limit on its memory; the same specification gives the same result.

    Attributes:
        population_id, twin_count, seed, filters: the recipe of the population.
        model_sha256: digest of the model's files; None where the twins are stored in Postgres.
        priors, thresholds: effect priors and thresholds that the request is pinned to.
        memory_bytes: address space of the process.
    """

    request: SimulationRequest
    population_id: UUID
    twin_count: int
    seed: int
    filters: dict[str, Any]
    model_sha256: str | None
    priors: dict[str, EffectPrior]
    thresholds: LineThresholds
    memory_bytes: int

    @property
    def recipe(self) -> Recipe:
        """The recipe of the population."""
        return Recipe(self.population_id, self.twin_count, self.seed, self.filters)


async def simulate_in_subprocess(
    settings: Settings, pins: Pins, request: SimulationRequest, priors: Mapping[str, EffectPrior], model: TwinModel | None
) -> SimulationResult:
    """Compute a pinned request in a process of its own; ``model`` is None where its twins are stored.

    The process is killed after the deadline, when this task is cancelled, and when this process ends.

    Raises:
        SimulationRefused: when the twins cannot be simulated.
        DeadlineExceeded: when the computation takes too long.
        SimulationFailed: when it cannot be computed for another reason.
        ProcessEnded: when the process was killed, stood still, or loaded for too long.
        ConnectionError: when a service that it needs is unavailable.
    """
    with tempfile.TemporaryDirectory(prefix="twinstream-simulation-") as scratch:
        folder = Path(scratch)
        sha256 = await asyncio.to_thread(write_parts, model.to_parts(), folder / MODEL_FOLDER) if model else None
        spec = spec_of(settings, pins, request, priors, sha256)
        write_catalogue(folder, pins.catalogue)
        (folder / SPEC_FILE).write_text(spec.model_dump_json(), encoding="utf-8")
        async with child_process("streams.simulation", folder, stdout=PIPE, environment=_environment(settings)) as process:
            await _wait_for_result(process, settings.simulation_deadline_s)
        with in_effect(pins.catalogue):
            return _read_result(folder, process.returncode)


def spec_of(
    settings: Settings, pins: Pins, request: SimulationRequest, priors: Mapping[str, EffectPrior], model_sha256: str | None
) -> SimulationSpec:
    """What a child process computes for a pinned request, its model's files in the folder."""
    if pins.recipe is None:
        raise ValueError(f"simulation {pins.simulation_id} was never pinned")
    return SimulationSpec(
        request=request,
        population_id=pins.recipe.population_id,
        twin_count=pins.recipe.twin_count,
        seed=pins.recipe.seed,
        filters=pins.recipe.filters,
        model_sha256=model_sha256,
        priors=dict(priors),
        thresholds=pins.thresholds,
        memory_bytes=settings.simulation_memory_mb * 2**20,
    )


def _environment(settings: Settings) -> dict[str, str]:
    """Stored twins are read by one statement: it may take as long as the child may load. The address has its password already."""
    return {
        "TWIN_POSTGRES_DSN": settings.postgres_dsn.get_secret_value(),
        "TWIN_POSTGRES_DSN_FILE": "",
        "TWIN_POSTGRES_STATEMENT_TIMEOUT_S": str(2 * _load_s(settings.simulation_deadline_s)),
    }


def _load_s(deadline_s: float) -> float:
    return max(_SHORTEST_LOAD_LIMIT_S, deadline_s)


async def _wait_for_result(process: Process, deadline_s: float) -> None:
    """Wait until the process has ended; the deadline holds for the computation, not for what is loaded before it."""
    assert process.stdout is not None  # it is a pipe
    load_s = _load_s(deadline_s)
    try:
        line = await asyncio.wait_for(process.stdout.readline(), load_s)
    except TimeoutError:
        raise ProcessEnded(f"the model or the stored twins were not loaded within {load_s:g} s") from None
    try:
        await while_computing(process, asyncio.wait_for(process.wait(), deadline_s))
    except ProcessStalled as stalled:
        raise ProcessEnded(str(stalled)) from None
    except TimeoutError:
        error = DeadlineExceeded(deadline_s) if line == COMPUTING else ProcessEnded("the process reported nothing and did not end")
        raise error from None


def _read_result(folder: Path, exit_code: int | None) -> SimulationResult:
    try:
        result = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ProcessEnded(f"the process of the computation ended with exit code {exit_code} and left no result") from None
    if "refused" in result:
        raise SimulationRefused(result["refused"])
    if "failed" in result:
        raise SimulationFailed(result["failed"])
    if "unavailable" in result:
        raise ConnectionError(result["unavailable"])
    return SimulationResult.model_validate(result["result"])
