"""The command ``twinstream models thresholds``: what a recommendation of a line needs, and from what value its drift rules fire."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli.connection import with_pool, with_read_pool
from streams.cli.options import ConfidenceOption, JsonOption, LineArgument, MinEffectOption, ReasonOption, examples
from streams.cli.output import Table, print_result

if TYPE_CHECKING:
    from schemas import DriftRule
    from sql.database import Pool
    from sql.threshold_store import ThresholdChange

app = typer.Typer()


@app.command(
    epilog=examples(
        "twinstream models thresholds hcp:kisqali:prescribing_change",
        "twinstream models thresholds hcp:kisqali:prescribing_change --min-effect 0.03 --confidence 0.8",
        "twinstream models thresholds hcp:kisqali:prescribing_change --require-test",
        'twinstream models thresholds hcp:kisqali:prescribing_change --limit mae_increase=0.3 --reason "noisy quarter"',
    )
)
def thresholds(
    line: LineArgument,
    min_effect: MinEffectOption = None,
    confidence: ConfidenceOption = None,
    limits: Annotated[
        list[str] | None,
        typer.Option("--limit", metavar="RULE=LIMIT", help="Limit of a drift rule; RULE= for that of the catalogue; repeatable."),
    ] = None,
    require_test: Annotated[
        bool | None,
        typer.Option("--require-test/--no-require-test", help="Recommend no deployment of what no real experiment has tested."),
    ] = None,
    reason: ReasonOption = "",
    as_json: JsonOption = False,
) -> None:
    """Show or change the thresholds of LINE.

    Simulations that are requested from then on, and windows that change from then on, follow them.
    """
    named = {"min_effect_threshold": min_effect, "confidence_threshold": confidence, "require_test": require_test}
    changes: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    if limits:
        changes["drift_limits"] = dict(map(_parse_limit, limits))
    from streams.operations.line_thresholds import threshold_history

    if changes:
        history = with_pool(lambda _, pool: _change(pool, line, changes, reason))
    else:
        history = with_read_pool(lambda _, pool: threshold_history(pool, line))
    print_result([change.to_dict() for change in history], lambda: _table(line, history), as_json=as_json)


async def _change(pool: Pool, line: str, changes: dict[str, Any], reason: str) -> list[ThresholdChange]:
    from sql.threshold_store import change_thresholds
    from streams.operations.line_thresholds import threshold_history
    from streams.operations.operator import operator_name

    await change_thresholds(pool, line, changes, changed_by=await asyncio.to_thread(operator_name), reason=reason)
    return await threshold_history(pool, line)


def _parse_limit(text: str) -> tuple[str, float | None]:
    name, equals, limit = text.partition("=")
    try:
        if equals:
            return name, float(limit) if limit else None
    except ValueError:
        pass
    raise ValueError(f"--limit {text!r} is no RULE=LIMIT, such as mae_increase=0.3")


def _table(line: str, history: list[ThresholdChange]) -> Table:
    from streams.reporting import moment

    present = history[0].thresholds
    rules = [f"  {rule.name:<18} {rule.direction} {_limit_text(rule)}" for rule in present.rules]
    columns = ("Version", "At", "By", "Smallest effect", "Probability", "Test", "Limits", "Reason")
    rows = [
        (
            str(thresholds.version),
            moment(changed_at) if changed_at else "",
            changed_by,
            f"{thresholds.min_effect_threshold:.1%}",
            f"{thresholds.confidence_threshold:.0%}",
            "required" if thresholds.require_test else "",
            ", ".join(f"{name} {limit:g}" for name, limit in thresholds.drift_limits.items()),
            reason,
        )
        for thresholds, changed_at, changed_by, reason in history
    ]
    needed = f"an effect of {present.min_effect_threshold:.1%} with a probability of {present.confidence_threshold:.0%}"
    tested = ", and a real experiment on its intervention" if present.require_test else ""
    recommended = f"a recommendation to deploy needs {needed}{tested}"
    lines = [f"{line}, version {present.version}", recommended, "drift rules fire", *rules, ""]
    return Table(columns, rows, numeric=(0,), text="\n".join([*lines, *("  ".join(filter(None, row)) for row in rows)]))


def _limit_text(rule: DriftRule) -> str:
    return f"{rule.relative_change:+.0%} on the baseline" if rule.relative else f"{rule.limit:g}"
