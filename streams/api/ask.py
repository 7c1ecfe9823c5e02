"""The page that asks: a form that becomes a simulation, and how many real people are behind its filters."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl
from uuid import UUID, uuid5

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from engine.twins import TwinModel
from schemas import PopulationFilter
from sql.simulation_store import Pins
from streams.api.access import AskCaller, Context, ReadCaller
from streams.api.answer_pages import find_pins
from streams.api.bodies import media_type
from streams.api.page import page_response
from streams.api.problems import Problem
from streams.api.simulations import submit
from streams.api.unavailable import Unavailable
from streams.errors import describe_error, is_waited_for, require_clear
from streams.operations.planning import count_people
from streams.reporting.formatting import count, plain_words
from streams.web.ask_form import AskForm, AskOffer, request_parameters

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

FORM_TYPE = "application/x-www-form-urlencoded"
_MOST_FIELDS = 2000
_WAIT_S = 5
_DEFAULT_TWINS = 10_000
_OWN = {"from", "more", "count", "levels"}


@router.get("/ask")
async def ask(request: Request, context: Context, _caller: ReadCaller) -> HTMLResponse:
    """The form, filled with the address's parameters, or with what the simulation in ``from`` asked for."""
    pairs = request.query_params.multi_items()
    if earlier := request.query_params.get("from"):
        pins = await find_pins(earlier, context)
        pairs = [*await _parameters_of(context, pins), *((name, value) for name, value in pairs if name in _OWN)]
    reading = await context.asking.offered(dict(pairs).get("line", ""))
    offer = reading.value.offer if reading.value else None
    form = AskForm(pairs, offer) if offer else None
    if form is None or offer is None:
        return page_response(context.asking.form(reading, None))
    form.errors = {name: sentence for name, sentence in form.errors.items() if form.text(name)}
    people = await _people_text(context, offer, form) if "count" in form.typed else ""
    return page_response(context.asking.form(reading, form, people))


@router.get("/ask/people")
async def people(request: Request, context: Context, _caller: ReadCaller) -> PlainTextResponse:
    """How many real people are behind the twins of the form's filters, as a sentence."""
    reading = await context.asking.offered(request.query_params.get("line", ""))
    offer = reading.value.offer if reading.value else None
    if offer is None:
        return PlainTextResponse("")
    return PlainTextResponse(await _people_text(context, offer, AskForm(request.query_params.multi_items(), offer)))


@router.post("/ask")
async def send(request: Request, context: Context, caller: AskCaller) -> Response:
    """Publish the request of a form, and lead to its answer; or show the form again with what is wrong beside each field."""
    pairs = await _form_fields(request)
    reading = await context.asking.offered(dict(pairs).get("line", ""))
    offer = reading.value.offer if reading.value else None
    if offer is None:
        return page_response(context.asking.form(reading, None))
    form, status = AskForm(pairs, offer), HTTPStatus.UNPROCESSABLE_ENTITY
    if not form.errors:
        try:
            response = await submit(request, context, caller, _key(pairs), f"wait={_WAIT_S}", form.request)
        except (Problem, Unavailable, ValueError) as error:
            status = _status(error)
            form.errors[""] = str(error.detail) if isinstance(error, Problem) else describe_error(error)
        else:
            simulation_id = json.loads(bytes(response.body))["simulation_id"]
            return RedirectResponse(f"/simulations/{simulation_id}", HTTPStatus.SEE_OTHER)
    return page_response(context.asking.form(reading, form, status=status))


def _status(error: Exception) -> HTTPStatus:
    if isinstance(error, Problem):
        return HTTPStatus(error.status_code)
    is_out = isinstance(error, Unavailable) or is_waited_for(error)
    return HTTPStatus.SERVICE_UNAVAILABLE if is_out else HTTPStatus.UNPROCESSABLE_ENTITY


async def _form_fields(request: Request) -> list[tuple[str, str]]:
    """Names and values of a form.

    Raises:
        Problem: for a body that is none, or has too many fields.
    """
    if media_type(request) != FORM_TYPE:
        raise Problem(415, f"this address takes {FORM_TYPE}: POST /api/v1/simulations takes JSON", {"Accept-Post": FORM_TYPE})
    try:
        text = (await request.body()).decode()
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict")
        require_clear(json.dumps(pairs).encode())
    except ValueError as error:
        raise Problem(400, f"the body is no form that can be stored: {describe_error(error)}") from None
    return pairs


def _key(pairs: list[tuple[str, str]]) -> str | None:
    """An idempotency key, so that a form that is sent twice is one request; None for one without."""
    try:
        form_id = UUID(dict(pairs).get("key", ""))
    except ValueError:
        return None
    return str(uuid5(form_id, json.dumps(pairs)))


async def _parameters_of(context: Context, pins: Pins) -> list[tuple[str, str]]:
    """The fields of the form that ask for the same as an earlier request; only its line where the catalogue has changed since."""
    if pins.request is None or pins.line is None:
        return []
    reading = await context.asking.offered(pins.line)
    offer = reading.value.offer if reading.value else None
    try:
        return request_parameters(pins.request, offer) if offer else []
    except ValueError:
        return [("line", pins.line)]


async def _people_text(context: Context, offer: AskOffer, form: AskForm) -> str:
    """The number of real people and of twins that satisfy the filters, as a sentence."""
    filters = form.request["filters"]
    try:
        model = await (await context.models()).load(offer.card.model_id)
        behind = await asyncio.to_thread(count_people, model, form.filters)
        alone = {} if behind.n else await asyncio.to_thread(_alone, model, filters)
    except Exception as error:
        if not isinstance(error, Unavailable | LookupError | ValueError) and not is_waited_for(error):
            raise
        return f"The real people behind cannot be counted now: {describe_error(error)}."
    twins = form.request.get("twin_count", _DEFAULT_TWINS)
    if not behind.n:
        counts = ", ".join(f"{plain_words(name)} {count(n)}" for name, n in alone.items())
        return f"None of the {count(behind.total)} real people satisfies all of these filters: leave one out. Each alone: {counts}."
    some = "all" if behind.n == behind.total else f"{count(behind.n)} of the"
    return f"{count(twins)} twins of {some} {count(behind.total)} real people."


def _alone(model: TwinModel, filters: Mapping[str, Any]) -> dict[str, int]:
    """How many people satisfy each filter by itself."""
    return {name: count_people(model, PopulationFilter.model_validate({name: value})).n for name, value in filters.items()}
