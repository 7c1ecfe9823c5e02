"""Commands about retrains: list them, approve or refuse those that wait, and explain one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.connection import with_pool, with_read_pool
from streams.cli.options import JsonOption, LineArgument, ReasonOption, examples
from streams.cli.output import Table, print_result
from streams.cli.prefixes import match_prefix

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from uuid import UUID

    from sql.database import Pool
    from sql.retrain_store import RetrainRequest
    from streams.settings import Settings

app = typer.Typer()

RetrainArgument = Annotated[
    str, typer.Argument(metavar="ID", help="The ID of a retrain, or its first characters.", show_default=False)
]


@app.command("list", epilog=examples("twinstream retrain list hcp:kisqali:prescribing_change"))
def list_retrains(line: LineArgument, as_json: JsonOption = False) -> None:
    """List the retrains of LINE, newest first."""
    from sql.ledger import Ledger
    from sql.retrain_store import list_retrains

    async def read(_: Settings, pool: Pool) -> list[RetrainRequest]:
        await Ledger(pool).state(line)  # raises for an unknown line
        return await list_retrains(pool, line)

    retrains = with_read_pool(read)[::-1]
    print_result(
        [vars(retrain) for retrain in retrains],
        lambda: _retrains_table(retrains) if retrains else f"no retrain of {line} was requested yet",
        as_json=as_json,
    )


def _retrains_table(retrains: Sequence[RetrainRequest]) -> Table:
    from streams.reporting import moment

    rows = [(moment(retrain.requested_at), str(retrain.retrain_id), retrain.status, retrain.reason) for retrain in retrains]
    return Table(("Requested at", "ID", "Status", "Reason"), rows)


@app.command(epilog=examples("twinstream retrain approve 1a2b3c4d"))
def approve(retrain_id: RetrainArgument, reason: ReasonOption = "", as_json: JsonOption = False) -> None:
    """Approve the retrain ID, so that a trainer starts it next.

    One that was refused can be approved too.
    """
    from sql.retrain_approval_store import approve as approve_retrain

    retrain = _decide(approve_retrain, retrain_id, reason)
    print_result(
        vars(retrain),
        lambda: f"retrain {retrain.retrain_id} of {retrain.line} is approved: a trainer starts it next",
        as_json=as_json,
    )


@app.command(epilog=examples('twinstream retrain refuse 1a2b3c4d --reason "the quarter is odd"'))
def refuse(retrain_id: RetrainArgument, reason: ReasonOption = "", as_json: JsonOption = False) -> None:
    """Refuse the retrain ID, so that no trainer starts it.

    Drift of the same champion requests no other one; `retrain approve` starts it after all.
    """
    from sql.retrain_approval_store import refuse as refuse_retrain

    retrain = _decide(refuse_retrain, retrain_id, reason)
    print_result(vars(retrain), lambda: f"retrain {retrain.retrain_id} of {retrain.line} is refused", as_json=as_json)


def _decide(decide: Callable[..., Awaitable[RetrainRequest]], prefix: str, reason: str) -> RetrainRequest:
    from streams.operations.operator import operator_name

    by = operator_name()

    async def change(_: Settings, pool: Pool) -> RetrainRequest:
        return await decide(pool, await _match_retrain(pool, prefix), by=by, reason=reason)

    return with_pool(change)


@app.command(epilog=examples("twinstream why 1a2b3c4d", "twinstream why 1a2b3c4d --json"))
def why(retrain_id: RetrainArgument, as_json: JsonOption = False) -> None:
    """Explain why a retrain was requested and what came of it."""
    from streams.reporting.retrain_report import load_retrain_report

    async def read(settings: Settings, pool: Pool) -> Any:
        return await load_retrain_report(pool, await _match_retrain(pool, retrain_id), settings.retrain_limits)

    report = with_read_pool(read)
    print_result(report.to_dict(), report.format_text, as_json=as_json)


async def _match_retrain(pool: Pool, prefix: str) -> UUID:
    from sql.ledger import Ledger
    from sql.retrain_store import list_retrains

    lines = await Ledger(pool).lines()
    return match_prefix(prefix, [retrain.retrain_id for line in lines for retrain in await list_retrains(pool, line)], "retrain")
