"""Run a command that does not outlive whoever asked for it.

Called as a script by :mod:`deploy.stack.child`, before anything else is loaded, so it needs the standard library only::

    python tether.py PARENT_PID SIGNAL IDENTITY COMMAND ...

Where the kernel can tie a process to its parent (Linux), the command replaces this script; elsewhere the script stays as
the command's parent, hands signals on to it and watches whether its own parent is still there.
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


def stay() -> None:
    """Keep the user that we are."""


def enter_user_namespace() -> None:
    """Look like user 1000 from inside, while files stay those of the user outside: PostgreSQL refuses to run as root."""
    user, group = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER):
        raise OSError(ctypes.get_errno(), "this machine forbids user namespaces (unshare)")
    for name, line in (("setgroups", "deny"), ("uid_map", f"1000 {user} 1"), ("gid_map", f"1000 {group} 1")):
        Path("/proc/self", name).write_text(line, encoding="ascii")


def become_nobody() -> None:
    """Give root away, all but its way through folders that are closed to others.

    PostgreSQL asks for another user, not for a weaker one; where even this much is forbidden its own message says what it could
    not reach.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    bit = 1 << CAP_DAC_OVERRIDE
    libc.capset((ctypes.c_uint32 * 2)(LINUX_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0))
    libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0)


IDENTITIES = {"same": stay, "namespace": enter_user_namespace, "nobody": become_nobody}


def follow(parent: int, death: signal.Signals, command: list[str]) -> int:
    """Become the command, or watch over it where the kernel cannot."""
    if not sys.platform.startswith("linux"):
        return watch(parent, death, command)
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(death))
    if os.getppid() == parent:  # else it died before we were tied to it, and no signal will come
        os.execv(command[0], command)  # noqa: S606  # no shell is what we want
    return 1


def watch(parent: int, death: signal.Signals, command: list[str]) -> int:
    """Run the command and end it once our parent is gone."""
    child = subprocess.Popen(command, close_fds=False)  # noqa: S603  # it holds the lock of its folder open

    def hand_on(number: int, _frame: FrameType | None) -> None:
        child.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, hand_on)
    orphaned = False
    while child.poll() is None:
        if not orphaned and os.getppid() != parent:
            orphaned = True
            child.send_signal(death)
        time.sleep(WATCH_S)
    return child.returncode


if __name__ == "__main__":
    _, parent_pid, death_signal, identity, *rest = sys.argv
    IDENTITIES[identity]()
    sys.exit(follow(int(parent_pid), signal.Signals[death_signal], rest))
