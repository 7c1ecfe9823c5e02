"""Decisions about model lines: promote, roll back, policy, thresholds, and whether a requested retrain is trained.

Each is stored as the command for it does, with who has decided. The role web also publishes it; the alias in MLflow is left to the
role trainer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from pydantic_core import to_jsonable_python

from schemas import ModelEvent
from schemas.base import Finite, Frozen
from schemas.thresholds import ConfidenceThreshold, EffectThreshold
from sql.database import Pool
from sql.ledger import JudgedAgainst, Ledger, Policy
from sql.retrain_approval_store import approve, refuse
from sql.retrain_store import RetrainRequest
from sql.threshold_store import change_thresholds
from streams.api import examples
from streams.api.access import Caller, Context, OperateCaller, ReadCaller
from streams.api.bodies import json_response, read_decision
from streams.api.context import ApiContext
from streams.api.idempotency import Answer, IdempotencyKey, Occasion, do_once
from streams.api.models import Line
from streams.api.openapi import decision_body
from streams.api.problems import Problem, problems
from streams.api.shapes import items_of, shape_of
from streams.errors import describe_error, is_waited_for
from streams.operations.line_thresholds import threshold_history
from streams.operations.model_decisions import ANNOUNCEMENT, consequences, promote_model, roll_back

__all__ = ["router"]

LOG = logging.getLogger(__name__)

router = APIRouter(tags=["decisions"])

_ANNOUNCE_S = 5.0

Reason = Annotated[str, Field(max_length=1000, description="Why; it is stored with who has decided.")]
Expected = Annotated[
    UUID | None, Field(description="The champion that the decision is about: it is refused where another one is champion by now.")
]


class RetrainDecision(Frozen):
    """Why a retrain is approved or refused."""

    reason: Reason = ""


class Promotion(Frozen):
    """Which model becomes champion."""

    model_id: UUID
    champion: Expected = None
    reason: Reason = ""


class Rollback(Frozen):
    """Which earlier champion becomes champion again; the previous one by default."""

    to: UUID | None = None
    champion: Expected = None
    reason: Reason = ""


class PolicyChoice(Frozen):
    """What a line does by itself when its champion drifts."""

    policy: Policy
    reason: Reason = ""


class ThresholdChoice(Frozen):
    """Thresholds to change; those that are left out stay as they are."""

    min_effect_threshold: EffectThreshold | None = None
    confidence_threshold: ConfidenceThreshold | None = None
    require_test: bool | None = None
    drift_limits: Annotated[
        dict[str, Finite | None], Field(description="Limits of drift rules by name; null for that of the catalogue.")
    ] = Field(default_factory=dict)
    reason: Reason = ""


class ModelDecision(BaseModel):
    """A decision as it is stored in the ledger, and what is left to the role trainer."""

    event: ModelEvent
    pending: list[str]


class ThresholdVersion(BaseModel):
    """A version of the thresholds of a line; 0 is that of the catalogue."""

    version: int
    min_effect_threshold: float
    confidence_threshold: float
    require_test: bool
    drift_limits: dict[str, float]
    changed_at: str | None
    changed_by: str
    reason: str


@router.post(
    "/models/{line}/promotions",
    summary="Make a model the champion",
    response_model=ModelDecision,
    responses=problems(404, 409, 415),
    openapi_extra=decision_body(Promotion, examples.PROMOTIONS),
)
async def promote(
    line: Line, request: Request, context: Context, caller: OperateCaller, idempotency_key: IdempotencyKey = None
) -> Response:
    """As `twinstream models promote`. The answer has the event of the ledger."""
    body = await read_decision(request, Promotion)

    async def change(pool: Pool) -> ModelEvent:
        judged = _judged(body.champion)
        return await promote_model(pool, line, body.model_id, by=caller.name, reason=body.reason, judged=judged)

    return await _decide(context, request, caller, idempotency_key, change)


@router.post(
    "/models/{line}/rollbacks",
    summary="Go back to an earlier champion",
    response_model=ModelDecision,
    responses=problems(404, 409, 415),
    openapi_extra=decision_body(Rollback, examples.ROLLBACKS),
)
async def go_back(
    line: Line, request: Request, context: Context, caller: OperateCaller, idempotency_key: IdempotencyKey = None
) -> Response:
    """As `twinstream models rollback`. Without `to` it goes back one champion each time: name `champion` to do it once."""
    body = await read_decision(request, Rollback)

    async def change(pool: Pool) -> ModelEvent:
        judged = _judged(body.champion)
        return await roll_back(pool, line, by=caller.name, reason=body.reason, to=body.to, judged=judged)

    return await _decide(context, request, caller, idempotency_key, change)


@router.put(
    "/models/{line}/policy",
    summary="Choose what a line does by itself",
    response_model=ModelDecision,
    responses=problems(404, 415),
    openapi_extra=decision_body(PolicyChoice, examples.POLICIES),
)
async def choose_policy(
    line: Line, request: Request, context: Context, caller: OperateCaller, idempotency_key: IdempotencyKey = None
) -> Response:
    """As `twinstream models policy`: `off` nothing, `suggest` train and compare, `approve` wait for a person, `auto` all of it."""
    body = await read_decision(request, PolicyChoice)

    async def change(pool: Pool) -> ModelEvent:
        return await Ledger(pool).set_policy(line, body.policy, body.reason, decided_by=caller.name)

    return await _decide(context, request, caller, idempotency_key, change)


@router.get(
    "/models/{line}/thresholds",
    summary="The thresholds of a line, newest version first",
    response_model=items_of(ThresholdVersion),
    responses=problems(404),
)
async def thresholds(line: Line, context: Context, _caller: ReadCaller) -> Response:
    """What a recommendation needs, and from what value drift rules fire, with who has changed it and why."""
    return json_response(await _thresholds(await context.pool(), line))


@router.patch(
    "/models/{line}/thresholds",
    summary="Change thresholds of a line",
    response_model=items_of(ThresholdVersion),
    responses=problems(404, 415),
    openapi_extra=decision_body(ThresholdChoice, examples.THRESHOLDS),
)
async def set_thresholds(
    line: Line, request: Request, context: Context, caller: OperateCaller, idempotency_key: IdempotencyKey = None
) -> Response:
    """As `twinstream models thresholds`, for simulations and windows from then on. The answer has all versions."""
    body = await read_decision(request, ThresholdChoice)
    changes = {name: value for name, value in body if name != "reason" and value not in (None, {})}
    if not changes:
        names = ", ".join(name for name in ThresholdChoice.model_fields if name != "reason")
        raise Problem(422, f"there is nothing to change: name at least one of {names}")

    async def act(_occasion: Occasion) -> Answer:
        pool = await context.pool()
        await change_thresholds(pool, line, changes, changed_by=caller.name, reason=body.reason)
        return Answer(200, await _thresholds(pool, line))

    return await do_once(context, request, caller, idempotency_key, await request.body(), act)


async def _thresholds(pool: Pool, line: str) -> dict[str, Any]:
    return {"items": [version.to_dict() for version in await threshold_history(pool, line)]}


@router.post(
    "/retrains/{retrain_id}/approval",
    summary="Approve a retrain",
    openapi_extra=decision_body(RetrainDecision, examples.RETRAIN_DECISIONS, required=False),
    response_model=shape_of(RetrainRequest),
    responses=problems(404, 409, 415),
)
async def approve_retrain(
    retrain_id: UUID, request: Request, context: Context, caller: OperateCaller, idempotency_key: IdempotencyKey = None
) -> Response:
    """As `twinstream retrain approve`: a trainer starts it next, whatever it waits for, also one that was refused."""
    return await _decide_retrain(context, request, caller, idempotency_key, retrain_id, approve)


@router.post(
    "/retrains/{retrain_id}/refusal",
    summary="Refuse a retrain",
    openapi_extra=decision_body(RetrainDecision, examples.RETRAIN_DECISIONS, required=False),
    response_model=shape_of(RetrainRequest),
    responses=problems(404, 409, 415),
)
async def refuse_retrain(
    retrain_id: UUID, request: Request, context: Context, caller: OperateCaller, idempotency_key: IdempotencyKey = None
) -> Response:
    """As `twinstream retrain refuse`: it starts no training, and drift of the same champion requests no other one."""
    return await _decide_retrain(context, request, caller, idempotency_key, retrain_id, refuse)


async def _decide_retrain(
    context: ApiContext,
    request: Request,
    caller: Caller,
    key: str | None,
    retrain_id: UUID,
    decide: Callable[..., Awaitable[RetrainRequest]],
) -> JSONResponse:
    body = await read_decision(request, RetrainDecision)

    async def act(_occasion: Occasion) -> Answer:
        pool = await context.pool()
        retrain = await decide(pool, retrain_id, by=caller.name, reason=body.reason)
        await _announce(context, pool, retrain.line)
        return Answer(200, to_jsonable_python(vars(retrain)))

    return await do_once(context, request, caller, key, await request.body(), act)


def _judged(champion: UUID | None) -> JudgedAgainst | None:
    return None if champion is None else JudgedAgainst(champion)


async def _decide(
    context: ApiContext, request: Request, caller: Caller, key: str | None, change: Callable[[Pool], Awaitable[ModelEvent]]
) -> JSONResponse:
    """Store a decision, publish it if Kafka answers, and tell what is left to the role trainer."""

    async def act(_occasion: Occasion) -> Answer:
        pool = await context.pool()
        event = await change(pool)
        pending = consequences(event)
        if await _announce(context, pool, event.line):
            pending.remove(ANNOUNCEMENT)
        return Answer(200, {"event": event.model_dump(mode="json"), "pending": pending})

    return await do_once(context, request, caller, key, await request.body(), act)


async def _announce(context: ApiContext, pool: Pool, line: str) -> bool:
    """Publish the events of a line that were not published yet, unless that takes long; the decision counts whether or not."""
    try:
        async with asyncio.timeout(_ANNOUNCE_S):
            client = await context.client()
            await Ledger(pool).publish_events(line, client.publish)
    except Exception as error:  # noqa: BLE001  # the role trainer publishes it
        if not is_waited_for(error):
            LOG.warning("a decision about %s could not be published: %s", line, describe_error(error))
        return False
    return True
