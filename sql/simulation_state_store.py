"""Reads how far simulations are, many in one query, and lists them page by page."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sql.database import Database

__all__ = ["ListedSimulation", "SimulationState", "list_simulations", "simulation_states"]

_QUEUE = """
LEFT JOIN simulation_queue q ON q.simulation_id = r.simulation_id AND r.status IN ('pending', 'running')"""
_SHARDS = """
LEFT JOIN LATERAL (
    SELECT sum(twins)::bigint AS twins, coalesce(sum(twins) FILTER (WHERE sums IS NOT NULL), 0)::bigint AS twins_done,
           count(*) FILTER (WHERE holder IS NOT NULL OR sums IS NOT NULL) AS started
    FROM simulation_shards WHERE simulation_id = r.simulation_id AND q.simulation_id IS NOT NULL
) s ON true"""
_STATUS = """
CASE WHEN r.status NOT IN ('pending', 'running') THEN r.status::text
     WHEN q.holder IS NULL AND coalesce(s.started, 0) = 0 THEN 'queued' ELSE 'running' END"""

_STATES = f"""
SELECT r.simulation_id, r.line, r.model_id, {_STATUS} AS status, q.lane,
       CASE WHEN q.simulation_id IS NOT NULL THEN (
           SELECT count(*) FROM simulation_queue o WHERE o.lane = q.lane AND o.start_tag < q.start_tag) END AS ahead,
       s.twins, CASE WHEN s.twins IS NOT NULL THEN s.twins_done END AS twins_done, r.started_at, r.completed_at
FROM simulation_runs r {_QUEUE} {_SHARDS}
WHERE r.simulation_id = ANY($1::uuid[])"""  # noqa: S608  # our own constants

_LIST = f"""
SELECT r.simulation_id, r.line, {_STATUS} AS status, coalesce(r.intervention_config, r.request -> 'intervention') AS intervention,
       CASE WHEN r.intervention_config IS NULL THEN r.request -> 'filters' ELSE r.filters END AS filters,
       (r.results ->> 'ate')::float8 AS ate, (r.results ->> 'ate_ci_lower')::float8 AS ate_ci_lower,
       (r.results ->> 'ate_ci_upper')::float8 AS ate_ci_upper, r.recommendation::text AS recommendation,
       coalesce(r.recommendation_reason, r.error_message, '') AS reason, r.request ->> 'requested_by' AS requested_by,
       r.started_at, r.completed_at
FROM simulation_runs r {_QUEUE} {_SHARDS}
WHERE ($1::text IS NULL OR r.line = $1)
  AND ($2::text IS NULL OR {_STATUS} = $2)
  AND ($3::timestamptz IS NULL OR (r.started_at, r.simulation_id) < ($3, $4::uuid))
ORDER BY r.started_at DESC, r.simulation_id DESC LIMIT $5"""  # noqa: S608  # our own constants


class SimulationState(NamedTuple):
    """How far a simulation is.

    Attributes:
        status: ``queued`` before it is computed, ``running`` meanwhile, then that of its answer.
        lane: of the queue, None once it is answered; as many requests are ``ahead`` of it there.
        twins: of a simulation in shards, of which ``twins_done`` are computed; None for any other.
    """

    simulation_id: UUID
    line: str | None
    model_id: UUID | None
    status: str
    lane: str | None
    ahead: int | None
    twins: int | None
    twins_done: int | None
    started_at: datetime
    completed_at: datetime | None

    @property
    def is_answered(self) -> bool:
        """Whether its answer is stored."""
        return self.status not in {"queued", "running"}


class ListedSimulation(NamedTuple):
    """A simulation in a list; the effect, with its interval, is a fraction, and None without a result."""

    simulation_id: UUID
    line: str | None
    status: str
    intervention: dict[str, Any] | None
    filters: dict[str, Any] | None
    ate: float | None
    ate_ci_lower: float | None
    ate_ci_upper: float | None
    recommendation: str | None
    reason: str
    requested_by: str | None
    started_at: datetime
    completed_at: datetime | None


async def simulation_states(database: Database, simulation_ids: Collection[UUID]) -> dict[UUID, SimulationState]:
    """How far the simulations with these ids are; those that are not stored are absent."""
    rows = await database.fetch(_STATES, list(simulation_ids))
    return {row["simulation_id"]: SimulationState(**row) for row in rows}


async def list_simulations(
    database: Database, limit: int, *, line: str | None, status: str | None, before: tuple[datetime, UUID] | None
) -> list[ListedSimulation]:
    """Simulations, newest first, that were requested before the one with this time and id."""
    at, simulation_id = before or (None, None)
    return [ListedSimulation(**row) for row in await database.fetch(_LIST, line, status, at, simulation_id, limit)]
