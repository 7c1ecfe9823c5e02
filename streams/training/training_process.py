"""Training in a process of its own, with a limit on time and memory, that ends when whoever asked for it ends.

The process is started as ``python -m streams.training.training_process FOLDER``, reads its
specification there and writes the trained model as files (:mod:`streams.registry.serialization`): nothing is unpickled that another
process wrote. It reads its standard input, which nobody writes to: when that ends, whoever asked is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

import pandas as pd

from engine.twin_generator import TwinGenerator, skip_check
from engine.twins.causal_checks import cross_check
from engine.twins.twin_model import TwinModel
from schemas import Brand, TwinType
from schemas.base import Frozen
from schemas.causal_graphs import CausalGraph
from schemas.twin_models import ModelType
from streams.registry.serialization import read_parts, write_parts

__all__ = ["TrainingFailed", "TrainingRefused", "TrainingResult", "TrainingSpec", "train_in_subprocess"]

_LESSON, _FRAME, _MODEL, _DIGEST, _END = "lesson.json", "frame.parquet", "model", "sha256", "end.json"


class TrainingRefused(ValueError):
    """The rows cannot be trained on; the message says why and what would do."""


class TrainingFailed(RuntimeError):
    """The training process did not come to an end of its own: out of time, out of memory, killed, or an error in the code."""


class TrainingSpec(Frozen):
    """What is to be learned, and what that may take; the same lesson on the same rows gives the same model.

    Attributes:
        memory_bytes: address space of the process.
        model_type: of the expected outcome.
        graph: by which features of the outcome are chosen; the twin type's own by default.
        carried: so many rows, the first ones, come from before a change and judge nothing.
    """

    twin_type: TwinType
    brand: Brand
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
async def train_in_subprocess(lesson: TrainingSpec, frame: pd.DataFrame) -> AsyncIterator[TrainingResult]:
    """Train on ``frame`` in a process of its own; the files live as long as the context.

    The process is killed, with its own children, when it takes too long, when this task is cancelled, and when this process ends.

    Raises:
        TrainingRefused: when the rows cannot be trained on.
        TrainingFailed: when the process ended in any other way.
    """
    with tempfile.TemporaryDirectory(prefix="twinstream-training-") as scratch:
        folder = Path(scratch)
        (folder / _LESSON).write_text(lesson.model_dump_json(), encoding="utf-8")
        await asyncio.to_thread(_storable(frame).to_parquet, folder / _FRAME)
        await _run(folder, lesson.seconds)
        yield await asyncio.to_thread(_read, folder)


def _storable(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with one type a column: what people send as features need not agree on it."""
    mixed = [name for name in frame if frame[name].dtype == object and len(set(map(type, frame[name].dropna()))) > 1]
    return frame.assign(**{str(name): _uniform(frame[name]) for name in mixed})


def _uniform(column: pd.Series[Any]) -> pd.Series[Any]:
    if column.dropna().map(lambda value: isinstance(value, bool | int | float)).all():
        return pd.to_numeric(column.astype("float64"))
    return column.map(str, na_action="ignore")


async def _run(folder: Path, seconds: float) -> None:
    command = (sys.executable, "-m", __name__, str(folder))
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=DEVNULL, start_new_session=True)
    try:
        async with asyncio.timeout(seconds):
            await process.wait()
    except TimeoutError:
        raise TrainingFailed(f"training took longer than {seconds:g} s and was ended") from None
    finally:
        await _kill(process)
    _judge_end(folder, process.returncode)


async def _kill(process: Process) -> None:
    """End the process and everything that it has started: it leads a process group of its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _judge_end(folder: Path, exit_code: int | None) -> None:
    try:
        end = json.loads((folder / _END).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TrainingFailed(f"the training process ended with exit code {exit_code} before it had learned anything") from None
    if "refused" in end:
        raise TrainingRefused(end["refused"])
    if "failed" in end:
        raise TrainingFailed(end["failed"])


def _read(folder: Path) -> TrainingResult:
    sha256 = (folder / _DIGEST).read_text(encoding="utf-8")
    return TrainingResult(TwinModel.from_parts(read_parts(folder / _MODEL, sha256)), folder / _MODEL, sha256)


def _learn(folder: Path) -> None:
    """The whole life of the training process."""
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    lesson = TrainingSpec.model_validate_json((folder / _LESSON).read_bytes())
    _limit_memory(lesson.memory_bytes)
    (folder / _END).write_text(json.dumps(_learn_into(lesson, folder)), encoding="utf-8")


def _learn_into(lesson: TrainingSpec, folder: Path) -> dict[str, str]:
    try:
        generator = TwinGenerator(
            lesson.twin_type,
            lesson.brand,
            lesson.target,
            model_type=lesson.model_type,
            graph=lesson.graph,
            check=cross_check if find_spec("dowhy") else skip_check,
            n_jobs=lesson.n_jobs,
            seed=lesson.seed,
        )
        generator.train(pd.read_parquet(folder / _FRAME), target_col=lesson.target, n_carried_rows=lesson.n_carried_rows)
        sha256 = write_parts(generator.model.to_parts(), folder / _MODEL)
    except ValueError as error:
        return {"refused": str(error)}
    except MemoryError:
        return {"failed": f"training needs more than the {lesson.memory_bytes / 2**20:.0f} MB that it is allowed"}
    except Exception:  # noqa: BLE001  # told to the process that asked, which decides
        return {"failed": traceback.format_exc(limit=-5)}
    (folder / _DIGEST).write_text(sha256, encoding="utf-8")
    return {}


def _limit_memory(most: int) -> None:
    with contextlib.suppress(ValueError, OSError):  # macOS knows no limit of address space
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _end_with_parent(folder: Path) -> None:
    while os.read(0, 1):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    _learn(Path(sys.argv[1]))
