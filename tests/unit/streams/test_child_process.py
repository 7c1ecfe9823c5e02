"""A child process ends with the context that has started it, however often the task in it is cancelled."""

from __future__ import annotations

import asyncio
import gc
import os
import warnings
from pathlib import Path
from subprocess import DEVNULL, PIPE

import pytest

from streams.child_process import child_process


@pytest.fixture
def sleeper(tmp_path: Path) -> dict[str, str]:
    """The environment in which ``python -m sleeper`` runs until it is killed."""
    (tmp_path / "sleeper.py").write_text("import time\ntime.sleep(60)", encoding="utf-8")
    return {"PYTHONPATH": str(tmp_path)}


@pytest.mark.parametrize("stdout", [DEVNULL, PIPE])
@pytest.mark.parametrize("cancellations", [0, 1, 2, 3])
def test_a_task_that_is_cancelled_again_leaves_no_process_and_no_open_pipe(
    tmp_path: Path, sleeper: dict[str, str], stdout: int, cancellations: int
):
    pids, started = [], asyncio.Event()

    async def work() -> None:
        async with child_process("sleeper", tmp_path, stdout=stdout, environment=sleeper) as process:
            pids.append(process.pid)
            started.set()
            await asyncio.Event().wait()

    async def cancel() -> None:
        task = asyncio.create_task(work())
        await started.wait()
        for _ in range(cancellations):
            task.cancel()
            await asyncio.sleep(0)

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a transport that is left open is told when it is collected
        asyncio.run(cancel())
        gc.collect()
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
