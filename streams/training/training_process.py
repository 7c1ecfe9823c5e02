"""Trains a model in a process of its own, with a limit on time and memory; the process ends when its parent ends.

The parent writes the specification and the table into a scratch folder and starts ``python -m streams.training FOLDER``
(:mod:`streams.training.__main__`). The child writes the model as files (:mod:`streams.registry.serialization`), so nothing
is unpickled that another process wrote.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from engine.twins import TwinModel
from schemas import TwinType
from schemas.base import Frozen
from schemas.catalogue_in_effect import catalogue_in_effect
from schemas.causal_graphs import CausalGraph
from schemas.levels import levels_of
from schemas.twin_models import ModelType
from schemas.twin_types import StoredBrand
from streams.child_process import child_process, write_catalogue
from streams.registry import read_parts

__all__ = [
    "DIGEST_FILE",
    "MODEL_FOLDER",
    "RESULT_FILE",
    "SPEC_FILE",
    "TABLE_FILE",
    "TrainingFailed",
    "TrainingRefused",
    "TrainingResult",
    "TrainingSpec",
    "train_in_subprocess",
]

SPEC_FILE, TABLE_FILE = "spec.json", "table.parquet"
"""Files that the parent writes."""

MODEL_FOLDER, DIGEST_FILE, RESULT_FILE = "model", "sha256", "result.json"
"""Files that the child writes; the result is an empty object, or has ``refused`` or ``failed`` with the reason."""


class TrainingRefused(ValueError):
    """The rows cannot be trained on; the message has the reason and what is needed."""


class TrainingFailed(RuntimeError):
    """The training process gave no result: it ran out of time or memory, was killed, or met an error in the code."""


class TrainingSpec(Frozen):
    """What to train, and the limits of the process; the same specification and rows give the same model.

    Attributes:
        seconds: time limit of the process.
        memory_bytes: address space of the process.
        model_type: of the expected outcome.
        graph: causal graph by which features of the outcome are chosen; the twin type's own by default.
        n_carried_rows: number of rows at the start of the table that come from before a change. No figure is measured on them.
    """

    twin_type: TwinType
    brand: StoredBrand
    target: str
    seed: int = 0
    n_jobs: int = -1
    seconds: float = 1800.0
    memory_bytes: int = 8 * 1024**3
    n_carried_rows: int = 0
    model_type: ModelType = "auto"
    graph: CausalGraph | None = None


@dataclass(frozen=True)
class TrainingResult:
    """A trained model, and the files that it is stored in."""

    model: TwinModel
    folder: Path
    sha256: str


@asynccontextmanager
async def train_in_subprocess(spec: TrainingSpec, table: pd.DataFrame) -> AsyncIterator[TrainingResult]:
    """Train on ``table`` in a process of its own; the files exist as long as the context.

    The process and its children are killed when it takes too long, when this task is cancelled, and when this process ends.

    Raises:
        TrainingRefused: when the rows cannot be trained on.
        TrainingFailed: when the process gave no result for any other reason.
    """
    with tempfile.TemporaryDirectory(prefix="twinstream-training-") as scratch:
        folder = Path(scratch)
        write_catalogue(folder, catalogue_in_effect())
        (folder / SPEC_FILE).write_text(spec.model_dump_json(), encoding="utf-8")
        await asyncio.to_thread(_with_uniform_columns(table).to_parquet, folder / TABLE_FILE)
        await _run_child(folder, spec.seconds)
        yield await asyncio.to_thread(_read_model, folder)


def _with_uniform_columns(table: pd.DataFrame) -> pd.DataFrame:
    """The table with one type per column, as Parquet requires: outcomes may send a feature with different types."""
    mixed = [name for name in table if table[name].dtype == object and not _is_uniform(table[name])]
    return table.assign(**{str(name): _uniform(table[name]) for name in mixed})


def _is_uniform(column: pd.Series[Any]) -> bool:
    """Whether all values have one type, and keep it: integers beside a gap become floats."""
    content = pd.api.types.infer_dtype(column, skipna=True)
    values = column.dropna()
    return len(set(map(type, values))) <= 1 and (content != "integer" or bool((values.abs() <= _LARGEST_EXACT).all()))


_LARGEST_EXACT = 2**53  # of the integers that a float holds exactly


def _uniform(column: pd.Series[Any]) -> pd.Series[Any]:
    """Numbers as floats where these can hold them, anything else as texts, which mean the same."""
    values = column.dropna()
    if pd.api.types.infer_dtype(values) == "mixed-integer-float" and (values.abs() <= _LARGEST_EXACT).all():
        return column.astype("float64")
    return levels_of(column).texts()


async def _run_child(folder: Path, seconds: float) -> None:
    async with child_process("streams.training", folder) as process:
        try:
            await asyncio.wait_for(process.wait(), seconds)
        except TimeoutError:
            raise TrainingFailed(f"training took longer than {seconds:g} s and was ended") from None
        _check_result(folder, process.returncode)


def _check_result(folder: Path, exit_code: int | None) -> None:
    try:
        result = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TrainingFailed(f"the training process ended with exit code {exit_code} and left no result") from None
    if "refused" in result:
        raise TrainingRefused(result["refused"])
    if "failed" in result:
        raise TrainingFailed(result["failed"])


def _read_model(folder: Path) -> TrainingResult:
    sha256 = (folder / DIGEST_FILE).read_text(encoding="utf-8")
    return TrainingResult(TwinModel.from_parts(read_parts(folder / MODEL_FOLDER, sha256)), folder / MODEL_FOLDER, sha256)
