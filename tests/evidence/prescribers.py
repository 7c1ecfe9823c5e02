"""The whole way on real prescribers: a shift is put on what really happened, and noticed, learned, gated, promoted and measured."""

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
import numpy.typing as npt
import pandas as pd

from deploy.stack import free_port
from engine import TwinGenerator
from schemas import Baseline, Brand, ModelCard, ModelEvent, TwinType, model_line
from schemas.fidelity_models import DRIFT_RULES
from sql.database import Pool, open_pool
from sql.ledger import Ledger
from sql.promotion_effect_store import PromotionEffect, promotion_effect, watched_promotions
from sql.retrain_store import Request, requests
from streams.client.twin_client import TwinClient
from streams.demo.run import DEMO_SETTINGS
from streams.demo.stream import OutcomeRows, paced_batches
from streams.operations.verify import verify
from streams.reporting.charts import Curve, ReferenceLine, Tone, ValueMarker, curves_chart
from streams.settings import ROLES, Settings
from streams.training import as_training_table, read_table
from streams.worker.local_stack import local_stack
from streams.worker.setup import prepare, train_model
from streams.worker.supervisor import Workers
from tests.error_streams import CELL, STEP, log_evidence, outcomes_until, rule_fired, step_sums
from tests.evidence.part import DATA, Figure, Part, Plot, Table

__all__ = ["measure"]

TABLE = DATA / "hcp_partd_2013_2014.csv.gz"
TARGET = "prescribing_change"
SEED, LEARNED = 2026, 8_000
RATE, DRIP = 120.0, 20.0
"""Outcomes a second of each line, and while a training is waited for that has all the rows it can use."""


class Lengths(NamedTuple):
    """Outcomes of a line before the shift, under it until only a drip comes, and after a promotion, to measure what it bought."""

    quiet: int
    shifted: int
    after: int


WHOLE, QUICK = Lengths(4_000, 5_000, 2_600), Lengths(1_500, 3_000, 1_100)

AHEAD = 600
"""Outcomes on their way that the stream waits for, so that a slow machine does not find everything later."""

ORDERS, LONG, SHIFTED_LONG = 200, 20_000, 6_000
"""Orders of the same physicians, and outcomes of each without a shift and after one."""

SETTLE_S = 600.0
BIN = 250
_SHRUNK = "what takes prescriptions away takes of their spread too"
_RISE = next(rule.limit for rule in DRIFT_RULES if rule.action == "retrain")
BACK_AT_MOST = 1.0 + _RISE
"""Error of the new champion over the error before the shift: the limit of the rule that calls for a retrain."""


class Story(NamedTuple):
    """A line and what happens to the physicians on it.

    Attributes:
        keeps: share of its prescriptions that a physician's ``level`` of ``dimension`` keeps; everything without a level.
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
        """What the shift adds to the target, by the number of a row; the target is a relative change of prescriptions."""
        if not self.level:
            return {}
        touched = np.flatnonzero(frame[self.dimension] == self.level)
        happened = frame[TARGET].to_numpy(dtype=float)[touched]
        return dict(zip(touched.tolist(), ((1.0 + happened) * (self.keeps - 1.0)).tolist(), strict=True))


STORIES = (
    Story(Brand.FABHALTA, "nothing happens"),
    Story(Brand.KISQALI, "a payer in the south pays for 7 of 10 prescriptions", "region", "south", 0.7),
    Story(Brand.REMIBRUTINIB, "family practice halves", "specialty", "family_practice", 0.5),
)


@dataclass
class Seen:
    """What became of a story.

    Attributes:
        outcomes: errors of the counted outcomes in their order, with the model that was asked: ``model_id, observed_at, error``.
    """

    story: Story
    first: ModelCard
    published: int = 0
    shifted_from: datetime | None = None
    alarms: int = 0
    asked: Sequence[Request] = ()
    promotions: Sequence[ModelEvent] = ()
    effect: PromotionEffect | None = None
    outcomes: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["model_id", "observed_at", "error"]))

    @property
    def trained(self) -> int:
        """Trainings that were begun."""
        return sum(request.started_at is not None for request in self.asked)

    def place(self, moment: datetime | None) -> int:
        """Outcomes before a moment."""
        return int((self.outcomes["observed_at"] < moment).sum())

    @property
    def decided(self) -> int | None:
        """Outcomes until the end of the panes on which the first retrain was decided."""
        return self.place(datetime.fromisoformat(self.asked[0].evidence["window_end"])) if self.asked else None

    @property
    def delay(self) -> int | None:
        """Outcomes from the first shifted one until then."""
        return None if self.decided is None else self.decided - self.place(self.shifted_from)

    @property
    def mae(self) -> dict[str, float]:
        """Mean absolute error ``before`` the shift, ``under`` it, and of the ``new`` champion, as far as there were any."""
        new = self.outcomes["model_id"] != self.first.model_id
        before = self.outcomes["observed_at"] < self.shifted_from
        part = np.select([before, new], ["before", "new"], "under")
        return {str(name): float(mae) for name, mae in self.outcomes.groupby(part)["error"].mean().items()}

    @property
    def back(self) -> float:
        """Error under the new champion over the error before the shift; infinite where nobody was promoted."""
        return self.mae["new"] / self.mae["before"] if "new" in self.mae else float("inf")


def measure(quick: bool) -> Part:
    """Three lines at once on one worker, then on two of which one is killed; a quick run leaves the second out."""
    if not TABLE.is_file():
        return Part("A shift on real prescribers", (f"not measured: {TABLE.name} is absent",))
    orders, lengths = (ORDERS // 10, QUICK) if quick else (ORDERS, WHOLE)
    shuffled = _shuffled(orders)
    runs = {"one worker": _run(1, lengths)} | ({} if quick else {"two workers, one killed": _run(2, lengths)})
    rows = [row for name, (seen, _) in runs.items() for row in _rows(name, seen)]
    return Part(
        title="On real prescribers a shift is noticed, learned once and repaired, and without one everything stays quiet",
        sentences=_sentences(orders, lengths.quiet),
        figures=(
            *(figure for name, (seen, disputed) in runs.items() for figure in _figures(name, seen, disputed)),
            *(_order_figure(story, waited, orders) for story, waited in zip(STORIES, shuffled, strict=True)),
        ),
        tables=(
            Table(
                "What happened on each line",
                (
                    *("run and story", "outcomes", "series in alarm", "delay in outcomes", "trainings", "ended"),
                    *("MAE before", "under the shift", "new champion", "bought"),
                ),
                tuple(rows),
            ),
            Table(
                f"The same physicians in {orders} orders: outcomes until something was seen, in {LONG:,} without a shift "
                f"or {SHIFTED_LONG:,} after one",
                ("story", *("alarm of the detector", "median", "9 of 10 by"), *("retrain event", "median", "9 of 10 by")),
                tuple(map(_shuffled_row, STORIES, shuffled)),
            ),
        ),
        plots=tuple(_plot(name, one) for name, (seen, _) in runs.items() for one in seen),
    )


def _sentences(orders: int, quiet: int) -> tuple[str, ...]:
    told = f"""\
{LEARNED:,} physicians of the Medicare Part D table (2013 features, change of prescriptions to 2014) are learned from. Those held \
back stream in as outcomes with features, at most {RATE:g} a second on each of three lines at once and nobody twice on a line: \
their order and times are ours, and so is the shift, which takes a share of the prescriptions that really were filled.
The first {quiet:,} outcomes of each line are as they were. The delay counts outcomes from the first shifted one to the end of the \
panes on which the retrain was decided, with all that was on its way when a busy machine came to look. What it bought is the new \
champion against the one before it, on the same outcomes that came after the promotion.
Panes of {DEMO_SETTINGS["pane_s"]:g} s and a cooldown of {DEMO_SETTINGS["cooldown_s"]:g} s stand for longer ones. The killed \
worker is lost with all \
its processes (SIGKILL) when the shift begins, and not started again.
How soon a shift is found depends on who happens to come first. So the same physicians are put in {orders} random orders too, \
which share one model and its baseline, and the engine's detector and rule look at them in cells of {CELL} outcomes every {STEP}."""
    return tuple(told.splitlines())


def _figures(name: str, seen: Sequence[Seen], disputed: int) -> Iterator[Figure]:
    for one in seen:
        what = f"{name}, {one.story.title}:"
        if not one.story.level:
            yield Figure(f"{what} alarms", one.alarms, at_most=0, form=".0f")
            yield Figure(f"{what} retrain events", len(one.asked), at_most=0, form=".0f")
            continue
        yield Figure(f"{what} delay in outcomes", float("nan") if one.delay is None else one.delay, form=".0f")
        yield Figure(f"{what} trainings", one.trained, at_least=1, at_most=1, form=".0f")
        yield Figure(f"{what} promotions", len(one.promotions), at_least=1, at_most=1, form=".0f")
        yield Figure(f"{what} MAE of the new champion over that before the shift", one.back, at_most=BACK_AT_MOST, note=_SHRUNK)
    yield Figure(f"{name}: counts that verify disputes", disputed, at_most=0, form=".0f")


def _rows(name: str, seen: Sequence[Seen]) -> Iterator[tuple[str, ...]]:
    for one in seen:
        mae = one.mae
        ended = ", ".join(request.status for request in one.asked) or "–"
        errors = [f"{mae[part]:.4f}" if part in mae else "–" for part in ("before", "under", "new")]
        bought = f"{one.effect.verdict} on {one.effect.n:,} outcomes" if one.effect else "–"
        counts = (f"{one.published:,}", str(one.alarms), "–" if one.delay is None else f"{one.delay:,}", str(one.trained))
        yield (f"{name}: {one.story.title}", *counts, ended, *errors, bought)


def _plot(name: str, one: Seen) -> Plot:
    """The error over the outcomes of a line, in bins of as many, with what happened to it."""
    happened = [ValueMarker(one.place(one.shifted_from), "shift", "warn")] if one.story.level else []
    happened += [ValueMarker(one.decided, "alarm", "bad")] if one.decided is not None else []
    happened += [ValueMarker(one.place(event.effective_from), "promoted", "good") for event in one.promotions]
    base = one.first.baseline.mae
    svg = curves_chart(
        list(_curves(one)),
        title=f"{one.story.title}, {name}",
        description=f"Mean absolute error of each {BIN} outcomes with its standard error, the model that was asked by its colour.",
        x_label="outcomes of the line",
        x_form=",.0f",
        lines=[ReferenceLine(base, "baseline"), ReferenceLine(base * (1 + _RISE), f"+{_RISE:.0%}", "bad")],
        markers=happened,
        width=1140,
    )
    return Plot(f"{name}: {one.story.title}. Mean absolute error of each {BIN} outcomes", svg, wide=True)


def _curves(one: Seen) -> Iterator[Curve]:
    tones: Sequence[Tone] = ("one", "two", "muted")
    numbered = one.outcomes.assign(place=np.arange(len(one.outcomes)), bin=np.arange(len(one.outcomes)) // BIN)
    for number, (model, rows) in enumerate(numbered.groupby("model_id", sort=False)):
        bins = rows.groupby("bin").agg(place=("place", "mean"), mae=("error", "mean"), sem=("error", "sem"), n=("error", "size"))
        full = bins[bins["n"] >= BIN / 5]
        label = "first champion" if model == one.first.model_id else f"successor {str(model)[:8]}"
        columns = (full[name].tolist() for name in ("place", "mae", "sem"))
        yield Curve(label, *columns, tone=tones[number % len(tones)])


class Waited(NamedTuple):
    """Outcomes until the detector alarmed and until a retrain was asked for, from the shift on; infinite where that never was."""

    detector: npt.NDArray[np.float64]
    retrain: npt.NDArray[np.float64]


def _shuffled(orders: int) -> list[Waited]:
    """Each story on the held-back physicians in many orders, against one model."""
    learned, held_back = _tables()
    generator = TwinGenerator(TwinType.HCP, STORIES[0].brand, TARGET)
    generator.train(learned, target_col=TARGET)
    errors = generator.model.predict(held_back) - held_back[TARGET].to_numpy(dtype=float)
    return [_waited(story, held_back, errors, generator.model.card.baseline, orders) for story in STORIES]


def _waited(story: Story, held_back: pd.DataFrame, errors: npt.NDArray[np.float64], baseline: Baseline, orders: int) -> Waited:
    rng, change = np.random.default_rng(SEED), np.zeros(len(errors))
    for row, by in story.change(held_back).items():
        change[row] = by
    quiet, after = (WHOLE.quiet, SHIFTED_LONG) if story.level else (0, LONG)
    found = []
    for _ in range(orders):
        order = rng.permutation(len(errors))[: quiet + after]
        stream = errors[order] - np.where(np.arange(quiet + after) < quiet, 0.0, change[order])
        looks = step_sums(stream[None], [baseline])
        alarmed = np.logical_or.accumulate(log_evidence(looks) >= 0, axis=1)
        found.append([outcomes_until(alarmed)[0], outcomes_until(alarmed & rule_fired(looks, [baseline]))[0]])
    return Waited(*(np.array(found).T - quiet))


def _order_figure(story: Story, waited: Waited, orders: int) -> Figure:
    if not story.level:
        return Figure(f"{orders} orders, {story.title}: share with a retrain event", _share(waited.retrain), at_most=0.03)
    median = float(np.quantile(waited.retrain, 0.5, method="higher"))
    return Figure(f"{orders} orders, {story.title}: outcomes until a retrain event, median", median, form=".0f")


def _shuffled_row(story: Story, waited: Waited) -> tuple[str, ...]:
    told = ((f"{_share(seen):.1%}", *(_within(seen, share) for share in (0.5, 0.9))) for seen in waited)
    return (story.title, *(cell for cells in told for cell in cells))


def _share(seen: npt.NDArray[np.float64]) -> float:
    return float(np.isfinite(seen).mean())


def _within(seen: npt.NDArray[np.float64], share: float) -> str:
    """Outcomes after which so many of the orders had it."""
    waited = float(np.quantile(seen, share, method="higher"))
    return f"{waited:,.0f}" if np.isfinite(waited) else "–"


def _tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Physicians to learn from, and those held back."""
    frame = as_training_table(read_table(TABLE), TwinType.HCP).frame
    order = np.random.default_rng(SEED).permutation(len(frame))
    learned, held_back = (frame.iloc[part].reset_index(drop=True) for part in (order[:LEARNED], order[LEARNED:]))
    return learned, held_back


def _run(workers: int, lengths: Lengths) -> tuple[list[Seen], int]:
    """The three stories at once on a stack of their own, and how many counts ``verify`` disputes at the end."""
    learned, held_back = _tables()
    with ExitStack() as held:
        home = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="prescribers-")))
        ours = Settings(home=home, web_port=free_port(in_a_row=len(ROLES))).model_copy(update=DEMO_SETTINGS)
        at = held.enter_context(local_stack(home / "stack", ours, _say))
        asyncio.run(prepare(at))
        seen = [Seen(story, _first_model(at, learned, story)) for story in STORIES]
        kept = held.enter_context(Workers(ROLES, at, log_folder=home / "logs"))
        doomed = _second_worker(held, at, home) if workers > 1 else None
        for worker in filter(None, (kept, doomed)):
            worker.wait_ready(SETTLE_S)
        asyncio.run(_stream(at, seen, held_back, doomed, lengths))
        disputed = asyncio.run(verify(at)).mismatches
        for each in disputed:
            _say(each)
        kept.check()
        return seen, len(disputed)


def _second_worker(held: ExitStack, at: Settings, home: Path) -> Workers:
    apart = at.model_copy(update={"web_port": free_port(in_a_row=len(ROLES)), "home": home / "second"})
    return held.enter_context(Workers(ROLES, apart, log_folder=home / "second" / "logs"))


def _first_model(at: Settings, learned: pd.DataFrame, story: Story) -> ModelCard:
    return asyncio.run(train_model(at, learned, TwinType.HCP, story.brand, TARGET, TABLE.name)).card


@dataclass(frozen=True)
class _Stage:
    """What the stories are told with.

    Attributes:
        doomed: worker that is killed when the last story comes to its shift.
    """

    client: TwinClient
    pool: Pool
    seen: Sequence[Seen]
    held_back: pd.DataFrame
    doomed: Workers | None
    lengths: Lengths

    async def tell(self, one: Seen) -> None:
        """Publish a line's outcomes: as they were, shifted until somebody was promoted, and some more."""
        rows, change = OutcomeRows(self.held_back, one.story.line, uuid4()), one.story.change(self.held_back)
        await self._send(rows, one, {}, self.lengths.quiet)
        one.shifted_from = datetime.now(UTC)
        if self.doomed is not None and one is self.seen[-1]:
            await asyncio.to_thread(_kill, self.doomed)
        while not await self._is_over(rows, one):
            rate = RATE if rows.position < self.lengths.quiet + self.lengths.shifted else DRIP
            await self._send(rows, one, change, round(rate), rate)
        _say(f"{one.story.title}: {rows.position:,} outcomes until champion {await Ledger(self.pool).champion(one.story.line)}")
        await self._send(rows, one, change, self.lengths.after)

    async def _is_over(self, rows: OutcomeRows, one: Seen) -> bool:
        """Whether a successor reigns, or the physicians are running out; of a line where nothing happens, when it had its time."""
        if not one.story.level:
            return rows.position >= 2 * self.lengths.quiet
        promoted = await Ledger(self.pool).champion(one.story.line) != one.first.model_id
        return promoted or rows.position + round(RATE) + self.lengths.after > len(self.held_back)

    async def _send(self, rows: OutcomeRows, one: Seen, change: Mapping[int, float], count: int, rate: float = RATE) -> None:
        async for batch in paced_batches(rows, rate, change, count):
            one.published += await self.client.publish_outcomes(batch)
            while sum(each.published for each in self.seen) - await _taken_in(self.pool) > AHEAD:  # noqa: ASYNC110  # others take in
                await asyncio.sleep(0.1)


async def _stream(at: Settings, seen: Sequence[Seen], held_back: pd.DataFrame, doomed: Workers | None, lengths: Lengths) -> None:
    pool = await open_pool(at)
    try:
        async with TwinClient(at, name="prescribers") as client:
            stage = _Stage(client, pool, seen, held_back, doomed, lengths)
            await asyncio.gather(*map(stage.tell, seen))
        await _settled(pool, sum(one.published for one in seen))
        for one in seen:
            await _look(pool, one)
    finally:
        await pool.close()


def _kill(doomed: Workers) -> None:
    """Lose a worker with all its processes at once."""
    for pid in doomed.pids.values():
        os.kill(pid, signal.SIGKILL)
    doomed.stop()


async def _taken_in(pool: Pool) -> int:
    return int(await pool.fetchval("SELECT coalesce(sum(elements), 0) FROM source_positions"))


async def _settled(pool: Pool, published: int) -> None:
    """Wait until every outcome has its row and every promotion was measured on enough of them."""
    async with asyncio.timeout(SETTLE_S):
        while await _taken_in(pool) < published or not await _measured(pool):  # noqa: ASYNC110  # others take in and measure
            await asyncio.sleep(1.0)


async def _measured(pool: Pool) -> bool:
    return all(promotion.n_evaluated for promotion in await watched_promotions(pool))


_OUTCOMES = """
SELECT model_id, observed_at, error FROM fidelity_tracking WHERE line = $1 AND fate = 'counted'
ORDER BY observed_at, tracked_at, source_offset"""


async def _look(pool: Pool, one: Seen) -> None:
    """Write down what became of a line."""
    line, ledger = one.story.line, Ledger(pool)
    one.outcomes = pd.DataFrame(map(dict, await pool.fetch(_OUTCOMES, line)))
    one.asked = await requests(pool, line)
    one.promotions = [event for event in await ledger.history(line) if event.happened == "promoted" and event.retrain_id]
    one.alarms = int(await pool.fetchval("SELECT count(*) FROM drift_states WHERE line = $1 AND state = 'alarm'", line))
    if one.promotions and one.promotions[0].retrain_id:
        one.effect = await promotion_effect(pool, one.promotions[0].retrain_id)


def _say(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)
