"""False alarms and delays of the drift detector, compared with the bare rule and two detectors of River."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from river.drift import ADWIN, PageHinkley

from engine.fidelity.e_detector import AVERAGE_RUN_LENGTH, discoveries, log_mean, series_reference, update_log_stakes
from engine.fidelity.effective_sample_size import effective_n
from engine.fidelity.error_sums import add_sums
from schemas import Baseline
from schemas.arrays import Flags, Floats, Integers
from schemas.events import SUM_FIELDS
from streams.reporting.charts import Curve, ReferenceLine, Tone, curves_chart
from tests.error_streams import (
    CELL,
    DRAWS,
    STEP,
    Territories,
    error_contributions,
    known_baseline,
    log_evidence,
    outcomes_until,
    rule_fired,
    sampled_baseline,
    step_sums,
    territory_errors,
)
from tests.evidence.part import Figure, Part, Plot, Table, seeded_rng

__all__ = ["measure"]


QUIET = 36_000
SETTLED, AFTER = 2_000, 8_000
"""Outcomes before a shift, to which a random part of a cell is added, and outcomes after it."""

BUDGET = 0.03
SHIFTS = {"+20 %": 1.2, "+50 %": 1.5}
BARS = {("normal", "+20 %"): 400, ("t3", "+20 %"): 650, ("normal", "+50 %"): 135, ("t3", "+50 %"): 180}
KNOWN = "mean known"
BASELINES = {KNOWN: 0, "2,000 rows": 2_000, "10,000 rows": 10_000}
TONES: Sequence[Tone] = ("one", "two", "good", "warn", "bad", "muted")
BATCH = 50


class Alarms(NamedTuple):
    """Outcomes until the first alarm, retrain request and fired rule of each stream; infinite where there is none."""

    detector: Floats
    retrain: Floats
    rule: Floats


def measure(quick: bool) -> Part:
    """Measure with 1,000 repetitions, 200 where streams have territories or segments; a quick run uses a twentieth of both."""
    repetitions, fewer = (50, 10) if quick else (1_000, 200)
    quiet = {key: _quiet(*key, repetitions) for key in _keys()}
    delays = {(*key, shift): _delays(*key, size, repetitions) for key in _keys() for shift, size in SHIFTS.items()}
    river = {
        (name, errors): _measure_river(make, errors, repetitions)
        for name, make in {"PageHinkley": PageHinkley, "ADWIN": ADWIN}.items()
        for errors in DRAWS
    }
    worlds = [_measure_territories(world, fewer) for world in WORLDS]
    return Part(
        title="Drift is detected within a stated budget of false alarms",
        sentences=_sentences(repetitions, fewer, worlds),
        figures=(*_alarm_figures(quiet), *_delay_figures(delays)),
        tables=(
            _delay_table(quiet, delays),
            _comparison_table(quiet, delays, river),
            _territory_table(worlds),
            _segment_table(fewer),
        ),
        plots=(*_quiet_plots(quiet, river, repetitions), *_delay_plots(delays)),
    )


_SENTENCES = """\
Each of {repetitions:,} repetitions draws its own baseline and {quiet:,} outcomes without any drift. The detector's cells \
hold {cell} outcomes and are evaluated every {step}; it raises an alarm when its evidence reaches the limit for an average run \
length of {run_length:,.0f} outcomes. The measurement uses the engine's own sums and stakes.
Delays count outcomes from the shift to the evaluation that detected it. The shift multiplies every error; it comes after \
{settled:,} outcomes without drift and a random part of a cell. Streams with an alarm before the shift are left out and counted \
as early.
A retrain event needs the detector's alarm, which is final, and the drift rule (mean absolute error 20 % over the baseline) on \
the fewest latest panes that hold 200 outcomes. A shift of exactly 20 % lies on the limit of the rule, so that there the rule \
fires only by chance.
River's PageHinkley and ADWIN run with their defaults on the same absolute errors, outcome by outcome, as many times as the \
detector. The bare rule is the drift rule alone, at every evaluation.
Territories and segments are measured with {fewer:,} repetitions each. Where errors of outcomes of a territory are correlated, \
they really change and change back, and the detector reports it. By the effective number of outcomes of a window of \
{window:,}, which every window reports, the budget of 3 % holds down to {detector} for the detector, and down to {retrain} for \
retrain events, which need the rule as well."""


def _sentences(repetitions: int, fewer: int, worlds: Sequence[TerritoryResult]) -> tuple[str, ...]:
    text = _SENTENCES.format(
        repetitions=repetitions,
        fewer=fewer,
        quiet=QUIET,
        cell=CELL,
        step=STEP,
        settled=SETTLED,
        run_length=AVERAGE_RUN_LENGTH,
        window=WINDOW,
        detector=_lowest_within_budget(worlds, lambda alarms: alarms.detector),
        retrain=_lowest_within_budget(worlds, lambda alarms: alarms.retrain),
    )
    return tuple(text.splitlines())


def _keys() -> Iterator[tuple[str, str]]:
    return ((errors, baseline) for errors in DRAWS for baseline in BASELINES)


def _batches(repetitions: int) -> Iterator[int]:
    return (min(BATCH, repetitions - done) for done in range(0, repetitions, BATCH))


def _baselines(rng: np.random.Generator, errors: str, rows: int, count: int) -> list[Baseline]:
    if not rows:
        return [known_baseline(errors)] * count
    return [sampled_baseline(DRAWS[errors](rng, (rows,))) for _ in range(count)]


def _join(parts: Iterable[Alarms]) -> Alarms:
    return Alarms(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _alarms(errors: Floats, baselines: Sequence[Baseline]) -> Alarms:
    """Find when the detector raises its alarm, a retrain is requested, and the rule alone fires."""
    steps = step_sums(errors, baselines)
    alarmed, fired = log_evidence(steps, baselines).total >= 0, rule_fired(steps, baselines)
    latched = np.logical_or.accumulate(alarmed, axis=1)
    return Alarms(outcomes_until(alarmed), outcomes_until(latched & fired), outcomes_until(fired))


def _quiet(errors: str, baseline: str, repetitions: int) -> Alarms:
    rng = seeded_rng("quiet", errors, baseline)
    return _join(
        _alarms(DRAWS[errors](rng, (size, QUIET)), _baselines(rng, errors, BASELINES[baseline], size))
        for size in _batches(repetitions)
    )


def _draw_shifted(rng: np.random.Generator, errors: str, size: float, count: int) -> tuple[Floats, Integers]:
    """Draw streams with a shift, and return the number of outcomes before the shift in each."""
    streams = DRAWS[errors](rng, (count, SETTLED + CELL + AFTER))
    onset = SETTLED + rng.integers(0, CELL, count)
    streams[np.arange(streams.shape[1]) >= onset[:, None]] *= size
    return streams, onset


def _delays(errors: str, baseline: str, size: float, repetitions: int) -> Alarms:
    """Outcomes from the shift to each detection, NaN where it came before the shift."""
    rng = seeded_rng("delays", errors, baseline, size)
    parts = []
    for count in _batches(repetitions):
        streams, onset = _draw_shifted(rng, errors, size, count)
        alarms = _alarms(streams, _baselines(rng, errors, BASELINES[baseline], count))
        parts.append(Alarms(*(np.where(detected > onset, detected - onset, np.nan) for detected in alarms)))
    return _join(parts)


class RiverResult(NamedTuple):
    """Outcomes until the first alarm of a detector: without a shift, and from each shift on (NaN where it came before)."""

    quiet: Floats
    delays: dict[str, Floats]


def _measure_river(make: Callable[[], Any], errors: str, repetitions: int) -> RiverResult:
    rng = seeded_rng("river", errors)
    quiet = [_first_alarm(make(), DRAWS[errors](rng, (QUIET,))) for _ in range(repetitions)]
    delays = {}
    for shift, size in SHIFTS.items():
        streams, onset = _draw_shifted(rng, errors, size, repetitions)
        detected = np.array([_first_alarm(make(), stream) for stream in streams])
        delays[shift] = np.where(detected > onset, detected - onset, np.nan)
    return RiverResult(np.array(quiet), delays)


def _first_alarm(detector: Any, errors: Floats) -> float:
    for count, loss in enumerate(np.abs(errors).tolist(), 1):
        detector.update(loss)
        if detector.drift_detected:
            return count
    return np.inf


# -- reporting


def _share(outcomes: Floats) -> float:
    """Share of streams with a detection."""
    return float(np.isfinite(outcomes).mean())


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _outcomes(value: float) -> str:
    return "never" if not np.isfinite(value) else f"{value:,.0f}"


def _median(delays: Floats) -> float:
    valid = delays[~np.isnan(delays)]
    return float(np.median(valid)) if len(valid) else np.nan


def _alarm_figures(quiet: dict[tuple[str, str], Alarms]) -> Iterator[Figure]:
    for (errors, baseline), alarms in quiet.items():
        yield Figure(
            f"false alarms in {QUIET:,} outcomes, {errors} errors, {baseline}",
            _share(alarms.detector),
            at_most=BUDGET,
            form=".1%",
            note=f"false retrain events {_share(alarms.retrain):.1%}",
        )


def _delay_figures(delays: dict[tuple[str, str, str], Alarms]) -> Iterator[Figure]:
    for (errors, baseline, shift), alarms in delays.items():
        yield Figure(
            f"median delay of the alarm at {shift}, {errors} errors, {baseline}",
            _median(alarms.detector),
            at_most=BARS.get((errors, shift)) if baseline == KNOWN else None,
            form=",.0f",
            note=f"to the retrain event {_outcomes(_median(alarms.retrain))}",
        )


def _delay_table(quiet: dict[tuple[str, str], Alarms], delays: dict[tuple[str, str, str], Alarms]) -> Table:
    rows = []
    for (errors, baseline, shift), alarms in delays.items():
        delays_of_alarms = alarms.detector[~np.isnan(alarms.detector)]
        quantiles = np.quantile(delays_of_alarms, [0.1, 0.5, 0.9], method="inverted_cdf")
        rows.append(
            (
                f"{errors}, {baseline}, {shift}",
                *map(_outcomes, quantiles),
                _outcomes(_median(alarms.retrain)),
                _percent(float(np.isnan(alarms.detector).mean())),
                _percent(_share(quiet[errors, baseline].detector)),
                _percent(_share(quiet[errors, baseline].retrain)),
            )
        )
    columns = ("errors, baseline, shift", "10 %", "median", "90 %", "retrain event", "early", "false alarms", "false retrains")
    return Table("Delays in outcomes, and false alarms", columns, tuple(rows))


def _comparison_table(
    quiet: dict[tuple[str, str], Alarms],
    delays: dict[tuple[str, str, str], Alarms],
    river: dict[tuple[str, str], RiverResult],
) -> Table:
    rows = []
    for errors in DRAWS:
        by_shift = {shift: delays[errors, "10,000 rows", shift] for shift in SHIFTS}
        without_drift = quiet[errors, "10,000 rows"]
        rows.append(
            _comparison_row(f"detector, {errors}", without_drift.detector, [alarms.detector for alarms in by_shift.values()])
        )
        rows.append(
            _comparison_row(f"rule and detector, {errors}", without_drift.retrain, [alarms.retrain for alarms in by_shift.values()])
        )
        rows.append(_comparison_row(f"bare rule, {errors}", without_drift.rule, [alarms.rule for alarms in by_shift.values()]))
        for (name, distribution), result in river.items():
            if distribution == errors:
                rows.append(_comparison_row(f"{name}, {errors}", result.quiet, list(result.delays.values())))
    columns = ("", f"false alarms in {QUIET:,}", *(f"median delay {shift}, early" for shift in SHIFTS))
    return Table("Compared with other detectors, with a baseline of 10,000 rows", columns, tuple(rows))


def _comparison_row(name: str, quiet: Floats, delays: Sequence[Floats]) -> tuple[str, ...]:
    cells = [f"{_outcomes(_median(outcomes))}, {np.isnan(outcomes).mean():.0%}" for outcomes in delays]
    return (name, _percent(_share(quiet)), *cells)


def _quiet_plots(
    quiet: dict[tuple[str, str], Alarms], river: dict[tuple[str, str], RiverResult], repetitions: int
) -> Iterator[Plot]:
    curves = [_curve(f"{errors}, {baseline}", quiet[errors, baseline].detector, n) for n, (errors, baseline) in enumerate(_keys())]
    yield _alarm_plot(
        f"False alarms of the detector by the number of outcomes, in {repetitions:,} streams without drift.",
        curves,
        [ReferenceLine(BUDGET, "budget 3 %", "bad")],
    )
    without_drift = quiet["t3", "10,000 rows"]
    detectors = [
        ("detector", without_drift.detector),
        ("bare rule", without_drift.rule),
        *((name, result.quiet) for (name, distribution), result in river.items() if distribution == "t3"),
    ]
    yield _alarm_plot(
        "The same for t3 errors, with the bare rule and the detectors of River.",
        [_curve(name, outcomes, n) for n, (name, outcomes) in enumerate(detectors)],
    )


def _alarm_plot(caption: str, curves: Sequence[Curve], lines: Sequence[ReferenceLine] = ()) -> Plot:
    chart = curves_chart(
        curves,
        title="False alarms",
        description=caption,
        x_label="outcomes without drift",
        form=".1%",
        x_form=",.0f",
        lines=lines,
    )
    return Plot(caption, chart, wide=True)


def _curve(label: str, outcomes: Floats, number: int, reach: int = QUIET) -> Curve:
    """Share of streams with a detection, by the number of outcomes up to ``reach``."""
    positions = np.linspace(0, reach, 61)
    return Curve(label, positions.tolist(), [float((outcomes <= limit).mean()) for limit in positions], tone=TONES[number])


def _delay_plots(delays: dict[tuple[str, str, str], Alarms]) -> Iterator[Plot]:
    for shift, reach in {"+20 %": 2_000, "+50 %": 600}.items():
        curves = [(f"{errors}, {baseline}", delays[errors, baseline, shift].detector) for errors, baseline in _keys()]
        caption = f"Share of streams whose shift of {shift} was detected, by outcomes since the shift."
        chart = curves_chart(
            [_curve(label, outcomes[~np.isnan(outcomes)], n, reach) for n, (label, outcomes) in enumerate(curves)],
            title=f"Delays at {shift}",
            description=caption,
            x_label="outcomes since the shift",
            form=".0%",
            x_form=",.0f",
            lines=[ReferenceLine(0.5, "median")],
        )
        yield Plot(caption, chart, wide=True)


# -- correlated outcomes of territories

WORLDS = tuple(Territories(shared, number) for number in (50, 10) for shared in (0.0, 0.02, 0.05, 0.1, 0.2))
WINDOW = 2_000


class TerritoryResult(NamedTuple):
    """Median effective number of a window's outcomes, and false alarms, in a world of territories."""

    world: Territories
    effective: float
    alarms: Alarms


def _measure_territories(world: Territories, repetitions: int) -> TerritoryResult:
    rng = seeded_rng("territories", world)
    parts, effective = [], []
    for count in _batches(repetitions):
        errors, territory = territory_errors(rng, world, (count, 10_000 + QUIET))
        baselines = [
            sampled_baseline(stream[:10_000], levels) for stream, levels in zip(errors, territory[:, :10_000], strict=True)
        ]
        parts.append(_alarms(errors[:, 10_000:], baselines))
        window = slice(20_000, 20_000 + WINDOW)
        effective += [
            effective_n(_by_level(stream[window], levels[window], baseline), baseline)
            for stream, levels, baseline in zip(errors, territory, baselines, strict=True)
        ]
    return TerritoryResult(world, float(np.median([n for n in effective if n is not None])), _join(parts))


def _territory_table(worlds: Sequence[TerritoryResult]) -> Table:
    columns = ("territories, shared variance", f"effective n of {WINDOW:,}", "false alarms", "false retrains", "bare rule")
    rows = [
        (
            f"{result.world.number}, {result.world.shared:.0%}",
            _outcomes(result.effective),
            *(_percent(_share(outcomes)) for outcomes in result.alarms),
        )
        for result in worlds
    ]
    return Table(
        f"Alarms in {QUIET:,} outcomes that are correlated within territories; baseline of 10,000 rows of the same world",
        columns,
        tuple(rows),
    )


def _lowest_within_budget(worlds: Sequence[TerritoryResult], outcomes_of: Callable[[Alarms], Floats]) -> str:
    """The lowest effective number down to which the budget holds in every measured world."""
    lowest = np.inf
    for result in sorted(worlds, key=lambda result: -result.effective):
        if _share(outcomes_of(result.alarms)) > BUDGET:
            break
        lowest = result.effective
    return _outcomes(lowest)


def _by_level(errors: Floats, levels: Integers, baseline: Baseline) -> dict[str, tuple[int, ...]]:
    rows = error_contributions(errors, baseline)
    return {f"region={level}": add_sums(rows[levels == level].tolist()) for level in np.unique(levels).tolist()}


# -- many segments at once

SEGMENTS = 20
SIZES = np.linspace(0.5, 2.0, SEGMENTS)
"""Typical size of the errors of each segment."""


def _segment_table(repetitions: int) -> Table:
    """Measure discoveries among segments of different error sizes, without a change and with one in a single segment."""
    columns = (
        "change",
        "streams with a false discovery",
        "streams with a discovery",
        "median delay in its outcomes",
        "of single detectors",
    )
    return Table(
        f"{SEGMENTS} segments monitored together in {QUIET:,} outcomes, error sizes up to fourfold; baseline of 10,000 rows",
        columns,
        tuple(_segment_row(size, repetitions) for size in (1.0, 1.5, 2.0)),
    )


def _segment_row(size: float, repetitions: int) -> tuple[str, ...]:
    rng = seeded_rng("segments", size)
    results = [_discover(rng, size) for _ in range(repetitions)]
    false, jointly, singly = (np.array(column) for column in zip(*results, strict=True))
    changed = size > 1
    return (
        f"{size - 1:+.0%} in one" if changed else "none",
        _percent(_share(false)),
        _percent(_share(jointly)) if changed else "–",
        _outcomes(_median(jointly)) if changed else "–",
        _outcomes(_median(singly)) if changed else "–",
    )


def _discover(rng: np.random.Generator, size: float) -> tuple[float, float, float]:
    """Return the cell of the first false discovery, and the outcomes of the changed segment until its discovery and own limit."""
    before, levels = _draw_segments(rng, 10_000, 1.0)
    baseline = sampled_baseline(before, levels)
    errors, levels = _draw_segments(rng, QUIET, size)
    ratios, counts = _segment_evidence(errors, levels, baseline)
    joint = np.array([[level in discoveries(dict(enumerate(row)), SEGMENTS) for level in range(SEGMENTS)] for row in ratios])
    n_changed = counts[:, 0].cumsum()
    wrong = joint[:, 1:] if size > 1 else joint
    return (
        _first(wrong.any(axis=1), np.arange(len(joint)) + 1.0),
        _first(joint[:, 0], n_changed),
        _first(ratios[:, 0] >= 1, n_changed),
    )


def _first(flags: Flags, counts: npt.NDArray[Any]) -> float:
    return float(counts[flags.argmax()]) if flags.any() else np.inf


def _draw_segments(rng: np.random.Generator, n: int, size: float) -> tuple[Floats, Integers]:
    levels = rng.integers(0, SEGMENTS, n)
    sizes = SIZES * np.where(np.arange(SEGMENTS) == 0, size, 1.0)
    return rng.standard_normal(n) * sizes[levels], levels


def _segment_evidence(errors: Floats, levels: Integers, baseline: Baseline) -> tuple[Floats, Integers]:
    """Evidence of each segment over its limit, and its outcomes, at the end of each cell; shape ``(cells, SEGMENTS)``."""
    rows = error_contributions(errors, baseline)
    position = np.arange(len(rows)) // CELL * SEGMENTS + levels
    sums = np.zeros((len(rows) // CELL * SEGMENTS, len(SUM_FIELDS)), dtype=np.int64)
    np.add.at(sums, position, rows)
    cells = sums.reshape(-1, SEGMENTS, len(SUM_FIELDS))
    references = [series_reference(baseline, baseline.segments[f"region={level}"]) for level in range(SEGMENTS)]
    growth = np.stack([reference.log_growth(cells[:, level]) for level, reference in enumerate(references)], axis=1)
    stakes, entry = np.full(growth.shape[1:], -np.inf), np.full((SEGMENTS, 1), float(CELL))
    path = []
    for cell, of_cell in zip(cells, growth, strict=True):
        n = cell[:, :1]
        after = update_log_stakes(stakes, np.log(entry), of_cell)
        stakes, entry = np.where(n > 0, after, stakes), np.where(n > 0, n, entry)
        evidence = log_mean(stakes, references[0].log_weights) - np.log(AVERAGE_RUN_LENGTH)
        path.append(np.exp(np.minimum(evidence, 600.0)))
    return np.array(path), cells[..., 0]
