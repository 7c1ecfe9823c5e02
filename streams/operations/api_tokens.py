"""Creates and revokes tokens of the HTTP API, as the owner of the tables."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from schemas.base import require_one_of
from sql.api_token_store import SCOPES, ApiToken, Scope, become_token_owner, create_token, revoke_token, token_digest
from sql.database import Connection, connect
from streams.operations.operator import operator_name
from streams.settings import Settings

__all__ = ["NewToken", "issue_token", "scopes_up_to", "withdraw_token"]

TOKEN_PREFIX = "twin_"  # noqa: S105  # by which scanners of source code recognize a token
_BYTES = 32


class NewToken(NamedTuple):
    """A token, and its secret, which is stored nowhere."""

    token: ApiToken
    secret: str


def scopes_up_to(scope: str) -> tuple[Scope, ...]:
    """A scope and those that it includes.

    >>> scopes_up_to("ask")
    ('read', 'ask')

    Raises:
        ValueError: when there is no such scope.
    """
    name = require_one_of("scope", scope, SCOPES)
    return SCOPES[: [*SCOPES].index(name) + 1]  # type: ignore[arg-type]  # one of them


async def issue_token(settings: Settings, name: str, scope: str, days: int | None) -> NewToken:
    """Create a token with a scope and those that it includes, valid for so many days, or until it is revoked.

    Raises:
        NameInUse: when the name is that of another token.
        TokensNotPermitted: when the user of the database may not create one.
    """
    secret = TOKEN_PREFIX + secrets.token_urlsafe(_BYTES)
    expires_at = None if days is None else datetime.now(UTC) + timedelta(days=days)
    scopes: Sequence[Scope] = scopes_up_to(scope)
    async with _owner_connection(settings) as connection:
        token = await create_token(connection, name, token_digest(secret), scopes, operator_name(), expires_at)
    return NewToken(token, secret)


async def withdraw_token(settings: Settings, name: str) -> ApiToken:
    """Revoke a token.

    Raises:
        UnknownToken: when there is none with this name that is not revoked.
        TokensNotPermitted: when the user of the database may not revoke one.
    """
    async with _owner_connection(settings) as connection:
        return await revoke_token(connection, name)


@asynccontextmanager
async def _owner_connection(settings: Settings) -> AsyncIterator[Connection]:
    connection = await connect(settings.migrate_dsn)
    try:
        await become_token_owner(connection)
        yield connection
    finally:
        await connection.close()
