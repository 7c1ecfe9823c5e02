"""Log lines of a role's process: for people on a terminal or in a file, for machines as JSON on stderr."""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

__all__ = ["log_file", "write_logs"]

_PLAIN = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_CHATTY = ("faust", "mode", "aiokafka", "mlflow", "alembic", "matplotlib", "asyncio", "kafka")


class JsonLines(logging.Formatter):
    """One JSON object a line, with the role that wrote it."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        told = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "role": self._role,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            told["error"] = self.formatException(record.exc_info)
        return json.dumps(told)


def log_file(folder: Path, role: str) -> Path:
    """Where a role's process writes when it is given a folder."""
    return folder / f"{role}.log"


def write_logs(role: str, folder: Path | None) -> None:
    """Send the log of this process to a file in ``folder``, or to stderr: as JSON when no person reads along."""
    if folder is not None:
        _move_stderr(log_file(folder, role))
    plain = folder is not None or sys.stderr.isatty()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(_PLAIN) if plain else JsonLines(role))
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


def _move_stderr(path: Path) -> None:
    """What libraries print goes to the file as well, whoever writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    sys.stderr.flush()
    os.dup2(descriptor, 2)
    os.dup2(descriptor, 1)
    os.close(descriptor)
