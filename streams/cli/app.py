"""The application ``twinstream``: its commands and groups, with the module that defines each.

Exit status 0 when done, 1 when something was refused or failed (with one line on stderr), 2 for wrong usage.

A command's module is imported when the command is used. The summaries here are what the lists of commands show; each equals the
first sentence of the command's own help.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from streams.cli.lazy import RefusalGroup, add_lazy_commands
from streams.cli.log_output import silence_libraries
from streams.cli.options import examples
from streams.cli.output import is_terminal

__all__ = ["app", "run"]

PROGRAM = "twinstream"

app = typer.Typer(
    cls=RefusalGroup,
    name=PROGRAM,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain text, unless ``main`` finds a terminal
    pretty_exceptions_enable=False,  # tracebacks with local variables could show passwords
    epilog=examples(
        "twinstream up",
        "twinstream train history.csv --brand kisqali",
        "twinstream simulate speaker_program_invitation --filter region=south",
        "twinstream fidelity --json",
    ),
)


def _print_version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        typer.echo(f"{PROGRAM}, version {version(PROGRAM)}")
        raise typer.Exit


@app.callback()
def twinstream(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Predict the effect of campaigns on digital twins, and check the predictions against real outcomes."""


def _group(name: str, summary: str, *lines: str) -> typer.Typer:
    """A group of commands with examples of their use."""
    group = typer.Typer(no_args_is_help=True, help=summary, epilog=examples(*lines))
    app.add_typer(group, name=name)
    return group


add_lazy_commands(
    app,
    "streams.cli.service",
    {
        "up": "Run the whole service on this machine, with its web page.",
        "worker": "Run workers until Ctrl-C, one process for each role.",
    },
)
add_lazy_commands(app, "streams.cli.demo", {"demo": "Run the whole workflow here and print a report."})
add_lazy_commands(
    app,
    "streams.cli.importing",
    {"import": "Find out which column of a table is which feature."},
)
add_lazy_commands(
    app,
    "streams.cli.training",
    {
        "train": "Train a model line on the table FILE.",
    },
)
add_lazy_commands(
    _group("data", "Tell what a model would make of a table.", "twinstream data check history.parquet"),
    "streams.cli.data",
    {"check": "Tell what a model would make of the table FILE, on one page."},
)
add_lazy_commands(app, "streams.cli.simulation", {"simulate": "Predict the effect of a campaign with INTERVENTION."})
add_lazy_commands(
    _group(
        "simulations",
        "Show how far a simulation is, and cancel one.",
        "twinstream simulations progress 3f0c8a52-6c1e-4b3a-9f57-0d2f7f1f8a11",
        "twinstream simulations cancel 3f0c8a52-6c1e-4b3a-9f57-0d2f7f1f8a11",
    ),
    "streams.cli.simulations",
    {"progress": "Show how far the simulation ID is.", "cancel": "Cancel the simulation ID, which is answered so."},
)
add_lazy_commands(
    _group(
        "experiments",
        "Add, show and withdraw results of real experiments.",
        "twinstream experiments add email_campaign --id spring --rows pilot.csv",
        "twinstream experiments list",
    ),
    "streams.cli.results",
    {
        "add": "Add what a real experiment measured, so that simulations learn.",
        "list": "List the experiments, newest first, with withdrawn ones.",
        "show": "Show everything about the experiment ID.",
        "withdraw": "Withdraw the experiment ID: effects no longer rest on it.",
    },
)
add_lazy_commands(
    _group(
        "effects",
        "Show what simulations believe about campaigns, and why.",
        "twinstream effects list",
        "twinstream effects show hcp:kisqali:prescribing_change email_campaign",
    ),
    "streams.cli.effects",
    {
        "list": "List the effects of campaigns before and after experiments.",
        "show": "Show the effect of INTERVENTION on LINE and what it rests on.",
        "history": "List the effects versions of LINE, newest first.",
        "rollback": "Let simulations of LINE take an earlier effects VERSION.",
    },
)
add_lazy_commands(
    app,
    "streams.cli.experiments",
    {
        "design": "Plan a real experiment on the effect of INTERVENTION.",
        "counterfactuals": "Predict what INTERVENTION changes for each row of FILE.",
        "untreated": "Estimate what treated entities would have done untreated.",
    },
)
add_lazy_commands(
    _group("outcomes", "Publish what really happened, and show what became of it.", "twinstream outcomes publish outcomes.parquet"),
    "streams.cli.outcomes",
    {
        "publish": "Publish the rows of the table FILE as outcome events.",
        "receipt": "Show what became of the rows of a published file.",
        "history": "Show the errors of outcomes that came too late.",
        "receipts": "List the published files, with the id of each receipt.",
    },
)
add_lazy_commands(app, "streams.cli.outcomes", {"fidelity": "Show how well the predictions match the outcomes."})
_models = _group(
    "models",
    "List models and decide which one is champion.",
    "twinstream models list",
    "twinstream models rollback hcp:kisqali:prescribing_change",
)
add_lazy_commands(
    _models,
    "streams.cli.models",
    {
        "list": "List every model line with its champion.",
        "history": "List the events of LINE, or find the model of a simulation.",
        "realism": "Assess how closely the twins of LINE resemble real entities.",
    },
)
add_lazy_commands(
    _models,
    "streams.cli.decisions",
    {
        "promote": "Make MODEL the champion of LINE.",
        "rollback": "Make an earlier champion of LINE its champion again.",
        "policy": "Set what LINE does by itself when its champion drifts.",
    },
)
add_lazy_commands(_models, "streams.cli.thresholds", {"thresholds": "Show or change the thresholds of LINE."})
add_lazy_commands(
    _group(
        "retrain",
        "List retrains that drift requested, and decide on them.",
        "twinstream retrain list hcp:kisqali:prescribing_change",
        "twinstream retrain approve 1a2b3c4d",
    ),
    "streams.cli.retrains",
    {
        "list": "List the retrains of LINE, newest first.",
        "approve": "Approve the retrain ID, so that a trainer starts it next.",
        "refuse": "Refuse the retrain ID, so that no trainer starts it.",
    },
)
add_lazy_commands(app, "streams.cli.retrains", {"why": "Explain why a retrain was requested and what came of it."})
add_lazy_commands(
    _group(
        "dlq",
        "List, inspect, correct and replay refused records.",
        "twinstream dlq list --waiting",
        "twinstream dlq replay 1a2b3c4d --set actual_value=0.1",
    ),
    "streams.cli.dead_letters",
    {
        "list": "List the newest refused records, and count them by kind.",
        "scan": "Refuse what others wrote on topics that only the service writes.",
        "show": "Show everything about the refused record ID.",
        "park": "Store a record as refused instead of processing it.",
        "replay": "Publish refused records again, corrected or unchanged.",
    },
)
add_lazy_commands(
    _group(
        "catalogue",
        "Brands, campaigns, features and limits of your own.",
        "twinstream catalogue init",
        "twinstream catalogue check",
        "twinstream catalogue apply",
    ),
    "streams.cli.catalogue",
    {
        "init": "Write a commented catalogue file to start from.",
        "check": "Check a catalogue file.",
        "show": "Show the whole catalogue that a file makes.",
        "apply": "Put the catalogue of a file into effect.",
        "history": "List the applied versions, newest first.",
        "rollback": "Put the catalogue of an earlier VERSION into effect again.",
        "schema": "Print the JSON Schema of catalogue files, for editors.",
    },
)
add_lazy_commands(
    _group(
        "tokens",
        "Create, list and revoke tokens of the HTTP API.",
        "twinstream tokens create crm --scope ask",
        "twinstream tokens list",
    ),
    "streams.cli.tokens",
    {
        "create": "Create a token for the HTTP API, and print it once.",
        "list": "List the tokens of the HTTP API, without their secrets.",
        "revoke": "Revoke the token NAME.",
    },
)
add_lazy_commands(
    app,
    "streams.cli.operations",
    {
        "migrate": "Create or update tables, topics and the MLflow store.",
        "verify": "Recompute every window from the outcomes and compare.",
        "replay": "Process a range of TOPIC again.",
        "sweep": "Delete rows that have aged out, now instead of once a day.",
        "forget": "Erase the person ENTITY_ID everywhere.",
        "schemas": "Print the schemas of all events, as AsyncAPI 3.",
    },
)


def run() -> None:
    """Run the command line; on a terminal Rich formats help, on stdout, and usage errors, on stderr."""
    silence_libraries()
    if is_terminal(sys.stdout) and is_terminal(sys.stderr):
        app.rich_markup_mode = "rich"
    app(prog_name=PROGRAM)
