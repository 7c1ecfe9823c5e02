"""The process that computes shards, ``python -m streams.simulation.shard_child FOLDER``.

What it reads and writes is described in :mod:`streams.simulation.shard_process`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from engine.twins import TwinModel
from streams.child_process import install_catalogue, limit_memory
from streams.errors import describe_error
from streams.registry import read_parts
from streams.simulation.computation import sum_recipe
from streams.simulation.shard_process import result_file
from streams.simulation.simulation_process import MODEL_FOLDER, SPEC_FILE, SimulationSpec

_NICENESS = 10  # smaller requests, and all other roles, come first


def run(folder: Path) -> None:
    """Compute shard after shard until the standard input ends."""
    shards: SimpleQueue[tuple[int, int]] = SimpleQueue()
    threading.Thread(target=_read_shards, args=(folder, shards), daemon=True).start()
    os.nice(_NICENESS)
    install_catalogue(folder)
    spec = SimulationSpec.model_validate_json((folder / SPEC_FILE).read_bytes())
    limit_memory(spec.memory_bytes)
    assert spec.model_sha256 is not None
    model = TwinModel.from_parts(read_parts(folder / MODEL_FOLDER, spec.model_sha256))
    while True:
        first_block, end_block = shards.get()
        result = _compute(spec, model, range(first_block, end_block))
        result_file(folder, first_block).write_text(json.dumps(result), encoding="utf-8")
        sys.stdout.buffer.write(b"done\n")
        sys.stdout.buffer.flush()


def _read_shards(folder: Path, shards: SimpleQueue[tuple[int, int]]) -> None:
    """Read what is to be computed; end this process when the parent, or its interest, has ended."""
    for line in sys.stdin:
        first_block, end_block = map(int, line.split())
        shards.put((first_block, end_block))
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _compute(spec: SimulationSpec, model: TwinModel, blocks: range) -> dict[str, Any]:
    try:
        sums = sum_recipe(model, spec.priors, recipe=spec.recipe, blocks=blocks, request=spec.request, thresholds=spec.thresholds)
    except MemoryError:
        allowed = f"{spec.memory_bytes // 2**20:,} MB that it is allowed (TWIN_SIMULATION_MEMORY_MB)"
        return {"failed": f"a shard needs more than the {allowed}"}
    except Exception as error:  # noqa: BLE001  # reported to the parent process, which decides
        return {"failed": f"{type(error).__name__}: {describe_error(error)}"}
    return {"sums": sums.to_bytes().hex()}


if __name__ == "__main__":
    run(Path(sys.argv[1]))
