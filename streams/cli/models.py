"""The commands ``twinstream models``: list models, and decide which one is champion and what a line does by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

import typer

from streams.cli.connection import with_pool
from streams.cli.options import FilterOption, JsonOption, LineArgument, ReasonOption, examples, parse_filters
from streams.cli.output import Table, print_result
from streams.cli.prefixes import match_prefix

if TYPE_CHECKING:
    from schemas import ModelEvent, PopulationFilter
    from schemas.twin_models import RealismReport
    from sql.database import Pool
    from streams.reporting.overview import LineOverview
    from streams.settings import Settings

app = typer.Typer()

PolicyName = Literal["off", "suggest", "approve", "auto"]


@app.command("list", epilog=examples("twinstream models list", "twinstream models list --json"))
def list_models(as_json: JsonOption = False) -> None:
    """List every model line with its champion."""
    from streams.reporting.overview import read_overview

    lines = with_pool(lambda settings, pool: read_overview(pool, settings.n_min)).lines
    payload = [
        {"line": line.line, "policy": line.policy, "champion": line.champion.model_dump(mode="json") if line.champion else None}
        for line in lines
    ]
    print_result(payload, lambda: _models_table(lines) if lines else "no model line yet: twinstream train FILE", as_json=as_json)


def _models_table(lines: Sequence[LineOverview]) -> Table:
    from streams.reporting.text import line_text

    columns = ("Line", "Policy", "Champion", "Quality")
    return Table(columns, [_model_cells(line) for line in lines], text="\n\n".join(map(line_text, lines)))


def _model_cells(line: LineOverview) -> tuple[str, ...]:
    from streams.reporting.text import model_facts

    if line.champion is None:
        return line.line, line.policy, "none yet", ""
    champion = f"{line.champion.model_id}\n{line.champion.model_type}"
    return line.line, line.policy, champion, "\n".join(model_facts(line.champion))


@app.command(
    epilog=examples(
        "twinstream models history hcp:kisqali:prescribing_change",
        "twinstream models history --simulation 3f0c8a52-6c1e-4b3a-9f57-0d2f7f1f8a11",
    )
)
def history(
    context: typer.Context,
    line: Annotated[str | None, typer.Argument(metavar="LINE", help="A model line.")] = None,
    simulation_id: Annotated[
        UUID | None,
        typer.Option(
            "--simulation", metavar="ID", help="Show which model answered this simulation, and since when it was champion."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the events of LINE, or find the model of a simulation."""
    if (line is None) == (simulation_id is None):
        context.fail("give either a LINE or --simulation ID")
    if simulation_id is not None:
        answered = with_pool(lambda _, pool: _find_answering_model(pool, simulation_id))
        print_result(answered, lambda: _answering_model_text(answered), as_json=as_json)
        return
    events = with_pool(lambda _, pool: _read_history(pool, str(line)))
    print_result([event.model_dump(mode="json") for event in events], lambda: _events_table(events), as_json=as_json)


@app.command(
    epilog=examples(
        "twinstream models realism hcp:kisqali:prescribing_change",
        "twinstream models realism hcp:kisqali:prescribing_change --filter region=south",
    )
)
def realism(line: LineArgument, filters: FilterOption = None, as_json: JsonOption = False) -> None:
    """Assess how closely the twins of LINE resemble real entities.

    The twins are those of the line's champion. With filters only the twins that satisfy them are assessed, and the report is
    stored with every stored population that has the same filters.
    """
    report, populations = with_pool(lambda settings, pool: _assess_realism(settings, pool, line, parse_filters(filters)))
    print_result(
        {"realism": report.model_dump(mode="json"), "populations": populations},
        lambda: f"{report}\nstored with {populations} populations",
        as_json=as_json,
    )


@app.command(epilog=examples('twinstream models promote hcp:kisqali:prescribing_change 1a2b3c4d --reason "approved by the board"'))
def promote(
    line: LineArgument,
    model_id: Annotated[
        str, typer.Argument(metavar="MODEL", help="The ID of a model of the line, or its first characters.", show_default=False)
    ],
    reason: ReasonOption = "",
    as_json: JsonOption = False,
) -> None:
    """Make MODEL the champion of LINE."""
    from sql.ledger import Ledger

    async def change(pool: Pool) -> ModelEvent:
        ledger = Ledger(pool)
        model = match_prefix(model_id, [event.model_id for event in await _read_history(pool, line)], f"model of {line}")
        await ledger.artifact(model)
        return await ledger.promote(line, model, reason=reason or "promoted by a person")

    _apply_decision(change, as_json=as_json)


@app.command(
    epilog=examples(
        "twinstream models rollback hcp:kisqali:prescribing_change",
        "twinstream models rollback hcp:kisqali:prescribing_change --to 1a2b3c4d",
    )
)
def rollback(
    line: LineArgument,
    model_id: Annotated[
        str | None, typer.Option("--to", metavar="MODEL", help="An earlier champion; the previous one by default.")
    ] = None,
    reason: ReasonOption = "",
    as_json: JsonOption = False,
) -> None:
    """Make an earlier champion of LINE its champion again."""
    from sql.ledger import Ledger

    async def change(pool: Pool) -> ModelEvent:
        champions = [event.champion for event in await _read_history(pool, line) if event.champion]
        target = match_prefix(model_id, champions, f"earlier champion of {line}") if model_id else None
        return await Ledger(pool).roll_back(line, reason or "rolled back by a person", to=target)

    _apply_decision(change, as_json=as_json)


@app.command(epilog=examples('twinstream models policy hcp:kisqali:prescribing_change approve --reason "audit in June"'))
def policy(
    line: LineArgument,
    policy_name: Annotated[PolicyName, typer.Argument(metavar="POLICY", help="off, suggest, approve or auto.", show_default=False)],
    reason: ReasonOption = "",
    as_json: JsonOption = False,
) -> None:
    """Set what LINE does by itself when its champion drifts.

    \b
    off      nothing
    suggest  train a challenger and compare it; a person promotes it
    approve  wait for `twinstream retrain approve`, then train, compare and promote
    auto     train, compare and promote
    """  # noqa: D301  # Typer's mark for lines that stay as they are
    from sql.ledger import Ledger

    _apply_decision(lambda pool: Ledger(pool).set_policy(line, policy_name, reason), as_json=as_json)


def _apply_decision(change: Callable[[Pool], Awaitable[ModelEvent]], *, as_json: bool) -> None:
    """Change a line, publish the event, and set the registry's alias."""

    async def apply(settings: Settings, pool: Pool) -> ModelEvent:
        from sql.ledger import Ledger
        from streams.client.twin_client import TwinClient

        event = await change(pool)
        async with TwinClient(settings, name="command line") as client:
            await Ledger(pool).publish_events(event.line, client.publish)
        await _set_champion_alias(settings, pool, event)
        return event

    event = with_pool(apply)
    print_result(event.model_dump(mode="json"), lambda: "  ".join(_event_cells(event)), as_json=as_json)


async def _set_champion_alias(settings: Settings, pool: Pool, event: ModelEvent) -> None:
    from sql.ledger import Ledger
    from streams.registry import MlflowRegistry

    if event.happened in ("promoted", "rolled_back") and event.champion:
        run = (await Ledger(pool).artifact(event.champion)).mlflow_run_id
        await asyncio.to_thread(MlflowRegistry(settings.mlflow_uri).set_champion_alias, event.line, run)


async def _assess_realism(settings: Settings, pool: Pool, line: str, filters: PopulationFilter) -> tuple[RealismReport, int]:
    """Assess the champion's twins; also returns how many stored populations the report is stored with."""
    from sql.ledger import Ledger
    from sql.twin_repository import save_realism
    from streams.worker.setup import load_champion

    await Ledger(pool).state(line)  # raises for an unknown line
    model = await load_champion(settings, pool, line)
    report = await asyncio.to_thread(model.assess, filters)
    return report, await save_realism(pool, model.card, filters, report)


async def _read_history(pool: Pool, line: str) -> list[ModelEvent]:
    from sql.ledger import Ledger

    await Ledger(pool).state(line)  # raises for an unknown line
    return await Ledger(pool).history(line)


async def _find_answering_model(pool: Pool, simulation_id: UUID) -> dict[str, Any]:
    """Find the model that answered a simulation, and the event that had made it champion, if one had."""
    from sql.ledger import Ledger
    from sql.overview_store import simulation_started_at
    from sql.simulation_store import find_runs

    run = (await find_runs(pool, [simulation_id])).get(simulation_id)
    if run is None:
        raise LookupError(f"simulation {simulation_id} was never requested")
    events = await Ledger(pool).history(run.line) if run.line else []
    promotions = [event for event in events if event.happened in ("promoted", "rolled_back") and event.champion == run.model_id]
    asked_at = await simulation_started_at(pool, simulation_id)
    promotion = next((event for event in reversed(promotions) if event.at <= asked_at), None)
    return {
        "simulation_id": str(simulation_id),
        "line": run.line,
        "model_id": str(run.model_id) if run.model_id else None,
        "effects_version": run.effects_version,
        "asked_at": asked_at,
        "status": run.answer.status.value if run.answer else "running",
        "champion_by": promotion.model_dump(mode="json") if promotion else None,
    }


def _answering_model_text(answered: dict[str, Any]) -> str:
    from streams.reporting.formatting import moment

    if answered["model_id"] is None:
        return f"simulation {answered['simulation_id']} ended {answered['status']}, without a model"
    lines = [
        f"simulation {answered['simulation_id']}, requested {moment(answered['asked_at'])}, {answered['status']}",
        f"model {answered['model_id']} of {answered['line']}, effects version {answered['effects_version']}",
    ]
    promotion = answered["champion_by"]
    if promotion is None:
        return "\n".join([*lines, "the request named a population of this model, which was not champion at that time"])
    retrain = f", retrain {promotion['retrain_id']}" if promotion["retrain_id"] else ""
    since = f"champion since {promotion['effective_from']} (generation {promotion['generation']}{retrain}): {promotion['reason']}"
    return "\n".join([*lines, since])


def _events_table(events: Sequence[ModelEvent]) -> Table:
    return Table(("Generation", "At", "Event", "Model", "Reason"), [_event_cells(event) for event in events])


def _event_cells(event: ModelEvent) -> tuple[str, ...]:
    from streams.reporting.formatting import moment

    retrain = f"  (retrain {event.retrain_id})" if event.retrain_id else ""
    return str(event.generation), moment(event.at), event.happened, str(event.model_id), f"{event.reason}{retrain}"
