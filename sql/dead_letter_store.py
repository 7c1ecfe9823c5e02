"""Records that were refused, exactly as they came, and what was done about them later."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import NAMESPACE_URL, UUID, uuid5

import asyncpg

from schemas.events import SourceId
from sql.database import Database

__all__ = [
    "AmbiguousId",
    "Headers",
    "NewReplay",
    "PastReplay",
    "RefusalQuery",
    "RefusedRecord",
    "UnknownRefusal",
    "add_refused",
    "add_refused_once",
    "add_replays",
    "count_refused",
    "find_refused",
    "list_refused",
    "mark_refused_sent",
    "pack_headers",
    "refusal_id",
    "refused_in_range",
    "replay_history",
    "unpack_headers",
    "unsent_refused_before",
    "unsent_refused_since",
]

Headers = Sequence[tuple[str, bytes | None]]
"""Pairs of a name and bytes, in the order of the record, names as often as they came."""

_NAMESPACE = uuid5(NAMESPACE_URL, "twinstream:refused")


class UnknownRefusal(LookupError):
    """No refused record has this id."""


class AmbiguousId(LookupError):
    """Several refused records have ids that begin like this."""


class RefusedRecord(NamedTuple):
    """A record, or an element of its array, and why it was not taken."""

    refusal_id: UUID
    source: SourceId
    offset: int
    element: int
    at: datetime
    key: bytes | None
    value: bytes | None
    headers: Headers
    kind: str
    reason: str
    exception: str
    refused_at: datetime | None = None


def refusal_id(source: SourceId, offset: int, at: datetime) -> UUID:
    """Id of a record that is refused as a whole; the same record again has the same one."""
    return uuid5(_NAMESPACE, f"{source}:{offset}:{at.isoformat()}")


def pack_headers(headers: Iterable[tuple[str, bytes | None]]) -> str:
    """Headers as JSON.

    Example:
        >>> packed([("trace", b"abc"), ("trace", None)])
        '[["trace", "YWJj"], ["trace", null]]'
    """
    return json.dumps([(name, None if value is None else base64.b64encode(value).decode()) for name, value in headers])


def unpack_headers(headers: Iterable[tuple[str, str | None]]) -> Headers:
    """What :func:`pack_headers` has packed."""
    return [(name, None if text is None else base64.b64decode(text)) for name, text in headers]


_ADD = """
INSERT INTO refused_records (refusal_id, source_offset, element, tracked_at, key, value, headers, kind, reason, exception, source,
                             topic, partition)
SELECT refusal_id, source_offset, element, tracked_at, key, value, headers::json, kind, reason, exception, $11, $12, $13
FROM unnest($1::uuid[], $2::bigint[], $3::int[], $4::timestamptz[], $5::bytea[], $6::bytea[], $7::text[], $8::text[], $9::text[],
            $10::text[])
     AS r (refusal_id, source_offset, element, tracked_at, key, value, headers, kind, reason, exception)"""


async def add_refused(database: Database, source: SourceId, refused: Sequence[RefusedRecord]) -> None:
    """Store what was refused of a source.

    Raises:
        asyncpg.UniqueViolationError: when any of it is stored already.
    """
    if refused:
        await database.execute(_ADD, *_columns(refused), str(source), source.topic, source.partition)


async def add_refused_once(database: Database, refused: RefusedRecord) -> None:
    """Store a refused record; the same one again is stored once."""
    source = refused.source
    await database.execute(f"{_ADD} ON CONFLICT DO NOTHING", *_columns([refused]), str(source), source.topic, source.partition)


def _columns(refused: Iterable[RefusedRecord]) -> list[list[Any]]:
    rows = [
        (
            each.refusal_id,
            each.offset,
            each.element,
            each.at,
            each.key,
            each.value,
            pack_headers(each.headers),
            each.kind,
            each.reason,
            each.exception,
        )
        for each in refused
    ]
    return [list(column) for column in zip(*rows, strict=True)]


async def mark_refused_sent(database: Database, ids: Sequence[UUID]) -> None:
    """Note that copies of these are on the topic of dead letters."""
    await database.execute(
        "UPDATE refused_records SET sent_at = $2 WHERE refusal_id = ANY($1) AND sent_at IS NULL", ids, datetime.now(UTC)
    )


_COLUMNS = "refusal_id, source, source_offset, element, tracked_at, key, value, headers, kind, reason, exception, refused_at"
_SELECT = f"SELECT {_COLUMNS} FROM refused_records"  # noqa: S608  # names of columns


async def unsent_refused_since(database: Database, source: SourceId, offset: int) -> list[RefusedRecord]:
    """The source's refusals from this offset on whose copy was not sent yet."""
    return await _fetch(database, f"{_SELECT} WHERE source = $1 AND source_offset >= $2 AND sent_at IS NULL", str(source), offset)


async def unsent_refused_before(database: Database, before: datetime, limit: int) -> list[RefusedRecord]:
    """Refusals older than ``before`` whose copy was not sent, the oldest first."""
    return await _fetch(
        database, f"{_SELECT} WHERE sent_at IS NULL AND refused_at < $1 ORDER BY refused_at LIMIT $2", before, limit
    )


async def refused_in_range(database: Database, source: str, first: int, end: int) -> list[RefusedRecord]:
    """Refusals of a source with offsets from ``first`` to before ``end``, in their order."""
    within = "WHERE source = $1 AND source_offset >= $2 AND source_offset < $3 ORDER BY source_offset, element"
    return await _fetch(database, f"{_SELECT} {within}", source, first, end)


class RefusalQuery(NamedTuple):
    """Which refused records are asked for; what is left out does not matter. ``waiting`` are those never replayed."""

    topic: str | None = None
    kind: str | None = None
    waiting: bool = False


_WHERE = """
WHERE ($1::text IS NULL OR topic = $1) AND ($2::text IS NULL OR kind = $2)
  AND (NOT $3 OR NOT EXISTS (SELECT FROM refused_replays p WHERE p.refusal_id = refused_records.refusal_id))"""


async def list_refused(database: Database, wanted: RefusalQuery, limit: int) -> list[RefusedRecord]:
    """The newest of those that are asked for, the newest first."""
    return await _fetch(database, f"{_SELECT} {_WHERE} ORDER BY refused_at DESC, refusal_id LIMIT $4", *wanted, limit)


_SUMMARY = f"""
SELECT topic, kind, count(*) AS count, max(refused_at) AS newest FROM refused_records {_WHERE}
GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2"""  # noqa: S608  # the condition above


async def count_refused(database: Database, wanted: RefusalQuery) -> list[dict[str, Any]]:
    """How many there are of each topic and kind, the most first."""
    return [dict(row) for row in await database.fetch(_SUMMARY, *wanted)]


_BY_ID = f"{_SELECT} WHERE refusal_id::text LIKE $1 || '%' LIMIT 2"


async def find_refused(database: Database, begins: str) -> RefusedRecord:
    """The refused record whose id begins with these characters.

    Raises:
        UnknownRefusal: when there is none.
        AmbiguousId: when there are several.
    """
    word = begins.strip().lower()
    found = await _fetch(database, _BY_ID, word) if word and set(word) <= set("0123456789abcdef-") else []
    if not found:
        raise UnknownRefusal(f"no refused record has an id that begins with {begins!r}: twinstream dlq list shows them")
    if len(found) > 1:
        raise AmbiguousId(f"several refused records have ids that begin with {begins!r}: give more of it")
    return found[0]


class NewReplay(NamedTuple):
    """A refused record that was published again: as which record, by whom, and with which change."""

    refusal_id: UUID
    topic: str
    partition: int
    offset: int
    by: str
    change: str


_NOTE = """
INSERT INTO refused_replays (refusal_id, topic, partition, source_offset, replayed_by, change) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING"""


async def add_replays(database: Database, replayed: Iterable[NewReplay]) -> None:
    """Mark refused records as replayed."""
    await database.executemany(_NOTE, replayed)


class PastReplay(NamedTuple):
    """One replay of a refused record, and what came of it: a fate of outcomes, the kind of a new refusal, or null so far."""

    refusal_id: UUID
    topic: str
    partition: int
    offset: int
    replayed_at: datetime
    by: str
    change: str
    came_of_it: str | None


# An outcome was tracked after it was replayed, but for the clocks of two machines; so only few partitions of the table are read.
_PASTS = """
SELECT p.refusal_id, p.topic, p.partition, p.source_offset AS offset, p.replayed_at, p.replayed_by AS by, p.change,
       coalesce(
           (SELECT f.fate::text FROM fidelity_tracking f
            WHERE f.source IN (SELECT s.source FROM source_positions s WHERE s.topic = p.topic AND s.partition = p.partition)
              AND f.source_offset = p.source_offset AND f.element = 0
              AND f.tracked_at BETWEEN p.replayed_at - interval '1 day' AND p.replayed_at + interval '1 day'
            ORDER BY f.tracked_at DESC LIMIT 1),
           (SELECT 'refused: ' || r.kind FROM refused_records r
            WHERE r.topic = p.topic AND r.partition = p.partition AND r.source_offset = p.source_offset
              AND r.tracked_at BETWEEN p.replayed_at - interval '1 day' AND p.replayed_at + interval '1 day'
            ORDER BY r.tracked_at DESC LIMIT 1)) AS came_of_it
FROM refused_replays p WHERE p.refusal_id = ANY($1) ORDER BY p.replayed_at"""


async def replay_history(database: Database, ids: Iterable[UUID]) -> list[PastReplay]:
    """Every replay of these, the oldest first."""
    return [PastReplay(**row) for row in await database.fetch(_PASTS, list(ids))]


async def _fetch(database: Database, statement: str, *arguments: Any) -> list[RefusedRecord]:
    return [_refused(row) for row in await database.fetch(statement, *arguments)]


def _refused(row: asyncpg.Record) -> RefusedRecord:
    source_topic, partition, incarnation = row["source"].rsplit(":", 2)
    return RefusedRecord(
        refusal_id=row["refusal_id"],
        source=SourceId(topic=source_topic, partition=int(partition), incarnation=int(incarnation)),
        offset=row["source_offset"],
        element=row["element"],
        at=row["tracked_at"],
        key=row["key"],
        value=row["value"],
        headers=unpack_headers(row["headers"]),
        kind=row["kind"],
        reason=row["reason"],
        exception=row["exception"],
        refused_at=row["refused_at"],
    )
