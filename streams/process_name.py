"""Names this process, for the leases that it holds."""

from __future__ import annotations

import os
import secrets
import socket

__all__ = ["process_name"]

_START = secrets.token_hex(4)


def process_name() -> str:
    """A name that no other process ever has: a container that starts again may give its processes the same host and number."""
    return f"{socket.gethostname()}:{os.getpid()}:{_START}"
