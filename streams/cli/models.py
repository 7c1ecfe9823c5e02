"""The commands ``twinstream models`` that show: lines with their champions, the history of a line, and the realism of its twins."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from streams.cli.connection import with_pool, with_read_pool
from streams.cli.options import FilterOption, JsonOption, LineArgument, examples, parse_filters
from streams.cli.output import Table, print_result

if TYPE_CHECKING:
    from schemas import ModelEvent, PopulationFilter
    from sql.database import Pool
    from sql.population_realism_store import FilterRealism
    from streams.reporting.overview import LineOverview
    from streams.settings import Settings

__all__ = ["event_cells", "read_history"]

app = typer.Typer()


@app.command("list", epilog=examples("twinstream models list", "twinstream models list --json"))
def list_models(as_json: JsonOption = False) -> None:
    """List every model line with its champion."""
    from streams.reporting.overview import read_overview

    lines = with_read_pool(lambda settings, pool: read_overview(pool, settings.n_min)).lines
    payload = [
        {
            "line": line.line,
            "policy": line.policy,
            "champion": line.champion.model_dump(mode="json") if line.champion else None,
            "catalogue_version": line.catalogue_version,
            "realism": [{"filters": twins.filters, **twins.verdict.model_dump(mode="json")} for twins in line.realism],
        }
        for line in lines
    ]
    print_result(payload, lambda: _models_table(lines) if lines else "no model line yet: twinstream train FILE", as_json=as_json)


def _models_table(lines: Sequence[LineOverview]) -> Table:
    from streams.reporting.text import line_text

    columns = ("Line", "Policy", "Champion", "Quality")
    return Table(columns, [_model_cells(line) for line in lines], text="\n\n".join(map(line_text, lines)))


def _model_cells(line: LineOverview) -> tuple[str, ...]:
    from streams.reporting.text import model_facts, realism_sentences

    if line.champion is None:
        return line.line, line.policy, "none yet", ""
    champion = f"{line.champion.model_id}\n{line.champion.model_type}"
    return line.line, line.policy, champion, "\n".join([*model_facts(line.champion), *realism_sentences(line.realism)])


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
        answered = with_read_pool(lambda _, pool: _find_answering_model(pool, simulation_id))
        print_result(answered, lambda: _answering_model_text(answered), as_json=as_json)
        return
    events, versions = with_read_pool(lambda _, pool: _history_with_versions(pool, str(line)))
    payload = [{**event.model_dump(mode="json"), "catalogue_version": versions.get(event.model_id)} for event in events]
    print_result(payload, lambda: _events_table(events, versions), as_json=as_json)


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
    assessed, populations = with_pool(
        lambda settings, pool: _assess_realism(settings, pool, line, parse_filters(filters)), "mlflow"
    )
    report, verdict = assessed.realism, assessed.verdict
    print_result(
        {
            "realism": report.model_dump(mode="json") if report else None,
            "verdict": verdict.model_dump(mode="json"),
            "warnings": verdict.warnings,
            "populations": populations,
        },
        lambda: f"{report or verdict}\nstored with {populations} populations",
        as_json=as_json,
    )


async def _assess_realism(settings: Settings, pool: Pool, line: str, filters: PopulationFilter) -> tuple[FilterRealism, int]:
    """Assess the champion's twins; also returns how many stored populations the report is stored with."""
    from schemas.filters import canonical_filters
    from sql.ledger import Ledger
    from sql.population_realism_store import FilteredModel, save_realism
    from streams.training.population_realism import measure_filters
    from streams.worker.setup import load_champion

    await Ledger(pool).state(line)  # raises for an unknown line
    model = await load_champion(settings, pool, line)
    filtered = FilteredModel(model.card.model_id, canonical_filters(model.card.twin_type, filters))
    assessed = await asyncio.to_thread(measure_filters, model, filtered)
    return assessed, await save_realism(pool, model.card.model_id, assessed)


async def _history_with_versions(pool: Pool, line: str) -> tuple[list[ModelEvent], dict[UUID, int]]:
    """The events of a line, and the version of the catalogue that each of its models was made under."""
    from sql.overview_store import catalogue_versions_of

    events = await read_history(pool, line)
    return events, await catalogue_versions_of(pool, {event.model_id for event in events})


async def read_history(pool: Pool, line: str) -> list[ModelEvent]:
    """Read every event of a line, oldest first.

    Raises:
        LookupError: for an unknown line.
    """
    from sql.ledger import Ledger

    await Ledger(pool).state(line)  # raises for an unknown line
    return await Ledger(pool).history(line)


async def _find_answering_model(pool: Pool, simulation_id: UUID) -> dict[str, Any]:
    """Find the model that answered a simulation, and the event that had made it champion, if one had."""
    from sql.ledger import Ledger
    from sql.overview_store import simulation_started_at
    from sql.simulation_store import UnknownSimulation, find_runs

    run = (await find_runs(pool, [simulation_id])).get(simulation_id)
    if run is None:
        raise UnknownSimulation(simulation_id)
    events = await Ledger(pool).history(run.line) if run.line else []
    promotions = [event for event in events if event.happened in ("promoted", "rolled_back") and event.champion == run.model_id]
    asked_at = await simulation_started_at(pool, simulation_id)
    promotion = next((event for event in reversed(promotions) if event.at <= asked_at), None)
    return {
        "simulation_id": str(simulation_id),
        "line": run.line,
        "model_id": str(run.model_id) if run.model_id else None,
        "effects_version": run.effects_version,
        "catalogue_version": run.answer.catalogue_version if run.answer else None,
        "asked_at": asked_at,
        "status": run.answer.status.value if run.answer else "running",
        "champion_by": promotion.model_dump(mode="json") if promotion else None,
    }


def _answering_model_text(answered: dict[str, Any]) -> str:
    from streams.reporting import moment

    if answered["model_id"] is None:
        return f"simulation {answered['simulation_id']} ended {answered['status']}, without a model"
    lines = [
        f"simulation {answered['simulation_id']}, requested {moment(answered['asked_at'])}, {answered['status']}",
        f"model {answered['model_id']} of {answered['line']}, effects version {answered['effects_version']}",
    ]
    if answered["catalogue_version"] is not None:
        lines[-1] += f", catalogue version {answered['catalogue_version']}"
    promotion = answered["champion_by"]
    if promotion is None:
        return "\n".join([*lines, "the request named a population of this model, which was not champion at that time"])
    retrain = f", retrain {promotion['retrain_id']}" if promotion["retrain_id"] else ""
    since = f"champion since {promotion['effective_from']} (generation {promotion['generation']}{retrain}): {promotion['reason']}"
    return "\n".join([*lines, since])


def _events_table(events: Sequence[ModelEvent], versions: dict[UUID, int]) -> Table:
    rows = [(*cells[:4], str(versions.get(event.model_id, "")), *cells[4:]) for event in events for cells in [event_cells(event)]]
    return Table(("Generation", "At", "Event", "Model", "Catalogue", "Reason"), rows, numeric=(0, 4))


def event_cells(event: ModelEvent) -> tuple[str, ...]:
    """Format an event: generation, time, what happened, model, and its reason with who has decided."""
    from streams.reporting import moment

    retrain = f"  (retrain {event.retrain_id})" if event.retrain_id else ""
    by = f"  by {event.decided_by}" if event.decided_by else ""
    return str(event.generation), moment(event.at), event.happened, str(event.model_id), f"{event.reason}{retrain}{by}"
