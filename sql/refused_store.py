"""Records that were refused one by one, outside of the slices of outcomes: kept as they came."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import NAMESPACE_URL, UUID, uuid5

from schemas.events import SourceId
from sql.database import Database

__all__ = ["Refused", "keep_refused", "mark_refused_sent"]

_NAMESPACE = uuid5(NAMESPACE_URL, "twinstream:refused")

_KEEP = """
INSERT INTO refused_records (refusal_id, source, topic, partition, source_offset, element, tracked_at, key, value, headers, kind,
                             reason)
VALUES ($1, $2, $3, $4, $5, 0, $6, $7, $8, $9, $10, $11)
ON CONFLICT DO NOTHING"""

_SENT = "UPDATE refused_records SET sent_at = $2 WHERE refusal_id = $1 AND sent_at IS NULL"


class Refused(NamedTuple):
    """A record and why it was not taken; ``headers`` are pairs of a name and base64 of the bytes."""

    source: SourceId
    offset: int
    at: datetime
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, str]]
    kind: str
    reason: str

    @property
    def refusal_id(self) -> UUID:
        """The same record refused again has the same id."""
        return uuid5(_NAMESPACE, f"{self.source}:{self.offset}:{self.at.isoformat()}")


async def keep_refused(database: Database, refused: Refused) -> None:
    """Store a refused record; the same one again is stored once."""
    source = refused.source
    await database.execute(
        _KEEP,
        refused.refusal_id,
        str(source),
        source.topic,
        source.partition,
        refused.offset,
        refused.at,
        refused.key,
        refused.value,
        [list(pair) for pair in refused.headers],
        refused.kind,
        refused.reason,
    )


async def mark_refused_sent(database: Database, refusal_id: UUID) -> None:
    """Note that its copy is on the topic of dead letters."""
    await database.execute(_SENT, refusal_id, datetime.now(UTC))
