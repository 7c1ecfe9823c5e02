"""Stores the tokens of the HTTP API: the service reads them, and only the owner of the tables creates and revokes them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import date, datetime
from typing import Literal, NamedTuple
from uuid import UUID, uuid4

import asyncpg

from sql.database import Connection, Database
from sql.privileges import OWNER

__all__ = [
    "SCOPES",
    "ApiToken",
    "NameInUse",
    "Scope",
    "TokensNotPermitted",
    "UnknownToken",
    "become_token_owner",
    "create_token",
    "find_token",
    "list_tokens",
    "note_token_use",
    "revoke_token",
    "token_digest",
]

Scope = Literal["read", "ask", "operate"]
SCOPES: tuple[Scope, ...] = ("read", "ask", "operate")
"""What a token allows: to read what is stored, to ask and hand over outcomes, and to decide. Each includes those before."""

_COLUMNS = "token_id, token_name AS name, scopes, created_by, created_at, expires_at, revoked_at, last_used_on"
_CREATE = f"""
INSERT INTO api_tokens (token_id, token_name, sha256, scopes, created_by, expires_at) VALUES ($1, $2, $3, $4, $5, $6)
RETURNING {_COLUMNS}"""  # noqa: S608  # our own constant
_LIST = f"SELECT {_COLUMNS} FROM api_tokens ORDER BY created_at, token_name"  # noqa: S608  # our own constant
_REVOKE = f"""
UPDATE api_tokens SET revoked_at = clock_timestamp() WHERE token_name = $1 AND revoked_at IS NULL
RETURNING {_COLUMNS}"""  # noqa: S608  # our own constant
_FIND = f"""
SELECT {_COLUMNS} FROM api_tokens
WHERE sha256 = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())"""  # noqa: S608  # our own constant
_NOTE_USE = "UPDATE api_tokens SET last_used_on = $2 WHERE token_id = $1 AND last_used_on IS DISTINCT FROM $2"
_NAMES = "SELECT token_name FROM api_tokens WHERE revoked_at IS NULL ORDER BY token_name"


class ApiToken(NamedTuple):
    """A token without its secret; ``last_used_on`` is a day of UTC."""

    token_id: UUID
    name: str
    scopes: tuple[Scope, ...]
    created_by: str
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_on: date | None = None


class NameInUse(ValueError):
    """There is a token with this name that is not revoked."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is a token {name!r} already: take another name, or revoke it first")


class UnknownToken(LookupError):
    """There is no token with this name that is not revoked."""

    def __init__(self, name: str, names: Sequence[str]) -> None:
        super().__init__(f"there is no token {name!r}: {'the names are ' + ', '.join(names) if names else 'there is none at all'}")


class TokensNotPermitted(PermissionError):
    """The user of the database may not create and revoke tokens."""


def token_digest(secret: str) -> bytes:
    """What is stored of a token. It has 256 random bits, which a slow hash would not make harder to guess."""
    return hashlib.sha256(secret.encode()).digest()


async def become_token_owner(connection: Connection) -> None:
    """Take the rights of the owner of the tables, which the service does not have.

    Raises:
        TokensNotPermitted: when the user may not.
    """
    try:
        await connection.execute(f"SET ROLE {OWNER}")
    except asyncpg.InsufficientPrivilegeError as error:
        raise TokensNotPermitted(
            f"tokens are created and revoked by a user who may apply migrations ({error}): set TWIN_POSTGRES_MIGRATE_DSN"
        ) from error


async def create_token(
    connection: Connection, name: str, digest: bytes, scopes: Sequence[Scope], created_by: str, expires_at: datetime | None
) -> ApiToken:
    """Store a token.

    Raises:
        NameInUse: when the name is that of another token.
    """
    try:
        row = await connection.fetchrow(_CREATE, uuid4(), name, digest, list(scopes), created_by, expires_at)
    except asyncpg.UniqueViolationError:
        raise NameInUse(name) from None
    assert row is not None  # an INSERT returns its row
    return _token(row)


async def list_tokens(database: Database) -> list[ApiToken]:
    """All tokens, also those that are revoked or have expired, oldest first."""
    return [_token(row) for row in await database.fetch(_LIST)]


async def revoke_token(connection: Connection, name: str) -> ApiToken:
    """Revoke a token.

    Raises:
        UnknownToken: when there is none with this name that is not revoked.
    """
    row = await connection.fetchrow(_REVOKE, name)
    if row is None:
        raise UnknownToken(name, [row["token_name"] for row in await connection.fetch(_NAMES)])
    return _token(row)


async def find_token(database: Database, digest: bytes) -> ApiToken | None:
    """The token with this digest, None when it is unknown, revoked or expired."""
    row = await database.fetchrow(_FIND, digest)
    return None if row is None else _token(row)


async def note_token_use(database: Database, token_id: UUID, day: date) -> None:
    """Store the day on which a token was used last."""
    await database.execute(_NOTE_USE, token_id, day)


def _token(row: asyncpg.Record) -> ApiToken:
    return ApiToken(**{**row, "scopes": tuple(row["scopes"])})
