"""The commands ``twinstream models`` that decide: promote a model, roll back, and set what a line does by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from streams.cli.connection import with_pool
from streams.cli.models import event_cells, read_history
from streams.cli.options import JsonOption, LineArgument, ReasonOption, examples
from streams.cli.output import notify, print_result
from streams.cli.prefixes import match_prefix

if TYPE_CHECKING:
    from schemas import ModelEvent
    from sql.database import Pool
    from streams.settings import Settings

app = typer.Typer()

PolicyName = Literal["off", "suggest", "approve", "auto"]


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
    from streams.operations.model_decisions import promote_model
    from streams.operations.operator import operator_name

    by = operator_name()

    async def change(pool: Pool) -> ModelEvent:
        model = match_prefix(model_id, [event.model_id for event in await read_history(pool, line)], f"model of {line}")
        return await promote_model(pool, line, model, by=by, reason=reason)

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
    from streams.operations.model_decisions import roll_back
    from streams.operations.operator import operator_name

    by = operator_name()

    async def change(pool: Pool) -> ModelEvent:
        champions = [event.champion for event in await read_history(pool, line) if event.champion]
        target = match_prefix(model_id, champions, f"earlier champion of {line}") if model_id is not None else None
        return await roll_back(pool, line, by=by, reason=reason, to=target)

    _apply_decision(change, as_json=as_json)


@app.command(epilog=examples('twinstream models policy hcp:kisqali:prescribing_change approve --reason "audit in June"'))
def policy(
    line: LineArgument,
    policy_name: Annotated[PolicyName, typer.Argument(metavar="POLICY", help="What the line does by itself.", show_default=False)],
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
    from streams.operations.operator import operator_name

    by = operator_name()
    _apply_decision(lambda pool: Ledger(pool).set_policy(line, policy_name, reason, decided_by=by), as_json=as_json)


def _apply_decision(change: Callable[[Pool], Awaitable[ModelEvent]], *, as_json: bool) -> None:
    """Change a line, publish the event, and set the registry's alias.

    A decision counts as soon as it is stored. Where Kafka or MLflow does not answer then, the rest is left to the trainer role,
    which compares both with the ledger every second. That is no failure: a rollback that is repeated would go back one model more.
    """
    stored: list[ModelEvent] = []
    pending: list[str] = []

    from streams.operations.model_decisions import consequences

    async def apply(settings: Settings, pool: Pool) -> None:
        event = await change(pool)
        pending.extend(consequences(event))
        stored.append(event)
        await _complete(settings, pool, event, pending)

    try:
        with_pool(apply, "kafka", "mlflow")
    except (Exception, KeyboardInterrupt) as error:
        if not stored:
            raise
        _notify_of_rest(pending, error)
        if isinstance(error, KeyboardInterrupt):
            raise
    event = stored[0]
    print_result(event.model_dump(mode="json"), lambda: "  ".join(event_cells(event)), as_json=as_json)


async def _complete(settings: Settings, pool: Pool, event: ModelEvent, pending: list[str]) -> None:
    """Do what is left of a stored decision, and take from ``pending`` what is done."""
    from sql.ledger import Ledger
    from streams.client import TwinClient
    from streams.operations.model_decisions import ALIAS, ANNOUNCEMENT

    async with TwinClient(settings, name="command line") as client:
        await Ledger(pool).publish_events(event.line, client.publish)
        pending.remove(ANNOUNCEMENT)
    if ALIAS in pending:
        await _set_champion_alias(settings, pool, event)
        pending.remove(ALIAS)


def _notify_of_rest(pending: Sequence[str], error: BaseException) -> None:
    from streams.errors import describe_error

    reason = "interrupted" if isinstance(error, KeyboardInterrupt) else describe_error(error)
    rest = f", but not yet {' and '.join(pending)}: a worker with the role trainer does that when it can" if pending else ""
    notify(f"twinstream: {reason}; the decision is stored and counts{rest}. Do not repeat the command")


async def _set_champion_alias(settings: Settings, pool: Pool, event: ModelEvent) -> None:
    from sql.ledger import Ledger
    from streams.registry import MlflowRegistry

    if event.champion is not None:
        run = (await Ledger(pool).artifact(event.champion)).mlflow_run_id
        await asyncio.to_thread(MlflowRegistry(settings.mlflow_uri).set_champion_alias, event.line, run)
