"""Erases persons: from the tables, and from what arrives of them later.

Tables: ``erasures`` holds a salted hash of each erased id. Whoever stores what can name a person asks :func:`erased_entities` in
the transaction that stores it. That takes a lock with which nothing conflicts, and which marks the transaction: after an id was
entered by :func:`begin_erasure`, :func:`storing_transactions` lists those that may not have found it. No erasure holds a lock that
they need.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from schemas.redaction import texts_in
from sql.database import Connection, Database, transaction
from sql.parts import parts

__all__ = [
    "OWN_ROWS",
    "EntityUse",
    "ErasedEntities",
    "Erasure",
    "NamesErased",
    "RefusedText",
    "StoringTransaction",
    "begin_erasure",
    "count_own_rows",
    "entity_use",
    "erase_own_rows",
    "erased_entities",
    "find_erased_names",
    "find_erasure",
    "has_erasures",
    "names_erased",
    "record_erasure",
    "redact_refused",
    "refused_texts",
    "require_not_erased",
    "running_trainings",
    "storing_transactions",
]


class NamesErased(ValueError):
    """A request, an experiment or a population names a person who was erased."""

    def __init__(self, what: str, fields: Sequence[str]) -> None:
        super().__init__(f"the {what} names a person who was erased, in {', '.join(fields)}: leave the id out")


class ErasedEntities:
    """Ids that were erased, each for all twin types or for one."""

    def __init__(self, rows: Iterable[tuple[str, str]]) -> None:
        self._types: dict[str, set[str]] = {}
        for entity, twin_type in rows:
            self._types.setdefault(entity, set()).add(twin_type)

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._types)

    def __contains__(self, entity: str) -> bool:
        """Whether an id was erased, for whatever twin type."""
        return entity in self._types

    def is_erased(self, entity: str, line: str) -> bool:
        """Whether an id was erased for the twin type of a line."""
        return not self._types.get(entity, set()).isdisjoint({"", line.partition(":")[0]})


_ERASED = "SELECT entity, twin_type FROM erased_entities($1)"


async def erased_entities(connection: Connection, entities: Collection[str]) -> ErasedEntities:
    """Those of these ids that were erased; valid until the transaction ends."""
    texts = [entity for entity in entities if _is_storable(entity)]
    return ErasedEntities([tuple(row) for part in parts(texts) for row in await connection.fetch(_ERASED, part)])


def _is_storable(text: str) -> bool:
    """Whether Postgres can store a text: it has no NUL and no half of a surrogate pair."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


async def has_erasures(connection: Connection) -> bool:
    """Whether any person was erased; valid until the transaction ends."""
    return bool(await connection.fetchval("SELECT has_erasures()"))


async def require_not_erased(connection: Connection, what: str, document: Mapping[str, Any], line: str) -> None:
    """Check that no field of a JSON document about a line names a person who was erased; valid until the transaction ends.

    Raises:
        NamesErased: when one does; it names the fields.
    """
    (error,) = await find_erased_names(connection, what, [(document, line)])
    if error is not None:
        raise error


async def find_erased_names(
    connection: Connection, what: str, documents: Sequence[tuple[Mapping[str, Any], str]]
) -> list[NamesErased | None]:
    """For each JSON document and its line the error that :func:`require_not_erased` raises, None where it raises none."""
    if not await has_erasures(connection):
        return [None] * len(documents)
    texts = [
        {field: texts_in(json.dumps({field: value}).encode()) - {field} for field, value in document.items()}
        for document, _ in documents
    ]
    erased = await erased_entities(connection, set().union(*(named for fields in texts for named in fields.values())))
    if not erased:
        return [None] * len(documents)
    named_in = [
        [field for field, named in fields.items() if any(erased.is_erased(text, line) for text in named)]
        for fields, (_, line) in zip(texts, documents, strict=True)
    ]
    return [NamesErased(what, fields) if fields else None for fields in named_in]


async def names_erased(database: Database, values: Sequence[bytes | None]) -> list[bool]:
    """Whether each value of a record names a person who was erased, for whatever twin type."""
    texts = [texts_in(value) for value in values]
    async with transaction(database) as connection:
        erased = await erased_entities(connection, set().union(*texts)) if await has_erasures(connection) else None
    return [erased is not None and any(text in erased for text in named) for named in texts]


@dataclass(frozen=True)
class Erasure:
    """A stored erasure; ``finished_at`` is None while it was not done to its end."""

    requested_at: datetime
    requested_by: str
    finished_at: datetime | None
    report: Mapping[str, Any]


_FIND = """
SELECT requested_at, requested_by, finished_at, report FROM erasures WHERE entity_hash = erasure_hash($1) AND twin_type = $2"""


async def find_erasure(database: Database, entity: str, twin_type: str) -> Erasure | None:
    """The erasure of an id, None when there was none; ``twin_type`` is empty for all types."""
    row = await database.fetchrow(_FIND, entity, twin_type)
    return Erasure(**row) if row is not None else None


async def begin_erasure(database: Database, entity: str, twin_type: str, requested_by: str) -> None:
    """Enter an id: whoever asks :func:`erased_entities` after this statement finds it."""
    await database.execute("SELECT begin_erasure($1, $2, $3)", entity, twin_type, requested_by)


async def record_erasure(
    connection: Connection, entity: str, twin_type: str, report: Mapping[str, Any], *, is_finished: bool
) -> None:
    """Record what an erasure has done so far, in a report that must not name the person."""
    await connection.execute("SELECT record_erasure($1, $2, $3, $4)", entity, twin_type, dict(report), is_finished)


class StoringTransaction(NamedTuple):
    """A transaction that has asked for erased ids and stores what it did not find among them.

    Attributes:
        key: tells it apart from later transactions of the same connection.
        user: of the database.
        since: when it began; None where this is not visible to the asking user.
    """

    key: str
    pid: int
    user: str
    since: datetime | None


_STORING = """
SELECT l.virtualtransaction AS key, l.pid, coalesce(a.usename::text, '') AS "user", a.xact_start AS since
FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'relation' AND l.relation = 'erasures'::regclass AND l.mode = 'RowShareLock' AND l.pid <> pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
ORDER BY since"""


async def storing_transactions(database: Database) -> list[StoringTransaction]:
    """The open transactions that have asked :func:`erased_entities` or :func:`has_erasures`, the oldest first."""
    return [StoringTransaction(**row) for row in await database.fetch(_STORING)]


# The rows of a table that are about the person, with $1 the id and $2 the twin type or ''.
OWN_ROWS: Mapping[str, str] = {
    "fidelity_tracking": "entity_id = $1 AND ($2 = '' OR split_part(line, ':', 1) = $2)",
    "entity_history": "entity_id = $1 AND ($2 = '' OR split_part(line, ':', 1) = $2)",
    "digital_twins": "($2 = '' OR twin_type::text = $2) AND (json_names(metadata, $1) OR features_name(features, $1))",
}
"""Conditions of the rows that are about the person, by table; the function ``erase_own_rows`` has the same ones."""


async def erase_own_rows(connection: Connection, entity: str, twin_type: str, table: str) -> int:
    """Redact or delete the rows of a table of ``OWN_ROWS`` that are about the person; returns their number."""
    return int(await connection.fetchval("SELECT erase_own_rows($1, $2, $3)", entity, twin_type, table))


async def count_own_rows(connection: Connection, entity: str, twin_type: str, table: str) -> int:
    """Number of rows that :func:`erase_own_rows` would change."""
    statement = f"SELECT count(*) FROM {table} WHERE {OWN_ROWS[table]}"  # noqa: S608  # our own names
    return int(await connection.fetchval(statement, entity, twin_type))


class EntityUse(NamedTuple):
    """A model whose line had training rows of the person when it was trained."""

    model_id: UUID
    line: str
    trained_at: datetime
    is_champion: bool


_LINES_WITH_ROWS = """
WITH rows AS (
    SELECT line, min(observed_at) AS since FROM (
        SELECT line, observed_at FROM entity_history WHERE entity_id = $1
        UNION ALL
        SELECT line, observed_at FROM fidelity_tracking WHERE entity_id = $1 AND features IS NOT NULL) r
    WHERE $2 = '' OR split_part(line, ':', 1) = $2
    GROUP BY line)"""
_USE = f"""{_LINES_WITH_ROWS}
SELECT m.model_id, m.line, m.trained_at, l.champion IS NOT DISTINCT FROM m.model_id AS is_champion
FROM rows r JOIN digital_twin_models m ON m.line = r.line AND m.trained_at >= r.since LEFT JOIN model_lines l ON l.line = m.line
ORDER BY m.line, m.trained_at"""  # noqa: S608  # our own constant
_RUNNING = f"""{_LINES_WITH_ROWS}
SELECT q.retrain_id FROM rows JOIN retrain_requests q USING (line) WHERE q.status = 'running' ORDER BY 1"""  # noqa: S608  # our own constant


async def running_trainings(connection: Connection, entity: str, twin_type: str) -> list[UUID]:
    """Retrains that are running now, and may have read rows of the person already."""
    return [row[0] for row in await connection.fetch(_RUNNING, entity, twin_type)]


async def entity_use(connection: Connection, entity: str, twin_type: str) -> list[EntityUse]:
    """Models that were trained when rows of the person were there to learn from."""
    return [EntityUse(**row) for row in await connection.fetch(_USE, entity, twin_type)]


class RefusedText(NamedTuple):
    """What of a refused record can name a person; headers are pairs of a name and base64."""

    refusal_id: UUID
    topic: str
    tracked_at: datetime
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, str | None]]
    reason: str
    traceback: str


_REFUSED_TEXTS = "SELECT refusal_id, topic, tracked_at, key, value, headers, reason, traceback FROM refused_records"


async def refused_texts(connection: Connection) -> AsyncIterator[RefusedText]:
    """All refused records; the connection must be in a transaction."""
    async for row in connection.cursor(_REFUSED_TEXTS, prefetch=500):
        yield RefusedText(**row)


async def redact_refused(
    connection: Connection, refusal_id: UUID, value: bytes | None, erased_headers: Sequence[int], *, erase_key: bool
) -> None:
    """Redact a refused record: its reason, its key if ``erase_key``, these headers, and its value to ``value``.

    Raises:
        asyncpg.CheckViolationError: when ``value`` is no redaction of the stored one.
    """
    arguments: tuple[Any, ...] = (refusal_id, erase_key, value, list(erased_headers))
    try:
        async with connection.transaction():
            await connection.execute("SELECT redact_refused_record($1, $2, $3, $4)", *arguments)
    except (asyncpg.DataError, asyncpg.CheckViolationError):
        # Postgres cannot read every JSON that Python reads, such as one with NUL: then nothing of the value stays.
        await connection.execute(
            "SELECT redact_refused_record($1, $2, $3, $4)", refusal_id, erase_key, b'"[erased]"', list(erased_headers)
        )
