"""The fidelity of outcomes that came too late to be counted, by their own time: computed from the outcomes when it is asked for.

Nothing of it is stored, so that no detector, alarm or retrain sees it, and it cannot differ from the outcomes.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from sql.database import Database

__all__ = ["HistoryWindow", "history_windows"]


class HistoryWindow(NamedTuple):
    """Fidelity of the late outcomes of one line in one period, which begins at ``start`` in UTC.

    Attributes:
        n: outcomes with a value and a prediction; those of treated entities with features are left out, as in windows.
        correlation: null where it is undefined.
        coverage: share of ``n_interval`` outcomes inside their prediction interval, null without any.
    """

    line: str
    start: datetime
    n: int
    mae: float
    rmse: float
    correlation: float | None
    n_interval: int
    coverage: float | None


# Each event by its highest revision; one that is counted somewhere is no history.
_HISTORY = """
SELECT line, date_trunc($1, observed_at, 'UTC') AS start, count(*) AS n, avg(error) AS mae,
       sqrt(avg(error * error)) AS rmse, corr(predicted_value, actual_value) AS correlation,
       count(predicted_lower) AS n_interval,
       avg((actual_value BETWEEN predicted_lower AND predicted_upper)::integer)::float8 AS coverage
FROM (
    SELECT DISTINCT ON (event_id) * FROM fidelity_tracking
    WHERE fate = 'too_late' AND ($2::text IS NULL OR line = $2)
    ORDER BY event_id, revision DESC, digest DESC
) AS late
WHERE error IS NOT NULL AND NOT (features IS NOT NULL AND treated IS TRUE)
  AND NOT EXISTS (SELECT FROM event_heads h WHERE h.event_id = late.event_id)
GROUP BY 1, 2 ORDER BY 1, 2"""


async def history_windows(database: Database, period: str, line: str | None = None) -> list[HistoryWindow]:
    """Fidelity of the late outcomes of a line, or of all lines, by period (day, week or month), oldest first."""
    return [HistoryWindow(**row) for row in await database.fetch(_HISTORY, period, line)]
