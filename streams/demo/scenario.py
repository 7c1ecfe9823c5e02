"""The scenario of the demonstration: simulate, stream outcomes, kill a worker, shift the outcomes, detect, retrain, promote."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID, uuid4, uuid5

import numpy as np
import pandas as pd

from schemas import (
    INTERVENTIONS,
    TWIN_TYPES,
    Baseline,
    InterventionConfig,
    ModelCard,
    PopulationFilter,
    SimulationAnswer,
    SimulationRequest,
    line_parts,
)
from sql.database import Pool, open_pool
from sql.ledger import Ledger
from sql.overview_store import count_ingested_outcomes
from streams.client import TwinClient
from streams.demo.fault import InjectedFault, kill_worker
from streams.demo.shift import Shift, choose_shift
from streams.demo.stream import OutcomeRows, paced_batches
from streams.monitoring import multiple_text
from streams.reporting import count, number, plain_words, share, short_id, state_label
from streams.reporting.overview import LineOverview, Overview, SegmentWindow, read_overview
from streams.settings import Settings
from streams.worker.local_stack import Notify
from streams.worker.supervisor import Workers

__all__ = ["DemoRun", "Pace", "Stopwatch", "run_scenario"]


PROGRESS_S = 3.0
INGESTION_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Pace:
    """How much is streamed.

    Attributes:
        unshifted: outcomes before the shift.
        rate: outcomes a second.
        max_shifted: shifted outcomes at most, while no better model is promoted.
        after_promotion: shifted outcomes after the promotion.
    """

    unshifted: int
    rate: float = 250.0
    max_shifted: int = 25_000
    after_promotion: int = 4_000


@dataclass
class Stopwatch:
    """Seconds of each step, in order; the name of a step is reported when it begins."""

    notify: Notify
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time the enclosed block."""
        self.notify(name)
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 2)


@dataclass
class DemoRun:
    """The events of a demonstration, for its report.

    Attributes:
        first_model: the champion at the start.
        answers: of the simulations, in the order of the requests.
        published: outcomes published, at ``rate`` a second.
        fault: the kill of a worker among the unshifted outcomes.
        shifted_from: when the first shifted outcome was published.
        promoted: model that replaced the first one under the shift; None where there was none.
        overview: the newest state of the service.
    """

    line: str
    first_model: ModelCard
    shift: Shift
    rate: float
    answers: list[SimulationAnswer] = field(default_factory=list)
    published: int = 0
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    fault: InjectedFault | None = None
    shifted_from: datetime | None = None
    promoted: UUID | None = None
    overview: Overview | None = None

    @property
    def line_overview(self) -> LineOverview | None:
        """The line in the newest overview."""
        return next((line for line in self.overview.lines if line.line == self.line), None) if self.overview else None


async def run_scenario(
    settings: Settings, first_model: ModelCard, rows: pd.DataFrame, pace: Pace, stopwatch: Stopwatch, workers: Workers
) -> DemoRun:
    """Request simulations, then stream outcomes until a better model is promoted; one of the workers is killed on the way."""
    shift = choose_shift(rows, first_model.twin_type, first_model.baseline)
    run = DemoRun(first_model.line, first_model, shift, pace.rate)
    async with TwinClient(settings, name="demo") as client:
        pool = await open_pool(settings)
        try:
            with stopwatch.step("requesting simulations"):
                run.answers = list(await asyncio.gather(*map(client.request, simulation_requests(first_model))))
            await _OutcomeStream(client, pool, run, pace, stopwatch, workers, rows).publish_all(settings)
        finally:
            await pool.close()
    return run


def simulation_requests(champion: ModelCard) -> list[SimulationRequest]:
    """Every intervention at its own channel, one for the most valuable third only, and one whose filters match no twin."""
    interventions = [
        InterventionConfig(intervention_type=name, channel=entry.channel.value, frequency="monthly", duration_weeks=12)
        for name, entry in INTERVENTIONS.items()
    ]
    requests = [_request(champion, intervention, PopulationFilter(), interventions) for intervention in interventions]
    filters = {name for name, feature in TWIN_TYPES[champion.twin_type].filters.items() if feature in champion.features}
    if "decile" in filters:
        requests.append(_request(champion, interventions[-1], PopulationFilter(min_decile=8), []))
    if "region" in filters:
        requests.append(_request(champion, interventions[0], PopulationFilter(region=["atlantis"]), []))
    return requests


def _request(
    champion: ModelCard, intervention: InterventionConfig, filters: PopulationFilter, candidates: list[InterventionConfig]
) -> SimulationRequest:
    twin_type, brand, target = line_parts(champion.line)
    return SimulationRequest(
        simulation_id=uuid4(),
        requested_at=datetime.now(UTC),
        twin_type=twin_type,
        brand=brand,
        target=target,
        intervention=intervention,
        filters=filters,
        alternatives=tuple(candidate for candidate in candidates if candidate != intervention),
        requested_by="demo",
    )


@dataclass(frozen=True)
class _OutcomeStream:
    """Publishes the outcomes of a demonstration and records in its run what happens."""

    client: TwinClient
    pool: Pool
    run: DemoRun
    pace: Pace
    stopwatch: Stopwatch
    workers: Workers
    frame: pd.DataFrame
    watchers: list[asyncio.Task[None]] = field(default_factory=list)

    async def publish_all(self, settings: Settings) -> None:
        """Publish unshifted and shifted outcomes, and wait until all are ingested; progress is reported meanwhile."""
        rows = OutcomeRows(self.frame, self.run.line, uuid5(self.run.first_model.model_id, self.run.started_at.isoformat()))
        self.watchers.append(asyncio.create_task(_report_progress(self.pool, settings, self.run, self.stopwatch.notify)))
        try:
            with self.stopwatch.step("streaming outcomes"):
                await self._publish_unshifted(rows)
            await self._publish_shifted(rows)
            with self.stopwatch.step("waiting until every outcome is ingested"):
                await _wait_ingested(self.pool, self.run)
        finally:
            for task in self.watchers:
                task.cancel()
        self.run.overview = await read_overview(self.pool, settings.n_min)

    async def _publish_unshifted(self, rows: OutcomeRows) -> None:
        """Publish outcomes as they are, and kill a worker after half of them."""
        half = self.pace.unshifted // 2
        await self._publish(rows, half, {})
        self.run.fault = kill_worker(self.workers, self.run.published, self.stopwatch.notify)
        self.watchers.append(asyncio.create_task(self.run.fault.watch_recovery(self.pool, self.stopwatch.notify)))
        await self._publish(rows, self.pace.unshifted - half, {})

    async def _publish_shifted(self, rows: OutcomeRows) -> None:
        """Publish shifted outcomes until another model is promoted or the maximum is reached, and some more after a promotion."""
        run, pace = self.run, self.pace
        run.shifted_from = datetime.now(UTC)
        shift_by_row = dict.fromkeys(map(int, np.flatnonzero(run.shift.rows(self.frame))), run.shift.by)
        with self.stopwatch.step(f"streaming outcomes with an injected shift: {run.shift}"):
            while run.promoted is None and rows.position < pace.unshifted + pace.max_shifted:
                await self._publish(rows, round(pace.rate), shift_by_row)
                run.promoted = await self._successor()
        if run.promoted is not None:
            with self.stopwatch.step("streaming outcomes under the new champion"):
                await self._publish(rows, pace.after_promotion, shift_by_row)

    async def _publish(self, rows: OutcomeRows, total: int, shift_by_row: Mapping[int, float]) -> None:
        async for batch in paced_batches(rows, self.pace.rate, shift_by_row, total):
            self.run.published += await self.client.publish_outcomes(batch)

    async def _successor(self) -> UUID | None:
        champion = await Ledger(self.pool).champion(self.run.line)
        return champion if champion != self.run.first_model.model_id else None


async def _wait_ingested(pool: Pool, run: DemoRun) -> None:
    """Wait until every published outcome has its row.

    Raises:
        TimeoutError: when some are still missing after two minutes.
    """
    deadline = time.monotonic() + INGESTION_TIMEOUT_S
    while (ingested := await count_ingested_outcomes(pool)) < run.published:
        if time.monotonic() > deadline:
            missing = f"{count(run.published - ingested)} of {count(run.published)} outcomes"
            raise TimeoutError(f"{missing} were not ingested within {INGESTION_TIMEOUT_S:g} s")
        await asyncio.sleep(0.2)


async def _report_progress(pool: Pool, settings: Settings, run: DemoRun, notify: Notify) -> None:
    """Report every few seconds the state of the line, and each new event of its ledger."""
    last_generation = -1
    while True:
        await asyncio.sleep(PROGRESS_S)
        run.overview = await read_overview(pool, settings.n_min)
        line = run.line_overview
        if line is None:
            continue
        for event in reversed(line.events):
            if event.generation > last_generation and event.at >= run.started_at:
                notify(f"  {plain_words(event.happened)}: model {short_id(event.model_id)} {event.reason}".rstrip())
        last_generation = max(event.generation for event in line.events)
        if line.overall is not None and line.scored_model is not None:
            notify(progress_text(run.published, line.overall, line.scored_model.baseline))


def progress_text(published: int, window: SegmentWindow, baseline: Baseline) -> str:
    """One line of progress: the outcomes published so far, the metrics of the newest window and the model's baseline."""
    metrics = window.metrics
    parts = [
        f"  {count(published)} outcomes",
        f"MAE {number(metrics.mae)} (baseline {number(baseline.mae)})" if metrics.mae is not None else "",
        f"coverage {share(metrics.coverage_95pct)}" if metrics.coverage_95pct is not None else "",
        f"evidence {multiple_text(window.evidence_ratio)} times its limit" if window.evidence_ratio is not None else "",
        f"drift state {state_label(window.state)}",
    ]
    return ", ".join(part for part in parts if part)
