"""Read queries of the overview: lines, windows, states, ledger, retrains, simulations and refused records.

The dashboard and the command line show what they return. Nothing here writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from schemas import ModelCard, ModelEvent
from schemas.events import SUM_FIELDS
from schemas.thresholds import LineThresholds
from sql.database import Database
from sql.ledger_rows import EVENTS
from sql.model_card_rows import CARD_COLUMNS, card_from
from sql.simulation_store import UnknownSimulation
from sql.threshold_store import LATEST_THRESHOLDS, thresholds_from

__all__ = [
    "SIMULATION_RUNS",
    "IntervalSums",
    "LineSettings",
    "OverviewCounts",
    "RefusedSummary",
    "RetrainSummary",
    "SegmentState",
    "SegmentSums",
    "SimulationRun",
    "catalogue_versions_of",
    "count_ingested_outcomes",
    "find_retrain_summary",
    "interval_sums",
    "latest_pane_end",
    "line_settings",
    "model_cards",
    "newest_events",
    "newest_refused_records",
    "newest_retrains",
    "newest_simulation_runs",
    "newest_window_sums",
    "overview_counts",
    "segment_states",
    "simulation_run",
    "simulation_started_at",
]

_SUMS = ", ".join(f"sum({name})::text AS {name}" for name in SUM_FIELDS)


class LineSettings(NamedTuple):
    """A model line with its champion; lengths in seconds."""

    line: str
    policy: str
    champion: ModelCard | None
    pane_s: float
    window_s: float
    thresholds: LineThresholds
    catalogue_version: int | None


_LINES = f"""
SELECT l.line, l.policy, l.champion, l.pane_s, l.window_s, {LATEST_THRESHOLDS.format(line="l.line")} AS thresholds, {CARD_COLUMNS},
       m.catalogue_version
FROM model_lines l LEFT JOIN digital_twin_models m ON m.model_id = l.champion
ORDER BY l.line"""  # noqa: S608  # our own constant


async def line_settings(database: Database) -> list[LineSettings]:
    """All model lines, by name."""
    return [
        LineSettings(
            row["line"],
            row["policy"],
            card_from(row) if row["champion"] else None,
            row["pane_s"],
            row["window_s"],
            thresholds_from(row["thresholds"], row["line"]),
            row["catalogue_version"],
        )
        for row in await database.fetch(_LINES)
    ]


_CARDS = f"SELECT {CARD_COLUMNS} FROM digital_twin_models m WHERE m.model_id = ANY($1)"  # noqa: S608  # our own constant


_CATALOGUE_VERSIONS = "SELECT model_id, catalogue_version FROM digital_twin_models WHERE model_id = ANY($1)"


async def catalogue_versions_of(database: Database, model_ids: Iterable[UUID]) -> dict[UUID, int]:
    """The version of the catalogue that each of these models was made under, by model id."""
    rows = await database.fetch(_CATALOGUE_VERSIONS, list(model_ids))
    return {row["model_id"]: row["catalogue_version"] for row in rows}


async def model_cards(database: Database, model_ids: Iterable[UUID]) -> dict[UUID, ModelCard]:
    """The cards of these models, by model id."""
    return {row["model_id"]: card_from(row) for row in await database.fetch(_CARDS, list(model_ids))}


class SegmentSums(NamedTuple):
    """Error sums of one segment over the newest window; ``window_end`` in seconds since the epoch."""

    model_id: UUID
    segment: str
    window_end: float
    sums: tuple[int, ...]


# The newest window of each segment of the model that was scored last: its panes, added up.
_NEWEST_WINDOW = f"""
WITH newest AS (
    SELECT model_id, max(pane + width_s) AS ends FROM fidelity_panes WHERE line = $1 AND n > 0
    GROUP BY model_id ORDER BY ends DESC LIMIT 1
)
SELECT p.model_id, p.segment, max(n.ends) AS ends, {_SUMS}
FROM fidelity_panes p JOIN newest n USING (model_id)
WHERE p.line = $1 AND p.pane >= n.ends - $2
GROUP BY p.model_id, p.segment
ORDER BY p.segment"""  # noqa: S608


async def newest_window_sums(database: Database, line: str, window_s: float) -> list[SegmentSums]:
    """Error sums of the newest window of a line, one row a segment, all of the model that was scored last."""
    rows = await database.fetch(_NEWEST_WINDOW, line, window_s)
    return [SegmentSums(row["model_id"], row["segment"], row["ends"], _sums(row)) for row in rows]


_LATEST_PANE_END = "SELECT max(pane + width_s) FROM fidelity_panes WHERE line = $1 AND segment = 'all' AND n > 0"


async def latest_pane_end(database: Database, line: str) -> float | None:
    """The end of the newest pane with outcomes, in seconds since the epoch; None before the first outcome."""
    end: float | None = await database.fetchval(_LATEST_PANE_END, line)
    return end


class IntervalSums(NamedTuple):
    """Error sums of all outcomes of one model in one interval; ``start`` in seconds since the epoch."""

    model_id: UUID
    start: float
    sums: tuple[int, ...]


_INTERVALS = f"""
SELECT model_id, floor(pane / $2::float8) * $2::float8 AS starts, {_SUMS}
FROM fidelity_panes
WHERE line = $1 AND segment = $4 AND pane >= $3
GROUP BY model_id, starts
HAVING sum(n) > 0
ORDER BY starts"""  # noqa: S608


async def interval_sums(database: Database, line: str, interval_s: float, since: float, segment: str = "all") -> list[IntervalSums]:
    """Error sums by model and interval of ``interval_s`` seconds, from ``since`` (seconds since the epoch) on, in order of time."""
    rows = await database.fetch(_INTERVALS, line, interval_s, since, segment)
    return [IntervalSums(row["model_id"], row["starts"], _sums(row)) for row in rows]


class SegmentState(NamedTuple):
    """The stored drift state of a segment; ``state`` is None where only its detector has raised an alarm.

    ``evidence_by_loss`` and ``carried_by`` are those of the event of its last change.
    """

    state: str | None
    evidence_ratio: float | None
    alarm_raised_at: datetime | None
    evidence_by_loss: Mapping[str, float] = MappingProxyType({})
    carried_by: str | None = None


_STATES = """
SELECT model_id, segment, s.state, s.evidence_ratio, a.raised_at, s.event -> 'evidence_by_loss' AS by_loss,
       s.event ->> 'carried_by' AS carried_by
FROM drift_states s FULL JOIN detector_alarms a USING (model_id, segment)
WHERE coalesce(s.line, a.line) = $1"""


async def segment_states(database: Database, line: str) -> dict[tuple[UUID, str], SegmentState]:
    """Stored drift states of a line, by model and segment."""
    return {
        (row["model_id"], row["segment"]): SegmentState(
            row["state"], row["evidence_ratio"], row["raised_at"], row["by_loss"] or {}, row["carried_by"]
        )
        for row in await database.fetch(_STATES, line)
    }


_NEWEST_EVENTS = f"{EVENTS} WHERE line = $1 ORDER BY generation DESC LIMIT $2"


async def newest_events(database: Database, line: str, limit: int) -> list[ModelEvent]:
    """The newest ledger entries of a line, newest first."""
    return [ModelEvent(**row) for row in await database.fetch(_NEWEST_EVENTS, line, limit)]


@dataclass(frozen=True)
class RetrainSummary:
    """A retrain request with its cause, its result and, where measured, the effect of the promotion.

    Attributes:
        model_id: the champion whose outcomes had drifted.
        comparison: challenger against champion, as the gate recorded it; empty without one.
        effect: verdict on the promotion: ``gain``, ``nothing``, ``harm`` or ``unknown``; None while it is not measured.
    """

    retrain_id: UUID
    model_id: UUID
    cause: str
    reason: str
    evidence: dict[str, Any]
    requested_at: datetime
    status: str
    started_at: datetime | None
    finished_at: datetime | None
    outcome: str
    comparison: dict[str, Any]
    effect: str | None = None
    effect_is_final: bool | None = None
    effect_reason: str | None = None


_RETRAIN_SUMMARY = """
SELECT r.retrain_id, r.model_id, r.cause, r.reason, r.evidence, r.requested_at, r.status, r.started_at,
       r.finished_at, r.outcome, coalesce(l.comparison, '{}') AS comparison, e.verdict AS effect, e.final AS effect_is_final,
       e.comparison ->> 'reason' AS effect_reason
FROM retrain_requests r
LEFT JOIN model_ledger l ON l.retrain_id = r.retrain_id AND l.happened IN ('promoted', 'suggested', 'rejected', 'failed')
LEFT JOIN promotion_effects e ON e.line = l.line AND e.generation = l.generation"""

_RETRAINS = f"{_RETRAIN_SUMMARY} WHERE r.line = $1 ORDER BY r.queued_at DESC LIMIT $2"
_RETRAIN = f"{_RETRAIN_SUMMARY} WHERE r.retrain_id = $1 LIMIT 1"


async def newest_retrains(database: Database, line: str, limit: int) -> list[RetrainSummary]:
    """The newest retrain requests of a line, newest first."""
    return [RetrainSummary(**row) for row in await database.fetch(_RETRAINS, line, limit)]


async def find_retrain_summary(database: Database, retrain_id: UUID) -> RetrainSummary | None:
    """One retrain request; None where there is none with this id."""
    row = await database.fetchrow(_RETRAIN, retrain_id)
    return None if row is None else RetrainSummary(**row)


@dataclass(frozen=True)
class SimulationRun:
    """A simulation request and its answer.

    Attributes:
        status: ``queued`` before it is computed, ``running`` meanwhile, then that of its answer.
        reason: why the recommendation is what it is, or why the request was rejected.
        took_s: seconds from the request to the answer; None while it runs.
    """

    simulation_id: UUID
    line: str | None
    status: str
    intervention: dict[str, Any]
    filters: dict[str, Any]
    results: dict[str, Any]
    recommendation: str | None
    reason: str
    started_at: datetime
    took_s: float | None
    model_id: UUID | None = None
    effects_version: int | None = None


SIMULATION_RUNS = """
SELECT simulation_id, line,
       CASE WHEN q.simulation_id IS NOT NULL AND q.holder IS NULL AND coalesce(s.started, 0) = 0 THEN 'queued' ELSE status::text END
           AS status,
       coalesce(intervention_config, request -> 'intervention') AS intervention_config,
       CASE WHEN intervention_config IS NULL THEN request -> 'filters' ELSE filters END AS filters, results,
       recommendation::text AS recommendation, recommendation_reason, started_at, completed_at, error_message,
       s.twins, s.twins_done, simulation_runs.model_id, effects_version
FROM simulation_runs LEFT JOIN simulation_queue q USING (simulation_id)
LEFT JOIN (
    SELECT simulation_id, sum(twins) AS twins, coalesce(sum(twins) FILTER (WHERE sums IS NOT NULL), 0) AS twins_done,
           count(*) FILTER (WHERE holder IS NOT NULL OR sums IS NOT NULL) AS started
    FROM simulation_shards GROUP BY simulation_id
) s USING (simulation_id)"""

_NEWEST_SIMULATION_RUNS = f"{SIMULATION_RUNS} ORDER BY started_at DESC LIMIT $1"


async def newest_simulation_runs(database: Database, limit: int) -> list[SimulationRun]:
    """The newest simulations of all lines, newest first."""
    return [simulation_run(row) for row in await database.fetch(_NEWEST_SIMULATION_RUNS, limit)]


def simulation_run(row: asyncpg.Record) -> SimulationRun:
    """The simulation in a row of ``SIMULATION_RUNS``."""
    completed_at = row["completed_at"]
    return SimulationRun(
        simulation_id=row["simulation_id"],
        line=row["line"],
        status=row["status"],
        intervention=row["intervention_config"] or {},
        filters=row["filters"] or {},
        results=row["results"] or {},
        recommendation=row["recommendation"],
        reason=row["recommendation_reason"] or row["error_message"] or _progress_text(row),
        started_at=row["started_at"],
        took_s=(completed_at - row["started_at"]).total_seconds() if completed_at else None,
        model_id=row["model_id"],
        effects_version=row["effects_version"],
    )


def _progress_text(row: asyncpg.Record) -> str:
    return f"{row['twins_done'] / row['twins']:.0%} of {row['twins']:,} twins" if row["twins"] else ""


_STARTED_AT = "SELECT started_at FROM simulation_runs WHERE simulation_id = $1"


async def simulation_started_at(database: Database, simulation_id: UUID) -> datetime:
    """When a simulation was accepted.

    Raises:
        UnknownSimulation: when there is no such simulation.
    """
    started_at: datetime | None = await database.fetchval(_STARTED_AT, simulation_id)
    if started_at is None:
        raise UnknownSimulation(simulation_id)
    return started_at


@dataclass(frozen=True)
class RefusedSummary:
    """A record that was refused.

    Attributes:
        place: topic, partition and offset, and the element of an array.
        excerpt: the first 160 bytes of its value, escaped.
    """

    refusal_id: UUID
    place: str
    refused_at: datetime
    kind: str
    reason: str
    excerpt: str


_REFUSED_RECORDS = """
SELECT refusal_id, topic, partition, source_offset, element, refused_at, kind, reason,
       coalesce(left(encode(value, 'escape'), 160), '') AS excerpt
FROM refused_records ORDER BY refused_at DESC LIMIT $1"""


async def newest_refused_records(database: Database, limit: int) -> list[RefusedSummary]:
    """The records that were refused last, newest first."""
    return [_refused_record(row) for row in await database.fetch(_REFUSED_RECORDS, limit)]


def _refused_record(row: asyncpg.Record) -> RefusedSummary:
    place = f"{row['topic']}:{row['partition']} @ {row['source_offset']}"
    element = f" [{row['element']}]" if row["element"] else ""
    return RefusedSummary(row["refusal_id"], place + element, row["refused_at"], row["kind"], row["reason"], row["excerpt"])


class OverviewCounts(NamedTuple):
    """How many outcomes were ingested, simulations requested and records refused and parked, ever.

    Parked records are among the refused ones; ``unreplayed`` are those of them that were never replayed.
    """

    outcomes: int
    simulations: int
    refused: int
    parked: int = 0
    unreplayed: int = 0


_INGESTED = "SELECT coalesce(sum(elements), 0) FROM source_positions"

_COUNTS = f"""
SELECT ({_INGESTED}) AS outcomes,
       (SELECT count(*) FROM simulation_runs) AS simulations,
       (SELECT count(*) FROM refused_records) AS refused,
       (SELECT count(*) FROM refused_records WHERE kind = 'parked') AS parked,
       (SELECT count(*) FROM refused_records r WHERE kind = 'parked'
          AND NOT EXISTS (SELECT FROM refused_replays p WHERE p.refusal_id = r.refusal_id)) AS unreplayed"""  # noqa: S608  # our own constant


async def overview_counts(database: Database) -> OverviewCounts:
    """Count what came in since the database was set up."""
    row = await database.fetchrow(_COUNTS)
    return OverviewCounts(*(int(count) for count in row or (0, 0, 0)))


async def count_ingested_outcomes(database: Database) -> int:
    """Count the outcomes that were ingested, refused ones included."""
    return int(await database.fetchval(_INGESTED))


def _sums(row: asyncpg.Record) -> tuple[int, ...]:
    return tuple(int(row[name]) for name in SUM_FIELDS)
