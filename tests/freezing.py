"""Suspends a server: it accepts connections and answers none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

__all__ = ["frozen"]


@contextmanager
def frozen(pid: int) -> Iterator[list[psutil.Process]]:
    """Suspend a process and its descendants while the block runs; the block gets those that were there.

    The process itself is first: from then on it starts no other. Descendants may end at any time, as backends of PostgreSQL do.
    """
    tree = psutil.Process(pid)
    suspended = [tree]
    try:
        tree.suspend()
        suspended += tree.children(recursive=True)
        for process in suspended[1:]:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        yield suspended
    finally:
        for process in suspended:
            with suppress(psutil.NoSuchProcess):
                process.resume()
