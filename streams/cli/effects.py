"""The group ``twinstream effects``: what simulations believe about campaigns, what it rests on, and which version they take."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli.campaigns import InterventionArgument
from streams.cli.connection import with_pool, with_read_pool
from streams.cli.options import JsonOption, LineArgument, ReasonOption, examples
from streams.cli.output import Table, notify, print_result

if TYPE_CHECKING:
    from sql.database import Pool
    from sql.effects_store import EffectsPin, EffectsVersion, ExperimentRow
    from streams.reporting.effects import CampaignEffect, LineEffects
    from streams.settings import Settings

app = typer.Typer()

_MOST_EXPERIMENTS = 10_000  # on all campaigns of a line: any of them may have taught a level

VersionOption = Annotated[
    int | None, typer.Option("--version", metavar="NUMBER", min=0, help="An effects version; that in effect by default.")
]


@app.command("list", epilog=examples("twinstream effects list", "twinstream effects list hcp:kisqali:prescribing_change --all"))
def list_effects(
    line: Annotated[str | None, typer.Argument(metavar="[LINE]", help="Only those of this model line.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Also campaigns that no experiment has calibrated.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the effects of campaigns before and after experiments.

    The base effect is that at the usual dose: monthly, for 12 weeks, by the campaign's own channel. The interval is that of the
    next campaign.
    """
    from streams.reporting.effects import COLUMNS, campaign_cells, campaign_dict

    async def read(_: Settings, pool: Pool) -> list[CampaignEffect]:
        lines = [await _line_effects(pool, name) for name in await _lines(pool, line)]
        return [effect for item in lines for effect in item.campaigns(every=every)]

    campaigns = with_read_pool(read)
    print_result(
        [campaign_dict(campaign) for campaign in campaigns],
        lambda: Table(
            COLUMNS,
            [campaign_cells(campaign) for campaign in campaigns],
            numeric=(4, 5),
            empty="no experiment has calibrated an effect yet: twinstream experiments add, or --all for the catalogue's",
        ),
        as_json=as_json,
    )


@app.command(
    epilog=examples(
        "twinstream effects show hcp:kisqali:prescribing_change email_campaign",
        "twinstream effects show hcp:kisqali:prescribing_change email_campaign --version 3",
    )
)
def show(
    line: LineArgument, intervention: InterventionArgument, version: VersionOption = None, as_json: JsonOption = False
) -> None:
    """Show the effect of INTERVENTION on LINE and what it rests on.

    By variant and dose, with the experiments that have calibrated it.
    """
    from streams.reporting.effects import campaign_text, detailed_dict

    async def read(_: Settings, pool: Pool) -> tuple[CampaignEffect, list[ExperimentRow]]:
        from sql.effects_store import experiment_rows

        effects = await _line_effects(pool, line)
        return effects.campaign(intervention, version), await experiment_rows(pool, line, limit=_MOST_EXPERIMENTS)

    campaign, rows = with_read_pool(read)
    print_result(detailed_dict(campaign, rows), lambda: campaign_text(campaign, rows), as_json=as_json)


@app.command(epilog=examples("twinstream effects history hcp:kisqali:prescribing_change"))
def history(line: LineArgument, as_json: JsonOption = False) -> None:
    """List the effects versions of LINE, newest first.

    With every choice of the version in effect: rollbacks, and what took them back.
    """
    from streams.reporting.effects import HISTORY_COLUMNS, history_cells, history_dict

    async def read(_: Settings, pool: Pool) -> list[EffectsVersion | EffectsPin]:
        return (await _line_effects(pool, line)).events()

    events = with_read_pool(read)
    print_result(
        [history_dict(event) for event in events],
        lambda: Table(
            HISTORY_COLUMNS,
            [history_cells(event) for event in events],
            numeric=(0, 3),
            empty=f"{line} has no effects version yet: it takes the catalogue's effects",
        ),
        as_json=as_json,
    )


@app.command(
    epilog=examples(
        "twinstream effects rollback hcp:kisqali:prescribing_change 3 --reason 'the spring pilot is doubted'",
        "twinstream effects rollback hcp:kisqali:prescribing_change --undo",
    )
)
def rollback(
    context: typer.Context,
    line: LineArgument,
    version: Annotated[
        int | None, typer.Argument(metavar="[VERSION]", min=0, help="A version of the history; 0 is the catalogue alone.")
    ] = None,
    undo: Annotated[
        bool, typer.Option("--undo", help="Take the rollback back: simulations take the newest version again.")
    ] = False,
    reason: ReasonOption = "",
    as_json: JsonOption = False,
) -> None:
    """Let simulations of LINE take an earlier effects VERSION.

    Experiments that are added meanwhile are stored and make new versions, which count once the rollback is taken back. Simulations
    that were answered before stay as they are. The priors that count are published on the topic effect-priors.
    """
    from streams.reporting import moment

    if (version is None) != undo:
        context.fail("give either a VERSION or --undo")

    event, in_effect = _choose(line, version, reason)
    print_result(
        {"line": line, **event._asdict(), "effects_version_in_effect": in_effect},
        lambda: f"{line} takes effects version {in_effect} since {moment(event.pinned_at)}",
        as_json=as_json,
    )


def _choose(line: str, version: int | None, reason: str) -> tuple[EffectsPin, int]:
    """Store a choice, which counts from then on, and publish it; returns it with the version in effect.

    Where Kafka does not answer, the experiments role publishes it when it can: that is no failure of the choice.
    """
    stored_pins: list[tuple[EffectsPin, int]] = []

    async def pin(settings: Settings, pool: Pool) -> None:
        from engine.effects import catalogue_prior
        from sql.effects_store import pin_version, publish_choice
        from sql.experiment_store import current_version
        from streams.client import TwinClient
        from streams.operations.operator import operator_name

        by = await asyncio.to_thread(operator_name)
        event = await pin_version(pool, line, version, pinned_by=by, reason=reason)
        stored_pins.append((event, await current_version(pool, line)))
        async with TwinClient(settings, name="command line") as client:
            await publish_choice(pool, line, catalogue_prior, client.publish)

    try:
        with_pool(pin, "kafka")
    except Exception as error:
        from streams.errors import describe_error

        if not stored_pins:
            raise
        notify(
            f"twinstream: {describe_error(error)}; the choice is stored and counts, but is not published on effect-priors yet: a"
            " worker with the role experiments does that when it can. Do not repeat the command"
        )
    return stored_pins[0]


async def _lines(pool: Pool, line: str | None) -> list[str]:
    """The line that is named, else every model line."""
    from sql.effects_store import calibrated_lines
    from sql.ledger import Ledger

    if line is not None:
        return [line]
    return sorted({*await Ledger(pool).lines(), *await calibrated_lines(pool)})


async def _line_effects(pool: Pool, line: str) -> LineEffects:
    """Everything about the effects of a line.

    Raises:
        LookupError: for an unknown line.
    """
    from sql.effects_store import effects_pins, effects_versions
    from sql.experiment_store import current_version
    from sql.ledger import Ledger
    from streams.reporting.effects import LineEffects

    versions = await effects_versions(pool, line)
    if not versions:
        await Ledger(pool).state(line)  # raises for an unknown line
    return LineEffects(line, tuple(versions), tuple(await effects_pins(pool, line)), await current_version(pool, line))
