"""Erases persons: from the tables, and from what arrives of them later.

Tables: ``erasures`` holds a salted hash of each erased id. Whoever stores a record that can name a person asks
:func:`erased_entities` in the transaction that stores it: :func:`begin_erasure` waits for all transactions that have asked before.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from sql.database import Connection, Database

__all__ = [
    "EntityUse",
    "ErasedEntities",
    "Erasure",
    "RefusedText",
    "begin_erasure",
    "count_rows",
    "entity_use",
    "erase_entity",
    "erased_entities",
    "find_erasure",
    "finish_erasure",
    "has_erasures",
    "redact_refused",
    "refused_texts",
    "running_trainings",
]


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
    return ErasedEntities(map(tuple, await connection.fetch(_ERASED, texts)) if texts else ())


def _is_storable(text: str) -> bool:
    """Whether Postgres can store a text: it has no NUL and no half of a surrogate pair."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


async def has_erasures(connection: Connection) -> bool:
    """Whether any person was erased; valid until the transaction ends."""
    return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM erasures)"))


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
    """From the end of this statement on, no record is stored with the id.

    Raises:
        asyncpg.LockNotAvailableError: when transactions that store records do not end.
    """
    await database.execute("SELECT begin_erasure($1, $2, $3)", entity, twin_type, requested_by)


async def finish_erasure(connection: Connection, entity: str, twin_type: str, report: Mapping[str, Any]) -> None:
    """Record that an erasure is done, with its report, which must not name the person."""
    await connection.execute("SELECT finish_erasure($1, $2, $3)", entity, twin_type, dict(report))


async def erase_entity(connection: Connection, entity: str, twin_type: str) -> dict[str, int]:
    """Redact every row that names the person, but refused records; returns the number of rows by table."""
    counts: dict[str, int] = await connection.fetchval("SELECT erase_entity($1, $2)", entity, twin_type)
    return counts | {"notes": int(await connection.fetchval("SELECT erase_notes($1)", entity))}


# What erase_entity would change, table by table.
_COUNTS = {
    "fidelity_tracking": "fidelity_tracking WHERE entity_id = $1 AND ($2 = '' OR split_part(line, ':', 1) = $2)",
    "entity_history": "entity_history WHERE entity_id = $1 AND ($2 = '' OR split_part(line, ':', 1) = $2)",
    "digital_twins": """digital_twins
        WHERE ($2 = '' OR twin_type::text = $2) AND (json_names(metadata, $1) OR features_name(features, $1))""",
    "simulation_runs": """simulation_runs
        WHERE ($2 = '' OR line IS NULL OR split_part(line, ':', 1) = $2)
          AND (json_names(request, $1) OR json_names(filters, $1) OR json_names(results, $1)
               OR json_names(intervention_config, $1))""",
    "twin_populations": """twin_populations JOIN digital_twin_models m USING (model_id)
        WHERE ($2 = '' OR m.twin_type::text = $2) AND (json_names(filters_applied, $1) OR name = $1 OR description = $1)""",
    "experiments": "experiments WHERE json_names(body, $1) AND ($2 = '' OR split_part(line, ':', 1) = $2)",
    "retrain_requests": """retrain_requests
        WHERE (json_names(evidence, $1) OR json_names(learned, $1)) AND ($2 = '' OR split_part(line, ':', 1) = $2)""",
}


async def count_rows(connection: Connection, entity: str, twin_type: str) -> dict[str, int]:
    """Number of rows by table that :func:`erase_entity` would change."""
    return {
        table: int(await connection.fetchval(f"SELECT count(*) FROM {condition}", entity, twin_type))  # noqa: S608  # our own names
        for table, condition in _COUNTS.items()
    }


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
