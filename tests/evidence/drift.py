"""The detector of drift: how often it alarms without cause, how soon with one, beside the bare rule and two detectors of River."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from river.drift import ADWIN, PageHinkley

from engine.fidelity.e_detector import AVERAGE_RUN_LENGTH, BETS, discoveries, log_mean, log_normalizers, update_log_stakes
from engine.fidelity.effective_sample_size import effective_n
from engine.fidelity.error_sums import add_sums, contributions
from schemas import Baseline
from schemas.events import SUM_FIELDS
from streams.reporting.charts import Curve, ReferenceLine, Tone, curves_chart
from tests.error_streams import (
    CELL,
    DRAWS,
    LOOK,
    Territories,
    first_looks,
    known_baseline,
    log_evidence,
    looks_of,
    rule_fired,
    sampled_baseline,
    territory_errors,
)
from tests.evidence.part import Figure, Part, Plot, Table

__all__ = ["measure"]

Array = npt.NDArray[np.float64]

QUIET = 36_000
SETTLED, AFTER = 2_000, 8_000
"""Outcomes before a shift, to which a random part of a cell is added, and after it."""

BUDGET = 0.03
SHIFTS = {"+20 %": 1.2, "+50 %": 1.5}
BARS = {("normal", "+20 %"): 400, ("t3", "+20 %"): 650, ("normal", "+50 %"): 135, ("t3", "+50 %"): 180}
KNOWN = "mean known"
BASELINES = {KNOWN: 0, "2,000 rows": 2_000, "10,000 rows": 10_000}
TONES: Sequence[Tone] = ("one", "two", "good", "warn", "bad", "muted")
BATCH = 50
WIDE = 1140


class Alarms(NamedTuple):
    """Outcomes until something was seen for the first time in each stream, infinite where it never was."""

    detector: Array
    retrain: Array
    rule: Array


def measure(quick: bool) -> Part:
    """1,000 repetitions of everything, 200 where streams have territories or segments; a twentieth of both in a quick run."""
    repetitions, fewer = (50, 10) if quick else (1_000, 200)
    quiet = {key: _quiet(*key, repetitions) for key in _keys()}
    delays = {(*key, shift): _delays(*key, size, repetitions) for key in _keys() for shift, size in SHIFTS.items()}
    others = {
        (name, errors): _others(make, errors, repetitions)
        for name, make in {"PageHinkley": PageHinkley, "ADWIN": ADWIN}.items()
        for errors in DRAWS
    }
    worlds = [_shared(world, fewer) for world in WORLDS]
    return Part(
        title="Drift is found within a stated budget of false alarms",
        sentences=_sentences(repetitions, fewer, worlds),
        figures=(*_alarm_figures(quiet), *_delay_figures(delays)),
        tables=(
            _delay_table(quiet, delays),
            _other_table(quiet, delays, others),
            _shared_table(worlds),
            _segment_table(fewer),
        ),
        plots=(*_quiet_plots(quiet, others, repetitions), *_delay_plots(delays)),
    )


_SENTENCES = """\
Each of {repetitions:,} repetitions draws its own baseline and {quiet:,} outcomes without any drift. The detector's cells \
hold {cell} outcomes and are looked at every {look}; it alarms where its evidence reaches an average run length of \
{run_length:,.0f} outcomes. What is measured are the engine's own sums and stakes.
Delays count outcomes from the shift to the look at which something was seen. The shift multiplies every error; it comes \
after {settled:,} quiet outcomes and a random part of a cell. Streams that alarmed before it are left out and told as early.
A retrain event takes the detector's alarm, which stays, and the rule of the brief (mean absolute error 20 % over the \
baseline) on the fewest latest panes that hold 200 outcomes. A shift of exactly 20 % lies on the rule's limit, so there the \
rule needs luck.
River's PageHinkley and ADWIN run with their defaults on the same absolute errors, outcome by outcome, as many times as the \
detector. The bare rule is the rule of the brief alone, at every look.
Territories and segments are measured on {fewer:,} repetitions each. Where outcomes of a territory share their fortune, errors \
really change and change back, and the detector tells of it. Measured by the effective number of a window of {window:,} outcomes, \
which every window tells: the budget of 3 % holds down to {detector} for the detector, and down to {retrain} for retrain events, \
which take the rule as well."""


def _sentences(repetitions: int, fewer: int, worlds: Sequence[Shared]) -> tuple[str, ...]:
    told = _SENTENCES.format(
        repetitions=repetitions,
        fewer=fewer,
        quiet=QUIET,
        cell=CELL,
        look=LOOK,
        settled=SETTLED,
        run_length=AVERAGE_RUN_LENGTH,
        window=WINDOW,
        detector=_kept(worlds, lambda seen: seen.detector),
        retrain=_kept(worlds, lambda seen: seen.retrain),
    )
    return tuple(told.splitlines())


def _keys() -> Iterator[tuple[str, str]]:
    return ((errors, baseline) for errors in DRAWS for baseline in BASELINES)


def _rng(*seed: object) -> np.random.Generator:
    return np.random.default_rng(list(repr(seed).encode()))


def _batches(repetitions: int) -> Iterator[int]:
    return (min(BATCH, repetitions - done) for done in range(0, repetitions, BATCH))


def _baselines(rng: np.random.Generator, errors: str, rows: int, count: int) -> list[Baseline]:
    if not rows:
        return [known_baseline(errors)] * count
    return [sampled_baseline(DRAWS[errors](rng, (rows,))) for _ in range(count)]


def _joined(parts: Iterable[Alarms]) -> Alarms:
    return Alarms(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _seen(errors: Array, baselines: Sequence[Baseline]) -> Alarms:
    """When the detector alarms, a retrain is asked for, and the rule alone fires."""
    looks = looks_of(errors, baselines)
    alarmed, fired = log_evidence(looks) >= 0, rule_fired(looks, baselines)
    latched = np.logical_or.accumulate(alarmed, axis=1)
    return Alarms(first_looks(alarmed), first_looks(latched & fired), first_looks(fired))


def _quiet(errors: str, baseline: str, repetitions: int) -> Alarms:
    rng = _rng("quiet", errors, baseline)
    return _joined(
        _seen(DRAWS[errors](rng, (size, QUIET)), _baselines(rng, errors, BASELINES[baseline], size))
        for size in _batches(repetitions)
    )


def _shifted(rng: np.random.Generator, errors: str, size: float, count: int) -> tuple[Array, npt.NDArray[np.int64]]:
    """Streams with a shift, and how many outcomes come before it in each."""
    drawn = DRAWS[errors](rng, (count, SETTLED + CELL + AFTER))
    onset = SETTLED + rng.integers(0, CELL, count)
    drawn[np.arange(drawn.shape[1]) >= onset[:, None]] *= size
    return drawn, onset


def _delays(errors: str, baseline: str, size: float, repetitions: int) -> Alarms:
    """Outcomes from the shift on, NaN where something was seen before it."""
    rng = _rng("delays", errors, baseline, size)
    parts = []
    for count in _batches(repetitions):
        drawn, onset = _shifted(rng, errors, size, count)
        seen = _seen(drawn, _baselines(rng, errors, BASELINES[baseline], count))
        parts.append(Alarms(*(np.where(at > onset, at - onset, np.nan) for at in seen)))
    return _joined(parts)


class Other(NamedTuple):
    """Outcomes until a detector's first alarm: without a shift, and from each shift on (NaN where it came before)."""

    quiet: Array
    delays: dict[str, Array]


def _others(make: Callable[[], Any], errors: str, repetitions: int) -> Other:
    rng = _rng("river", errors)
    quiet = [_first_alarm(make(), DRAWS[errors](rng, (QUIET,))) for _ in range(repetitions)]
    delays = {}
    for shift, size in SHIFTS.items():
        drawn, onset = _shifted(rng, errors, size, repetitions)
        at = np.array([_first_alarm(make(), stream) for stream in drawn])
        delays[shift] = np.where(at > onset, at - onset, np.nan)
    return Other(np.array(quiet), delays)


def _first_alarm(detector: Any, errors: Array) -> float:
    for count, loss in enumerate(np.abs(errors).tolist(), 1):
        detector.update(loss)
        if detector.drift_detected:
            return count
    return np.inf


# -- telling


def _share(at: Array) -> float:
    return float(np.isfinite(at).mean())


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _outcomes(value: float) -> str:
    return "never" if not np.isfinite(value) else f"{value:,.0f}"


def _median(delays: Array) -> float:
    told = delays[~np.isnan(delays)]
    return float(np.median(told)) if len(told) else np.nan


def _alarm_figures(quiet: dict[tuple[str, str], Alarms]) -> Iterator[Figure]:
    for (errors, baseline), seen in quiet.items():
        yield Figure(
            f"false alarms in {QUIET:,} outcomes, {errors} errors, {baseline}",
            _share(seen.detector),
            at_most=BUDGET,
            form=".1%",
            note=f"false retrain events {_share(seen.retrain):.1%}",
        )


def _delay_figures(delays: dict[tuple[str, str, str], Alarms]) -> Iterator[Figure]:
    for (errors, baseline, shift), seen in delays.items():
        yield Figure(
            f"median delay of the alarm at {shift}, {errors} errors, {baseline}",
            _median(seen.detector),
            at_most=BARS.get((errors, shift)) if baseline == KNOWN else None,
            form=",.0f",
            note=f"to the retrain event {_outcomes(_median(seen.retrain))}",
        )


def _delay_table(quiet: dict[tuple[str, str], Alarms], delays: dict[tuple[str, str, str], Alarms]) -> Table:
    rows = []
    for (errors, baseline, shift), seen in delays.items():
        known = seen.detector[~np.isnan(seen.detector)]
        ends = np.quantile(known, [0.1, 0.5, 0.9], method="inverted_cdf")
        rows.append(
            (
                f"{errors}, {baseline}, {shift}",
                *map(_outcomes, ends),
                _outcomes(_median(seen.retrain)),
                _percent(float(np.isnan(seen.detector).mean())),
                _percent(_share(quiet[errors, baseline].detector)),
                _percent(_share(quiet[errors, baseline].retrain)),
            )
        )
    columns = ("errors, baseline, shift", "10 %", "median", "90 %", "retrain event", "early", "false alarms", "false retrains")
    return Table("Delays in outcomes, and what they cost", columns, tuple(rows))


def _other_table(
    quiet: dict[tuple[str, str], Alarms], delays: dict[tuple[str, str, str], Alarms], others: dict[tuple[str, str], Other]
) -> Table:
    rows = []
    for errors in DRAWS:
        ours = {shift: delays[errors, "10,000 rows", shift] for shift in SHIFTS}
        still = quiet[errors, "10,000 rows"]
        rows.append(_other_row(f"detector, {errors}", still.detector, [seen.detector for seen in ours.values()]))
        rows.append(_other_row(f"rule and detector, {errors}", still.retrain, [seen.retrain for seen in ours.values()]))
        rows.append(_other_row(f"bare rule, {errors}", still.rule, [seen.rule for seen in ours.values()]))
        for (name, of), found in others.items():
            if of == errors:
                rows.append(_other_row(f"{name}, {errors}", found.quiet, list(found.delays.values())))
    columns = ("", f"false alarms in {QUIET:,}", *(f"median delay {shift}, early" for shift in SHIFTS))
    return Table("Beside other detectors, with a baseline of 10,000 rows", columns, tuple(rows))


def _other_row(name: str, quiet: Array, delays: Sequence[Array]) -> tuple[str, ...]:
    told = [f"{_outcomes(_median(each))}, {np.isnan(each).mean():.0%}" for each in delays]
    return (name, _percent(_share(quiet)), *told)


def _quiet_plots(quiet: dict[tuple[str, str], Alarms], others: dict[tuple[str, str], Other], repetitions: int) -> Iterator[Plot]:
    ours = [_grown(f"{errors}, {baseline}", quiet[errors, baseline].detector, n) for n, (errors, baseline) in enumerate(_keys())]
    yield _alarm_plot(
        f"False alarms of the detector as outcomes pass, in {repetitions:,} streams without drift.",
        ours,
        [ReferenceLine(BUDGET, "budget 3 %", "bad")],
    )
    still = quiet["t3", "10,000 rows"]
    told = [
        ("detector", still.detector),
        ("bare rule", still.rule),
        *((name, found.quiet) for (name, of), found in others.items() if of == "t3"),
    ]
    yield _alarm_plot(
        "The same for t3 errors, beside the bare rule and the detectors of River.",
        [_grown(name, at, n) for n, (name, at) in enumerate(told)],
    )


def _alarm_plot(caption: str, curves: Sequence[Curve], lines: Sequence[ReferenceLine] = ()) -> Plot:
    svg = curves_chart(
        curves,
        title="False alarms",
        description=caption,
        x_label="outcomes without drift",
        form=".1%",
        x_form=",.0f",
        lines=lines,
        width=WIDE,
    )
    return Plot(caption, svg, wide=True)


def _grown(label: str, at: Array, number: int, reach: int = QUIET) -> Curve:
    places = np.linspace(0, reach, 61)
    return Curve(label, places.tolist(), [float((at <= place).mean()) for place in places], tone=TONES[number])


def _delay_plots(delays: dict[tuple[str, str, str], Alarms]) -> Iterator[Plot]:
    for shift, reach in {"+20 %": 2_000, "+50 %": 600}.items():
        told = [(f"{errors}, {baseline}", delays[errors, baseline, shift].detector) for errors, baseline in _keys()]
        caption = f"Share of streams whose shift of {shift} has been found, by outcomes since the shift."
        svg = curves_chart(
            [_grown(label, at[~np.isnan(at)], n, reach) for n, (label, at) in enumerate(told)],
            title=f"Delays at {shift}",
            description=caption,
            x_label="outcomes since the shift",
            form=".0%",
            x_form=",.0f",
            lines=[ReferenceLine(0.5, "median")],
            width=WIDE,
        )
        yield Plot(caption, svg, wide=True)


# -- outcomes that share the fortune of their territory

WORLDS = tuple(Territories(shared, number) for number in (50, 10) for shared in (0.0, 0.02, 0.05, 0.1, 0.2))
WINDOW = 2_000


class Shared(NamedTuple):
    """What happens in a world of territories: the median effective number of a window's outcomes, and alarms without a cause."""

    world: Territories
    effective: float
    seen: Alarms


def _shared(world: Territories, repetitions: int) -> Shared:
    rng = _rng("territories", world)
    parts, effective = [], []
    for count in _batches(repetitions):
        errors, territory = territory_errors(rng, world, (count, 10_000 + QUIET))
        baselines = [sampled_baseline(stream[:10_000], of) for stream, of in zip(errors, territory[:, :10_000], strict=True)]
        parts.append(_seen(errors[:, 10_000:], baselines))
        window = slice(20_000, 20_000 + WINDOW)
        effective += [
            effective_n(_by_level(stream[window], of[window], baseline), baseline)
            for stream, of, baseline in zip(errors, territory, baselines, strict=True)
        ]
    return Shared(world, float(np.median([n for n in effective if n is not None])), _joined(parts))


def _shared_table(worlds: Sequence[Shared]) -> Table:
    columns = ("territories, shared variance", f"effective n of {WINDOW:,}", "false alarms", "false retrains", "bare rule")
    rows = [
        (
            f"{found.world.number}, {found.world.shared:.0%}",
            _outcomes(found.effective),
            *(_percent(_share(at)) for at in found.seen),
        )
        for found in worlds
    ]
    return Table(
        f"Alarms in {QUIET:,} outcomes where those of a territory share their fortune; baseline of 10,000 rows of the same world",
        columns,
        tuple(rows),
    )


def _kept(worlds: Sequence[Shared], alarms: Callable[[Alarms], Array]) -> str:
    """Down to which effective number a budget holds in every world that was looked at."""
    kept = np.inf
    for found in sorted(worlds, key=lambda found: -found.effective):
        if _share(alarms(found.seen)) > BUDGET:
            break
        kept = found.effective
    return _outcomes(kept)


def _by_level(errors: Array, levels: npt.NDArray[np.int64], baseline: Baseline) -> dict[str, tuple[int, ...]]:
    rows = _rows(errors, baseline)
    return {f"region={level}": add_sums(rows[levels == level].tolist()) for level in np.unique(levels).tolist()}


def _rows(errors: Array, baseline: Baseline) -> npt.NDArray[np.int64]:
    nothing = np.full(len(errors), np.nan)
    return contributions(np.zeros(len(errors)), errors, nothing, nothing, baseline)


# -- many segments at once

SEGMENTS = 20
SIZES = np.linspace(0.5, 2.0, SEGMENTS)
"""How large errors of a segment are by nature."""


def _segment_table(repetitions: int) -> Table:
    """Discoveries among segments whose errors differ by nature, without a change and with one in a single segment."""
    columns = (
        "change",
        "streams with a false discovery",
        "streams that found it",
        "median delay in its outcomes",
        "of single detectors",
    )
    return Table(
        f"{SEGMENTS} segments watched together in {QUIET:,} outcomes, errors fourfold apart by nature; baseline of 10,000 rows",
        columns,
        tuple(_segment_row(size, repetitions) for size in (1.0, 1.5, 2.0)),
    )


def _segment_row(size: float, repetitions: int) -> tuple[str, ...]:
    rng = _rng("segments", size)
    found = [_discovered(rng, size) for _ in range(repetitions)]
    false, jointly, singly = (np.array(column) for column in zip(*found, strict=True))
    changed = size > 1
    return (
        f"{size - 1:+.0%} in one" if changed else "none",
        _percent(_share(false)),
        _percent(_share(jointly)) if changed else "–",
        _outcomes(_median(jointly)) if changed else "–",
        _outcomes(_median(singly)) if changed else "–",
    )


def _discovered(rng: np.random.Generator, size: float) -> tuple[float, float, float]:
    """Cell of the first false discovery; outcomes of the changed segment until it is discovered, and until its own limit alone."""
    before, levels = _segmented(rng, 10_000, 1.0)
    baseline = sampled_baseline(before, levels)
    errors, levels = _segmented(rng, QUIET, size)
    ratios, counts = _segment_evidence(errors, levels, baseline)
    joint = np.array([[level in discoveries(dict(enumerate(row)), SEGMENTS) for level in range(SEGMENTS)] for row in ratios])
    of_change = counts[:, 0].cumsum()
    wrong = joint[:, 1:] if size > 1 else joint
    return (
        _first(wrong.any(axis=1), np.arange(len(joint)) + 1.0),
        _first(joint[:, 0], of_change),
        _first(ratios[:, 0] >= 1, of_change),
    )


def _first(seen: npt.NDArray[np.bool_], at: npt.NDArray[Any]) -> float:
    return float(at[seen.argmax()]) if seen.any() else np.inf


def _segmented(rng: np.random.Generator, n: int, size: float) -> tuple[Array, npt.NDArray[np.int64]]:
    levels = rng.integers(0, SEGMENTS, n)
    sizes = SIZES * np.where(np.arange(SEGMENTS) == 0, size, 1.0)
    return rng.standard_normal(n) * sizes[levels], levels


def _segment_evidence(errors: Array, levels: npt.NDArray[np.int64], baseline: Baseline) -> tuple[Array, npt.NDArray[np.int64]]:
    """Evidence of each segment over its limit, and its outcomes, at the end of each cell; shape ``(cells, SEGMENTS)``."""
    rows = _rows(errors, baseline)
    place = np.arange(len(rows)) // CELL * SEGMENTS + levels
    sums = np.zeros((len(rows) // CELL * SEGMENTS, len(SUM_FIELDS)), dtype=np.int64)
    np.add.at(sums, place, rows)
    cells = sums.reshape(-1, SEGMENTS, len(SUM_FIELDS))
    costs = np.array([log_normalizers(baseline, baseline.segments[f"region={level}"]) for level in range(SEGMENTS)])
    stakes, entry = np.full((SEGMENTS, len(BETS)), -np.inf), np.full((SEGMENTS, 1), float(CELL))
    path = []
    for cell in cells:
        n = cell[:, :1]
        after = update_log_stakes(stakes, np.log(entry), cell[:, -len(BETS) :]) - n * costs
        stakes, entry = np.where(n > 0, after, stakes), np.where(n > 0, n, entry)
        path.append(np.exp(np.minimum(log_mean(stakes) - np.log(AVERAGE_RUN_LENGTH), 600.0)))
    return np.array(path), cells[..., 0]
