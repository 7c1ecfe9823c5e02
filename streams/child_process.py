"""Work in a process of its own: its parent can end it at any time, it has a limit on memory, and it ends when its parent ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import signal
import sys
import threading
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any, TypeVar

from schemas import Catalogue, install
from streams.silence import Silence, read_process_clock

__all__ = [
    "ProcessStalled",
    "child_process",
    "end_with_parent",
    "install_catalogue",
    "limit_memory",
    "while_computing",
    "write_catalogue",
]

T = TypeVar("T")

STALL_S = 20.0
_LOOK_S = 0.5


class ProcessStalled(RuntimeError):
    """A process that has to compute has used no processor for a while, although it could have."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the process of the computation stood still for {seconds:g} s and was killed")


@asynccontextmanager
async def child_process(
    module: str, folder: Path, *, stdout: int = DEVNULL, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Process]:
    """Run ``python -m MODULE FOLDER``; at the end of the context it is killed, with everything that it has started.

    The module must call :func:`end_with_parent`. Its environment is that of this process, with the variables of ``environment``.
    """
    command = (sys.executable, "-m", module, str(folder))
    variables = {**os.environ, **(environment or {})}
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=stdout, env=variables, start_new_session=True)
    try:
        yield process
    finally:
        await _kill_group(process)


async def while_computing(process: Process, work: Coroutine[Any, Any, T], stall_s: float = STALL_S) -> T:
    """Await ``work`` while the process, which computes all that time, uses a processor.

    Where the system does not tell that, the work alone is awaited.

    Raises:
        ProcessStalled: when the process used none for ``stall_s``; time in which it waited for one does not count.
    """
    waiting = asyncio.create_task(work)
    silence, running_s = Silence(), -1.0
    try:
        while not (await asyncio.wait({waiting}, timeout=_LOOK_S))[0]:
            clock = read_process_clock(process.pid)
            if clock is None or clock.running_s > running_s:
                silence.end()
                running_s = running_s if clock is None else clock.running_s
            if silence.seconds(process.pid, time.monotonic()) > stall_s:
                raise ProcessStalled(stall_s)
        return await waiting
    finally:
        waiting.cancel()
        await asyncio.wait({waiting})


async def _kill_group(process: Process) -> None:
    """End the process and everything that it has started: it leads a process group of its own.

    A task that is cancelled meanwhile waits all the same, for the moments that a killed process takes to end: an event loop that is
    closed before leaves the process unreaped and its pipes open.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    cancelled: asyncio.CancelledError | None = None
    while True:
        try:
            await process.wait()
        except asyncio.CancelledError as error:
            cancelled = error
        else:
            break
    if cancelled is not None:
        raise cancelled


_CATALOGUE_FILE, _VERSION_FILE = "catalogue.json", "catalogue_version"


def write_catalogue(folder: Path, catalogue: Catalogue) -> None:
    """Write the catalogue under which a child process works."""
    (folder / _CATALOGUE_FILE).write_text(catalogue.to_text(), encoding="utf-8")
    (folder / _VERSION_FILE).write_text(str(catalogue.version), encoding="utf-8")


def install_catalogue(folder: Path) -> None:
    """Make the catalogue that the parent has written that of this process."""
    version = int((folder / _VERSION_FILE).read_text(encoding="utf-8"))
    install(Catalogue.from_text((folder / _CATALOGUE_FILE).read_text(encoding="utf-8"), version))


def limit_memory(max_bytes: int) -> None:
    """Limit the address space of this process; beyond it an allocation raises ``MemoryError``."""
    with contextlib.suppress(ValueError, OSError):  # macOS has no limit of address space
        resource.setrlimit(resource.RLIMIT_AS, (max_bytes, resource.getrlimit(resource.RLIMIT_AS)[1]))


def end_with_parent(folder: Path) -> None:
    """Remove the folder and end this process, with everything that it has started, as soon as its parent has ended."""
    threading.Thread(target=_wait_for_parent, args=(folder,), daemon=True).start()


def _wait_for_parent(folder: Path) -> None:
    """Wait for the end of the standard input, to which nothing is written: it ends with the parent process."""
    while os.read(0, 1):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(os.getpgrp(), signal.SIGKILL)
