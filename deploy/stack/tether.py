"""Runs a command that ends with the process that started it.

:mod:`deploy.stack.child` runs it as a script, which imports the standard library only::

    python tether.py PARENT_PID SIGNAL IDENTITY COMMAND ...

Where the kernel can tie a process to its parent (Linux), the command replaces this script. Elsewhere the script stays the parent of
the command, forwards signals to it and watches whether its own parent is still running.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAP_DAC_OVERRIDE = 1
LINUX_CAPABILITY_VERSION_3 = 0x20080522
CLONE_NEWUSER = 0x10000000
NOBODY = 65534
WATCH_S = 0.5


def stay_same() -> None:
    """Keep the user."""


def enter_user_namespace() -> None:
    """Become user 1000 inside a namespace, where files still belong to the user outside: PostgreSQL refuses to run as root."""
    user, group = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER):
        raise OSError(ctypes.get_errno(), "this machine forbids user namespaces (unshare)")
    for name, line in (("setgroups", "deny"), ("uid_map", f"1000 {user} 1"), ("gid_map", f"1000 {group} 1")):
        Path("/proc/self", name).write_text(line, encoding="ascii")


def become_nobody() -> None:
    """Become the user nobody, with root's right to pass through folders that are closed to others.

    PostgreSQL requires another user than root, not one with fewer rights. Where this right is refused too, PostgreSQL's own message
    names the folder that it cannot read.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    bit = 1 << CAP_DAC_OVERRIDE
    libc.capset((ctypes.c_uint32 * 2)(LINUX_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0))
    libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0)


IDENTITIES = {"same": stay_same, "namespace": enter_user_namespace, "nobody": become_nobody}


def run_tethered(parent: int, stop_signal: signal.Signals, command: list[str]) -> int:
    """Replace this process by the command, or watch it where the kernel cannot tie it to the parent."""
    if not sys.platform.startswith("linux"):
        return watch(parent, stop_signal, command)
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(stop_signal))
    if os.getppid() == parent:  # else it has ended before this process was tied to it, and no signal will come
        os.execv(command[0], command)  # noqa: S606  # deliberately without a shell
    return 1


def watch(parent: int, stop_signal: signal.Signals, command: list[str]) -> int:
    """Run the command, and stop it when the parent process has ended."""
    child = subprocess.Popen(command, close_fds=False)  # noqa: S603  # it holds the lock of its folder open

    def forward(number: int, _frame: FrameType | None) -> None:
        child.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, forward)
    orphaned = False
    while child.poll() is None:
        if not orphaned and os.getppid() != parent:
            orphaned = True
            child.send_signal(stop_signal)
        time.sleep(WATCH_S)
    return child.returncode


if __name__ == "__main__":
    _, parent_pid, signal_name, identity, *command_line = sys.argv
    IDENTITIES[identity]()
    sys.exit(run_tethered(int(parent_pid), signal.Signals[signal_name], command_line))
