"""IDs may be shortened to their first characters, as long as these are unique."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

__all__ = ["match_prefix"]

_MAX_SUGGESTIONS = 5


def match_prefix(prefix: str, ids: Iterable[UUID], kind: str) -> UUID:
    """Return the only ID that begins with ``prefix``.

    Args:
        prefix: first characters of an ID, or all of them.
        ids: the IDs to choose from.
        kind: what they identify, for the message.

    Raises:
        ValueError: for an empty prefix, with which every ID begins.
        LookupError: when none or more than one begins so.
    """
    if not prefix.strip():
        raise ValueError(f"the ID of a {kind} is empty: give at least its first characters")
    matches = sorted({candidate for candidate in ids if str(candidate).startswith(prefix.strip().lower())})
    if not matches:
        raise LookupError(f"no {kind} begins with {prefix!r}")
    if len(matches) > 1:
        listed = ", ".join(map(str, matches[:_MAX_SUGGESTIONS]))
        raise LookupError(f"{len(matches)} IDs of a {kind} begin with {prefix!r}: {listed}")
    return matches[0]
