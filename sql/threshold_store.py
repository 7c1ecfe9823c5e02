"""Stores the thresholds of model lines, each change as a version."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

import asyncpg

from schemas.catalogue_in_effect import catalogue_in_effect
from schemas.thresholds import LineThresholds
from sql.database import Database, transaction
from sql.ledger_rows import lock_line

__all__ = [
    "LATEST_THRESHOLDS",
    "ThresholdChange",
    "change_thresholds",
    "line_thresholds",
    "threshold_changes",
    "thresholds_from",
]

LATEST_THRESHOLDS = "(SELECT to_jsonb(t) FROM line_thresholds t WHERE t.line = {line} ORDER BY t.version DESC LIMIT 1)"
"""SQL of the present thresholds of a line, null where nobody has changed them: for :func:`thresholds_from`."""

_CHANGES = """
SELECT version, min_effect_threshold, confidence_threshold, require_test, drift_limits, changed_at, changed_by, reason
FROM line_thresholds WHERE line = $1 ORDER BY version DESC"""

_CHANGE = """
INSERT INTO line_thresholds (line, version, min_effect_threshold, confidence_threshold, require_test, drift_limits, changed_by,
                             reason)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"""


_STORED = ("version", "min_effect_threshold", "confidence_threshold", "require_test", "drift_limits")


class ThresholdChange(NamedTuple):
    """A version of a line's thresholds: when and by whom it was stored, and why; no time for those of the catalogue."""

    thresholds: LineThresholds
    changed_at: datetime | None
    changed_by: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """The version as JSON values."""
        changed_at = self.changed_at.isoformat() if self.changed_at else None
        return self.thresholds.model_dump() | {"changed_at": changed_at, "changed_by": self.changed_by, "reason": self.reason}


async def line_thresholds(database: Database, line: str) -> LineThresholds:
    """The present thresholds of a line."""
    row = await database.fetchrow(f"{_CHANGES} LIMIT 1", line)
    return thresholds_from(row, line)


async def threshold_changes(database: Database, line: str) -> list[ThresholdChange]:
    """All versions of the thresholds of a line, newest first."""
    return [
        ThresholdChange(thresholds_from(row, line), row["changed_at"], row["changed_by"], row["reason"])
        for row in await database.fetch(_CHANGES, line)
    ]


async def change_thresholds(
    database: Database, line: str, changes: Mapping[str, Any], *, changed_by: str, reason: str = ""
) -> LineThresholds:
    """Store a new version with some thresholds changed, unless it equals the present one; returns the thresholds of the line.

    ``drift_limits`` among the changes are laid over those that the line has; one that is None is that of the catalogue again.

    Raises:
        UnknownLine: when there is no such line.
        ValueError: for a threshold out of its range, or an unknown drift rule.
    """
    async with transaction(database) as connection:
        await lock_line(connection, line)
        present = await line_thresholds(connection, line)
        limits = {**present.drift_limits, **changes.get("drift_limits", {})}
        limits = {name: limit for name, limit in limits.items() if limit is not None}
        changed = LineThresholds.model_validate(
            {**present.model_dump(), **changes, "drift_limits": limits, "catalogue_limits": present.catalogue_limits}
        )
        if changed == present:
            return present
        changed = changed.model_copy(update={"version": present.version + 1})
        values = (changed.min_effect_threshold, changed.confidence_threshold, changed.require_test, changed.drift_limits)
        await connection.execute(_CHANGE, line, changed.version, *values, changed_by, reason)
        return changed


def thresholds_from(row: Mapping[str, Any] | asyncpg.Record | None, line: str | None) -> LineThresholds:
    """The thresholds in a row with the columns of ``line_thresholds``; those of the catalogue in effect without a row."""
    standard: LineThresholds = catalogue_in_effect().thresholds_of(line)
    return standard if row is None else standard.model_copy(update={name: row[name] for name in _STORED})
