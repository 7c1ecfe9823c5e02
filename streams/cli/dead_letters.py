"""The commands ``twinstream dlq``: refused records are listed, inspected, corrected and replayed, and records are parked."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeAlias

import typer

from streams.cli.connection import with_pool, with_read_pool
from streams.cli.options import DryRunOption, JsonOption, KindOption, TopicOption, examples
from streams.cli.output import Table, notify, print_result
from streams.printable import escape_line

if TYPE_CHECKING:
    from sql.database import Pool
    from sql.dead_letter_store import RefusalQuery
    from streams.operations import Correction, DeadLetter, SentReplay, SkippedReplay
    from streams.settings import Settings

app = typer.Typer()

Counts: TypeAlias = "list[dict[str, Any]]"
"""Numbers of refused records by topic and kind."""

_MAX_RECORDS = 10_000
_MAX_PARTITION, _MAX_OFFSET = 2**31 - 1, 2**63 - 1
_MAX_REASON_CHARACTERS = 80


@app.command(
    "list",
    epilog=examples(
        "twinstream dlq list",
        "twinstream dlq list --kind json --waiting --limit 100",
        "twinstream dlq list --topic outcome-events --partition 2 --offset 81346",
    ),
)
def list_dead_letters(
    topic: TopicOption = None,
    kind: KindOption = None,
    waiting: Annotated[bool, typer.Option("--waiting", help="Only records that were never replayed.")] = False,
    partition: Annotated[
        int | None, typer.Option(min=0, max=_MAX_PARTITION, metavar="NUMBER", help="Only records of this partition.")
    ] = None,
    offset: Annotated[
        int | None,
        typer.Option(
            min=0, max=_MAX_OFFSET, metavar="NUMBER", help="Only what stands for this offset: a record, or a batch with it."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=_MAX_RECORDS, metavar="NUMBER", help="How many records, newest first.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List the newest refused records, and count them by kind."""
    from sql.dead_letter_store import RefusalQuery, count_refused, list_refused
    from streams.operations import load_dead_letters

    query = RefusalQuery(topic, kind, waiting, partition, offset)

    async def read(_: Settings, pool: Pool) -> tuple[Counts, list[DeadLetter], Counts]:
        counts, all_counts = await count_refused(pool, query), await count_refused(pool, RefusalQuery())
        return counts, await load_dead_letters(pool, await list_refused(pool, query, limit)), all_counts

    counts, dead_letters, all_counts = with_read_pool(read)
    payload = {"counts": counts, "letters": [dead_letter.to_dict() for dead_letter in dead_letters]}
    print_result(
        payload,
        lambda: _dead_letters_table(counts, dead_letters) if counts else _no_match_text(all_counts),
        as_json=as_json,
    )


def _no_match_text(all_counts: Counts) -> str:
    if not all_counts:
        return "nothing was refused"
    return f"no refused record matches; refused are {_format_totals(all_counts)}"


def _format_totals(counts: Counts) -> str:
    return ", ".join(f"{row['count']:,} {row['kind']} on {row['topic']}" for row in counts)


def _dead_letters_table(counts: Counts, dead_letters: Sequence[DeadLetter]) -> Table:
    columns = ("ID", "Refused at", "Where", "Kind", "Replayed", "Reason")
    return Table(
        columns, [_dead_letter_cells(dead_letter) for dead_letter in dead_letters], title=f"refused: {_format_totals(counts)}"
    )


def _dead_letter_cells(dead_letter: DeadLetter) -> tuple[str, ...]:
    from streams.reporting import moment, short_id

    refused = dead_letter.refused
    return (
        short_id(refused.refusal_id),
        moment(refused.refused_at),
        refused.position,
        refused.kind,
        dead_letter.state,
        _shorten(escape_line(refused.reason)),
    )


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_REASON_CHARACTERS else f"{text[: _MAX_REASON_CHARACTERS - 3]}..."


@app.command(epilog=examples("twinstream dlq scan", "twinstream dlq scan --topic model-events"))
def scan(topic: TopicOption = None, as_json: JsonOption = False) -> None:
    """Refuse what others wrote on topics that only the service writes.

    Topics that a role reads are validated by that role; this command reads the others to their end. What it refuses is listed by
    its offset like any refused record, and changes no count.
    """
    from schemas.base import require_one_of
    from streams.operations.foreign_records import OUTPUT_TOPICS, scan_topics

    if topic is not None:
        require_one_of("topic", topic, OUTPUT_TOPICS)
    topics = OUTPUT_TOPICS if topic is None else (topic,)
    counts = with_pool(lambda settings, pool: scan_topics(settings, pool, topics), "kafka")
    rows = [(row["topic"], f"{row['records']:,}", f"{row['foreign']:,}", f"{row['new']:,}") for row in counts]
    print_result(counts, lambda: Table(("Topic", "Records", "Foreign", "Refused now"), rows), as_json=as_json)


@app.command(epilog=examples("twinstream dlq show 1a2b3c4d", "twinstream dlq show 1a2b3c4d --raw > body.json"))
def show(
    refusal_id: Annotated[str, typer.Argument(metavar="ID", help="The ID, or its first characters.", show_default=False)],
    raw: Annotated[bool, typer.Option("--raw", help="Print only the value, byte for byte.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show everything about the refused record ID.

    That is the record as it arrived, why it was refused, and every replay.
    """
    dead_letter = with_read_pool(lambda _, pool: _find_dead_letter(pool, refusal_id))
    if raw:
        _write_bytes(dead_letter.refused.value or b"")
    else:
        print_result(dead_letter.to_dict(), dead_letter.format_text, as_json=as_json)


async def _find_dead_letter(pool: Pool, prefix: str) -> DeadLetter:
    from sql.dead_letter_store import find_refused
    from streams.operations import load_dead_letters

    return (await load_dead_letters(pool, [await find_refused(pool, prefix)]))[0]


def _write_bytes(value: bytes) -> None:
    sys.stdout.buffer.write(value)
    sys.stdout.buffer.flush()


@app.command(
    "park",
    epilog=examples(
        "twinstream dlq park outcome-events 2 81346",
        'twinstream dlq park outcome-events 2 81346 --why "asked by its producer"',
    ),
)
def park(
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="A topic that a role reads.", show_default=False)],
    partition: Annotated[int, typer.Argument(metavar="PARTITION", help="The partition of the record.", show_default=False)],
    offset: Annotated[int, typer.Argument(metavar="OFFSET", help="The offset of the record.", show_default=False)],
    why: Annotated[str, typer.Option(metavar="TEXT", help="Why; it is stored as the reason.", show_default=False)] = "",
    as_json: JsonOption = False,
) -> None:
    """Store a record as refused instead of processing it.

    The record may wait to be read, or be tried again and again: its role parks it within seconds, or when it reads it. One that was
    processed before is not parked. A parked record is inspected and replayed like any refused one.
    """
    from streams.operations import park_record
    from streams.operations.operator import operator_name

    by = operator_name()
    parked = with_pool(lambda settings, pool: park_record(settings, pool, topic, partition, offset, why, by=by), "kafka")
    print_result(parked.to_dict(), parked.format_text, as_json=as_json)


class ReplayOutcome(NamedTuple):
    """What became of refused records that were to be replayed."""

    sent: Sequence[SentReplay]
    skipped: Sequence[SkippedReplay]
    dead_letters: Sequence[DeadLetter]


@app.command(
    "replay",
    epilog=examples(
        "twinstream dlq replay 1a2b3c4d --set actual_value=0.1 --drop surprise",
        "twinstream dlq replay 1a2b3c4d --value body.json",
        "twinstream dlq replay 1a2b3c4d --accept",
        "twinstream dlq replay --kind invalid --set metric_type=prescribing_change --dry-run",
    ),
)
def replay(
    context: typer.Context,
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="IDs, or their first characters.")] = None,
    topic: TopicOption = None,
    kind: KindOption = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Set a field, for example segment.region=west; repeatable."),
    ] = None,
    dropped_fields: Annotated[list[str] | None, typer.Option("--drop", metavar="FIELD", help="Remove a field; repeatable.")] = None,
    file: Annotated[
        typer.FileBinaryRead | None,
        typer.Option("--value", metavar="FILE", help="Publish the content of this file instead; - reads standard input."),
    ] = None,
    accept: Annotated[
        bool, typer.Option("--accept", help="Confirm that a result that was set aside is meant as it is: sets confirmed=true.")
    ] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Publish refused records again, corrected or unchanged.

    Name the records, or select all of a --topic or --kind that were not replayed yet. Each keeps its event_id, so nothing counts
    twice. A record that would be refused again is not published; the exit status is then 1.
    """
    from sql.dead_letter_store import RefusalQuery
    from streams.operations import Correction, parse_assignment

    if bool(ids) == bool(topic or kind):
        context.fail("name refused records by ID, or choose them by --topic or --kind")
    if file is not None and len(ids or ()) != 1:
        context.fail("--value replaces the value of exactly one refused record: name it by its ID")
    sets = dict(map(parse_assignment, assignments or ())) | ({"confirmed": True} if accept else {})
    correction = Correction(sets, dropped_fields or (), file.read() if file else None)
    outcome = _replay(ids or (), RefusalQuery(topic, kind, unreplayed=True), correction, dry_run=dry_run)
    _print_replay(outcome, dry_run=dry_run, as_json=as_json)


def _replay(ids: Sequence[str], query: RefusalQuery, correction: Correction, *, dry_run: bool) -> ReplayOutcome:
    from sql.dead_letter_store import find_refused, list_refused
    from streams.operations import await_replay_results, load_dead_letters, replay_dead_letters
    from streams.operations.operator import operator_name

    by = operator_name()

    async def work(settings: Settings, pool: Pool) -> ReplayOutcome:
        records = [await find_refused(pool, prefix) for prefix in ids] if ids else await list_refused(pool, query, _MAX_RECORDS)
        sent, skipped = await replay_dead_letters(settings, pool, records, correction, by=by, dry_run=dry_run)
        load = load_dead_letters if dry_run else await_replay_results
        return ReplayOutcome(sent, skipped, await load(pool, [record.refused for record in sent]))

    return with_pool(work, "kafka")


def _print_replay(outcome: ReplayOutcome, *, dry_run: bool, as_json: bool) -> None:
    from streams.reporting import short_id

    payload = {
        "replayed": [dead_letter.to_dict() for dead_letter in outcome.dead_letters],
        "skipped": [{"refusal_id": str(record.refused.refusal_id), "reason": record.reason} for record in outcome.skipped],
        "dry_run": dry_run,
    }
    print_result(payload, lambda: _replay_text(outcome, dry_run=dry_run), as_json=as_json)
    for record in outcome.skipped if not as_json else ():
        notify(f"twinstream: {short_id(record.refused.refusal_id)} is not replayed: {record.reason}")
    if outcome.skipped:
        raise typer.Exit(1)


def _replay_text(outcome: ReplayOutcome, *, dry_run: bool) -> str:
    from streams.reporting import short_id

    if dry_run:
        lines = [
            f"{short_id(record.refused.refusal_id)} would be replayed as {record.value.decode(errors='replace')}"
            for record in outcome.sent
        ]
        return "\n".join([*map(escape_line, lines), f"{len(outcome.sent):,} would be replayed, {len(outcome.skipped):,} would not"])
    lines = [
        f"{short_id(dead_letter.refused.refusal_id)} as {_last_replay(dead_letter)}: {dead_letter.state}"
        for dead_letter in outcome.dead_letters
    ]
    return "\n".join([*map(escape_line, lines), f"{len(outcome.sent):,} replayed, {len(outcome.skipped):,} not replayed"])


def _last_replay(dead_letter: DeadLetter) -> str:
    last = dead_letter.replays[-1]
    return f"{last.topic}:{last.partition}:{last.offset}"
