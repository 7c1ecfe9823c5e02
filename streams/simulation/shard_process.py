"""Computes shards of one request in a process of its own, which loads the model once and takes one shard after another.

The parent writes the pinned request and its model into a scratch folder, starts ``python -m streams.simulation.shard_child FOLDER``
(:mod:`streams.simulation.shard_child`), and writes the first and the end block of each shard to its standard input.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from engine.twins import TwinModel
from schemas import EffectPrior, SimulationRequest
from sql.simulation_store import Pins
from streams.child_process import ProcessStalled, child_process, while_computing, write_catalogue
from streams.registry import write_parts
from streams.settings import Settings
from streams.simulation.computation import DeadlineExceeded
from streams.simulation.simulation_process import MODEL_FOLDER, SPEC_FILE, ProcessEnded, SimulationFailed, spec_of

__all__ = ["ShardProcess", "result_file"]

_LOAD_S = 60.0  # of the interpreter and the model, before the first shard


class ShardProcess:
    """The process, while the context of :meth:`start` is open; it is killed at its end, and ends when this process ends."""

    def __init__(self, process: Process, folder: Path, deadline_s: float) -> None:
        self._process = process
        self._folder = folder
        self._deadline_s = deadline_s

    @classmethod
    @asynccontextmanager
    async def start(
        cls, settings: Settings, pins: Pins, request: SimulationRequest, priors: Mapping[str, EffectPrior], model: TwinModel
    ) -> AsyncIterator[ShardProcess]:
        """Start the process that computes the shards of a pinned request."""
        with tempfile.TemporaryDirectory(prefix="twinstream-shards-") as scratch:
            folder = Path(scratch)
            sha256 = await asyncio.to_thread(write_parts, model.to_parts(), folder / MODEL_FOLDER)
            write_catalogue(folder, pins.catalogue)
            spec = spec_of(settings, pins, request, priors, sha256)
            (folder / SPEC_FILE).write_text(spec.model_dump_json(), encoding="utf-8")
            async with child_process("streams.simulation.shard_child", folder, stdout=PIPE) as process:
                yield cls(process, folder, settings.simulation_deadline_s)

    async def compute(self, first_block: int, end_block: int) -> bytes:
        """The sums over the twins of these blocks, as bytes of :class:`engine.effects.ExactSums`.

        Raises:
            DeadlineExceeded: when the computation takes too long.
            SimulationFailed: when it cannot be computed.
            ProcessEnded: when the process was killed, or stands still. After each of these the process is of no further use.
        """
        assert self._process.stdin is not None  # it is a pipe
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(f"{first_block} {end_block}\n".encode())
            line = await while_computing(
                self._process, asyncio.wait_for(self._process.stdout.readline(), _LOAD_S + self._deadline_s)
            )
        except ProcessStalled as stalled:
            raise ProcessEnded(str(stalled)) from None
        except TimeoutError:
            raise DeadlineExceeded(self._deadline_s) from None
        except ConnectionError:
            line = b""
        if not line:
            raise ProcessEnded(f"the process of a shard ended with exit code {await self._process.wait()} and left no result")
        return await asyncio.to_thread(_read_result, result_file(self._folder, first_block))


def result_file(folder: Path, first_block: int) -> Path:
    """The file with ``sums`` in hexadecimal, or with the reason under ``failed``."""
    return folder / f"{first_block}.json"


def _read_result(path: Path) -> bytes:
    result = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    if "failed" in result:
        raise SimulationFailed(result["failed"])
    return bytes.fromhex(result["sums"])
