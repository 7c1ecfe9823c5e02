"""Stores which version of each window without a snapshot was published, so that a worker that takes a line over repeats none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sql.database import Database
from sql.window_store import SnapshotKey

__all__ = ["published_versions", "remove_published", "remove_published_below", "save_published"]


async def published_versions(database: Database, line: str) -> dict[SnapshotKey, int]:
    """Return the published versions of the windows of a line without a snapshot."""
    rows = await database.fetch("SELECT model_id, segment, start, version FROM published_windows WHERE line = $1", line)
    return {SnapshotKey(row["model_id"], row["segment"], row["start"]): row["version"] for row in rows}


_SAVE = """
INSERT INTO published_windows AS p (line, model_id, segment, start, version)
SELECT $1, * FROM unnest($2::uuid[], $3::text[], $4::float8[], $5::bigint[])
ON CONFLICT (line, model_id, segment, start) DO UPDATE SET version = excluded.version WHERE p.version < excluded.version"""


async def save_published(database: Database, line: str, versions: Mapping[SnapshotKey, int]) -> None:
    """Store that these windows are on their topic in these versions; a lower version never replaces a higher one."""
    if versions:
        await database.execute(_SAVE, line, *_columns(versions), list(versions.values()))


_REMOVE = """
DELETE FROM published_windows p USING unnest($2::uuid[], $3::text[], $4::float8[]) AS w (model_id, segment, start)
WHERE p.line = $1 AND p.model_id = w.model_id AND p.segment = w.segment AND p.start = w.start"""


async def remove_published(database: Database, line: str, windows: Iterable[SnapshotKey]) -> None:
    """Remove windows that have a snapshot now."""
    if keys := list(windows):
        await database.execute(_REMOVE, line, *_columns(keys))


async def remove_published_below(database: Database, line: str, floor: float) -> None:
    """Remove the windows that start below the floor of a line, where all have snapshots."""
    await database.execute("DELETE FROM published_windows WHERE line = $1 AND start < $2", line, floor)


def _columns(windows: Iterable[SnapshotKey]) -> tuple[list[object], ...]:
    return tuple(list(column) for column in zip(*windows, strict=True))
