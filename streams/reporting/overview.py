"""What the page shows, read from Postgres in one look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg

from engine.fidelity.drift_rules import Detected, compared, judge, state_of
from engine.fidelity.effective_sample_size import effective_n
from engine.fidelity.error_sums import figures
from schemas import DriftState, FidelityMetrics, ModelCard, ModelEvent, Verdict
from schemas.events import SUM_FIELDS
from schemas.fidelity_models import EstimatedFidelity, Labels
from schemas.twin_models import Baseline, Errors
from sql.database import Database, Pool
from sql.model_card_rows import CARD_COLUMNS, card_from
from sql.pending_label_store import Cohort, estimate_of
from streams.monitoring.drift_detection import NO_BASELINE, reference_of
from streams.monitoring.performance_estimation import followed, pending_labels

__all__ = ["LineOverview", "Overview", "Point", "Refusal", "Retrain", "Run", "Series", "read_overview"]

_POINTS = 60
_RUNS, _REFUSALS, _RETRAINS, _HISTORY = 12, 12, 6, 40

_SUMS = ", ".join(f"sum({name})::text AS {name}" for name in SUM_FIELDS)

_LINES = f"""
SELECT l.line, l.policy, l.champion, l.pane_s, l.window_s, {CARD_COLUMNS}
FROM model_lines l LEFT JOIN digital_twin_models m ON m.model_id = l.champion
ORDER BY l.line"""  # noqa: S608  # our own constant

_CARDS = f"SELECT {CARD_COLUMNS} FROM digital_twin_models m WHERE m.model_id = ANY($1)"  # noqa: S608

# The newest window of each series of the model that was scored last: its panes, added up.
_CURRENT = f"""
WITH newest AS (
    SELECT model_id, max(pane + width_s) AS ends FROM fidelity_panes WHERE line = $1 AND n > 0
    GROUP BY model_id ORDER BY ends DESC LIMIT 1
)
SELECT p.model_id, p.segment, max(n.ends) AS ends, {_SUMS}
FROM fidelity_panes p JOIN newest n USING (model_id)
WHERE p.line = $1 AND p.pane >= n.ends - $2
GROUP BY p.model_id, p.segment
ORDER BY p.segment"""  # noqa: S608

_SPAN = "SELECT max(pane + width_s) FROM fidelity_panes WHERE line = $1 AND segment = 'all' AND n > 0"

_OVER_TIME = f"""
SELECT model_id, floor(pane / $2::float8) * $2::float8 AS starts, {_SUMS}
FROM fidelity_panes
WHERE line = $1 AND segment = 'all' AND pane >= $3
GROUP BY model_id, starts
HAVING sum(n) > 0
ORDER BY starts"""  # noqa: S608

_STATES = """
SELECT model_id, segment, s.state, s.evidence_ratio, a.raised_at
FROM drift_states s FULL JOIN detector_alarms a USING (model_id, segment)
WHERE coalesce(s.line, a.line) = $1"""

_LEDGER = """
SELECT line, generation, happened, at, model_id, champion, effective_from, retrain_id, reason, comparison
FROM model_ledger WHERE line = $1 ORDER BY generation DESC LIMIT $2"""

_RETRAIN_ROWS = """
SELECT r.retrain_id, r.line, r.model_id, r.cause, r.reason, r.evidence, r.requested_at, r.status, r.started_at, r.finished_at,
       r.outcome, l.comparison, e.verdict AS bought, e.final AS bought_final, e.comparison ->> 'reason' AS bought_words
FROM retrain_requests r
LEFT JOIN model_ledger l ON l.retrain_id = r.retrain_id AND l.happened IN ('promoted', 'suggested', 'rejected', 'failed')
LEFT JOIN promotion_effects e ON e.line = l.line AND e.generation = l.generation
WHERE r.line = $1
ORDER BY r.queued_at DESC LIMIT $2"""

_RUN_ROWS = """
SELECT simulation_id, line, status::text AS status, coalesce(intervention_config, request -> 'intervention') AS intervention_config,
       CASE WHEN intervention_config IS NULL THEN request -> 'filters' ELSE filters END AS filters, results,
       recommendation::text AS recommendation, recommendation_reason, started_at, completed_at, error_message
FROM simulation_runs ORDER BY started_at DESC LIMIT $1"""

_REFUSAL_ROWS = """
SELECT refusal_id, topic, partition, source_offset, element, refused_at, kind, reason, left(encode(value, 'escape'), 160) AS shown
FROM refused_records ORDER BY refused_at DESC LIMIT $1"""

_COUNTS = """
SELECT (SELECT count(*) FROM refused_records) AS refused,
       (SELECT count(*) FROM simulation_runs) AS runs,
       (SELECT coalesce(sum(elements), 0) FROM source_positions) AS outcomes"""


@dataclass(frozen=True)
class Point:
    """Figures of the outcomes of one stretch of time."""

    at: datetime
    metrics: FidelityMetrics


@dataclass(frozen=True)
class Series:
    """How well one model did over time."""

    card: ModelCard
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Window:
    """The newest window of one series."""

    segment: str
    metrics: FidelityMetrics
    state: DriftState
    evidence_ratio: float | None
    verdicts: tuple[Verdict, ...]
    comparison: str


@dataclass(frozen=True)
class Retrain:
    """Why a retrain of a model was asked for, what came of it, and what its promotion bought, where that was measured."""

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
    bought: str | None = None
    bought_final: bool | None = None
    bought_words: str | None = None


@dataclass(frozen=True)
class LineOverview:
    """One model line; ``scored`` is the model that the newest window is about, which may be the champion's predecessor.

    ``estimate`` is of the champion; ``sums`` are those of the newest window, by segment.
    """

    line: str
    policy: str
    champion: ModelCard | None
    scored: ModelCard | None
    windows: tuple[Window, ...]
    window_ends: datetime | None
    window_s: float
    over_time: tuple[Series, ...]
    history: tuple[ModelEvent, ...]
    retrains: tuple[Retrain, ...]
    estimate: EstimatedFidelity | None
    cohorts: tuple[Cohort, ...]
    sums: Mapping[str, tuple[int, ...]]

    @property
    def pending(self) -> dict[UUID, Labels]:
        """What became of the predictions of each simulation that is followed."""
        return pending_labels(self.cohorts)

    @property
    def stopped(self) -> ModelEvent | None:
        """How the line stopped retraining by itself, None when it did not, or a person has chosen its policy since."""
        last = next((event for event in self.history if event.happened in ("policy", "stopped")), None)
        return last if last is not None and last.happened == "stopped" else None

    @property
    def whole(self) -> Window | None:
        """The newest window of the series ``all``."""
        return next((window for window in self.windows if window.segment == "all"), None)


@dataclass(frozen=True)
class Run:
    """A simulation and its answer."""

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


@dataclass(frozen=True)
class Refusal:
    """A refused record."""

    refusal_id: UUID
    place: str
    refused_at: datetime
    kind: str
    reason: str
    shown: str


@dataclass(frozen=True)
class Overview:
    """Everything on the page, at one moment."""

    at: datetime
    lines: tuple[LineOverview, ...]
    runs: tuple[Run, ...]
    refusals: tuple[Refusal, ...]
    counts: dict[str, int] = field(default_factory=dict)


async def read_overview(pool: Pool, n_min: int) -> Overview:
    """Read all of it in one snapshot.

    ``n_min`` outcomes are needed before a window is judged.
    """
    async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        lines = [await _line(connection, row, n_min) for row in await connection.fetch(_LINES)]
        counts = await connection.fetchrow(_COUNTS)
        return Overview(
            at=datetime.now(UTC),
            lines=tuple(lines),
            runs=tuple(map(_run, await connection.fetch(_RUN_ROWS, _RUNS))),
            refusals=tuple(map(_refusal, await connection.fetch(_REFUSAL_ROWS, _REFUSALS))),
            counts={name: int(value) for name, value in (counts or {}).items()},
        )


async def _line(database: Database, row: asyncpg.Record, n_min: int) -> LineOverview:
    line = row["line"]
    current = await database.fetch(_CURRENT, line, row["window_s"])
    over_time = await _over_time(database, line, row["pane_s"], row["window_s"])
    cards = await _cards(database, {found["model_id"] for found in (*current, *over_time)})
    states = {(state["model_id"], state["segment"]): state for state in await database.fetch(_STATES, line)}
    return LineOverview(
        line=line,
        policy=row["policy"],
        champion=card_from(row) if row["champion"] else None,
        scored=cards[current[0]["model_id"]] if current else None,
        windows=_with_effective_n(
            [_window(found, cards, states, n_min) for found in current], current, cards[current[0]["model_id"]].baseline
        )
        if current
        else (),
        window_ends=datetime.fromtimestamp(current[0]["ends"], UTC) if current else None,
        window_s=row["window_s"],
        over_time=_series(over_time, cards),
        history=tuple(ModelEvent(**event) for event in await database.fetch(_LEDGER, line, _HISTORY)),
        retrains=tuple(map(_retrain, await database.fetch(_RETRAIN_ROWS, line, _RETRAINS))),
        estimate=await estimate_of(database, line, row["champion"]) if row["champion"] else None,
        cohorts=tuple(await followed(database, line)),
        sums={found["segment"]: _sums(found) for found in current},
    )


async def _cards(database: Database, ids: set[UUID]) -> dict[UUID, ModelCard]:
    return {row["model_id"]: card_from(row) for row in await database.fetch(_CARDS, list(ids))}


async def _over_time(database: Database, line: str, pane_s: float, window_s: float) -> Sequence[asyncpg.Record]:
    """Stretches of whole panes, about sixty of them, over the last windows."""
    ends = await database.fetchval(_SPAN, line)
    if ends is None:
        return []
    per_stretch = max(1, round(24 * window_s / _POINTS / pane_s))
    width = per_stretch * pane_s
    return list(await database.fetch(_OVER_TIME, line, width, ends - _POINTS * width))


def _series(rows: Sequence[asyncpg.Record], cards: dict[UUID, ModelCard]) -> tuple[Series, ...]:
    points: dict[UUID, list[Point]] = {}
    for row in rows:
        metrics = figures(_sums(row), cards[row["model_id"]].baseline)
        points.setdefault(row["model_id"], []).append(Point(datetime.fromtimestamp(row["starts"], UTC), metrics))
    return tuple(Series(cards[model], tuple(found)) for model, found in points.items())


def _window(row: asyncpg.Record, cards: dict[UUID, ModelCard], states: dict[Any, asyncpg.Record], n_min: int) -> Window:
    baseline = cards[row["model_id"]].baseline
    metrics, reference = figures(_sums(row), baseline), reference_of(baseline, row["segment"])
    verdicts = () if reference is None else judge(metrics, reference, n_min=n_min)
    said = states.get((row["model_id"], row["segment"]))
    detected = Detected.CHANGE if said and said["raised_at"] else Detected.NOTHING
    return Window(
        segment=row["segment"],
        metrics=metrics,
        state=DriftState(said["state"]) if said and said["state"] else _state(reference, verdicts, metrics, n_min),
        evidence_ratio=said["evidence_ratio"] if said else None,
        verdicts=verdicts,
        comparison=compared(verdicts, detected) if reference else NO_BASELINE,
    )


def _state(reference: Errors | None, verdicts: tuple[Verdict, ...], metrics: FidelityMetrics, n_min: int) -> DriftState:
    """Of a series that was never judged."""
    return DriftState.INSUFFICIENT if reference is None else state_of(verdicts, Detected.NOTHING, metrics, n_min=n_min)


def _with_effective_n(windows: Sequence[Window], rows: Sequence[asyncpg.Record], baseline: Baseline) -> tuple[Window, ...]:
    """The whole with its effective number of outcomes, by the sums of its segments."""
    told = effective_n({row["segment"]: _sums(row) for row in rows}, baseline)
    return tuple(
        replace(window, metrics=window.metrics.model_copy(update={"n_effective": told})) if window.segment == "all" else window
        for window in windows
    )


def _sums(row: asyncpg.Record) -> tuple[int, ...]:
    return tuple(int(row[name]) for name in SUM_FIELDS)


def _retrain(row: asyncpg.Record) -> Retrain:
    same = ("retrain_id", "model_id", "cause", "reason", "requested_at", "status", "started_at", "finished_at", "outcome")
    bought = ("bought", "bought_final", "bought_words")
    return Retrain(
        **{name: row[name] for name in (*same, *bought)}, evidence=row["evidence"] or {}, comparison=row["comparison"] or {}
    )


def _run(row: asyncpg.Record) -> Run:
    ended = row["completed_at"]
    return Run(
        simulation_id=row["simulation_id"],
        line=row["line"],
        status=row["status"],
        intervention=row["intervention_config"] or {},
        filters=row["filters"] or {},
        results=row["results"] or {},
        recommendation=row["recommendation"],
        reason=row["recommendation_reason"] or row["error_message"] or "",
        started_at=row["started_at"],
        took_s=(ended - row["started_at"]).total_seconds() if ended else None,
    )


def _refusal(row: asyncpg.Record) -> Refusal:
    place = f"{row['topic']}:{row['partition']} @ {row['source_offset']}"
    element = f" [{row['element']}]" if row["element"] else ""
    return Refusal(row["refusal_id"], place + element, row["refused_at"], row["kind"], row["reason"], row["shown"] or "")
