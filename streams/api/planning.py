"""Comparisons of campaigns, plans of pilots, and predictions for the rows of a table."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Annotated, Any

import pandas as pd
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field

from engine.experiments import Assignment, predict_counterfactuals
from schemas import INTERVENTIONS, Channel, Frequency, InterventionConfig, PopulationFilter, SimulationRequest, TwinType, model_line
from schemas.base import Frozen, require_one_of, shorten
from schemas.twin_types import KnownBrand
from streams.api import examples
from streams.api.access import AskCaller, Context
from streams.api.bodies import JSON_TYPE, json_response, parse_json, read_fields
from streams.api.idempotency import IdempotencyKey
from streams.api.openapi import body_of, event_body, table_body
from streams.api.problems import Problem, problems
from streams.api.simulations import Prefer, submit
from streams.api.uploads import PARQUET_TYPE, Reading, uploaded
from streams.operations.planning import (
    LineChampion,
    PilotAim,
    feature_gaps,
    line_champion,
    plan_pilot,
    target_unit,
    with_predictions,
)
from streams.tables import TableOptions, entity_columns, read_table

__all__ = ["PilotBody", "router"]

router = APIRouter(tags=["planning"])

_CAMPAIGNS = 11  # one, and as many alternatives as a request may have


class PilotBody(Frozen):
    """A pilot to plan.

    Attributes:
        effect: the smallest effect worth detecting, as a fraction.
        power: probability of detecting it.
        control_ratio: people in the control arm for each treated one.
        cluster_size: people in each cluster, where whole clusters are assigned.
        icc: share of the outcome's variance that is between clusters.
        n_available: number of people there are; the plan has the power and the effect that are possible with them.
    """

    twin_type: TwinType
    brand: KnownBrand
    target: str | None = None
    intervention: InterventionConfig
    filters: PopulationFilter = PopulationFilter()
    effect: Annotated[float, Field(gt=-1, lt=1, allow_inf_nan=False)] = 0.05
    power: Annotated[float, Field(gt=0, lt=1)] = 0.80
    control_ratio: Annotated[float, Field(ge=0.001, le=1000)] = 1.0
    cluster_size: Annotated[float, Field(ge=1, le=1_000_000)] = 1.0
    icc: Annotated[float, Field(ge=0, le=1)] = 0.0
    n_available: Annotated[int, Field(ge=4, le=1_000_000_000)] | None = None


_COMPARISON = {
    "schema": {
        "type": "object",
        "required": ["twin_type", "brand", "campaigns"],
        "properties": {
            "campaigns": {
                "type": "array",
                "minItems": 2,
                "maxItems": _CAMPAIGNS,
                "items": {"$ref": "#/components/schemas/InterventionConfig"},
                "description": "The campaigns; the others are compared with the first. Further fields are those of a simulation.",
            }
        },
    },
    "examples": {title: {"summary": title, "value": value} for title, value in examples.COMPARISONS.items()},
}


@router.post(
    "/comparisons",
    status_code=202,
    summary="Compare campaigns",
    responses={200: {"description": "The answer came within the time of `Prefer`."}, **problems(409, 415)},
    openapi_extra=body_of({JSON_TYPE: _COMPARISON}),
)
async def compare(
    request: Request, context: Context, caller: AskCaller, idempotency_key: IdempotencyKey = None, prefer: Prefer = None
) -> JSONResponse:
    """Publish one simulation of several campaigns on the same twins; its result has their differences, and which is best."""
    fields = await read_fields(request, SimulationRequest)
    campaigns = fields.pop("campaigns", None) if isinstance(fields, dict) else None
    if not isinstance(campaigns, list) or not 2 <= len(campaigns) <= _CAMPAIGNS:
        raise Problem(422, f"campaigns: a list of 2 to {_CAMPAIGNS} campaigns, not {shorten(campaigns)}")
    first, *others = campaigns
    return await submit(
        request, context, caller, idempotency_key, prefer, {**fields, "intervention": first, "alternatives": others}
    )


@router.post(
    "/designs",
    summary="Plan a pilot",
    responses=problems(404, 415),
    openapi_extra=event_body(PilotBody, examples.DESIGNS),
)
async def design(request: Request, context: Context, _caller: AskCaller) -> Response:
    """The arms of an experiment, their sizes and its power, on the population of the line's champion; nothing is stored."""
    body = PilotBody.model_validate_json(json.dumps(parse_json(await request.body())))
    if body.effect == 0:
        raise Problem(422, "effect: must be another number than 0, below 0 or above it")
    champion = await _champion(context, model_line(body.twin_type, body.brand, body.target))
    aim = PilotAim(body.effect, body.power, body.n_available)
    assignment = Assignment(body.control_ratio, body.cluster_size, body.icc)
    async with context.computing:
        plan = await asyncio.to_thread(plan_pilot, champion, body.intervention, body.filters, aim, assignment)
    return json_response(plan.model_dump(mode="json"))


@router.post(
    "/counterfactuals",
    summary="Predict a campaign for each row of a table",
    responses={
        200: {"content": {JSON_TYPE: {"schema": {"type": "object"}}, **table_body()}, "description": "The predictions."},
        **problems(404, 408, 415),
    },
    response_class=Response,
    openapi_extra=body_of(table_body()),
)
async def counterfactuals(
    request: Request,
    context: Context,
    _caller: AskCaller,
    options: Reading,
    intervention: Annotated[str, Query(max_length=200, description="What the campaign does.", examples=["email_campaign"])],
    twin_type: TwinType = TwinType.HCP,
    brand: Annotated[str, Query(max_length=200)] = "kisqali",
    target: Annotated[str | None, Query(max_length=200)] = None,
    channel: Annotated[Channel | None, Query(description="Of the contacts; the campaign's usual one by default.")] = None,
    frequency: Annotated[Frequency, Query(description="How often each entity is contacted.")] = Frequency.MONTHLY,
    weeks: Annotated[int, Query(ge=1, le=104)] = 12,
    intensity: Annotated[float | None, Query(gt=0, le=3)] = None,
) -> Response:
    """The outcome of each row with the campaign and without it.

    With `Accept: text/csv` or `application/vnd.apache.parquet` the answer is the table with these columns, else their averages.
    """
    require_one_of("intervention", intervention, INTERVENTIONS)
    campaign = InterventionConfig(
        intervention_type=intervention,
        channel=channel or INTERVENTIONS[intervention].channel,
        frequency=frequency,
        duration_weeks=weeks,
        intensity=intensity,
    )
    async with uploaded(request, context) as upload:
        champion = await _champion(context, model_line(twin_type, brand, target))
        async with context.computing:
            work = (champion, upload.path, twin_type, options, campaign, request.headers.get("accept", ""))
            return await asyncio.to_thread(_predict, *work)


def _predict(
    champion: LineChampion, path: Any, twin_type: TwinType, options: TableOptions, campaign: InterventionConfig, accepted: str
) -> Response:
    """Read a table and predict its rows."""
    reading = read_table(path, entity_columns(twin_type), options)
    gaps = feature_gaps(champion.model, reading.frame)
    predicted = predict_counterfactuals(champion.model, reading.frame, campaign, priors=champion.priors)
    if "text/csv" in accepted:
        return Response(_csv(with_predictions(predicted, reading.frame)), media_type="text/csv")
    if PARQUET_TYPE in accepted:
        buffer = io.BytesIO()
        with_predictions(predicted, reading.frame).to_parquet(buffer, index=False)
        return Response(buffer.getvalue(), media_type=PARQUET_TYPE)
    remarks = [*reading.remarks(), *gaps, *predicted.warnings]
    unit = target_unit(champion.model)
    return json_response({"n": len(predicted.entities), "unit": unit, "average": dict(predicted.average), "remarks": remarks})


def _csv(frame: pd.DataFrame) -> str:
    return frame.to_csv(index=False)


async def _champion(context: Context, line: str) -> LineChampion:
    return await line_champion(await context.pool(), await context.models(), line)
