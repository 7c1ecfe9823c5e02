"""Sets up logging of a role's process: plain text on a terminal or in a file, JSON on stderr for machines.

The JSON formatter is a dozen lines on the standard library: six fixed fields need no logging library, and the loggers of Faust,
aiokafka and MLflow are standard ones.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from textwrap import indent
from typing import Any

from streams.printable import escape_line, escape_text, hide_passwords
from streams.worker.log_limit import LimitedHandler

__all__ = ["log_file", "write_logs"]

_PLAIN = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_MAX_MESSAGE_CHARACTERS, _MAX_TRACEBACK_CHARACTERS = 4_000, 40_000
_INDENT = "    "
_VERBOSE_LOGGERS = ("faust", "mode", "aiokafka", "mlflow", "alembic", "matplotlib", "asyncio", "kafka", "asyncpg")


class JsonLines(logging.Formatter):
    """Formats each record as one JSON object on one line, with the role that wrote it."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as JSON."""
        fields = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "role": self._role,
            "logger": record.name,
            "message": _cut(hide_passwords(record.getMessage()), _MAX_MESSAGE_CHARACTERS),
        }
        if record.exc_info:
            fields["error"] = _cut(hide_passwords(self.formatException(record.exc_info)), _MAX_TRACEBACK_CHARACTERS)
        return json.dumps(fields).replace("\x7f", r"\u007f")  # the one control character that JSON leaves as it is


class PlainLines(logging.Formatter):
    """Formats each record as one line of text, whatever its message quotes; a traceback follows with its lines indented."""

    def __init__(self) -> None:
        super().__init__(_PLAIN)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the name in logging
        """Format the line of a record."""
        return escape_line(_cut(hide_passwords(super().formatMessage(record)), _MAX_MESSAGE_CHARACTERS))

    def formatException(self, ei: Any) -> str:  # noqa: N802  # the name in logging
        """Format a traceback."""
        text = _cut(hide_passwords(super().formatException(ei)), _MAX_TRACEBACK_CHARACTERS)
        return indent(escape_text(text), _INDENT, lambda _: True)

    def formatStack(self, stack_info: str) -> str:  # noqa: N802  # the name in logging
        """Format a stack."""
        return indent(escape_text(stack_info), _INDENT, lambda _: True)


def _cut(text: str, limit: int) -> str:
    """A text without its middle where it is longer than a limit: what came in may be quoted in it, however long."""
    return text if len(text) <= limit else f"{text[: limit // 2]} ... ({len(text):,} characters) ... {text[-limit // 2 :]}"


def log_file(folder: Path, role: str) -> Path:
    """Path of a role's log in a folder."""
    return folder / f"{role}.log"


def write_logs(role: str, folder: Path | None) -> None:
    """Write the log of this process to a file in ``folder``, or to stderr; on stderr as JSON unless it is a terminal."""
    if folder is not None:
        _redirect_output(log_file(folder, role))
    plain = folder is not None or sys.stderr.isatty()
    handler = LimitedHandler(sys.stderr)
    handler.setFormatter(PlainLines() if plain else JsonLines(role))
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    for name in _VERBOSE_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    # While Postgres refuses connections the pool logs a traceback every second or two; the probes report the outage on one line.
    logging.getLogger("asyncpg.pool").setLevel(logging.CRITICAL)


def _redirect_output(path: Path) -> None:
    """Append stdout and stderr of this process to a file, including what C libraries print."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    sys.stderr.flush()
    os.dup2(descriptor, 2)
    os.dup2(descriptor, 1)
    os.close(descriptor)
