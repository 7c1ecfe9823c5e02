"""Tells systemd that the worker has started and that its supervisor works, so that it can restart one that hangs.

No library serves: the protocol is one datagram, see ``sd_notify(3)``.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress

__all__ = ["ALIVE", "STARTED", "notify_service_manager"]

STARTED, ALIVE = "READY=1", "WATCHDOG=1"


def notify_service_manager(state: str) -> None:
    """Send a state to the socket in ``NOTIFY_SOCKET``; do nothing where no service manager waits for it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.sendto(state.encode(), f"\0{address[1:]}" if address.startswith("@") else address)
