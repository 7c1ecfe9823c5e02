"""The pages about an answer, and its files: the plan of a pilot, the answer computed again, a report, and its numbers."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, Response

from schemas import ExperimentPlan, SimulationResult, in_effect
from schemas.base import shorten
from schemas.events import MAX_TWINS_AT_ONCE
from sql.overview_store import SimulationRun
from sql.page_store import find_simulation_run
from sql.simulation_store import Pins, UnknownSimulation, find_runs
from streams.api.access import AskCaller, Context, ReadCaller
from streams.api.page import OtherPage, page_response
from streams.api.problems import Problem
from streams.errors import describe_error
from streams.operations.pilot import pilot_of, pilots_by_size
from streams.operations.planning import PilotAim
from streams.reporting.answer_table import answer_csv
from streams.simulation.reproduction import reproduce_with
from streams.web.ask_pages import PilotForm
from streams.web.pages import simulation_content
from streams.web.rendering import render_document

__all__ = ["find_pins", "router"]

router = APIRouter(include_in_schema=False)

_PILOT = ("effect", "power", "available", "control", "cluster", "icc")


async def find_pins(simulation_id: str, context: Context) -> Pins:
    """A stored simulation.

    Raises:
        OtherPage: when there is none with this id.
    """
    try:
        own_id = UUID(simulation_id)
    except ValueError:
        sentence = f"{shorten(simulation_id)} is no id: it has 32 hexadecimal digits, with or without hyphens."
        raise OtherPage(context.asking.problem(HTTPStatus.NOT_FOUND, "No such id", sentence)) from None
    pins = (await find_runs(await context.pool(), [own_id])).get(own_id)
    if pins is None:
        raise OtherPage(context.asking.problem(HTTPStatus.NOT_FOUND, "No such id", f"There is no simulation {own_id}."))
    return pins


Simulation = Annotated[Pins, Depends(find_pins)]


@router.get("/simulations/{simulation_id}/pilot")
async def pilot(request: Request, context: Context, _caller: ReadCaller, pins: Simulation) -> HTMLResponse:
    """The plan of a pilot on the people whose twins a simulation used."""
    if unknown := sorted(request.query_params.keys() - set(_PILOT)):
        raise Problem(400, f"unknown parameter {shorten(unknown[0])}: use {', '.join(_PILOT)}")
    result = pins.answer.result if pins.answer else None
    if result is None:
        sentence = f"Simulation {pins.simulation_id} has no result: a pilot is planned on one."
        raise OtherPage(context.asking.problem(HTTPStatus.CONFLICT, "No result to plan on", sentence))
    form = PilotForm(request.query_params.multi_items(), result.min_effect_threshold)
    with in_effect(pins.catalogue):
        plan, by_size = (None, []) if form.errors else await asyncio.to_thread(_plan, result, form)
    return page_response(context.asking.pilot(await _run(context, pins), form, plan, by_size))


def _plan(result: SimulationResult, form: PilotForm) -> tuple[ExperimentPlan | None, list[tuple[int, ExperimentPlan]]]:
    aim = PilotAim(form.effect, form.power, form.available)
    try:
        plan = pilot_of(result, aim, form.assignment)
        return plan, pilots_by_size(plan, result, aim, form.assignment)
    except ValueError as error:
        form.errors["available" if form.available else ""] = describe_error(error)
        return None, []


@router.get("/simulations/{simulation_id}/repeat")
async def repeat(context: Context, _caller: ReadCaller, pins: Simulation) -> HTMLResponse:
    """The page that offers to compute a simulation again."""
    return page_response(context.asking.repeated(pins.simulation_id, None))


@router.post("/simulations/{simulation_id}/repeat")
async def repeat_now(context: Context, _caller: AskCaller, pins: Simulation) -> HTMLResponse:
    """Compute a simulation again from its pins, and compare the results bit for bit."""
    if pins.recipe is not None and pins.recipe.twin_count > MAX_TWINS_AT_ONCE:
        problem = f"It has more than {MAX_TWINS_AT_ONCE:,} twins: twinstream simulate --again {pins.simulation_id}"
        return page_response(context.asking.repeated(pins.simulation_id, None, problem))
    try:
        async with context.computing:
            reproduction = await reproduce_with(await context.models(), await context.pool(), pins.simulation_id)
    except ValueError as error:
        return page_response(context.asking.repeated(pins.simulation_id, None, describe_error(error)))
    return page_response(context.asking.repeated(pins.simulation_id, reproduction.differences))


@router.get("/simulations/{simulation_id}/report.html")
async def report(context: Context, _caller: ReadCaller, pins: Simulation) -> Response:
    """The answer as one file that opens without a network."""
    run = await _run(context, pins)
    html = render_document("simulation_report.html", **simulation_content(run))
    return _file(html, "text/html", pins.simulation_id, "html")


@router.get("/simulations/{simulation_id}/answer.json")
async def answer_json(_caller: ReadCaller, pins: Simulation) -> Response:
    """The request and the answer as JSON."""
    request = pins.request.model_dump(mode="json", exclude_none=True) if pins.request else None
    answer = pins.answer.model_dump(mode="json") if pins.answer else None
    text = json.dumps({"request": request, "answer": answer}, indent=2, ensure_ascii=False)
    return _file(text, "application/json", pins.simulation_id, "json")


@router.get("/simulations/{simulation_id}/answer.csv")
async def answer_table(context: Context, _caller: ReadCaller, pins: Simulation) -> Response:
    """The effects of an answer as a table: over all twins, of the alternatives, and in subgroups."""
    run = await _run(context, pins)
    return _file(answer_csv(run.intervention, run.results), "text/csv", pins.simulation_id, "csv")


def _file(content: str, kind: str, simulation_id: UUID, ending: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="simulation-{simulation_id}.{ending}"'}
    return Response(content, media_type=kind, headers=headers)


async def _run(context: Context, pins: Pins) -> SimulationRun:
    run = await find_simulation_run(await context.pool(), pins.simulation_id)
    if run is None:  # deleted since its pins were read
        raise UnknownSimulation(pins.simulation_id)
    return run
