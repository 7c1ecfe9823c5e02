"""Does a request once, however often it is sent with the same key.

A request without an answer, because the process ended in the middle of it, is done again with the same ids and the same time, so
that its events are the same: publishing them twice changes nothing.

References:
    Jena, Dalal (2021), The Idempotency-Key HTTP Header Field. draft-ietf-httpapi-idempotency-key-header.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

from fastapi import Header, Request
from fastapi.responses import JSONResponse

from schemas.base import shorten
from sql.api_request_store import begin_keyed_request, finish_keyed_request, forget_keyed_request
from sql.ledger import ChampionChanged
from streams.api.access import Caller
from streams.api.context import ApiContext
from streams.api.problems import Problem

__all__ = ["Answer", "IdempotencyKey", "Occasion", "do_once"]

_NAMESPACE = uuid5(NAMESPACE_URL, "twinstream:api requests")
_REFUSALS = (Problem, ValueError, LookupError, ChampionChanged)
_REPEATED = {"Idempotent-Replayed": "true"}

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=200,
        pattern=r"^[\x21-\x7e]+$",
        description="Chosen by the caller, for example a UUID: the same key has the same answer for a day.",
    ),
]


class Occasion(NamedTuple):
    """The time and the id of a request, which are the same when it is repeated with its key."""

    at: datetime
    request_id: UUID


class Answer(NamedTuple):
    """The status, the body and the headers of an answer."""

    status: int
    body: dict[str, Any]
    location: str | None = None

    def response(self, headers: dict[str, str] | None = None) -> JSONResponse:
        """The answer as it is sent."""
        own = {"Location": self.location} if self.location else {}
        return JSONResponse(self.body, self.status, headers={**own, **(headers or {})})


async def do_once(
    context: ApiContext,
    request: Request,
    caller: Caller,
    key: str | None,
    content: bytes,
    act: Callable[[Occasion], Awaitable[Answer]],
) -> JSONResponse:
    """Do what a request asks for, or return the answer that it had before.

    Args:
        context: where answers are stored.
        request: the request.
        caller: who sends it.
        key: of the header, None without one.
        content: its body, or a digest of it.
        act: does it.

    Raises:
        Problem: with status 422 when the key was used for another request.
    """
    if key is None:
        return (await act(Occasion(datetime.now(UTC), uuid4()))).response()
    pool = await context.pool()
    digest = hashlib.sha256(
        b"\0".join([request.method.encode(), str(request.url.path).encode(), request.url.query.encode(), content])
    )
    name = caller.name
    earlier = await begin_keyed_request(pool, name, key, digest.digest(), datetime.now(UTC))
    if earlier.sha256 != digest.digest():
        raise Problem(422, f"Idempotency-Key {shorten(key)} was used for another request: take a new key for each request")
    if earlier.answer_status is not None and earlier.answer is not None:
        return Answer(earlier.answer_status, earlier.answer["body"], earlier.answer["location"]).response(_REPEATED)
    try:
        answer = await act(Occasion(earlier.accepted_at, uuid5(_NAMESPACE, f"{name}\0{key}")))
    except _REFUSALS:  # nothing was published or stored
        await forget_keyed_request(pool, name, key)
        raise
    stored = {"body": answer.body, "location": answer.location}
    await finish_keyed_request(pool, name, key, answer.status, stored)
    return answer.response()
