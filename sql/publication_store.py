"""Publications of files: the events that each one states, what is known of these events, and what became of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sql.database import Connection, Database

__all__ = [
    "KnownRevision",
    "Publication",
    "StatedEvent",
    "add_events",
    "begin_publication",
    "find_publication",
    "finish_publication",
    "highest_watermark",
    "known_revisions",
    "line_floors",
    "lock_planning",
    "publications",
    "stated_ranges",
    "tally",
]


class Publication(NamedTuple):
    """A publication of a file.

    Attributes:
        rows: of the file; ``repeated`` of them repeat another one.
        stated: number of its events that were stated so far.
        tried_at: when the last attempt began; ``sent_at`` when an attempt had sent everything.
    """

    publication_id: UUID
    name: str
    published_by: str
    rows: int
    repeated: int
    begun_at: datetime
    tried_at: datetime
    sent_at: datetime | None
    stated: int


class KnownRevision(NamedTuple):
    """A revision of an event that was stored, or stated by a publication, which has ``observed_at`` only where it was filled in.

    A stored one has its features, where it has any, and the series in which it is counted.
    """

    line: str
    revision: int
    digest: bytes
    observed_at: datetime | None
    is_stored: bool
    features: Mapping[str, Any] | None = None
    segments: Sequence[str] = ()


class StatedEvent(NamedTuple):
    """An event of a publication, as a row of ``published_events``."""

    event_id: UUID
    revision: int
    digest: bytes
    line: str
    observed_at: datetime | None
    origin: str


_BEGIN = """
INSERT INTO publications AS p (publication_id, name, published_by, rows, repeated) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (publication_id) DO UPDATE
SET name = excluded.name, rows = excluded.rows, repeated = excluded.repeated, tried_at = clock_timestamp(), sent_at = NULL
RETURNING begun_at"""


async def begin_publication(database: Database, publication_id: UUID, name: str, by: str, rows: int, repeated: int) -> datetime:
    """Store that a publication is tried, and return when it was tried first."""
    begun_at: datetime = await database.fetchval(_BEGIN, publication_id, name, by, rows, repeated)
    return begun_at


async def finish_publication(database: Database, publication_id: UUID) -> None:
    """Store that everything of a publication was sent."""
    await database.execute("UPDATE publications SET sent_at = clock_timestamp() WHERE publication_id = $1", publication_id)


_PUBLICATIONS = """
SELECT p.*, (SELECT count(*) FROM published_events e WHERE e.publication_id = p.publication_id) AS stated FROM publications p"""


async def find_publication(database: Database, publication_id: UUID) -> Publication | None:
    """A publication, None when there is none with this id."""
    row = await database.fetchrow(f"{_PUBLICATIONS} WHERE publication_id = $1", publication_id)
    return Publication(**row) if row else None


async def publications(database: Database, limit: int) -> list[Publication]:
    """The latest publications, the newest first."""
    return [Publication(**row) for row in await database.fetch(f"{_PUBLICATIONS} ORDER BY begun_at DESC LIMIT $1", limit)]


async def lock_planning(connection: Connection) -> None:
    """Let no other publication state events before this transaction ends: two that correct one event get different revisions."""
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('twinstream:publications', 0))")


_KNOWN = """
SELECT event_id, line, revision, digest, observed_at, true AS is_stored, features, segments FROM fidelity_tracking
WHERE event_id = ANY($1)
UNION ALL
SELECT event_id, line, revision, digest, observed_at, false, NULL, '{}' FROM published_events WHERE event_id = ANY($1)"""


async def known_revisions(database: Database, events: Sequence[UUID]) -> dict[UUID, list[KnownRevision]]:
    """The revisions of each of these events that are stored or stated; unknown events are absent."""
    revisions: defaultdict[UUID, list[KnownRevision]] = defaultdict(list)
    for event_id, *values in await database.fetch(_KNOWN, events):
        revisions[event_id].append(KnownRevision(*values))
    return dict(revisions)


_ADD_EVENTS = """
INSERT INTO published_events (publication_id, event_id, revision, digest, line, observed_at, origin)
SELECT $1, * FROM unnest($2::uuid[], $3::integer[], $4::bytea[], $5::text[], $6::timestamptz[], $7::text[])
ON CONFLICT DO NOTHING"""


async def add_events(connection: Connection, publication_id: UUID, events: Sequence[StatedEvent]) -> None:
    """State events of a publication; what an earlier attempt has stated stays as it is."""
    if events:
        await connection.execute(_ADD_EVENTS, publication_id, *map(list, zip(*events, strict=True)))


_LINE_FLOORS = """
SELECT line, pane_s, extract(epoch FROM floor)::float8 FROM model_lines WHERE line = ANY($1)"""

_HIGHEST_WATERMARK = """
SELECT partition, extract(epoch FROM watermark)::float8 FROM (
    SELECT DISTINCT ON (partition) partition, watermark FROM source_positions
    WHERE topic = $1 ORDER BY partition, incarnation DESC
) AS newest WHERE watermark IS NOT NULL ORDER BY watermark DESC, partition LIMIT 1"""


async def line_floors(database: Database, lines: Iterable[str]) -> list[tuple[str, float, float | None]]:
    """Pane length and floor of each line, in seconds and seconds since the epoch."""
    return [tuple(row) for row in await database.fetch(_LINE_FLOORS, sorted(set(lines)))]


async def highest_watermark(database: Database, topic: str) -> tuple[int, float] | None:
    """The partition of a topic with the highest watermark, and this in seconds since the epoch; None before the first outcome."""
    row = await database.fetchrow(_HIGHEST_WATERMARK, topic)
    return tuple(row) if row else None


_RANGES = """
SELECT event_id FROM (
    SELECT event_id, row_number() OVER (ORDER BY event_id) AS number FROM published_events WHERE publication_id = $1
) AS numbered WHERE number % $2 = 1 ORDER BY event_id"""


async def stated_ranges(database: Database, publication_id: UUID, size: int = 5000) -> list[tuple[UUID, UUID]]:
    """Ranges of event ids, first and last inclusive, with about ``size`` events of a publication each."""
    firsts = [row[0] for row in await database.fetch(_RANGES, publication_id, size)]
    lasts = [*(UUID(int=first.int - 1) for first in firsts[1:]), UUID(int=2**128 - 1)]
    return list(zip(firsts, lasts, strict=True)) if firsts else []


# The fate of an event: that of its stored outcome with the same content, as a resent one is only its duplicate. A refusal counts
# when it is of the last attempt, which sends again what is not stored.
_TALLY = """
SELECT e.origin, count(*) AS n,
       coalesce(CASE WHEN a.event_id IS NOT NULL AND e.origin <> 'correction' THEN 'counted' END, t.fate, r.fate, '') AS fate
FROM published_events e
JOIN publications p USING (publication_id)
LEFT JOIN (
    SELECT event_id, revision, digest,
           CASE WHEN bool_or(fate = 'missing') THEN 'missing' WHEN bool_or(fate IN ('counted', 'duplicate')) THEN 'counted'
                WHEN bool_or(fate = 'superseded') THEN 'superseded' ELSE 'too_late' END AS fate
    FROM fidelity_tracking
    WHERE event_id = ANY(ARRAY(SELECT event_id FROM published_events WHERE publication_id = $1 AND event_id BETWEEN $2 AND $3))
    GROUP BY 1, 2, 3
) t ON (t.event_id, t.revision, t.digest) = (e.event_id, e.revision, e.digest)
LEFT JOIN aged_events a ON a.event_id = e.event_id
LEFT JOIN LATERAL (
    SELECT 'refused: ' || min(r.kind) AS fate FROM refused_records r
    WHERE t.fate IS NULL AND r.key = convert_to(e.event_id::text, 'UTF8') AND octet_length(r.key) = 36 AND r.topic = $4
      AND r.refused_at >= p.tried_at
) r ON true
WHERE e.publication_id = $1 AND e.event_id BETWEEN $2 AND $3
GROUP BY 1, 3"""


async def tally(database: Database, publication_id: UUID, events: tuple[UUID, UUID], topic: str) -> Counter[tuple[str, str]]:
    """Number of events of a publication in a range of ids, by origin and fate; the fate is empty while an event is on its way."""
    rows = await database.fetch(_TALLY, publication_id, *events, topic)
    return Counter({(row["origin"], row["fate"]): row["n"] for row in rows})
