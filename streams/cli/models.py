"""Commands of those who decide about models: who is champion, how much a line does by itself, and why things happened."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from uuid import UUID

import click

from schemas import ModelEvent, PopulationFilter
from schemas.twin_models import RealismReport
from sql.database import Pool
from sql.ledger import POLICIES, Ledger
from sql.overview_store import simulation_started_at
from sql.retrain_store import approve, request, requests
from sql.simulation_store import find_runs
from sql.twin_repository import save_realism
from streams.cli.options import filter_option, filters_of
from streams.cli.output import answer, as_json_option, with_pool
from streams.client.twin_client import TwinClient
from streams.reporting.overview import read_overview
from streams.reporting.retrain_report import story_of
from streams.reporting.text import line_text
from streams.settings import Settings
from streams.web.dashboard import moment
from streams.worker.setup import champion_of

__all__ = ["models", "retrain", "why"]

reason_option = click.option("--reason", default="", help="Why, for the ledger.")


@click.group()
def models() -> None:
    """The registry and its ledger."""


@models.command("list")
@as_json_option
def list_models(*, as_json: bool) -> None:
    """Every line with its champion."""
    seen = with_pool(lambda at, pool: read_overview(pool, at.n_min))
    said = [
        {"line": line.line, "policy": line.policy, "champion": line.champion.model_dump(mode="json") if line.champion else None}
        for line in seen.lines
    ]
    answer(said, lambda: "\n\n".join(map(line_text, seen.lines)) or "no model line yet: twinstream train FILE", as_json=as_json)


@models.command()
@click.argument("line", required=False)
@click.option(
    "--simulation", "simulation_id", type=click.UUID, help="Only which model answered this simulation, and how it came to."
)
@as_json_option
def history(line: str | None, simulation_id: UUID | None, *, as_json: bool) -> None:
    """Everything that ever happened to LINE, or which model answered a simulation."""
    if (line is None) == (simulation_id is None):
        raise click.UsageError("give a LINE or --simulation ID")
    if simulation_id is not None:
        told = with_pool(lambda _, pool: _answered(pool, simulation_id))
        answer(told, lambda: _outcomes_text(told), as_json=as_json)
        return
    events = with_pool(lambda _, pool: _history(pool, str(line)))
    answer([event.model_dump(mode="json") for event in events], lambda: "\n".join(map(_event_text, events)), as_json=as_json)


@models.command()
@click.argument("line")
@filter_option
@as_json_option
def realism(line: str, filters: tuple[str, ...], *, as_json: bool) -> None:
    """How real twins of LINE's champion are, learned and judged anew; of those that satisfy the filters, if any.

    The report is kept with the stored populations of the same filters.
    """
    report, populations = with_pool(lambda at, pool: _realism(at, pool, line, filters_of(filters)))
    answer(
        {"realism": report.model_dump(mode="json"), "populations": populations},
        lambda: f"{report}\nkept with {populations} stored populations",
        as_json=as_json,
    )


@models.command()
@click.argument("line")
@click.argument("model_id", metavar="MODEL")
@reason_option
@as_json_option
def promote(line: str, model_id: str, reason: str, *, as_json: bool) -> None:
    """Make MODEL champion of LINE; the first characters of its id are enough."""

    async def change(pool: Pool) -> ModelEvent:
        ledger = Ledger(pool)
        chosen = _the_one(model_id, [event.model_id for event in await _history(pool, line)], f"model of {line}")
        await ledger.artifact(chosen)
        return await ledger.promote(line, chosen, reason=reason or "promoted by a person")

    _decide(change, as_json=as_json)


@models.command()
@click.argument("line")
@click.option("--to", "model_id", metavar="MODEL", help="An earlier champion; the last one by default.")
@reason_option
@as_json_option
def rollback(line: str, model_id: str | None, reason: str, *, as_json: bool) -> None:
    """Make the champion before this one champion of LINE again."""

    async def change(pool: Pool) -> ModelEvent:
        past = [event.champion for event in await _history(pool, line) if event.champion]
        to = _the_one(model_id, past, f"earlier champion of {line}") if model_id else None
        return await Ledger(pool).roll_back(line, reason or "rolled back by a person", to=to)

    _decide(change, as_json=as_json)


@models.command()
@click.argument("line")
@click.argument("chosen", metavar="POLICY", type=click.Choice(POLICIES))
@reason_option
@as_json_option
def policy(line: str, chosen: str, reason: str, *, as_json: bool) -> None:
    """Choose what LINE does by itself when its champion drifts.

    \b
    off      nothing
    suggest  train a challenger and judge it; a person promotes it
    approve  wait for `retrain approve`, then train, judge and promote
    auto     train, judge and promote
    """  # noqa: D301  # click's mark for lines that stay as they are
    _decide(lambda pool: Ledger(pool).set_policy(line, chosen, reason), as_json=as_json)


@click.group()
def retrain() -> None:
    """Trainings that drift asks for."""


@retrain.command("list")
@click.argument("line")
@as_json_option
def list_retrains(line: str, *, as_json: bool) -> None:
    """Every retrain of LINE, the newest first."""
    found = with_pool(lambda _, pool: requests(pool, line))[::-1]
    answer(
        [vars(each) for each in found],
        lambda: (
            "\n".join(f"{moment(each.requested_at)}  {each.retrain_id}  {each.status:<9}  {each.reason}" for each in found)
            or f"no retrain of {line} was asked for"
        ),
        as_json=as_json,
    )


@retrain.command("approve")
@click.argument("retrain_id", metavar="ID")
@as_json_option
def approve_retrain(retrain_id: str, *, as_json: bool) -> None:
    """Let a retrain begin that waits; the first characters of its ID are enough."""

    async def change(_: Settings, pool: Pool) -> dict[str, Any]:
        chosen = await _retrain(pool, retrain_id)
        await approve(pool, chosen)
        return vars(await request(pool, chosen))

    done = with_pool(change)
    answer(done, lambda: f"retrain {done['retrain_id']} of {done['line']} is approved: a trainer takes it next", as_json=as_json)


@click.command()
@click.argument("retrain_id", metavar="RETRAIN_ID")
@as_json_option
def why(retrain_id: str, *, as_json: bool) -> None:
    """The whole story of a retrain; the first characters of its id are enough."""

    async def tell(at: Settings, pool: Pool) -> Any:
        return await story_of(pool, await _retrain(pool, retrain_id), at.retrain_limits)

    story = with_pool(tell)
    answer(story.to_dict(), story.format_text, as_json=as_json)


def _decide(change: Callable[[Pool], Awaitable[ModelEvent]], *, as_json: bool) -> None:
    """Change a line, say its event, and let the registry's alias follow."""

    async def deciding(at: Settings, pool: Pool) -> ModelEvent:
        event = await change(pool)
        async with TwinClient(at, name="command line") as client:
            await Ledger(pool).tell(event.line, client.publish)
        await _crown(at, pool, event)
        return event

    event = with_pool(deciding)
    answer(event.model_dump(mode="json"), lambda: _event_text(event), as_json=as_json)


async def _crown(at: Settings, pool: Pool, event: ModelEvent) -> None:
    from streams.registry.mlflow_registry import MlflowRegistry  # noqa: PLC0415  # it brings MLflow in, which most commands do without

    if event.happened in ("promoted", "rolled_back") and event.champion:
        run = (await Ledger(pool).artifact(event.champion)).mlflow_run_id
        await asyncio.to_thread(MlflowRegistry(at.mlflow_uri).set_champion_alias, event.line, run)


async def _realism(at: Settings, pool: Pool, line: str, filters: PopulationFilter) -> tuple[RealismReport, int]:
    """The report, and how many stored populations it is kept with."""
    await Ledger(pool).state(line)  # refuses a line that nobody knows
    model = await champion_of(at, pool, line)
    report = await asyncio.to_thread(model.assess, filters)
    return report, await save_realism(pool, model.card, filters, report)


async def _history(pool: Pool, line: str) -> list[ModelEvent]:
    await Ledger(pool).state(line)  # refuses a line that nobody knows
    return await Ledger(pool).history(line)


async def _retrain(pool: Pool, prefix: str) -> UUID:
    lines = await Ledger(pool).lines()
    return _the_one(prefix, [each.retrain_id for line in lines for each in await requests(pool, line)], "retrain")


def _the_one(prefix: str, ids: Iterable[UUID], what: str) -> UUID:
    found = sorted({each for each in ids if str(each).startswith(prefix.lower())})
    if len(found) != 1:
        near = f": {', '.join(map(str, found[:5]))}" if found else ""
        raise LookupError(f"{len(found) or 'no'} {what} begins with {prefix!r}{near}")
    return found[0]


async def _answered(pool: Pool, simulation_id: UUID) -> dict[str, Any]:
    """Which model answered a simulation, and the event that had made it champion, where one had."""
    pins = (await find_runs(pool, [simulation_id])).get(simulation_id)
    if pins is None:
        raise LookupError(f"no simulation {simulation_id} was ever asked for")
    events = await Ledger(pool).history(pins.line) if pins.line else []
    crowned = [event for event in events if event.happened in ("promoted", "rolled_back") and event.champion == pins.model_id]
    asked_at = await simulation_started_at(pool, simulation_id)
    reign = next((event for event in reversed(crowned) if event.at <= asked_at), None)
    return {
        "simulation_id": str(simulation_id),
        "line": pins.line,
        "model_id": str(pins.model_id) if pins.model_id else None,
        "effects_version": pins.effects_version,
        "asked_at": asked_at,
        "status": pins.answer.status.value if pins.answer else "running",
        "champion_by": reign.model_dump(mode="json") if reign else None,
    }


def _outcomes_text(told: dict[str, Any]) -> str:
    if told["model_id"] is None:
        return f"simulation {told['simulation_id']} was answered {told['status']}, by no model"
    lines = [
        f"simulation {told['simulation_id']}, asked {moment(told['asked_at'])}, {told['status']}",
        f"model {told['model_id']} of {told['line']}, effects version {told['effects_version']}",
    ]
    reign = told["champion_by"]
    if reign is None:
        return "\n".join([*lines, "the population that was named is of this model, which was not champion"])
    behind = f", retrain {reign['retrain_id']}" if reign["retrain_id"] else ""
    return "\n".join(
        [*lines, f"champion since {reign['effective_from']} (generation {reign['generation']}{behind}): {reign['reason']}"]
    )


def _event_text(event: ModelEvent) -> str:
    behind = f"  (retrain {event.retrain_id})" if event.retrain_id else ""
    return f"{event.generation:>4}  {moment(event.at)}  {event.happened:<11} {event.model_id}  {event.reason}{behind}"
