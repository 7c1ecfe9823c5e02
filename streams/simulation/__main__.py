"""The process of a large simulation, ``python -m streams.simulation FOLDER``: reads the request there, and writes its result."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from engine.twins import TwinModel
from schemas import TwinPopulation
from sql.twin_repository import TwinRepository
from streams.child_process import end_with_parent, install_catalogue, limit_memory
from streams.errors import describe_error, is_waited_for
from streams.registry import read_parts
from streams.simulation.computation import COMPUTATION_REFUSALS, draw_population, prepare_twins, simulate_population
from streams.simulation.simulation_process import COMPUTING, MODEL_FOLDER, RESULT_FILE, SPEC_FILE, SimulationSpec

_NICENESS = 5  # small requests, and all other roles, come first


def run(folder: Path) -> None:
    """Compute what the folder asks for, and write ``RESULT_FILE`` last."""
    end_with_parent(folder)
    os.nice(_NICENESS)
    install_catalogue(folder)
    spec = SimulationSpec.model_validate_json((folder / SPEC_FILE).read_bytes())
    limit_memory(spec.memory_bytes)
    (folder / RESULT_FILE).write_text(json.dumps(_simulate(spec, folder)), encoding="utf-8")


def _simulate(spec: SimulationSpec, folder: Path) -> dict[str, Any]:
    try:
        result = simulate_population(prepare_twins(_population(spec, folder)), spec.priors, spec.request, spec.thresholds)
    except COMPUTATION_REFUSALS as error:
        return {"refused": describe_error(error)}
    except MemoryError:
        allowed = f"{spec.memory_bytes // 2**20:,} MB that it is allowed (TWIN_SIMULATION_MEMORY_MB)"
        return {"failed": f"the computation needs more than the {allowed}: request fewer twins"}
    except Exception as error:  # noqa: BLE001  # reported to the parent process, which decides
        return {"unavailable" if is_waited_for(error) else "failed": f"{type(error).__name__}: {describe_error(error)}"}
    return {"result": result.model_dump(mode="json")}


def _population(spec: SimulationSpec, folder: Path) -> TwinPopulation:
    if spec.model_sha256 is None:
        population = asyncio.run(TwinRepository().load_population(spec.population_id))
        _report_computing()
        return population
    model = TwinModel.from_parts(read_parts(folder / MODEL_FOLDER, spec.model_sha256))
    _report_computing()
    return draw_population(model, spec.recipe)


def _report_computing() -> None:
    sys.stdout.buffer.write(COMPUTING)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    run(Path(sys.argv[1]))
