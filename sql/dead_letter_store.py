"""Refused records with their original bytes, and the replays that operators made of them.

Tables: ``refused_records`` and ``refused_replays``.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import NAMESPACE_URL, UUID, uuid5

import asyncpg

from schemas.events import SourceId
from schemas.redaction import ERASED, redact, texts_in
from sql.database import Connection, Database, transaction
from sql.erasure_store import ErasedEntities, erased_entities, has_erasures
from sql.parts import parts

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
    "in_incarnations",
    "list_refused",
    "mark_refused_sent",
    "pack_headers",
    "refusal_id",
    "refused_in_range",
    "replay_history",
    "unpack_headers",
    "unsent_refused_before",
    "unsent_refused_between",
]

Headers = Sequence[tuple[str, bytes | None]]
"""Pairs of a name and bytes in the order of the Kafka record; a name may occur more than once."""

_NAMESPACE = uuid5(NAMESPACE_URL, "twinstream:refused")


class UnknownRefusal(LookupError):
    """No refused record has this id."""


class AmbiguousId(LookupError):
    """Several refused records have an id with this prefix."""


class RefusedRecord(NamedTuple):
    """A record, or one element of its array, that was refused.

    Attributes:
        offset: of the record on the topic of ``source``; the last one, where the record stands for a batch that cannot be read.
        element: index in the array of the record; 0 where the record is no array.
        at: Kafka's time of the record.
        kind: short reason for grouping, such as ``json`` or ``champion``; ``reason`` is the full sentence.
        exception: name of the exception class that led to the refusal.
        refused_at: when the row was stored; null before that.
        traceback: where the exception was raised, for a record that is parked; else empty.
        first_offset: the first offset that the record stands for, null where that is its own alone.
    """

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
    traceback: str = ""
    first_offset: int | None = None

    @property
    def offsets(self) -> str:
        """The offset, or the first and the last one of a batch: ``3-9``."""
        return f"{self.offset}" if self.first_offset in (None, self.offset) else f"{self.first_offset}-{self.offset}"

    @property
    def position(self) -> str:
        """Where the record is: ``topic:partition:offset``, with both offsets of a batch."""
        return f"{self.source.topic}:{self.source.partition}:{self.offsets}"


def refusal_id(source: SourceId, offset: int, at: datetime) -> UUID:
    """Id of a record that is refused as a whole; a redelivery of the record has the same id."""
    return uuid5(_NAMESPACE, f"{source}:{offset}:{at.isoformat()}")


def pack_headers(headers: Iterable[tuple[str, bytes | None]]) -> str:
    """Encode headers as JSON, with their values in base64.

    Example:
        >>> pack_headers([("trace", b"abc"), ("trace", None)])
        '[["trace", "YWJj"], ["trace", null]]'
    """
    return json.dumps([(name, None if value is None else base64.b64encode(value).decode()) for name, value in headers])


def unpack_headers(headers: Iterable[tuple[str, str | None]]) -> Headers:
    """Decode headers that :func:`pack_headers` encoded."""
    return [(name, None if text is None else base64.b64decode(text)) for name, text in headers]


_ADD = """
INSERT INTO refused_records (refusal_id, source_offset, element, tracked_at, key, value, headers, kind, reason, exception,
                             traceback, first_offset, source, topic, partition)
SELECT refusal_id, source_offset, element, tracked_at, key, value, headers::json, kind, reason, exception, traceback,
       first_offset, $13, $14, $15
FROM unnest($1::uuid[], $2::bigint[], $3::int[], $4::timestamptz[], $5::bytea[], $6::bytea[], $7::text[], $8::text[],
            $9::text[], $10::text[], $11::text[], $12::bigint[])
     AS r (refusal_id, source_offset, element, tracked_at, key, value, headers, kind, reason, exception, traceback, first_offset)"""

_ADD_ONCE = f"{_ADD} ON CONFLICT DO NOTHING RETURNING refusal_id"


async def add_refused(database: Database, source: SourceId, refused: Sequence[RefusedRecord]) -> None:
    """Store refused records of one source; what names an erased person is redacted.

    Raises:
        asyncpg.UniqueViolationError: when any of them is stored already.
    """
    if refused:
        async with transaction(database) as connection:
            for part in parts(await _without_erased(connection, refused)):
                await connection.execute(_ADD, *_columns(part), str(source), source.topic, source.partition)


async def add_refused_once(database: Database, refused: Sequence[RefusedRecord]) -> set[UUID]:
    """Store refused records of one source, at least one, unless they are stored already; returns the ids of those that were not."""
    source = refused[0].source
    added: set[UUID] = set()
    async with transaction(database) as connection:
        for part in parts(await _without_erased(connection, refused)):
            rows = await connection.fetch(_ADD_ONCE, *_columns(part), str(source), source.topic, source.partition)
            added.update(row["refusal_id"] for row in rows)
    return added


_STORED_AT = """
SELECT source, source_offset, element, tracked_at FROM refused_records
WHERE topic = $1 AND partition = $2 AND source_offset = ANY($3::bigint[])"""


async def in_incarnations(database: Database, refused: Sequence[RefusedRecord]) -> list[RefusedRecord]:
    """Records of one partition as those of the topic's incarnation: where another one was refused at an offset, the next one.

    A topic that is created anew begins at offset 0 again. Of topics without stored positions nothing else tells its incarnation.
    """
    if not refused:
        return []
    source = refused[0].source
    rows = await database.fetch(_STORED_AT, source.topic, source.partition, [record.offset for record in refused])
    stored: dict[tuple[int, int], dict[datetime, int]] = {}
    for row in rows:
        incarnation = SourceId.parse(row["source"]).incarnation
        stored.setdefault((row["source_offset"], row["element"]), {})[row["tracked_at"]] = incarnation
    return [_in_incarnation(record, stored.get((record.offset, record.element), {})) for record in refused]


def _in_incarnation(record: RefusedRecord, stored: Mapping[datetime, int]) -> RefusedRecord:
    if not stored:
        return record
    incarnation = stored.get(record.at, max(stored.values()) + 1)
    source = record.source.model_copy(update={"incarnation": incarnation})
    return record._replace(source=source, refusal_id=refusal_id(source, record.offset, record.at))


async def _without_erased(connection: Connection, refused: Sequence[RefusedRecord]) -> Sequence[RefusedRecord]:
    if not await has_erasures(connection):
        return refused
    texts = set().union(*(_texts_of(record) for record in refused))
    erased = await erased_entities(connection, texts)
    return [_redacted(record, erased) for record in refused] if erased else refused


def _texts_of(record: RefusedRecord) -> set[str]:
    headers = (part for name, value in record.headers for part in (_encoded(name), value))
    return set().union(*map(texts_in, (record.key, record.value, _encoded(record.reason), _encoded(record.traceback), *headers)))


def _encoded(text: str) -> bytes:
    return text.encode(errors="replace")


def _redacted(record: RefusedRecord, erased: ErasedEntities) -> RefusedRecord:
    def names(text: str) -> bool:
        return any(word in erased for word in texts_in(_encoded(text)) | {text})

    key, value = redact(record.key, names), redact(record.value, names)
    headers = [(ERASED, None) if names(name) else (name, redact(header, names)) for name, header in record.headers]
    is_changed = (key, value, headers) != (record.key, record.value, list(record.headers))
    if not (is_changed or names(record.reason) or names(record.traceback)):
        return record
    return record._replace(key=key, value=value, headers=headers, reason=ERASED, traceback="")


def _columns(refused: Iterable[RefusedRecord]) -> list[list[Any]]:
    """Arrays for the first twelve parameters of ``_ADD``."""
    rows = [
        (
            record.refusal_id,
            record.offset,
            record.element,
            record.at,
            record.key,
            record.value,
            pack_headers(record.headers),
            record.kind,
            record.reason,
            record.exception,
            record.traceback,
            record.first_offset,
        )
        for record in refused
    ]
    return [list(column) for column in zip(*rows, strict=True)]


_MARK_SENT = """
UPDATE refused_records SET sent_at = $2 WHERE refusal_id = ANY($1) AND sent_at IS NULL"""


async def mark_refused_sent(database: Database, ids: Sequence[UUID]) -> None:
    """Mark refused records whose copy is on the topic ``dead-letters``."""
    for part in parts(ids):
        await database.execute(_MARK_SENT, part, datetime.now(UTC))


_SELECT = """
SELECT refusal_id, source, source_offset, element, tracked_at, key, value, headers, kind, reason, exception, refused_at,
       traceback, first_offset
FROM refused_records"""

_UNSENT_BETWEEN = f"{_SELECT} WHERE source = $1 AND source_offset BETWEEN $2 AND $3 AND sent_at IS NULL"

_UNSENT_BEFORE = f"{_SELECT} WHERE sent_at IS NULL AND refused_at < $1 ORDER BY refused_at LIMIT $2"

_IN_RANGE = f"""{_SELECT}
WHERE source = $1 AND source_offset >= $2 AND source_offset < $3
ORDER BY source_offset, element"""


async def unsent_refused_between(database: Database, source: SourceId, first: int, last: int) -> list[RefusedRecord]:
    """Refused records of the source at these offsets and between them that have no copy on ``dead-letters`` yet."""
    return await _fetch(database, _UNSENT_BETWEEN, str(source), first, last)


async def unsent_refused_before(database: Database, before: datetime, limit: int) -> list[RefusedRecord]:
    """Records refused before this time that have no copy on ``dead-letters`` yet, the oldest first."""
    return await _fetch(database, _UNSENT_BEFORE, before, limit)


async def refused_in_range(database: Database, source: str, first: int, end: int) -> list[RefusedRecord]:
    """Refused records of a source with offsets from ``first`` to before ``end``, in the order of offset and element."""
    return await _fetch(database, _IN_RANGE, source, first, end)


class RefusalQuery(NamedTuple):
    """A filter of refused records; a null does not filter. ``unreplayed`` selects the records that were never replayed.

    Attributes:
        offset: of the record, or any that a batch which cannot be read stands for.
    """

    topic: str | None = None
    kind: str | None = None
    unreplayed: bool = False
    partition: int | None = None
    offset: int | None = None


_WHERE = """
WHERE ($1::text IS NULL OR topic = $1) AND ($2::text IS NULL OR kind = $2)
  AND (NOT $3 OR NOT EXISTS (SELECT FROM refused_replays p WHERE p.refusal_id = refused_records.refusal_id))
  AND ($4::integer IS NULL OR partition = $4)
  AND ($5::bigint IS NULL OR source_offset = $5 OR source_offset > $5 AND first_offset <= $5)"""

_LIST = f"{_SELECT} {_WHERE} ORDER BY refused_at DESC, refusal_id LIMIT $6"


async def list_refused(database: Database, query: RefusalQuery, limit: int) -> list[RefusedRecord]:
    """The newest refused records that match the query, the newest first."""
    return await _fetch(database, _LIST, *query, limit)


_COUNT = f"""
SELECT topic, kind, count(*) AS count, max(refused_at) AS newest FROM refused_records {_WHERE}
GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2"""  # noqa: S608  # the condition above


async def count_refused(database: Database, query: RefusalQuery) -> list[dict[str, Any]]:
    """Number and newest time of the matching records by topic and kind, the largest number first."""
    return [dict(row) for row in await database.fetch(_COUNT, *query)]


_BY_ID = f"{_SELECT} WHERE refusal_id::text LIKE $1 || '%' LIMIT 2"


async def find_refused(database: Database, prefix: str) -> RefusedRecord:
    """The refused record whose id begins with these characters.

    Raises:
        UnknownRefusal: when there is none.
        AmbiguousId: when there are several.
    """
    digits = prefix.strip().lower()
    is_valid = digits and set(digits) <= set("0123456789abcdef-")
    matches = await _fetch(database, _BY_ID, digits) if is_valid else []
    if not matches:
        raise UnknownRefusal(f"no refused record has an id that begins with {prefix!r}: twinstream dlq list shows the ids")
    if len(matches) > 1:
        raise AmbiguousId(f"several refused records have ids that begin with {prefix!r}: give more characters")
    return matches[0]


class NewReplay(NamedTuple):
    """A replay to store: where the refused record was published again, by whom, and with which correction."""

    refusal_id: UUID
    topic: str
    partition: int
    offset: int
    by: str
    change: str


_ADD_REPLAY = """
INSERT INTO refused_replays (refusal_id, topic, partition, source_offset, replayed_by, change)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING"""


async def add_replays(database: Database, replays: Iterable[NewReplay]) -> None:
    """Store replays; those that are stored already are left as they are."""
    await database.executemany(_ADD_REPLAY, replays)


class PastReplay(NamedTuple):
    """A stored replay of a refused record.

    Attributes:
        result: the fate of the outcome, or ``refused: KIND``; null while neither is stored.
    """

    refusal_id: UUID
    topic: str
    partition: int
    offset: int
    replayed_at: datetime
    by: str
    change: str
    result: str | None


# The interval of a day around the replay limits how many partitions of the tables are read. An outcome is tracked after its replay;
# the interval also covers the difference between the clocks of two machines.
_REPLAY_HISTORY = """
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
            ORDER BY r.tracked_at DESC LIMIT 1)) AS result
FROM refused_replays p WHERE p.refusal_id = ANY($1) ORDER BY p.replayed_at"""


async def replay_history(database: Database, ids: Iterable[UUID]) -> list[PastReplay]:
    """Every replay of these refused records, the oldest first."""
    return [PastReplay(**row) for row in await database.fetch(_REPLAY_HISTORY, list(ids))]


async def _fetch(database: Database, statement: str, *arguments: Any) -> list[RefusedRecord]:
    return [_refused(row) for row in await database.fetch(statement, *arguments)]


def _refused(row: asyncpg.Record) -> RefusedRecord:
    return RefusedRecord(
        refusal_id=row["refusal_id"],
        source=SourceId.parse(row["source"]),
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
        traceback=row["traceback"],
        first_offset=row["first_offset"],
    )
