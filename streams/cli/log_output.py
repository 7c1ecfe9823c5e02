"""What reaches stderr of a command besides its own lines: nothing of the libraries, and of the service only its warnings.

A failure is one line, which the command itself prints. Commands that run roles also show the warnings of their supervisor; the logs
of the roles go to files or are formatted in the processes of the roles.
"""

from __future__ import annotations

import logging

__all__ = ["last_kafka_error", "show_service_warnings", "silence_libraries"]

_KAFKA = "aiokafka"


class _LastError(logging.Handler):
    """Keeps the last error of a library that raises another one without the reason."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.message = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message."""
        self.message = record.getMessage()


_kafka_error = _LastError()


def silence_libraries() -> None:
    """Let no logger of this process write to stderr: without any handler Python prints warnings there."""
    logging.basicConfig(handlers=[logging.NullHandler()], force=True)
    logging.lastResort = None
    logging.getLogger(_KAFKA).addHandler(_kafka_error)


def show_service_warnings() -> None:
    """Show the warnings of the service itself, each on one line."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.getLogger("streams").addHandler(handler)


def last_kafka_error() -> str:
    """The last error that the Kafka client logged, empty where there was none: it has the reason why a broker refuses a client."""
    return _kafka_error.message
