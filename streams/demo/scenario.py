"""The main job, step by step: train, serve, ask, listen, survive a kill, notice, retrain, promote, verify."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID, uuid4, uuid5

import numpy as np
import pandas as pd

from schemas import (
    INTERVENTIONS,
    TWIN_TYPES,
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
from streams.client.twin_client import TwinClient
from streams.demo.fault import InjectedFault, kill
from streams.demo.shift import Shift, choose_shift
from streams.demo.stream import OutcomeRows, paced
from streams.reporting.overview import LineOverview, Overview, read_overview
from streams.settings import Settings
from streams.worker.supervisor import Workers

__all__ = ["DemoRun", "Pace", "Stopwatch", "run_scenario"]

Say = Callable[[str], None]

GLANCE_S = 3.0
SETTLE_S = 120.0


@dataclass(frozen=True)
class Pace:
    """How much is streamed: outcomes a second, outcomes of each part, and the most to wait for a promotion."""

    quiet: int
    rate: float = 250.0
    shifted_at_most: int = 25_000
    after: int = 4_000


@dataclass
class Stopwatch:
    """Seconds of each step, in order; each is said when it begins."""

    say: Say
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time what happens inside."""
        self.say(name)
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 2)


@dataclass
class DemoRun:
    """What happened, for the report.

    Attributes:
        answers: of the simulations, in the order of asking.
        published: outcomes sent, at `rate` a second.
        accident: the kill of a process in the middle of the outcomes as they were.
        shifted_from: when the first shifted outcome was sent.
        promoted: model that took over while outcomes were shifted, None when none did.
        seen: the last look at everything.
    """

    line: str
    first: ModelCard
    shift: Shift
    answers: list[SimulationAnswer] = field(default_factory=list)
    published: int = 0
    rate: float = 250.0
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    accident: InjectedFault | None = None
    shifted_from: datetime | None = None
    promoted: UUID | None = None
    seen: Overview | None = None

    @property
    def line_overview(self) -> LineOverview | None:
        """The line in the last look."""
        return next((line for line in self.seen.lines if line.line == self.line), None) if self.seen else None


async def run_scenario(
    settings: Settings, first: ModelCard, rows: pd.DataFrame, pace: Pace, watch: Stopwatch, workers: Workers
) -> DemoRun:
    """Ask, listen, and go on until a better model was promoted and has shown itself; one of the workers dies on the way."""
    journey = DemoRun(first.line, first, choose_shift(rows, first.twin_type, first.baseline), rate=pace.rate)
    async with TwinClient(settings, name="demo") as client:
        pool = await open_pool(settings)
        try:
            with watch.step("simulations asked and answered"):
                journey.answers = await _ask(client, first)
            await _listen(client, pool, settings, journey, rows, pace, watch, workers)
        finally:
            await pool.close()
    return journey


async def _ask(client: TwinClient, champion: ModelCard) -> list[SimulationAnswer]:
    return list(await asyncio.gather(*[client.request(request) for request in requests(champion)]))


def requests(champion: ModelCard) -> list[SimulationRequest]:
    """Every intervention at its own channel, one of them for the most valuable third, and one that nobody fits."""
    usual = [
        InterventionConfig(intervention_type=name, channel=entry.channel.value, frequency="monthly", duration_weeks=12)
        for name, entry in INTERVENTIONS.items()
    ]
    asked = [_request(champion, intervention, PopulationFilter(), usual) for intervention in usual]
    words = {word: feature for word, feature in TWIN_TYPES[champion.twin_type].filters.items() if feature in champion.features}
    if "decile" in words:
        asked.append(_request(champion, usual[-1], PopulationFilter(min_decile=8), []))
    if "region" in words:
        asked.append(_request(champion, usual[0], PopulationFilter(region=["atlantis"]), []))
    return asked


def _request(
    champion: ModelCard, intervention: InterventionConfig, filters: PopulationFilter, others: list[InterventionConfig]
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
        alternatives=tuple(other for other in others if other != intervention),
        requested_by="demo",
    )


async def _listen(
    client: TwinClient,
    pool: Pool,
    settings: Settings,
    journey: DemoRun,
    frame: pd.DataFrame,
    pace: Pace,
    watch: Stopwatch,
    workers: Workers,
) -> None:
    rows = OutcomeRows(frame, journey.line, uuid5(journey.first.model_id, journey.started.isoformat()))
    watching = [asyncio.create_task(_glance(pool, settings, journey, watch.say))]
    try:
        with watch.step("outcomes as they were"):
            await _send(client, rows, pace.rate, pace.quiet // 2, {}, journey)
            journey.accident = kill(workers, journey.published, watch.say)
            watching.append(asyncio.create_task(journey.accident.watch(pool, watch.say)))
            await _send(client, rows, pace.rate, pace.quiet - pace.quiet // 2, {}, journey)
        journey.shifted_from = datetime.now(UTC)
        change = _change(journey.shift, frame)
        with watch.step(f"outcomes with an injected shift: {journey.shift}"):
            while journey.promoted is None and rows.taken < pace.quiet + pace.shifted_at_most:
                await _send(client, rows, pace.rate, round(pace.rate), change, journey)
                journey.promoted = await _successor(pool, journey)
        if journey.promoted is not None:
            with watch.step("outcomes under the new champion"):
                await _send(client, rows, pace.rate, pace.after, change, journey)
        with watch.step("everything taken in"):
            await _settled(pool, journey)
    finally:
        for task in watching:
            task.cancel()
    journey.seen = await read_overview(pool, settings.n_min)


async def _send(client: TwinClient, rows: OutcomeRows, rate: float, count: int, change: dict[int, float], journey: DemoRun) -> None:
    async for batch in paced(rows, rate, change, count):
        journey.published += await client.publish_outcomes(batch)


def _change(shift: Shift, frame: pd.DataFrame) -> dict[int, float]:
    return dict.fromkeys(map(int, np.flatnonzero(shift.rows(frame))), shift.by)


async def _successor(pool: Pool, journey: DemoRun) -> UUID | None:
    champion = await Ledger(pool).champion(journey.line)
    return champion if champion != journey.first.model_id else None


async def _settled(pool: Pool, journey: DemoRun) -> None:
    """Wait until every published outcome has its row.

    Raises:
        TimeoutError: when some are still missing after two minutes.
    """
    deadline = time.monotonic() + SETTLE_S
    while True:
        taken = await count_ingested_outcomes(pool)
        if taken >= journey.published:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"{journey.published - taken} of {journey.published} outcomes were not taken in within {SETTLE_S:g} s"
            )
        await asyncio.sleep(0.2)


async def _glance(pool: Pool, settings: Settings, journey: DemoRun, say: Say) -> None:
    """Say every few seconds how the line stands, and at once what was decided."""
    told = -1
    while True:
        await asyncio.sleep(GLANCE_S)
        journey.seen = await read_overview(pool, settings.n_min)
        line = journey.line_overview
        if line is None:
            continue
        for event in reversed(line.events):
            if event.generation > told and event.at >= journey.started:
                say(f"  {event.happened}: model {str(event.model_id)[:8]} {event.reason}".rstrip())
        told = max(event.generation for event in line.events)
        if line.overall is not None:
            say(standing(journey, line))


def standing(journey: DemoRun, line: LineOverview) -> str:
    """One line of progress: the newest window beside the model's baseline."""
    window, scored = line.overall, line.scored_model
    if window is None or scored is None:
        return f"  {journey.published:,} outcomes"
    metrics = window.metrics
    parts = [
        f"  {journey.published:,} outcomes",
        f"MAE {metrics.mae:.4f} (baseline {scored.baseline.mae:.4f})" if metrics.mae is not None else "",
        f"coverage {metrics.coverage_95pct:.3f}" if metrics.coverage_95pct is not None else "",
        f"evidence {window.evidence_ratio:.2g} of its limit" if window.evidence_ratio is not None else "",
        window.state.value,
    ]
    return ", ".join(part for part in parts if part)
