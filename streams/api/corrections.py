"""Decisions about records: a refused one is published again, corrected or as it is, and one that waits is parked."""

from __future__ import annotations

import base64
import json
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field, PlainValidator

from schemas.base import Frozen, Whole, shorten
from sql.dead_letter_store import find_refused
from streams.api import examples
from streams.api.access import Context, OperateCaller
from streams.api.bodies import json_response, read_decision
from streams.api.idempotency import Answer, IdempotencyKey, Occasion, do_once
from streams.api.openapi import decision_body
from streams.api.problems import Problem, problems
from streams.operations import Correction, SentReplay, await_replay_results, park_record, replay_dead_letters

__all__ = ["router"]

router = APIRouter(tags=["dead letters"])


def _from_base64(text: Any) -> bytes:
    """The bytes of a text in base64.

    Raises:
        ValueError: when it is none.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{shorten(text)} is not base64 ({error})") from None


Base64 = Annotated[bytes, PlainValidator(_from_base64, json_schema_input_type=str)]


class Replay(Frozen):
    """How a refused record is published again: as it is, unless a correction is named."""

    sets: Annotated[
        dict[str, Any],
        Field(alias="set", max_length=1000, description="Values of fields by their path, such as `segment.region`."),
    ] = Field(default_factory=dict)
    drops: Annotated[tuple[str, ...], Field(alias="drop", max_length=1000, description="Paths of fields to remove.")] = ()
    value: Annotated[dict[str, Any] | list[Any] | None, Field(description="JSON that replaces the whole value.")] = None
    value_base64: Annotated[Base64 | None, Field(description="Bytes that replace the whole value.")] = None
    accept: Annotated[bool, Field(description="Confirm a result that was set aside: sets `confirmed` to true.")] = False
    dry_run: Annotated[bool, Field(description="Check the record, and publish nothing.")] = False

    def correction(self) -> Correction:
        """What to change.

        Raises:
            Problem: when the value is given twice.
        """
        if self.value is not None and self.value_base64 is not None:
            raise Problem(422, "value and value_base64 both replace the value: give one of them")
        value = self.value_base64 if self.value is None else json.dumps(self.value).encode()
        return Correction(self.sets | ({"confirmed": True} if self.accept else {}), self.drops, value)


class Replayed(BaseModel):
    """What became of a refused record: how many records were published for it, the last one, and its result once it is stored.

    A dry run tells the value that would be published.
    """

    dry_run: bool
    records: int
    last: str | None
    state: str
    value: str | None


class ParkRequest(Frozen):
    """A record that its role stores as refused instead of processing it."""

    topic: Annotated[str, Field(max_length=200)]
    partition: Annotated[Whole, Field(ge=0, le=2**31 - 1)]
    offset: Annotated[Whole, Field(ge=0, le=2**63 - 1)]
    why: Annotated[str, Field(max_length=1000, description="It is stored as the reason.")] = ""


class Parked(ParkRequest):
    """The record, and whether its role has parked it or will do so when it reads it."""

    state: Literal["parked", "requested"]


@router.post(
    "/dead-letters/{refusal_id}/replays",
    summary="Publish a refused record again",
    response_model=Replayed,
    responses=problems(404, 415),
    openapi_extra=decision_body(Replay, examples.REPLAYS, required=False),
)
async def replay(
    refusal_id: UUID, request: Request, context: Context, caller: OperateCaller, idempotency_key: IdempotencyKey = None
) -> Response:
    """As `twinstream dlq replay`: it keeps its id, so that it counts once, and is not published where it would be refused again.

    The answer comes when its result is stored, or after 10 seconds.
    """
    body = await read_decision(request, Replay)
    correction = body.correction()
    pool = await context.pool()

    async def send() -> list[SentReplay]:
        refused = await find_refused(pool, str(refusal_id))
        sent, skipped = await replay_dead_letters(
            context.settings, pool, [refused], correction, by=caller.name, dry_run=body.dry_run
        )
        if skipped:
            raise Problem(422, f"nothing is published: {skipped[0].reason.replace('--value FILE', 'value')}")
        return sent

    async def act(_occasion: Occasion) -> Answer:
        await context.client()  # an outage of Kafka is answered at once
        sent = await send()
        (letter,) = await await_replay_results(pool, [sent[0].refused])
        last = letter.replays[-1]
        # Without the value, which may name people: the answer is stored with the key of the request.
        return Answer(200, _replayed(len(sent), letter.state, last=f"{last.topic}:{last.partition}:{last.offset}"))

    if body.dry_run:
        sent = await send()
        return json_response(_replayed(len(sent), "", value=sent[0].value.decode(errors="replace")))
    return await do_once(context, request, caller, idempotency_key, await request.body(), act)


def _replayed(records: int, state: str, *, last: str | None = None, value: str | None = None) -> dict[str, Any]:
    return {"dry_run": last is None, "records": records, "last": last, "state": state, "value": value}


@router.post(
    "/parked-records",
    summary="Park a record",
    response_model=Parked,
    responses=problems(409, 415),
    openapi_extra=decision_body(ParkRequest, examples.PARKED_RECORDS),
)
async def park(request: Request, context: Context, caller: OperateCaller, idempotency_key: IdempotencyKey = None) -> Response:
    """As `twinstream dlq park`. The answer comes when its role has parked it, or after 20 seconds."""
    body = await read_decision(request, ParkRequest)

    async def act(_occasion: Occasion) -> Answer:
        pool = await context.pool()
        await context.client()  # an outage of Kafka is answered at once
        position = (body.topic, body.partition, body.offset)
        return Answer(200, (await park_record(context.settings, pool, *position, body.why, by=caller.name)).to_dict())

    return await do_once(context, request, caller, idempotency_key, await request.body(), act)
