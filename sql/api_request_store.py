"""Stores which requests of the HTTP API were done, by the key that their caller has chosen, with the answer of each."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from sql.database import Database

__all__ = ["KeyedRequest", "begin_keyed_request", "finish_keyed_request", "forget_keyed_request"]

_FORGET = "DELETE FROM api_requests WHERE accepted_at < clock_timestamp() - interval '1 day'"
_BEGIN = """
INSERT INTO api_requests (caller, request_key, sha256, accepted_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (caller, request_key) DO NOTHING"""
_FIND = "SELECT sha256, accepted_at, answer_status, answer FROM api_requests WHERE caller = $1 AND request_key = $2"
_FINISH = """
UPDATE api_requests SET answer_status = $3, answer = $4
WHERE caller = $1 AND request_key = $2 AND answer_status IS NULL"""

_FORGET_ONE = "DELETE FROM api_requests WHERE caller = $1 AND request_key = $2 AND answer_status IS NULL"


class KeyedRequest(NamedTuple):
    """A request with a key: the digest of its content, when it was accepted first, and its answer once it is done."""

    sha256: bytes
    accepted_at: datetime
    answer_status: int | None
    answer: dict[str, Any] | None


async def begin_keyed_request(database: Database, caller: str, key: str, sha256: bytes, at: datetime) -> KeyedRequest:
    """State that a request is done now, unless one with this key was before; returns the first one with it.

    Keys of the day before are forgotten.
    """
    await database.execute(_FORGET)
    await database.execute(_BEGIN, caller, key, sha256, at)
    row = await database.fetchrow(_FIND, caller, key)
    return KeyedRequest(sha256, at, None, None) if row is None else KeyedRequest(**row)


async def finish_keyed_request(database: Database, caller: str, key: str, status: int, answer: dict[str, Any]) -> None:
    """Store the answer of a request."""
    await database.execute(_FINISH, caller, key, status, answer)


async def forget_keyed_request(database: Database, caller: str, key: str) -> None:
    """Forget a request that was refused: it may come again with other content."""
    await database.execute(_FORGET_ONE, caller, key)
