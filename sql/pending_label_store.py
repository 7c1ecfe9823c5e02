"""Reads predictions whose outcome is pending, and stores estimates of a model's performance before outcomes arrive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from schemas.fidelity_models import EstimatedFidelity
from schemas.twin_types import segment_name
from sql.database import Database

__all__ = ["Cohort", "PredictedRow", "cohorts", "estimate_of", "newest_rows", "save_estimate"]


class Cohort(NamedTuple):
    """Counts of the predictions of one simulation and of their outcomes.

    Attributes:
        age_s: seconds since the simulation completed, by the clock of Postgres.
        predicted: number of twins; for ``arrived`` the outcome is in, for ``missing`` it was reported that none will come.
        levels: predicted twins and arrived outcomes, by ``dimension=level``.
    """

    simulation_id: UUID
    age_s: float
    predicted: int
    arrived: int
    missing: int
    levels: Mapping[str, tuple[int, int]]


# Only simulations with at least one reported outcome: for the others no outcomes are expected.
_COHORTS = """
WITH followed AS (
    SELECT r.simulation_id, extract(epoch FROM clock_timestamp() - r.completed_at)::float8 AS age_s,
           (r.results ->> 'affected_twin_count')::bigint AS predicted, r.results -> 'heterogeneity' -> 'by_dimension' AS groups,
           r.population_id, r.completed_at
    FROM simulation_runs r
    WHERE r.line = $1 AND r.status = 'completed' AND r.population_id IS NOT NULL
      AND EXISTS (SELECT FROM fidelity_tracking f WHERE f.population_id = r.population_id AND f.simulation_id = r.simulation_id)
    ORDER BY r.completed_at DESC LIMIT $2
), newest AS (
    SELECT DISTINCT ON (f.simulation_id, f.twin_id) f.simulation_id, f.twin_id, f.actual_value, f.segments
    FROM fidelity_tracking f JOIN followed w ON w.population_id = f.population_id AND w.simulation_id = f.simulation_id
    WHERE f.fate IN ('counted', 'missing')
    ORDER BY f.simulation_id, f.twin_id, f.revision DESC, f.tracked_at DESC
), by_level AS (
    SELECT simulation_id, jsonb_object_agg(segment, n) AS arrived_by_level
    FROM (SELECT simulation_id, segment, count(*) AS n FROM newest, unnest(segments) AS segment
          WHERE actual_value IS NOT NULL GROUP BY 1, 2) counted
    GROUP BY simulation_id
)
SELECT w.simulation_id, w.age_s, w.predicted, w.groups, count(n.actual_value) AS arrived,
       count(*) FILTER (WHERE n.twin_id IS NOT NULL AND n.actual_value IS NULL) AS missing, b.arrived_by_level
FROM followed w LEFT JOIN newest n USING (simulation_id) LEFT JOIN by_level b USING (simulation_id)
GROUP BY w.simulation_id, w.age_s, w.predicted, w.groups, w.completed_at, b.arrived_by_level
ORDER BY w.completed_at DESC"""


async def cohorts(database: Database, line: str, limit: int) -> list[Cohort]:
    """Return the latest simulations of a line that have reported outcomes, newest first."""
    return [
        Cohort(
            row["simulation_id"],
            row["age_s"],
            row["predicted"],
            row["arrived"],
            row["missing"],
            _levels(row["groups"] or {}, row["arrived_by_level"] or {}),
        )
        for row in await database.fetch(_COHORTS, line, limit)
    ]


def _levels(groups: Mapping[str, Sequence[Mapping[str, Any]]], arrived: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Counts by segment; a segment of earlier outcomes has its level in the spelling of the outcome."""
    predicted = {segment_name(dimension, group["group"]): group["n"] for dimension, members in groups.items() for group in members}
    arrived_by_name: Counter[str] = Counter()
    for segment, count in arrived.items():
        dimension, _, level = segment.partition("=")
        arrived_by_name[segment_name(dimension, level)] += count
    return {level: (count, arrived_by_name[level]) for level, count in predicted.items()}


class PredictedRow(NamedTuple):
    """Features of a row with the model's prediction and its 95 % interval."""

    features: Mapping[str, Any]
    predicted: float
    lower: float | None
    upper: float | None


_NEWEST_ROWS = """
SELECT features, predicted_value, predicted_lower, predicted_upper FROM fidelity_tracking
WHERE line = $1 AND model_id = $2 AND features IS NOT NULL AND predicted_value IS NOT NULL AND fate IN ('counted', 'missing')
ORDER BY observed_at DESC LIMIT $3"""


async def newest_rows(database: Database, line: str, model_id: UUID, limit: int) -> list[PredictedRow]:
    """Return the newest predictions of a model that came with features, whether or not their outcome is known."""
    rows = await database.fetch(_NEWEST_ROWS, line, model_id, limit)
    return [PredictedRow(*row) for row in rows]


_SAVE_ESTIMATE = """
INSERT INTO estimated_fidelity (line, model_id, estimate) VALUES ($1, $2, $3)
ON CONFLICT (line) DO UPDATE SET model_id = excluded.model_id, estimate = excluded.estimate, made_at = clock_timestamp()"""


async def save_estimate(database: Database, line: str, model_id: UUID, estimate: EstimatedFidelity) -> None:
    """Store the newest estimate of a line."""
    await database.execute(_SAVE_ESTIMATE, line, model_id, estimate.model_dump(mode="json"))


async def estimate_of(database: Database, line: str, model_id: UUID) -> EstimatedFidelity | None:
    """Return the newest estimate of a line if it is about this model."""
    estimate = await database.fetchval("SELECT estimate FROM estimated_fidelity WHERE line = $1 AND model_id = $2", line, model_id)
    return None if estimate is None else EstimatedFidelity.model_validate(estimate)
