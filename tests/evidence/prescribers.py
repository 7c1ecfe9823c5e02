"""The complete service on real prescribers: a shift of real outcomes is detected, retrained on, gated, and measured."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import numpy as np
import pandas as pd

from deploy.stack import free_port
from engine import TwinGenerator
from schemas import Baseline, Brand, ModelCard, ModelEvent, TwinType, model_line
from schemas.arrays import Floats
from schemas.fidelity_models import DRIFT_RULES
from sql.database import Pool, open_pool
from sql.ledger import Ledger
from sql.promotion_effect_store import PromotionEffect, promotion_effect, watched_promotions
from sql.retrain_store import RetrainRequest, list_retrains
from streams.client.twin_client import TwinClient
from streams.demo.run import DEMO_SETTINGS
from streams.demo.stream import OutcomeRows, paced_batches
from streams.operations.verify import verify
from streams.reporting.charts import Curve, ReferenceLine, Tone, ValueMarker, curves_chart
from streams.settings import EVENT_ROLES, PORTS, Settings
from streams.training import read_training_table
from streams.worker.local_stack import local_stack
from streams.worker.setup import prepare, train_model
from streams.worker.supervisor import Workers
from tests.error_streams import CELL, STEP, log_evidence, outcomes_until, rule_fired, step_sums
from tests.evidence.part import DATA, Figure, Part, Plot, Table

__all__ = ["measure"]

TABLE = DATA / "hcp_partd_2013_2014.csv.gz"
TARGET = "prescribing_change"
SEED, TRAINING_ROWS = 2026, 8_000
RATE, DRIP = 120.0, 20.0
"""Outcomes per second of each line, and during a training that already has all the rows it can use."""


class Lengths(NamedTuple):
    """Outcomes of a line before the shift, under it at the full rate, and after a promotion, to measure its effect."""

    quiet: int
    shifted: int
    after: int


WHOLE, QUICK = Lengths(4_000, 5_000, 2_600), Lengths(1_500, 3_000, 1_100)

AHEAD = 600
"""Most outcomes in flight before the stream pauses, so that delays do not depend on the speed of the machine."""

ORDERS, LONG, SHIFTED_LONG = 200, 20_000, 6_000
"""Orders of the same physicians, and outcomes of each without a shift and after one."""

SETTLE_S = 600.0
BIN = 250
_SCALE_NOTE = "a shift that reduces prescriptions also reduces their variance"
_RISE = next(rule.limit for rule in DRIFT_RULES if rule.action == "retrain")
BACK_AT_MOST = 1.0 + _RISE
"""Error of the new champion over the error before the shift: the limit of the rule that calls for a retrain."""


class Scenario(NamedTuple):
    """A line and the shift of its outcomes.

    Attributes:
        keeps: factor on the prescriptions of physicians with the ``level`` of ``dimension``; there is no shift without a level.
    """

    brand: Brand
    title: str
    dimension: str = ""
    level: str = ""
    keeps: float = 1.0

    @property
    def line(self) -> str:
        """Name of the model line."""
        return model_line(TwinType.HCP, self.brand)

    def change(self, frame: pd.DataFrame) -> dict[int, float]:
        """Amount that the shift adds to the target, by row number; the target is a relative change of prescriptions."""
        if not self.level:
            return {}
        rows = np.flatnonzero(frame[self.dimension] == self.level)
        actual = frame[TARGET].to_numpy(dtype=float)[rows]
        return dict(zip(rows.tolist(), ((1.0 + actual) * (self.keeps - 1.0)).tolist(), strict=True))


SCENARIOS = (
    Scenario(Brand.FABHALTA, "nothing happens"),
    Scenario(Brand.KISQALI, "a payer in the south pays for 7 of 10 prescriptions", "region", "south", 0.7),
    Scenario(Brand.REMIBRUTINIB, "family practice halves", "specialty", "family_practice", 0.5),
)


@dataclass
class LineHistory:
    """The events and outcomes of a scenario's line.

    Attributes:
        first: card of the first champion.
        published: number of published outcomes.
        alarms: series in alarm at the end.
        outcomes: errors of the counted outcomes in their order, with the model that predicted: ``model_id, observed_at, error``.
    """

    scenario: Scenario
    first: ModelCard
    published: int = 0
    shifted_from: datetime | None = None
    alarms: int = 0
    retrains: Sequence[RetrainRequest] = ()
    promotions: Sequence[ModelEvent] = ()
    effect: PromotionEffect | None = None
    outcomes: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["model_id", "observed_at", "error"]))

    @property
    def trained(self) -> int:
        """Number of started trainings."""
        return sum(request.started_at is not None for request in self.retrains)

    def count_before(self, moment: datetime | None) -> int:
        """Number of outcomes before a moment."""
        return int((self.outcomes["observed_at"] < moment).sum())

    @property
    def decided(self) -> int | None:
        """Outcomes until the end of the panes on which the first retrain was decided."""
        return self.count_before(datetime.fromisoformat(self.retrains[0].evidence["window_end"])) if self.retrains else None

    @property
    def delay(self) -> int | None:
        """Outcomes from the first shifted one to ``decided``."""
        return None if self.decided is None else self.decided - self.count_before(self.shifted_from)

    @property
    def mae(self) -> dict[str, float]:
        """Mean absolute error ``before`` the shift, ``under`` it, and of the ``new`` champion, where they have outcomes."""
        new = self.outcomes["model_id"] != self.first.model_id
        before = self.outcomes["observed_at"] < self.shifted_from
        part = np.select([before, new], ["before", "new"], "under")
        return {str(name): float(mae) for name, mae in self.outcomes.groupby(part)["error"].mean().items()}

    @property
    def back(self) -> float:
        """Error under the new champion relative to the error before the shift; infinite without a promotion."""
        return self.mae["new"] / self.mae["before"] if "new" in self.mae else float("inf")


def measure(quick: bool) -> Part:
    """Three lines at once on one worker, then on two of which one is killed; a quick run leaves the second out."""
    if not TABLE.is_file():
        return Part("A shift on real prescribers", (f"not measured: {TABLE.name} is absent",))
    orders, lengths = (ORDERS // 10, QUICK) if quick else (ORDERS, WHOLE)
    shuffled = _shuffled(orders)
    runs = {"one worker": _run(1, lengths)} | ({} if quick else {"two workers, one killed": _run(2, lengths)})
    rows = [row for name, (histories, _) in runs.items() for row in _rows(name, histories)]
    return Part(
        title="On real prescribers a shift is detected and repaired by one retrain, and without a shift there is no alarm",
        sentences=_sentences(orders, lengths.quiet),
        figures=(
            *(figure for name, (histories, n_mismatches) in runs.items() for figure in _figures(name, histories, n_mismatches)),
            *(_order_figure(scenario, delays, orders) for scenario, delays in zip(SCENARIOS, shuffled, strict=True)),
        ),
        tables=(
            Table(
                "Results of each line",
                (
                    *("run and scenario", "outcomes", "series in alarm", "delay in outcomes", "trainings", "ended"),
                    *("MAE before", "under the shift", "new champion", "promotion effect"),
                ),
                tuple(rows),
            ),
            Table(
                f"The same physicians in {orders} orders: outcomes until detection, in {LONG:,} without a shift "
                f"or {SHIFTED_LONG:,} after one",
                ("scenario", *("alarm of the detector", "median", "9 of 10 by"), *("retrain event", "median", "9 of 10 by")),
                tuple(map(_shuffled_row, SCENARIOS, shuffled)),
            ),
        ),
        plots=tuple(_plot(name, history) for name, (histories, _) in runs.items() for history in histories),
    )


def _sentences(orders: int, quiet: int) -> tuple[str, ...]:
    text = f"""\
A model is trained on {TRAINING_ROWS:,} physicians of the Medicare Part D table (2013 features, change of prescriptions to \
2014). The held-back physicians are streamed as outcomes with features, at most {RATE:g} per second on each of three lines at \
the same time and each only once on a line. Their order and times are simulated, and so is the shift, which removes a share of \
the prescriptions that were filled.
The first {quiet:,} outcomes of each line are unchanged. The delay counts outcomes from the first shifted one to the end of \
the panes on which the retrain was decided, including all outcomes in flight at that time. The promotion effect compares the \
new champion with the previous one on the same outcomes after the promotion.
Panes of {DEMO_SETTINGS["pane_s"]:g} s and a cooldown of {DEMO_SETTINGS["cooldown_s"]:g} s represent longer ones. The killed \
worker loses all its processes (SIGKILL) when the shift begins, and is not started again.
The delay depends on the order of the physicians. The same physicians are therefore evaluated in {orders} random orders, which \
share one model and its baseline; the engine's detector and rule evaluate cells of {CELL} outcomes every {STEP}."""
    return tuple(text.splitlines())


def _figures(name: str, histories: Sequence[LineHistory], n_mismatches: int) -> Iterator[Figure]:
    for history in histories:
        what = f"{name}, {history.scenario.title}:"
        if not history.scenario.level:
            yield Figure(f"{what} alarms", history.alarms, at_most=0, form=".0f")
            yield Figure(f"{what} retrain events", len(history.retrains), at_most=0, form=".0f")
            continue
        yield Figure(f"{what} delay in outcomes", float("nan") if history.delay is None else history.delay, form=".0f")
        yield Figure(f"{what} trainings", history.trained, at_least=1, at_most=1, form=".0f")
        yield Figure(f"{what} promotions", len(history.promotions), at_least=1, at_most=1, form=".0f")
        yield Figure(
            f"{what} MAE of the new champion over that before the shift", history.back, at_most=BACK_AT_MOST, note=_SCALE_NOTE
        )
    yield Figure(f"{name}: mismatches found by verify", n_mismatches, at_most=0, form=".0f")


def _rows(name: str, histories: Sequence[LineHistory]) -> Iterator[tuple[str, ...]]:
    for history in histories:
        mae = history.mae
        ended = ", ".join(request.status for request in history.retrains) or "–"
        errors = [f"{mae[part]:.4f}" if part in mae else "–" for part in ("before", "under", "new")]
        effect = f"{history.effect.verdict} on {history.effect.n:,} outcomes" if history.effect else "–"
        counts = (
            f"{history.published:,}",
            str(history.alarms),
            "–" if history.delay is None else f"{history.delay:,}",
            str(history.trained),
        )
        yield (f"{name}: {history.scenario.title}", *counts, ended, *errors, effect)


def _plot(name: str, history: LineHistory) -> Plot:
    """The error over the outcomes of a line, in bins of equal size, with markers of shift, alarm and promotions."""
    markers = [ValueMarker(history.count_before(history.shifted_from), "shift", "warn")] if history.scenario.level else []
    markers += [ValueMarker(history.decided, "alarm", "bad")] if history.decided is not None else []
    markers += [ValueMarker(history.count_before(event.effective_from), "promoted", "good") for event in history.promotions]
    base = history.first.baseline.mae
    chart = curves_chart(
        list(_curves(history)),
        title=f"{history.scenario.title}, {name}",
        description=f"Mean absolute error of each {BIN} outcomes with its standard error, coloured by the predicting model.",
        x_label="outcomes of the line",
        x_form=",.0f",
        lines=[ReferenceLine(base, "baseline"), ReferenceLine(base * (1 + _RISE), f"+{_RISE:.0%}", "bad")],
        markers=markers,
    )
    return Plot(f"{name}: {history.scenario.title}. Mean absolute error of each {BIN} outcomes", chart, wide=True)


def _curves(history: LineHistory) -> Iterator[Curve]:
    tones: Sequence[Tone] = ("one", "two", "muted")
    position = np.arange(len(history.outcomes))
    numbered = history.outcomes.assign(position=position, bin=position // BIN)
    for number, (model, rows) in enumerate(numbered.groupby("model_id", sort=False)):
        bins = rows.groupby("bin").agg(
            position=("position", "mean"), mae=("error", "mean"), sem=("error", "sem"), n=("error", "size")
        )
        full = bins[bins["n"] >= BIN / 5]
        label = "first champion" if model == history.first.model_id else f"successor {str(model)[:8]}"
        columns = (full[name].tolist() for name in ("position", "mae", "sem"))
        yield Curve(label, *columns, tone=tones[number % len(tones)])


class Delays(NamedTuple):
    """Outcomes from the shift until the detector's alarm and until the retrain event, per order; infinite without one."""

    detector: Floats
    retrain: Floats


def _shuffled(orders: int) -> list[Delays]:
    """Each scenario on the held-back physicians in many orders, with one model."""
    training, held_back = _tables()
    generator = TwinGenerator(TwinType.HCP, SCENARIOS[0].brand, TARGET)
    generator.train(training, target_col=TARGET)
    errors = generator.model.predict(held_back) - held_back[TARGET].to_numpy(dtype=float)
    return [_delays(scenario, held_back, errors, generator.model.card.baseline, orders) for scenario in SCENARIOS]


def _delays(scenario: Scenario, held_back: pd.DataFrame, errors: Floats, baseline: Baseline, orders: int) -> Delays:
    rng, change = np.random.default_rng(SEED), np.zeros(len(errors))
    for row, amount in scenario.change(held_back).items():
        change[row] = amount
    quiet, after = (WHOLE.quiet, SHIFTED_LONG) if scenario.level else (0, LONG)
    delays = []
    for _ in range(orders):
        order = rng.permutation(len(errors))[: quiet + after]
        stream = errors[order] - np.where(np.arange(quiet + after) < quiet, 0.0, change[order])
        sums = step_sums(stream[None], [baseline])
        alarmed = np.logical_or.accumulate(log_evidence(sums, [baseline]).total >= 0, axis=1)
        delays.append([outcomes_until(alarmed)[0], outcomes_until(alarmed & rule_fired(sums, [baseline]))[0]])
    return Delays(*(np.array(delays).T - quiet))


def _order_figure(scenario: Scenario, delays: Delays, orders: int) -> Figure:
    if not scenario.level:
        return Figure(f"{orders} orders, {scenario.title}: share with a retrain event", _share(delays.retrain), at_most=0.03)
    median = float(np.quantile(delays.retrain, 0.5, method="higher"))
    return Figure(f"{orders} orders, {scenario.title}: outcomes until a retrain event, median", median, form=".0f")


def _shuffled_row(scenario: Scenario, delays: Delays) -> tuple[str, ...]:
    cells_of_delays = ((f"{_share(values):.1%}", *(_quantile_text(values, share) for share in (0.5, 0.9))) for values in delays)
    return (scenario.title, *(cell for cells in cells_of_delays for cell in cells))


def _share(values: Floats) -> float:
    return float(np.isfinite(values).mean())


def _quantile_text(values: Floats, share: float) -> str:
    """Outcomes after which this share of the orders had the event."""
    delay = float(np.quantile(values, share, method="higher"))
    return f"{delay:,.0f}" if np.isfinite(delay) else "–"


def _tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Physicians to train on, and those held back."""
    frame = read_training_table([TABLE], TwinType.HCP).frame
    order = np.random.default_rng(SEED).permutation(len(frame))
    training, held_back = (frame.iloc[part].reset_index(drop=True) for part in (order[:TRAINING_ROWS], order[TRAINING_ROWS:]))
    return training, held_back


def _run(workers: int, lengths: Lengths) -> tuple[list[LineHistory], int]:
    """The three scenarios at the same time on a new stack, and the number of mismatches of ``verify`` at the end."""
    training, held_back = _tables()
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="prescribers-")))
        base_settings = Settings(home=home, web_port=free_port(in_a_row=PORTS)).model_copy(update=DEMO_SETTINGS)
        settings = stack.enter_context(local_stack(home / "stack", base_settings, _report_progress))
        asyncio.run(prepare(settings))
        histories = [LineHistory(scenario, _first_model(settings, training, scenario)) for scenario in SCENARIOS]
        survivor = stack.enter_context(Workers(EVENT_ROLES, settings, log_folder=home / "logs"))
        victim = _second_worker(stack, settings, home) if workers > 1 else None
        for worker in filter(None, (survivor, victim)):
            worker.wait_ready(SETTLE_S)
        asyncio.run(_stream(settings, histories, held_back, victim, lengths))
        mismatches = asyncio.run(verify(settings)).mismatches
        for mismatch in mismatches:
            _report_progress(mismatch)
        survivor.check()
        return histories, len(mismatches)


def _second_worker(stack: ExitStack, settings: Settings, home: Path) -> Workers:
    own = settings.model_copy(update={"web_port": free_port(in_a_row=PORTS), "home": home / "second"})
    return stack.enter_context(Workers(EVENT_ROLES, own, log_folder=home / "second" / "logs"))


def _first_model(settings: Settings, training: pd.DataFrame, scenario: Scenario) -> ModelCard:
    return asyncio.run(train_model(settings, training, TwinType.HCP, scenario.brand, TARGET, TABLE.name)).card


@dataclass(frozen=True)
class _StreamRunner:
    """Streams the outcomes of all scenarios.

    Attributes:
        victim: worker that is killed when the shift of the last scenario begins.
    """

    client: TwinClient
    pool: Pool
    histories: Sequence[LineHistory]
    held_back: pd.DataFrame
    victim: Workers | None
    lengths: Lengths

    async def run(self, history: LineHistory) -> None:
        """Publish a line's outcomes: unchanged ones, shifted ones until a promotion, and some more after it."""
        rows, change = OutcomeRows(self.held_back, history.scenario.line, uuid4()), history.scenario.change(self.held_back)
        await self._send(rows, history, {}, self.lengths.quiet)
        history.shifted_from = datetime.now(UTC)
        if self.victim is not None and history is self.histories[-1]:
            await asyncio.to_thread(_kill, self.victim)
        while not await self._is_over(rows, history):
            rate = RATE if rows.position < self.lengths.quiet + self.lengths.shifted else DRIP
            await self._send(rows, history, change, round(rate), rate)
        champion = await Ledger(self.pool).champion(history.scenario.line)
        _report_progress(f"{history.scenario.title}: {rows.position:,} outcomes until champion {champion}")
        await self._send(rows, history, change, self.lengths.after)

    async def _is_over(self, rows: OutcomeRows, history: LineHistory) -> bool:
        """Whether a successor is champion, or the physicians are nearly used up; without a shift, after twice the quiet time."""
        if not history.scenario.level:
            return rows.position >= 2 * self.lengths.quiet
        promoted = await Ledger(self.pool).champion(history.scenario.line) != history.first.model_id
        return promoted or rows.position + round(RATE) + self.lengths.after > len(self.held_back)

    async def _send(
        self, rows: OutcomeRows, history: LineHistory, change: Mapping[int, float], count: int, rate: float = RATE
    ) -> None:
        async for batch in paced_batches(rows, rate, change, count):
            history.published += await self.client.publish_outcomes(batch)
            while await self._in_flight() > AHEAD:  # noqa: ASYNC110  # other processes ingest
                await asyncio.sleep(0.1)

    async def _in_flight(self) -> int:
        return sum(history.published for history in self.histories) - await _ingested(self.pool)


async def _stream(
    settings: Settings, histories: Sequence[LineHistory], held_back: pd.DataFrame, victim: Workers | None, lengths: Lengths
) -> None:
    pool = await open_pool(settings)
    try:
        async with TwinClient(settings, name="prescribers") as client:
            runner = _StreamRunner(client, pool, histories, held_back, victim, lengths)
            await asyncio.gather(*map(runner.run, histories))
        await _wait_until_settled(pool, sum(history.published for history in histories))
        for history in histories:
            await _load_history(pool, history)
    finally:
        await pool.close()


def _kill(victim: Workers) -> None:
    """Kill a worker with all its processes at once."""
    for pid in victim.pids.values():
        os.kill(pid, signal.SIGKILL)
    victim.stop()


async def _ingested(pool: Pool) -> int:
    return int(await pool.fetchval("SELECT coalesce(sum(elements), 0) FROM source_positions"))


async def _wait_until_settled(pool: Pool, published: int) -> None:
    """Wait until every outcome has its row and every promotion is evaluated on enough of them."""
    async with asyncio.timeout(SETTLE_S):
        while await _ingested(pool) < published or not await _measured(pool):  # noqa: ASYNC110  # other processes ingest and evaluate
            await asyncio.sleep(1.0)


async def _measured(pool: Pool) -> bool:
    return all(promotion.n_evaluated for promotion in await watched_promotions(pool))


_OUTCOMES = """
SELECT model_id, observed_at, error FROM fidelity_tracking WHERE line = $1 AND fate = 'counted'
ORDER BY observed_at, tracked_at, source_offset"""


async def _load_history(pool: Pool, history: LineHistory) -> None:
    """Load outcomes, retrains, promotions and alarms of a line."""
    line, ledger = history.scenario.line, Ledger(pool)
    history.outcomes = pd.DataFrame(map(dict, await pool.fetch(_OUTCOMES, line)))
    history.retrains = await list_retrains(pool, line)
    history.promotions = [event for event in await ledger.history(line) if event.happened == "promoted" and event.retrain_id]
    history.alarms = int(await pool.fetchval("SELECT count(*) FROM drift_states WHERE line = $1 AND state = 'alarm'", line))
    if history.promotions and history.promotions[0].retrain_id:
        history.effect = await promotion_effect(pool, history.promotions[0].retrain_id)


def _report_progress(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)
