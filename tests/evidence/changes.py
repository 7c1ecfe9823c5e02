"""What the detector finds on real prescribers: bias, lost coverage and lost correlation, and no change in the order of rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from engine import TwinGenerator
from engine.fidelity import (
    Detection,
    DetectorState,
    accumulate,
    add_sums,
    bias_verdict,
    contributions,
    dominating_segment,
    evaluate_rules,
    fidelity_metrics,
    next_state,
    series_reference,
)
from engine.fidelity.drift_rules import N_MIN
from schemas import Baseline, Brand, DriftState, TwinType
from schemas.arrays import Floats, Integers
from schemas.twin_types import TWIN_TYPES, segment_name
from streams.training import read_training_table
from tests.error_streams import CELL, STEP, log_evidence
from tests.evidence.part import DATA, Figure, Part, Table

__all__ = ["measure"]

TABLE = DATA / "hcp_partd_2013_2014.csv.gz"
TARGET = "prescribing_change"
TRAINING_ROWS, QUIET, SETTLED, AFTER = 8_000, 36_000, 2_000, 7_200
SEEDS = (2026, 7, 11)
"""Of the splits into rows to train on and rows held back: a model each."""

BUDGET = 0.03
BARS = {"bias +0.05": 500, "bias -0.05": 500, "coverage 0.95 to 0.85": 600}
ORDERS = ("decile", "total_patient_volume", "years_experience", "region", "weekday")
BLOCKS = ("specialty", "state")
RARE = 0.015
"""Share of the outcomes of the specialty that is changed by itself, about."""


class World(NamedTuple):
    """Held-back rows with predictions and intervals, and the model's baseline."""

    frame: pd.DataFrame
    actual: Floats
    predicted: Floats
    half_width: Floats
    baseline: Baseline
    segments: dict[str, npt.NDArray[np.bool_]]

    def without_expectations(self) -> World:
        """The same with the baseline of earlier models, whose detector knows the size of errors alone, in units of the target."""
        plain = self.baseline.model_copy(update={"expected": None, "losses": {}, "segments": {}})
        return self._replace(baseline=plain)


@dataclass(frozen=True)
class Outcome:
    """Outcomes until the alarm and the request of a retrain, infinite without one, and the segments that carried evidence."""

    alarm: float
    retrain: float
    carried_by: tuple[str, ...]


def measure(quick: bool) -> Part:
    """Measure with 40 orders of each of three splits; a quick run uses 4 orders of one."""
    orders = 4 if quick else 40
    worlds = [_world(seed) for seed in SEEDS[: 1 if quick else None]]
    now, earlier = _follow(worlds, orders), _follow([world.without_expectations() for world in worlds], orders)
    runs = len(now.quiet)
    return Part(
        title="What changes on real prescribers is found, and their order is no change",
        sentences=tuple(_SENTENCES.format(runs=runs, models=len(worlds), rows=TRAINING_ROWS, cell=CELL, step=STEP).splitlines()),
        figures=(*_shift_figures(now), *_rare_figures(worlds, orders), *_quiet_figures(now)),
        tables=(_shift_table(now, earlier), _order_table(now, earlier)),
        plots=(),
    )


class Followed(NamedTuple):
    """What became of the streams of all worlds, by shift and by order."""

    shifts: dict[str, list[Outcome]]
    quiet: list[Outcome]
    orders: dict[str, list[Outcome]]


def _rare_figures(worlds: Sequence[World], orders: int) -> Iterator[Figure]:
    delays, false = zip(*(pair for world in worlds for pair in _rare_halves(world, orders)), strict=True)
    share = float(np.mean([world.segments[_rare_specialty(world)].mean() for world in worlds]))
    what = f"a specialty of {share:.1%} of outcomes halves"
    note = f"without a change {np.mean(false):.1%} of streams have a warning"
    yield Figure(f"{what}: share of streams in which it is warned of", _share(delays), at_least=0.95, form=".1%", note=note)
    yield Figure(f"{what}: median of its own outcomes until the warning", _median(delays), at_most=N_MIN, form=",.0f")


def _follow(worlds: Sequence[World], orders: int) -> Followed:
    return Followed(
        {name: [out for world in worlds for out in _shifted(world, name, orders)] for name in _SHIFTS},
        [out for world in worlds for out in _unchanged(world, orders)],
        {name: [out for world in worlds for out in _ordered(world, name, orders)] for name in (*ORDERS, *BLOCKS)},
    )


_SENTENCES = """\
{models} models are trained on {rows:,} physicians each of the Medicare Part D table; the others are streamed as outcomes with \
their predictions and intervals, in {runs} random orders in all, in cells of {cell} that are evaluated every {step}, by the \
engine's own sums, detector, rules and states. Streams of 36,000 outcomes draw physicians with replacement.
A shift comes after 2,000 unchanged outcomes. A bias is added to every prediction; lost coverage narrows every interval, errors \
stay as they are; lost correlation permutes the predictions. A rare specialty that halves is warned of by its own series, which \
is evaluated among those of all segments; the rules need 200 outcomes of it, the evidence does not.
Sorted streams contain each held-back physician once, in ascending and in descending order in turn, or in blocks whose order is \
random. Weekdays are drawn at random. The detector that knows the size of errors alone is that of models trained before. Where \
nearly all of the latest outcomes are of one segment, unlike the training rows, the \
series of all rows leaves them to the segment's own series, which is compared with its own baseline."""


def _world(seed: int) -> World:
    table = read_training_table([TABLE], TwinType.HCP).frame
    table["state"] = pd.read_csv(TABLE, usecols=["state_2013"])["state_2013"].to_numpy()
    order = np.random.default_rng(seed).permutation(len(table))
    training, held_back = (table.iloc[part].reset_index(drop=True) for part in (order[:TRAINING_ROWS], order[TRAINING_ROWS:]))
    generator = TwinGenerator(TwinType.HCP, Brand.FABHALTA, TARGET)
    generator.train(training.drop(columns="state"), target_col=TARGET)
    predicted, lower, upper, _ = generator.model.predict_rows(held_back.drop(columns=["state", TARGET]))
    held_back["weekday"] = np.random.default_rng(seed).integers(0, 7, len(held_back))
    segments = {
        segment_name(dimension, level): (held_back[dimension] == level).to_numpy()
        for dimension in TWIN_TYPES[TwinType.HCP].segments
        for level in held_back[dimension].unique()
    }
    actual = held_back[TARGET].to_numpy(dtype=float)
    return World(held_back, actual, predicted, (upper - lower) / 2, generator.model.card.baseline, segments)


def _sums(world: World, rows: Integers, name: str = "", seed: int = 0) -> npt.NDArray[np.int64]:
    """Sums of each step of the rows, under a shift."""
    predicted, half_width = world.predicted[rows], world.half_width[rows]
    if name.startswith("bias"):
        predicted = predicted + float(name.removeprefix("bias "))
    elif name.startswith("coverage"):
        half_width = half_width * float(np.quantile(np.abs(world.actual - world.predicted) / world.half_width, 0.85))
    elif name.startswith("correlation"):
        predicted = np.random.default_rng(seed).permutation(predicted)
    actual = world.actual[rows]
    if name.startswith("errors"):
        actual = predicted + (actual - predicted) * 1.2
    if name.startswith("a specialty"):
        actual = np.where(world.segments["specialty=family_practice"][rows], (1.0 + actual) * 0.5 - 1.0, actual)
    parts = contributions(predicted, actual, predicted - half_width, predicted + half_width, world.baseline)
    return np.asarray(parts.reshape(-1, STEP, parts.shape[1]).sum(axis=1))


_SHIFTS = (
    "bias +0.05",
    "bias -0.05",
    "coverage 0.95 to 0.85",
    "errors 20 % larger",
    "correlation lost",
    "a specialty halves",
)


def _shifted(world: World, name: str, orders: int) -> Iterator[Outcome]:
    rng = np.random.default_rng(orders)
    for seed in range(orders):
        rows = rng.permutation(len(world.actual))[: SETTLED + AFTER]
        steps = np.concatenate([_sums(world, rows[:SETTLED]), _sums(world, rows[SETTLED:], name, seed)])
        found = _monitor(world, rows, steps)
        yield Outcome(found.alarm - SETTLED, found.retrain - SETTLED, found.carried_by)


def _rare_halves(world: World, orders: int) -> Iterator[tuple[float, bool]]:
    """Outcomes of a rare specialty that halves until it is warned of, and whether one of it is warned of without a change."""
    rng = np.random.default_rng(orders + 3)
    name = _rare_specialty(world)
    for _ in range(orders):
        rows = rng.permutation(len(world.actual))[: SETTLED + AFTER]
        members, n_before = world.segments[name][rows], int(world.segments[name][rows[:SETTLED]].sum())
        halved = np.where(np.arange(len(rows)) >= SETTLED, 0.5, 1.0)
        delays = [_until_warning(world, name, rows, members, factor) - n_before for factor in (halved, np.ones(len(rows)))]
        yield delays[0], math.isfinite(delays[1])


def _rare_specialty(world: World) -> str:
    names = [name for name in world.segments if name.startswith("specialty=") and world.baseline.segment(name)]
    return min(names, key=lambda name: abs(float(world.segments[name].mean()) - RARE))


def _until_warning(world: World, name: str, rows: Integers, members: npt.NDArray[np.bool_], factor: Floats) -> float:
    """Outcomes of a segment until its own series is warned of, as the service evaluates it among all segments."""
    actual, half_width = (1.0 + world.actual[rows]) * factor - 1.0, world.half_width[rows]
    predicted = world.predicted[rows]
    parts = contributions(predicted, actual, predicted - half_width, predicted + half_width, world.baseline)
    parts = np.where(members[:, None], parts, 0)
    state = DetectorState(reference=series_reference(world.baseline, world.baseline.segment(name)))
    for first in range(0, len(rows), CELL):
        sums = parts[first : first + CELL].reshape(-1, STEP, parts.shape[1]).sum(axis=1).cumsum(axis=0).tolist()
        for number, cell in enumerate(sums, start=1):
            if accumulate([cell], state).ratio() >= len(world.baseline.segments):
                return float(members[: first + number * STEP].sum())
        state = accumulate([sums[-1]], state)
    return math.inf


def _unchanged(world: World, orders: int) -> Iterator[Outcome]:
    rng = np.random.default_rng(orders + 1)
    for _ in range(orders):
        rows = rng.integers(0, len(world.actual), QUIET)
        yield _monitor(world, rows, _sums(world, rows))


def _ordered(world: World, column: str, orders: int) -> Iterator[Outcome]:
    rng = np.random.default_rng(orders + 2)
    values = world.frame[column].astype("category").cat.codes.to_numpy() if column in (*BLOCKS, "region") else world.frame[column]
    n = len(values) // CELL * CELL
    for number in range(orders):
        key = np.asarray(values) * (-1) ** number
        if column in (*BLOCKS, "region", "weekday"):
            key = rng.permutation(int(np.max(values)) + 1)[np.asarray(values)]
        rows = np.lexsort((rng.random(len(key)), key))[:n]
        yield _monitor(world, rows, _sums(world, rows))


def _monitor(world: World, rows: Integers, steps: npt.NDArray[np.int64]) -> Outcome:
    """Follow a stream as the service does: the detector, its restarts, and the states of the series of all rows."""
    start, carried, alarm = 0, [], math.inf
    while True:
        evidence = log_evidence(steps[None, start:], [world.baseline])
        hot = np.flatnonzero(evidence.total[0] >= 0)
        if not len(hot):
            return Outcome(alarm, math.inf, tuple(carried))
        first = start + int(hot[0])
        alarm = min(alarm, (first + 1) * STEP)
        segment = _carrier(world, rows, first)
        if segment is None:
            break
        carried.append(segment)
        start = (first // (CELL // STEP) + 1) * (CELL // STEP)
        if start >= len(steps):
            return Outcome(alarm, math.inf, tuple(carried))
    alone = {name: values[0] for name, values in evidence.by_loss.items()}
    for step in range(first, len(steps)):
        carriers = [name for name, values in alone.items() if values[step - start] >= 0]
        if _is_alarm(world.baseline, steps, step, carriers) and _carrier(world, rows, step) is None:
            return Outcome(alarm, (step + 1) * STEP, tuple(carried))
    return Outcome(alarm, math.inf, tuple(carried))


def _latest(step: int) -> slice:
    """The steps of the fewest latest cells that hold enough outcomes."""
    first = step // (CELL // STEP) * (CELL // STEP)
    return slice(first if (step + 1 - first) * STEP >= N_MIN else max(first - CELL // STEP, 0), step + 1)


def _carrier(world: World, rows: Integers, step: int) -> str | None:
    if world.baseline.expected is None:  # so that the order of rows is seen as earlier versions saw it
        return None
    latest = _latest(step)
    span = rows[latest.start * STEP : latest.stop * STEP]
    counts = {name: int(members[span].sum()) for name, members in world.segments.items()}
    return dominating_segment({name: n for name, n in counts.items() if n}, len(span), world.baseline)


def _is_alarm(baseline: Baseline, steps: npt.NDArray[np.int64], step: int, carriers: Sequence[str]) -> bool:
    sums = add_sums(steps[_latest(step)].tolist())
    metrics = fidelity_metrics(sums, baseline)
    bias = bias_verdict(sums, baseline)
    verdicts = (*evaluate_rules(metrics, baseline), *(() if bias is None else (bias,)))
    return next_state(verdicts, Detection.CHANGE, metrics, carriers=carriers) is DriftState.ALARM


# -- reporting


def _share(values: Sequence[float]) -> float:
    return float(np.isfinite(values).mean())


def _median(values: Sequence[float]) -> float:
    return float(np.quantile(values, 0.5, method="higher"))


def _count(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else "never"


def _shift_figures(followed: Followed) -> Iterator[Figure]:
    for name, outcomes in followed.shifts.items():
        delays = [outcome.alarm for outcome in outcomes]
        yield Figure(f"{name}: median outcomes until it is detected", _median(delays), at_most=BARS.get(name), form=",.0f")
        if name in BARS:
            yield Figure(f"{name}: share of streams in which it is detected", _share(delays), at_least=1.0, form=".1%")
            retrains = [outcome.retrain for outcome in outcomes]
            yield Figure(f"{name}: share of streams with a retrain event", _share(retrains), at_least=1.0, form=".1%")


def _quiet_figures(followed: Followed) -> Iterator[Figure]:
    retrains = [outcome.retrain for outcome in followed.quiet]
    yield Figure(f"false retrain events in {QUIET:,} outcomes", _share(retrains), at_most=BUDGET, form=".1%")
    for name, outcomes in followed.orders.items():
        bar = BUDGET if name in ORDERS else None
        yield Figure(f"sorted by {name}: share with a retrain", _share([out.retrain for out in outcomes]), at_most=bar, form=".1%")


def _shift_table(now: Followed, earlier: Followed) -> Table:
    rows = [
        (name, *_delay_cells([out.alarm for out in outcomes]), *_delay_cells([out.retrain for out in outcomes]))
        for shift in _SHIFTS
        for name, outcomes in ((shift, now.shifts[shift]), (f"{shift}, size alone", earlier.shifts[shift]))
    ]
    columns = ("change", "detected", "median", "9 of 10 by", "retrain event", "median", "9 of 10 by")
    title = (
        f"Outcomes until a change is detected, in {AFTER:,} after it; beside it the detector that knows the size of errors alone"
    )
    return Table(title, columns, tuple(rows))


def _delay_cells(delays: Sequence[float]) -> tuple[str, ...]:
    return (f"{_share(delays):.0%}", *(_count(float(np.quantile(delays, q, method="higher"))) for q in (0.5, 0.9)))


def _order_table(now: Followed, earlier: Followed) -> Table:
    orders = {"random": now.quiet, **now.orders}
    before = {"random": earlier.quiet, **earlier.orders}
    rows = [
        (
            name,
            f"{_share([out.alarm for out in outcomes]):.1%}",
            f"{_share([out.retrain for out in outcomes]):.1%}",
            f"{_share([out.retrain for out in before[name]]):.1%}",
            _most_frequent([segment for out in outcomes for segment in set(out.carried_by)], len(outcomes)),
        )
        for name, outcomes in orders.items()
    ]
    columns = ("order", "evidence at its limit", "retrain event", "retrain, size alone", "segments that carried it")
    return Table("Streams without any change", columns, tuple(rows))


def _most_frequent(segments: Sequence[str], n: int) -> str:
    counts = pd.Series(segments, dtype=object).value_counts().head(4)
    return ", ".join(f"{name} ({count / n:.0%})" for name, count in counts.items()) or "–"
