"""Commands of those who keep the service running."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from uuid import UUID

import click

from sql.database import Pool
from sql.dead_letter_store import RefusalQuery, RefusedRecord, count_refused, find_refused, list_refused
from streams.cli.output import answer, as_json_option, say, with_pool
from streams.kafka.asyncapi import asyncapi_document, write_schemas
from streams.operations import (
    Correction,
    DeadLetter,
    SentReplay,
    SkippedReplay,
    await_replay_results,
    dead_letters_table,
    load_dead_letters,
    parse_assignment,
    replay_dead_letters,
)
from streams.settings import Settings

if TYPE_CHECKING:
    from streams.operations.replay_report import ReplayReport

__all__ = ["dlq", "replay", "schemas", "simulate_again"]

_MOST_AT_ONCE = 10_000


@click.group()
def dlq() -> None:
    """Refused records: list them, look at one, correct and replay them."""


topic_option = click.option("--topic", help="Only what came on this topic.")
kind_option = click.option("--kind", help="Only of this kind: invalid, json, simulation, champion, ...")
dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")


@dlq.command("list")
@topic_option
@kind_option
@click.option("--waiting", is_flag=True, help="Only what was never replayed.")
@click.option("--limit", type=click.IntRange(1, _MOST_AT_ONCE), default=20, show_default=True, help="How many, the newest first.")
@as_json_option
def list_letters(topic: str | None, kind: str | None, limit: int, *, waiting: bool, as_json: bool) -> None:
    """The newest refused records, and how many there are of each kind."""
    wanted = RefusalQuery(topic, kind, waiting)

    async def look(_: Settings, pool: Pool) -> tuple[list[dict[str, Any]], list[DeadLetter]]:
        return await count_refused(pool, wanted), await load_dead_letters(pool, await list_refused(pool, wanted, limit))

    counts, letters = with_pool(look)
    answer(
        {"counts": counts, "letters": [letter.to_dict() for letter in letters]},
        lambda: _listed(counts, letters),
        as_json=as_json,
    )


def _listed(counts: list[dict[str, Any]], letters: list[DeadLetter]) -> str:
    if not counts:
        return "nothing was refused"
    total = [f"{each['count']:,} {each['kind']} on {each['topic']}" for each in counts]
    return "\n".join([f"refused: {', '.join(total)}", dead_letters_table(letters)])


@dlq.command()
@click.argument("refusal_id", metavar="ID")
@click.option("--raw", is_flag=True, help="Nothing but the value, byte for byte: dlq show ID --raw > FILE.")
@as_json_option
def show(refusal_id: str, *, raw: bool, as_json: bool) -> None:
    """All of a refused record; the first characters of its ID are enough."""
    letter = with_pool(lambda _, pool: _letter(pool, refusal_id))
    if raw:
        click.get_binary_stream("stdout").write(letter.refused.value or b"")
    else:
        answer(letter.to_dict(), letter.format_text, as_json=as_json)


@dlq.command("replay")
@click.argument("ids", metavar="[ID]...", nargs=-1)
@topic_option
@kind_option
@click.option("--set", "sets", multiple=True, metavar="FIELD=VALUE", help="Give a field a value; segment.region=west reaches in.")
@click.option("--drop", "drops", multiple=True, metavar="FIELD", help="Leave a field out.")
@click.option("--value", "file", type=click.File("rb"), help="Publish this instead of what was refused; - reads stdin.")
@dry_run_option
@as_json_option
def replay_refused(
    ids: tuple[str, ...],
    topic: str | None,
    kind: str | None,
    sets: tuple[str, ...],
    drops: tuple[str, ...],
    file: IO[bytes] | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Publish refused records again, corrected or as they are: those named, or all of a --topic or --kind that still wait.

    Each keeps its event_id, so nothing counts twice. What would be refused again is not published, and exit status 1 tells.
    """
    if bool(ids) == bool(topic or kind):
        raise click.UsageError("name refused records, or choose them by --topic or --kind")
    if file is not None and len(ids) != 1:
        raise click.UsageError("--value is the value of one refused record: name it")
    fix = Correction(dict(map(parse_assignment, sets)), drops, file.read() if file else None)
    wanted = RefusalQuery(topic, kind, unreplayed=True)

    async def replay(at: Settings, pool: Pool) -> tuple[list[SentReplay], list[SkippedReplay], list[DeadLetter]]:
        chosen = [await find_refused(pool, each) for each in ids] if ids else await list_refused(pool, wanted, _MOST_AT_ONCE)
        sent, skipped = await replay_dead_letters(at, pool, chosen, fix, dry_run=dry_run)
        load = load_dead_letters if dry_run else await_replay_results
        return sent, skipped, await load(pool, [each.refused for each in sent])

    sent, skipped, letters = with_pool(replay)
    told = {
        "replayed": [letter.to_dict() for letter in letters],
        "skipped": [_skipped(each) for each in skipped],
        "dry_run": dry_run,
    }
    answer(told, lambda: _replayed(sent, skipped, letters, dry_run=dry_run), as_json=as_json)
    for each in skipped if not as_json else ():
        say(f"twinstream: {str(each.refused.refusal_id)[:8]} stays: {each.reason}")
    if skipped:
        sys.exit(1)


def _skipped(each: SkippedReplay) -> dict[str, Any]:
    return {"refusal_id": str(each.refused.refusal_id), "reason": each.reason}


def _replayed(sent: list[SentReplay], skipped: list[SkippedReplay], letters: list[DeadLetter], *, dry_run: bool) -> str:
    if dry_run:
        lines = [f"{str(each.refused.refusal_id)[:8]} would be replayed as {each.value.decode(errors='replace')}" for each in sent]
        return "\n".join([*lines, f"{len(sent):,} would be replayed, {len(skipped):,} would stay"])
    lines = [f"{str(letter.refused.refusal_id)[:8]} as {_as(letter)}: {letter.state}" for letter in letters]
    return "\n".join([*lines, f"{len(sent):,} replayed, {len(skipped):,} stay"])


def _as(letter: DeadLetter) -> str:
    past = letter.replays[-1]
    return f"{past.topic}:{past.partition}:{past.offset}"


async def _letter(pool: Pool, begins: str) -> DeadLetter:
    refused: RefusedRecord = await find_refused(pool, begins)
    return (await load_dead_letters(pool, [refused]))[0]


@click.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Write a file for every event, and asyncapi.json.")
@as_json_option
def schemas(out: Path | None, *, as_json: bool) -> None:
    """What may be said on which topic: an AsyncAPI 3 document, with the JSON Schema of every event."""
    if out is None:
        document = asyncapi_document()
        answer(document, lambda: json.dumps(document, indent=2), as_json=as_json)
        return
    written = [str(file) for file in write_schemas(out)]
    answer({"written": written}, lambda: "\n".join(written), as_json=as_json)


@click.command()
@click.argument("topic")
@click.option("--from", "begin", metavar="OFFSET|TIME", help="Where to begin; the beginning by default. A time needs its zone.")
@click.option("--to", "end", metavar="OFFSET|TIME", help="Where to end, itself left out; what is there now by default.")
@click.option("--partition", "partitions", type=int, multiple=True, help="Only this partition; all by default.")
@dry_run_option
@as_json_option
def replay(topic: str, begin: str | None, end: str | None, partitions: tuple[int, ...], *, dry_run: bool, as_json: bool) -> None:
    """Work a stretch of TOPIC through again: outcome-events, simulation-requests or experiment-results.

    Outcomes that were refused are judged anew, and those that are fine by now are published again; requests are answered again
    from what is stored for them. What is in already stays as it is, and nothing is trained or alarmed because of it.
    """
    from streams.operations import topic_replay as again  # noqa: PLC0415  # heavy, and only this command needs it

    first, last = (None if said is None else again.parse_bound(said) for said in (begin, end))

    async def work(at: Settings, pool: Pool) -> ReplayReport:
        return await again.replay_topic(at, pool, topic, first, last, partitions, dry_run=dry_run)

    report = with_pool(work)
    answer(report.to_dict(), report.format_text, as_json=as_json)


def simulate_again(simulation_id: UUID, *, as_json: bool) -> None:
    """Compute a past simulation again; exit status 1 when it is not the same to the last bit."""
    from streams.simulation.reproduction import reproduce  # noqa: PLC0415  # heavy, and only this command needs it

    repeated = with_pool(lambda at, pool: reproduce(at, pool, simulation_id))
    answer(repeated.to_dict(), repeated.format_text, as_json=as_json)
    if repeated.differences:
        sys.exit(1)
