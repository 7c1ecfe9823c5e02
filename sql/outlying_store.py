"""Reads outcomes that are missing or whose errors are outliers, each by the newest revision of its event."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from schemas.events import SUM_FIELDS
from sql.database import Database

__all__ = ["Outlier", "count_missing", "largest_outliers"]


class Outlier(NamedTuple):
    """An outcome whose error is beyond three standard deviations of the model's errors on held-out rows."""

    event_id: UUID
    observed_at: datetime
    predicted: float
    actual: float

    @property
    def error(self) -> float:
        """Absolute error, in units of the target."""
        return abs(self.predicted - self.actual)


_MISSING = """
SELECT count(*) FROM fidelity_tracking f JOIN event_heads h USING (event_id, revision, digest)
WHERE f.line = $1 AND f.model_id = $2 AND f.actual_value IS NULL AND f.fate IN ('missing', 'counted')
  AND f.observed_at >= to_timestamp($3) AND f.observed_at < to_timestamp($4)"""

_OUTLIERS = f"""
SELECT h.event_id, f.observed_at, f.predicted_value, f.actual_value
FROM event_heads h JOIN fidelity_tracking f USING (event_id, revision, digest)
WHERE h.line = $1 AND h.model_id = $2 AND h.pane >= $3 AND h.pane < $4
  AND h.contribution[{SUM_FIELDS.index("n_outliers") + 1}] = 1 AND f.fate = 'counted'
ORDER BY abs(f.predicted_value - f.actual_value) DESC, h.event_id LIMIT $5"""  # noqa: S608  # a number of our own


async def count_missing(database: Database, line: str, model_id: UUID, start: float, end: float) -> int:
    """Events of a model between two times, in seconds since the epoch, that have no actual value."""
    return int(await database.fetchval(_MISSING, line, model_id, start, end))


async def largest_outliers(database: Database, line: str, model_id: UUID, start: float, end: float, limit: int) -> list[Outlier]:
    """Outliers of a model between two times, in seconds since the epoch, those with the largest errors first."""
    return [Outlier(*row) for row in await database.fetch(_OUTLIERS, line, model_id, start, end, limit)]
