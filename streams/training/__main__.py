"""The training process, ``python -m streams.training FOLDER``: reads what to train from the folder, and writes the model there."""

from __future__ import annotations

import json
import sys
import traceback
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from engine.twin_generator import TwinGenerator, skip_check
from engine.twins import cross_check
from streams.child_process import end_with_parent, install_catalogue, limit_memory
from streams.registry import write_parts
from streams.training.training_process import DIGEST_FILE, MODEL_FOLDER, RESULT_FILE, SPEC_FILE, TABLE_FILE, TrainingSpec


def run(folder: Path) -> None:
    """Train what the folder asks for, and write ``RESULT_FILE`` last."""
    end_with_parent(folder)
    install_catalogue(folder)
    spec = TrainingSpec.model_validate_json((folder / SPEC_FILE).read_bytes())
    limit_memory(spec.memory_bytes)
    (folder / RESULT_FILE).write_text(json.dumps(_train(spec, folder)), encoding="utf-8")


def _train(spec: TrainingSpec, folder: Path) -> dict[str, str]:
    try:
        generator = TwinGenerator(
            spec.twin_type,
            spec.brand,
            spec.target,
            model_type=spec.model_type,
            graph=spec.graph,
            check=cross_check if find_spec("dowhy") else skip_check,
            n_jobs=spec.n_jobs,
            seed=spec.seed,
        )
        generator.train(pd.read_parquet(folder / TABLE_FILE), target_col=spec.target, n_carried_rows=spec.n_carried_rows)
        sha256 = write_parts(generator.model.to_parts(), folder / MODEL_FOLDER)
    except ValueError as error:
        return {"refused": str(error)}
    except MemoryError:
        return {"failed": f"training needs more than the {spec.memory_bytes / 2**20:.0f} MB that it is allowed"}
    except Exception:  # noqa: BLE001  # reported to the parent process, which decides
        return {"failed": traceback.format_exc(limit=-5)}
    (folder / DIGEST_FILE).write_text(sha256, encoding="utf-8")
    return {}


if __name__ == "__main__":
    run(Path(sys.argv[1]))
