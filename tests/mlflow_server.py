"""A real MLflow tracking server on the loopback address, which tests stop, start, suspend and kill."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

from deploy.stack.child import TETHER
from deploy.stack.part import HOST, free_port
from streams.dependencies import MlflowProbe

__all__ = ["MlflowServer"]

READY_S = 90.0
_PROBE_S = 5.0


class MlflowServer:
    """``mlflow server`` with its database and files in a folder, which outlast a stop; it ends with this process.

    Args:
        home: folder of the server.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def uri(self) -> str:
        """Its address."""
        return f"http://{HOST}:{self._port}"

    @property
    def pid(self) -> int:
        """Its first process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._home.mkdir(parents=True, exist_ok=True)
        tether = [sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), "SIGKILL", "same"]
        store = (
            "--backend-store-uri",
            f"sqlite:///{self._home / 'mlflow.db'}",
            "--artifacts-destination",
            str(self._home / "files"),
        )
        with (self._home / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *tether,
                    sys.executable,
                    "-m",
                    "mlflow",
                    "server",
                    *store,
                    "--host",
                    HOST,
                    "--port",
                    str(self._port),
                    "--workers",
                    "1",
                ],
                cwd=self._home,
                env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + READY_S
        while not asyncio.run(self._answers()):
            assert self._process.poll() is None, (self._home / "server.log").read_text(encoding="utf-8")
            assert time.monotonic() < deadline, "the MLflow server is not ready"
            time.sleep(0.1)

    def stop(self) -> None:
        """End all of its processes, also suspended ones."""
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        if self._process is not None:
            self._process.wait()

    def suspend(self) -> None:
        """Send SIGSTOP to all of its processes: connections are accepted and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Send SIGCONT to all of its processes."""
        self._signal(signal.SIGCONT)

    def processes(self) -> list[psutil.Process]:
        """Its first process and all descendants; none when it has ended."""
        if self._process is None or self._process.poll() is not None:
            return []
        first = psutil.Process(self._process.pid)
        return [first, *first.children(recursive=True)]

    def _signal(self, number: signal.Signals) -> None:
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(_PROBE_S):
                await MlflowProbe(self.uri, _PROBE_S).ask()
        except Exception:  # noqa: BLE001  # whatever fails: it has not answered
            return False
        return True
