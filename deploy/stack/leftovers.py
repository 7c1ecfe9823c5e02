"""Ends the processes that a killed PostgreSQL has left behind, which hold the lock on its data folder.

They end by themselves when their postmaster does, unless they are suspended: then no server could ever start on the folder again.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

__all__ = ["end_leftovers"]

_BACKEND_TITLE = b"postgres: "
"""With it begins the title of every process of a server but for the postmaster, which has its command line."""


class _Process(NamedTuple):
    pid: int
    parent: int
    program: Path
    folder: Path
    title: bytes


def end_leftovers(data: Path, program: Path) -> list[int]:
    """Send SIGKILL to the processes of a server on this data folder whose postmaster has ended, and return their ids.

    A process is only ended when it runs this program, its working folder is the data folder, as that of every process of a server
    is, its title is not that of a postmaster, and its parent is no process of the program in that folder. It is looked at while
    a handle on it is held, so that its id cannot have become that of another process.

    Args:
        data: the data folder.
        program: the file of the server's program.
    """
    data, program = data.resolve(), program.resolve()
    return [pid for pid in _process_ids() if _end_if_left_behind(pid, data, program)]


def _end_if_left_behind(pid: int, data: Path, program: Path) -> bool:
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        process = _read(pid)
        if process is None or not process.title.startswith(_BACKEND_TITLE) or not _is_of(process, data, program):
            return False
        parent = _read(process.parent)
        if parent is not None and _is_of(parent, data, program):
            return False
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        return True
    finally:
        os.close(handle)


def _is_of(process: _Process, data: Path, program: Path) -> bool:
    return process.program == program and process.folder == data


def _process_ids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _read(pid: int) -> _Process | None:
    """A process; None when it has ended, or belongs to somebody else."""
    folder = Path(f"/proc/{pid}")
    try:
        parent = (folder / "stat").read_bytes().rpartition(b")")[2].split()[1]
        program, working, title = (folder / "exe").readlink(), (folder / "cwd").readlink(), (folder / "cmdline").read_bytes()
    except OSError:
        return None
    return _Process(pid, int(parent), program, working, title)
