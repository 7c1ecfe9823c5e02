"""Raises the number of files that this process and its children may open."""

from __future__ import annotations

import resource
from contextlib import suppress

__all__ = ["raise_file_limit"]

_ENOUGH = 65_536


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one, but not beyond what is enough; returns the limit.

    A shell's usual 1,024 is few for connections to Kafka and Postgres, files and web clients; every user may raise it so far.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < limit:
        with suppress(ValueError, OSError):  # a system may allow less than it states
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
