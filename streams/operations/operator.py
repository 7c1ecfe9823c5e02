"""Who runs a command: stored with what the command changes."""

from __future__ import annotations

import getpass
import os
import socket

__all__ = ["operator_name"]


def operator_name() -> str:
    """``USER@HOST`` of this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
