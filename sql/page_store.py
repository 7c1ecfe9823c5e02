"""Read queries of the pages: lists with search and paging, and single models. Nothing here writes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from schemas import ModelEvent
from schemas.events import SUM_FIELDS
from sql.database import Database
from sql.ledger_rows import EVENTS
from sql.overview_store import SIMULATION_RUNS, SimulationRun, simulation_run

__all__ = [
    "COUNTED",
    "LineWindow",
    "ListQuery",
    "ModelRow",
    "RefusedRow",
    "RetrainRow",
    "change_mark",
    "find_simulation_run",
    "line_windows",
    "list_models",
    "list_refused_records",
    "list_retrains",
    "list_simulation_runs",
    "model_events",
]

COUNTED = 10_000
"""Rows of a list are counted up to here, so that millions of refused records do not hold up their page."""

_SUMS = ", ".join(f"sum({name})::text AS {name}" for name in SUM_FIELDS)


class ListQuery(NamedTuple):
    """What a list shows.

    Attributes:
        text: what its rows contain, or the beginning of their id; empty for all.
        state: the state of its rows; empty for all.
        since: the earliest time of its rows; None for all.
        limit: most rows on a page.
        skip: rows on the pages before.
    """

    text: str = ""
    state: str = ""
    since: datetime | None = None
    limit: int = 50
    skip: int = 0

    @property
    def arguments(self) -> tuple[str, str, datetime | None, str]:
        """The arguments $1 to $4 of the conditions: the text as a pattern, the state, the time, and the text as an id begins."""
        literal = self.text.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
        return f"%{literal}%", self.state, self.since, f"{literal.lower()}%"


class LineWindow(NamedTuple):
    """The newest window of a line over all segments, with its stored drift state; without outcomes all but the counts is None.

    Attributes:
        window_end: in seconds since the epoch.
        alarmed: segments in alarm.
        retrain: status of the retrain that is open, if one is.
    """

    model_id: UUID | None
    window_end: float | None
    sums: tuple[int, ...] | None
    state: str | None
    evidence_ratio: float | None
    alarm_raised_at: datetime | None
    alarmed: int
    retrain: str | None


_LINE_WINDOWS = f"""
SELECT l.line, newest.model_id, newest.ends, sums.*, s.state, s.evidence_ratio, a.raised_at,
       (SELECT count(*) FROM drift_states d
        WHERE d.line = l.line AND d.model_id = newest.model_id AND d.segment <> 'all' AND d.state = 'alarm') AS alarmed,
       (SELECT r.status FROM retrain_requests r WHERE r.line = l.line AND r.status IN ('queued', 'running')
        ORDER BY r.queued_at LIMIT 1) AS retrain
FROM model_lines l
LEFT JOIN LATERAL (
    SELECT p.model_id, p.pane + p.width_s AS ends FROM fidelity_panes p WHERE p.line = l.line AND p.n > 0
    ORDER BY p.pane DESC LIMIT 1
) newest ON true
LEFT JOIN LATERAL (
    SELECT {_SUMS} FROM fidelity_panes p
    WHERE p.line = l.line AND p.model_id = newest.model_id AND p.segment = 'all' AND p.pane >= newest.ends - l.window_s
) sums ON true
LEFT JOIN drift_states s ON s.model_id = newest.model_id AND s.segment = 'all'
LEFT JOIN detector_alarms a ON a.model_id = newest.model_id AND a.segment = 'all'"""  # noqa: S608  # our own constant


async def line_windows(database: Database) -> dict[str, LineWindow]:
    """The newest window of every line, by line."""
    return {
        row["line"]: LineWindow(
            row["model_id"],
            row["ends"],
            None if row["n"] is None else tuple(int(row[name]) for name in SUM_FIELDS),
            row["state"],
            row["evidence_ratio"],
            row["raised_at"],
            row["alarmed"],
            row["retrain"],
        )
        for row in await database.fetch(_LINE_WINDOWS)
    }


_SIMULATIONS_WHERE = """
WHERE (coalesce(line, '') ILIKE $1 OR coalesce(intervention_config, request -> 'intervention')::text ILIKE $1
       OR coalesce(recommendation_reason, error_message, '') ILIKE $1 OR simulation_id::text LIKE $4)
  AND ($2 = '' OR recommendation::text = $2 OR status::text = $2 OR $2 = 'open' AND status IN ('pending', 'running'))
  AND ($3::timestamptz IS NULL OR started_at >= $3)"""

_SIMULATIONS = f"""{SIMULATION_RUNS} {_SIMULATIONS_WHERE}
ORDER BY status IN ('pending', 'running') DESC, started_at DESC, simulation_id LIMIT $5 OFFSET $6"""


async def list_simulation_runs(database: Database, query: ListQuery) -> tuple[list[SimulationRun], int]:
    """A page of simulations, open ones first and then the newest, and the number of all that match."""
    rows = await database.fetch(_SIMULATIONS, *query.arguments, query.limit, query.skip)
    return [simulation_run(row) for row in rows], await _count(database, f"simulation_runs {_SIMULATIONS_WHERE}", query)


_SIMULATION = f"{SIMULATION_RUNS} WHERE simulation_id = $1"


async def find_simulation_run(database: Database, simulation_id: UUID) -> SimulationRun | None:
    """One simulation; None where there is none with this id."""
    row = await database.fetchrow(_SIMULATION, simulation_id)
    return None if row is None else simulation_run(row)


@dataclass(frozen=True)
class RetrainRow:
    """A retrain request in a list."""

    retrain_id: UUID
    line: str
    cause: str
    reason: str
    requested_at: datetime
    status: str
    outcome: str
    effect: str | None


_RETRAINS_FROM = """retrain_requests r
LEFT JOIN model_ledger l ON l.retrain_id = r.retrain_id AND l.happened IN ('promoted', 'suggested', 'rejected', 'failed')
LEFT JOIN promotion_effects e ON e.line = l.line AND e.generation = l.generation
WHERE (r.line ILIKE $1 OR r.reason ILIKE $1 OR r.outcome ILIKE $1 OR r.retrain_id::text LIKE $4)
  AND ($2 = '' OR r.status = $2) AND ($3::timestamptz IS NULL OR r.requested_at >= $3)"""

_RETRAIN_PAGE = f"""
SELECT r.retrain_id, r.line, r.cause, r.reason, r.requested_at, r.status, r.outcome, e.verdict AS effect
FROM {_RETRAINS_FROM}
ORDER BY CASE r.status WHEN 'queued' THEN 0 WHEN 'running' THEN 1 WHEN 'suggested' THEN 2 ELSE 3 END, r.queued_at DESC, r.retrain_id
LIMIT $5 OFFSET $6"""  # noqa: S608  # our own constant


async def list_retrains(database: Database, query: ListQuery) -> tuple[list[RetrainRow], int]:
    """A page of retrain requests, those that wait for something first and then the newest, and the number of all that match."""
    rows = await database.fetch(_RETRAIN_PAGE, *query.arguments, query.limit, query.skip)
    return [RetrainRow(**row) for row in rows], await _count(database, _RETRAINS_FROM, query)


@dataclass(frozen=True)
class ModelRow:
    """A model in a list.

    Attributes:
        state: ``champion``, or the newest entry of the ledger about it; empty where there is none.
    """

    model_id: UUID
    line: str
    model_type: str
    trained_at: datetime
    training_samples: int
    fidelity: float | None
    mae: float | None
    state: str


_MODELS_FROM = """(
    SELECT m.model_id, m.line, m.model_type, m.trained_at, m.training_samples, (m.metrics ->> 'fidelity')::float8 AS fidelity,
           (m.baseline ->> 'mae')::float8 AS mae,
           CASE WHEN l.champion = m.model_id THEN 'champion' ELSE coalesce((
               SELECT g.happened FROM model_ledger g
               WHERE g.model_id = m.model_id AND g.happened NOT IN ('approved', 'refused') ORDER BY g.generation DESC LIMIT 1
           ), '') END AS state
    FROM digital_twin_models m LEFT JOIN model_lines l USING (line)
) m
WHERE (m.line ILIKE $1 OR m.model_type ILIKE $1 OR m.model_id::text LIKE $4) AND ($2 = '' OR m.state = $2)
  AND ($3::timestamptz IS NULL OR m.trained_at >= $3)"""

_MODEL_PAGE = f"""
SELECT m.* FROM {_MODELS_FROM}
ORDER BY m.state = 'champion' DESC, m.trained_at DESC, m.model_id LIMIT $5 OFFSET $6"""  # noqa: S608  # our own constant


async def list_models(database: Database, query: ListQuery) -> tuple[list[ModelRow], int]:
    """A page of models, champions first and then the newest, and the number of all that match."""
    rows = await database.fetch(_MODEL_PAGE, *query.arguments, query.limit, query.skip)
    return [ModelRow(**row) for row in rows], await _count(database, _MODELS_FROM, query)


_MODEL_EVENTS = f"{EVENTS} WHERE model_id = $1 ORDER BY at DESC, generation DESC LIMIT 100"


async def model_events(database: Database, model_id: UUID) -> list[ModelEvent]:
    """The newest entries of the ledger about a model, the newest first."""
    return [ModelEvent(**row) for row in await database.fetch(_MODEL_EVENTS, model_id)]


@dataclass(frozen=True)
class RefusedRow:
    """A refused record in a list.

    Attributes:
        place: topic, partition and offset, and the element of an array.
        replayed: whether it was published again.
    """

    refusal_id: UUID
    place: str
    refused_at: datetime
    kind: str
    reason: str
    replayed: bool


_REFUSED_WHERE = """
WHERE ($1 = '%%' OR r.topic ILIKE $1 OR r.reason ILIKE $1 OR r.kind ILIKE $1 OR r.refusal_id::text LIKE $4)
  AND ($2 = '' OR ($2 = 'replayed') = EXISTS (SELECT FROM refused_replays p WHERE p.refusal_id = r.refusal_id))
  AND ($3::timestamptz IS NULL OR r.refused_at >= $3)"""

_REFUSED_PAGE = f"""
SELECT r.refusal_id, r.refused_at, r.kind, r.reason,
       concat(r.topic, ':', r.partition, ' @ ', r.source_offset,
              CASE WHEN r.element > 0 THEN concat(' [', r.element, ']') END) AS place,
       EXISTS (SELECT FROM refused_replays p WHERE p.refusal_id = r.refusal_id) AS replayed
FROM refused_records r {_REFUSED_WHERE}
ORDER BY r.refused_at DESC, r.refusal_id LIMIT $5 OFFSET $6"""  # noqa: S608  # our own constant


async def list_refused_records(database: Database, query: ListQuery) -> tuple[list[RefusedRow], int]:
    """A page of refused records, the newest first, and the number of all that match."""
    rows = await database.fetch(_REFUSED_PAGE, *query.arguments, query.limit, query.skip)
    return [RefusedRow(**row) for row in rows], await _count(database, f"refused_records r {_REFUSED_WHERE}", query)


async def _count(database: Database, source: str, query: ListQuery) -> int:
    """Count the rows of a list, up to one more than are told."""
    statement = f"SELECT count(*) FROM (SELECT 1 FROM {source} LIMIT {COUNTED + 1}) rows"  # noqa: S608  # our own constants
    counted: int = await database.fetchval(statement, *query.arguments)
    return counted


_CHANGE_MARK = """
SELECT concat_ws(' ',
    (SELECT coalesce(sum(elements), 0) FROM source_positions),
    (SELECT concat(count(*), ' ', count(completed_at), ' ', max(started_at), ' ', max(completed_at)) FROM simulation_runs),
    (SELECT count(*) FROM simulation_shards WHERE sums IS NOT NULL),
    (SELECT concat(count(*), ' ', max(refused_at)) FROM refused_records),
    (SELECT count(*) FROM refused_replays),
    (SELECT count(*) FROM model_ledger),
    (SELECT concat(count(*), ' ', max(changed_at)) FROM drift_states),
    (SELECT concat(count(*), ' ', max(greatest(queued_at, approved_at, started_at, finished_at))) FROM retrain_requests),
    (SELECT concat(count(*), ' ', max(uploaded_at)) FROM uploaded_tables),
    (SELECT concat(count(*), ' ', sum(fence), ' ', max(greatest(queued_at, started_at, finished_at))) FROM trainings),
    (SELECT string_agg(concat(line, policy, champion), ' ' ORDER BY line) FROM model_lines))"""


async def change_mark(database: Database) -> str:
    """A text that is another one after anything that the pages show has changed."""
    mark: str = await database.fetchval(_CHANGE_MARK)
    return mark
