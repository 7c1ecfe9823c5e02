"""Lists refused records page by page, without their bytes."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sql.database import Database

__all__ = ["ListedRefusal", "list_refusals"]

_LIST = """
SELECT r.refusal_id, r.topic, r.partition, r.source_offset AS "offset", r.element, r.kind, r.reason, r.refused_at,
       (SELECT count(*) FROM refused_replays p WHERE p.refusal_id = r.refusal_id) AS replays
FROM refused_records r
WHERE ($1::text IS NULL OR r.topic = $1) AND ($2::text IS NULL OR r.kind = $2)
  AND (NOT $3 OR NOT EXISTS (SELECT FROM refused_replays p WHERE p.refusal_id = r.refusal_id))
  AND ($4::timestamptz IS NULL OR r.refused_at < $4 OR r.refused_at = $4 AND r.refusal_id > $5::uuid)
ORDER BY r.refused_at DESC, r.refusal_id LIMIT $6"""


class ListedRefusal(NamedTuple):
    """A refused record, or an element of its array, in a list; ``replays`` is how often it was published again."""

    refusal_id: UUID
    topic: str
    partition: int
    offset: int
    element: int
    kind: str
    reason: str
    refused_at: datetime
    replays: int


async def list_refusals(
    database: Database,
    limit: int,
    *,
    topic: str | None,
    kind: str | None,
    unreplayed: bool,
    after: tuple[datetime, UUID] | None,
) -> list[ListedRefusal]:
    """Refused records, newest first; those that follow the one with a time and an id. ``unreplayed`` are never published again."""
    rows = await database.fetch(_LIST, topic, kind, unreplayed, *(after or (None, None)), limit)
    return [ListedRefusal(**row) for row in rows]
