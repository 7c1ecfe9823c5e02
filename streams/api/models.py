"""Model lines, their ledger, their fidelity, and their retrains."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict

from schemas import ModelCard, ModelEvent, TwinType
from schemas.twin_types import catalogue_brand, line_parts
from sql.ledger import Ledger, Policy
from sql.overview_store import catalogue_versions_of
from sql.promotion_effect_store import PromotionEffect
from sql.retrain_store import RetrainRequest, list_retrains
from streams.api.access import Context, ReadCaller
from streams.api.bodies import json_response
from streams.api.problems import problems
from streams.api.shapes import items_of, shape_of
from streams.reporting.overview import LineOverview
from streams.reporting.retrain_report import load_retrain_report
from streams.reporting.text import windows_dict

__all__ = ["Line", "router"]

router = APIRouter(tags=["models"])

Line = Annotated[str, Path(max_length=300, description="A model line.", examples=["hcp:kisqali:prescribing_change"])]


class LineShape(BaseModel):
    """A model line, what it does by itself, its champion and the realism of its twins."""

    line: str
    policy: Policy
    champion: ModelCard | None
    catalogue_version: int | None
    realism: list[dict[str, Any]]


class LedgerEntry(ModelEvent):
    """An event of a line, with the version of the catalogue that its model was made under."""

    catalogue_version: int | None


class CardShape(BaseModel):
    """The card of a model; further fields are those of the champion in the list of lines."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    line: str
    model_id: UUID
    twin_type: TwinType
    brand: str
    target: str
    model_type: str


class RetrainReportShape(BaseModel):
    """A retrain from its cause to its effect; `accused` is the champion that it was requested against."""

    request: shape_of(RetrainRequest)  # type: ignore[valid-type]
    policy: Policy
    waits_for: str
    accused: ModelCard
    events: list[ModelEvent]
    effect: shape_of(PromotionEffect) | None  # type: ignore[valid-type]
    stopped: ModelEvent | None


class LineFidelity(BaseModel):
    """The newest windows of a line by segment, and what is known before outcomes arrive."""

    model_config = ConfigDict(protected_namespaces=())

    line: str
    model_id: UUID | None
    window_s: float
    window_ends: datetime | None
    windows: list[dict[str, Any]]
    weighted: dict[str, Any] | None
    features: list[dict[str, Any]]
    outliers: list[dict[str, Any]]
    estimated: dict[str, Any] | None
    waiting: list[dict[str, Any]]


class Fidelity(BaseModel):
    """The newest windows of all lines, as of a time."""

    at: datetime
    items: list[LineFidelity]


@router.get("/models", summary="List model lines with their champions", response_model=items_of(LineShape), responses=problems())
async def list_models(context: Context, _caller: ReadCaller) -> Response:
    """Every model line with its policy, its champion and the realism of its twins."""
    overview = await context.current_overview()
    return json_response({"items": [_line_fields(line) for line in overview.lines]})


@router.get("/models/{line}/ledger", summary="The ledger of a line", response_model=items_of(LedgerEntry), responses=problems(404))
async def ledger(line: Line, context: Context, _caller: ReadCaller) -> Response:
    """Every event of a line, oldest first, with the version of the catalogue that each model was made under."""
    pool = await context.pool()
    await Ledger(pool).state(line)  # raises for an unknown line
    events = await Ledger(pool).history(line)
    versions = await catalogue_versions_of(pool, {event.model_id for event in events})
    items = [{**event.model_dump(mode="json"), "catalogue_version": versions.get(event.model_id)} for event in events]
    return json_response({"items": items})


@router.get(
    "/models/{line}/retrains",
    summary="The retrains of a line, newest first",
    response_model=items_of(shape_of(RetrainRequest)),
    responses=problems(404),
)
async def retrains(line: Line, context: Context, _caller: ReadCaller) -> Response:
    """The retrains that drift has requested."""
    pool = await context.pool()
    await Ledger(pool).state(line)  # raises for an unknown line
    return json_response({"items": [vars(retrain) for retrain in reversed(await list_retrains(pool, line))]})


@router.get("/model-cards/{model_id}", summary="The card of a model", response_model=CardShape, responses=problems(404))
async def card(model_id: UUID, context: Context, _caller: ReadCaller) -> Response:
    """What a model was trained on, how well it predicts, and what it warns of."""
    model = await Ledger(await context.pool()).card(model_id)
    return json_response({"line": model.line, **model.model_dump(mode="json")})


@router.get(
    "/retrains/{retrain_id}",
    summary="Why a retrain was requested, and what came of it",
    response_model=RetrainReportShape,
    responses=problems(404),
)
async def why(retrain_id: UUID, context: Context, _caller: ReadCaller) -> Response:
    """The evidence, the training, the decision and its effect."""
    report = await load_retrain_report(await context.pool(), retrain_id, context.settings.retrain_limits)
    return json_response(report.to_dict())


@router.get("/fidelity", summary="How well predictions match outcomes", response_model=Fidelity, responses=problems())
async def fidelity(
    context: Context,
    _caller: ReadCaller,
    brand: Annotated[str | None, Query(max_length=200, description="Only the model lines of this brand.")] = None,
    weighted: Annotated[
        str, Query(max_length=200, description="Also the error with the levels of this dimension weighted by their share.")
    ] = "",
) -> Response:
    """The newest windows of every line, the estimate before outcomes arrive, and simulations whose outcomes are pending."""
    own = None if brand is None else catalogue_brand(brand)
    overview = await context.current_overview()
    lines = [line for line in overview.lines if own is None or line_parts(line.line)[1] == own]
    return json_response({"at": overview.at, "items": [windows_dict(line, weighted) for line in lines]})


def _line_fields(line: LineOverview) -> dict[str, Any]:
    return {
        "line": line.line,
        "policy": line.policy,
        "champion": line.champion.model_dump(mode="json") if line.champion else None,
        "catalogue_version": line.catalogue_version,
        "realism": [{"filters": twins.filters, **twins.verdict.model_dump(mode="json")} for twins in line.realism],
    }
