"""Simulated effects: whether their intervals hold in worlds where the truth is known, on two real trials, and what they cost."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from engine import ExperimentDesigner, SimulationEngine, TwinGenerator
from engine.effects import catalogue_prior
from engine.effects.calibration import BETWEEN_SCALE, MEAN_SCALE, calibrate
from engine.experiments import EffectEstimate, relative_effect, treated_counterfactuals
from engine.sample_tables import sample_hcps
from schemas import INTERVENTIONS, Brand, Channel, ExperimentResult, Frequency, InterventionConfig, Reach, TwinType
from schemas.filters import Filters, conditions, rows_matching
from streams.reporting.charts import ChartInterval, Curve, ReferenceLine, curves_chart, intervals_chart
from streams.training import as_training_table, read_table
from tests.effect_worlds import Terms, World, moderator_terms
from tests.evidence.part import DATA, Figure, Part, Plot, Table
from tests.populations import intervention, population

__all__ = ["measure"]

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

TARGET = "prescribing_change"
LEARNED, JUDGED = 10_000, 10_000
SIZES = (1_000, 3_000, 10_000, 30_000, 100_000)
SELECTIONS: Sequence[Filters] = ({}, {}, {"min_decile": 6}, {"tier": [1, 2]}, {"region": ["south"]})
LOOKS = (0, 1, 2, 4, 8, 16)
"""Experiments after which the next campaign is simulated."""

OUTCOME_SD = 0.15
LOW, HIGH = 0.93, 0.97
BAND = [ReferenceLine(LOW, "93 %", "bad"), ReferenceLine(HIGH, "97 %", "bad")]
SENTENCES = """\
A world draws everything that the catalogue only believes: base effects, what each channel is worth, where a dose saturates, \
and how much each feature bends an effect. In each of {worlds:,} worlds one of the five interventions is asked for at random \
channel, frequency, duration and intensity, on all or on chosen people, and what it really does to {judged:,} people whom the \
twins were not learned from is worked out plainly, beside the engine. Twins are learned from {learned:,} others; the people are \
those of {tables}.
Sequences of experiments happen in such worlds too. True effects of campaigns lie around the mean of their kind; each \
experiment is made at a random dose on chosen people with 200 to 5,000 of them in an arm, each teaches, and after 0, 1, 2, 4, 8 \
and 16 of them the next campaign is simulated and its true effect looked at. Three kinds of worlds: campaigns differ as the \
calibration expects, not at all, or by half of the prior's deviation. A calibration cannot know beforehand that campaigns \
hardly differ, so in the last two its interval is cautious and covers more than it says.
The two real trials are not about prescribers: a mailing before an election (primary of August 2006, voted or not, assigned by \
household cluster) and an e-mail campaign (visited the shop within two weeks). Both enter as a relative change with its \
cluster-robust delta-method error, as "email_campaign" by mail and by e-mail, read in two ways: at the dose as it was run \
(once, two weeks), and as if that had been the catalogue's reference dose. What is calibrated on and what is predicted share no \
row: control clusters and customers are split in halves.
For counterfactuals and the plan of an experiment, the real change of prescriptions of held-out physicians is what they do \
untreated; arms are drawn and a known effect is added to the treated, so that what the treated would have done is known."""


def measure(quick: bool) -> Part:
    """500 worlds and sequences, 300 experiments on real prescribers; a tenth of them in a quick run."""
    worlds, experiments = (50, 30) if quick else (500, 300)
    sizes = (SIZES[0], SIZES[2]) if quick else SIZES
    peoples = list(_peoples(sizes))
    covered = {people.name: _asked(people, worlds) for people in peoples}
    histories = {name: _histories(peoples[0], draw, worlds) for name, draw in HISTORIES.items()}
    trials = _trials() if DATA.is_dir() else []
    speeds = [_speed(n) for n in (10_000, 1_000_000)]
    return Part(
        title="Simulated effects have intervals that hold",
        sentences=tuple(
            SENTENCES.format(
                worlds=worlds, judged=JUDGED, learned=LEARNED, tables=" and of ".join(people.name for people in peoples)
            ).splitlines()
        ),
        figures=(
            *_coverage_figures(covered),
            *_history_figures(histories),
            _winner_figure(worlds),
            *_together_figure(peoples[0], worlds),
            *(figure for people in peoples[1:] for figure in _experiment_figures(people, experiments)),
            *_speed_figures(speeds),
        ),
        tables=(_coverage_table(covered), _history_table(histories), *_trial_tables(trials)),
        plots=(*_coverage_plots(covered), *_history_plots(histories), *_trial_plots(trials)),
    )


def _rng(*seed: object) -> np.random.Generator:
    return np.random.default_rng(list(repr(seed).encode()))


# -- people, and twins of others like them


class People(NamedTuple):
    """Real people that no twin was learned from, the model that learned from others, and engines on its twins by their number.

    ``selected`` are those whom each of ``SELECTIONS`` leaves.
    """

    name: str
    frame: pd.DataFrame
    selected: tuple[Terms, ...]
    generator: TwinGenerator
    engines: Mapping[int, SimulationEngine]


def _peoples(sizes: Sequence[int]) -> Iterator[People]:
    """A generated table with every feature that bends an effect, and the real prescribers with those that they have."""
    yield _people("a generated table with all features", sample_hcps(LEARNED + JUDGED, _rng("table")), sizes)
    if DATA.is_dir():
        table = as_training_table(read_table(DATA / "hcp_partd_2013_2014.csv.gz"), TwinType.HCP).frame
        table = table.sample(LEARNED + JUDGED, random_state=_rng("prescribers")).reset_index(drop=True)
        yield _people("the Medicare prescribers", table.drop(columns="entity_id"), sizes)


def _people(name: str, table: pd.DataFrame, sizes: Sequence[int]) -> People:
    generator = TwinGenerator(TwinType.HCP, Brand.KISQALI)
    generator.train(table[:LEARNED], TARGET)
    engines = {n: SimulationEngine(generator.generate(n, seed=n)) for n in sizes}
    frame = table[LEARNED:].reset_index(drop=True)
    selected = tuple(moderator_terms(frame[rows_matching(frame, conditions(TwinType.HCP, filters))]) for filters in SELECTIONS)
    return People(name, frame, selected, generator, engines)


def _question(rng: np.random.Generator, kind: str | None = None) -> tuple[InterventionConfig, int]:
    """A campaign, and by which of ``SELECTIONS`` it is for."""
    config = InterventionConfig(
        intervention_type=kind or str(rng.choice(sorted(INTERVENTIONS))),
        channel=str(rng.choice([each.value for each in Channel])),
        frequency=str(rng.choice([each.value for each in Frequency])),
        duration_weeks=int(rng.integers(2, 53)),
        intensity=float(rng.uniform(0.5, 2.0)),
    )
    return config, int(rng.integers(len(SELECTIONS)))


# -- coverage and width by the number of twins


class Asked(NamedTuple):
    """Questions by number of twins: whether the interval holds the truth, and its width; shape ``(worlds, sizes)`` each."""

    sizes: tuple[int, ...]
    inside: Bools
    width: Array

    @property
    def drift(self) -> Array:
        """Average width over that on the fewest twins, minus 1; shape ``(sizes,)``."""
        return np.asarray(self.width.mean(axis=0) / self.width[:, 0].mean() - 1.0)


def _asked(people: People, worlds: int) -> Asked:
    rng, inside, width = _rng("worlds", people.name), [], []
    for _ in range(worlds):
        config, whom = _question(rng)
        truth = World(rng).average_effect(config, people.selected[whom])
        told = [engine.simulate(config, SELECTIONS[whom]) for engine in people.engines.values()]
        inside.append([each.ate_ci_lower <= truth <= each.ate_ci_upper for each in told])
        width.append([each.ate_ci_upper - each.ate_ci_lower for each in told])
    return Asked(tuple(people.engines), np.array(inside), np.array(width))


def _coverage_figures(covered: Mapping[str, Asked]) -> Iterator[Figure]:
    for name, asked in covered.items():
        worst = int(np.argmax(np.abs(asked.inside.mean(axis=0) - 0.95)))
        yield Figure(
            f"worlds whose true average lies inside the 95 % interval, {name}",
            float(asked.inside[:, worst].mean()),
            at_least=LOW,
            at_most=HIGH,
            form=".1%",
            note=f"the worst of {len(asked.sizes)} numbers of twins: {asked.sizes[worst]:,}",
        )
        widest = int(np.argmax(np.abs(asked.drift)))
        yield Figure(
            f"change of the interval's width with the number of twins, {name}",
            float(asked.drift[widest]),
            at_least=-0.05,
            at_most=0.05,
            form="+.1%",
            note=f"the largest, from {asked.sizes[0]:,} to {asked.sizes[widest]:,} twins",
        )


def _coverage_table(covered: Mapping[str, Asked]) -> Table:
    rows = [
        (f"{name}, {n:,} twins", f"{asked.inside[:, i].mean():.1%}", f"{asked.width[:, i].mean():.4f}", f"{asked.drift[i]:+.2%}")
        for name, asked in covered.items()
        for i, n in enumerate(asked.sizes)
    ]
    return Table("Intervals by the number of twins", ("", "inside", "average width", "change"), tuple(rows))


def _coverage_plots(covered: Mapping[str, Asked]) -> Iterator[Plot]:
    curves = [
        Curve(name, asked.sizes, asked.inside.mean(axis=0).tolist(), _noise(asked.inside), tone)
        for (name, asked), tone in zip(covered.items(), ("one", "two"), strict=False)
    ]
    caption = "Share of worlds whose true average over real people lies inside the interval, with what chance allows for."
    yield Plot(caption, _by_twins(curves, "Coverage by the number of twins", caption, ".0%", BAND))
    curves = [
        Curve(name, asked.sizes, (asked.drift + 1.0).tolist(), tone=tone)
        for (name, asked), tone in zip(covered.items(), ("one", "two"), strict=False)
    ]
    caption = "Average width of the interval over that on the fewest twins: more twins add no knowledge."
    bars = [ReferenceLine(0.95, "−5 %", "bad"), ReferenceLine(1.05, "+5 %", "bad")]
    yield Plot(caption, _by_twins(curves, "Width by the number of twins", caption, ".2f", bars))


def _by_twins(curves: Sequence[Curve], title: str, caption: str, form: str, lines: Sequence[ReferenceLine]) -> str:
    return curves_chart(
        curves, title=title, description=caption, x_label="twins", form=form, x_form=",.0f", log_x=True, lines=lines
    )


def _noise(inside: Bools) -> list[float]:
    """Half-width of the 95 % interval of each share."""
    share = inside.mean(axis=0)
    return (1.96 * np.sqrt(share * (1.0 - share) / len(inside))).tolist()


# -- sequences of experiments

History = Callable[[np.random.Generator, float, float], tuple[float, float]]
"""From a prior's mean and deviation to the mean of all campaigns of a kind and how far they lie apart."""

EXPECTED = "as expected"
HISTORIES: Mapping[str, History] = {
    EXPECTED: lambda rng, mean, sd: (
        rng.normal(mean, MEAN_SCALE * sd),
        BETWEEN_SCALE * sd * float(np.sqrt(2.0 * rng.f(2, 6))),
    ),
    "all alike": lambda rng, mean, sd: (rng.normal(mean, sd), 0.0),
    "half a deviation apart": lambda rng, mean, sd: (rng.normal(mean, np.sqrt(0.75) * sd), 0.5 * sd),
}


class Histories(NamedTuple):
    """By number of experiments: whether the next campaign's interval holds its true effect, and its width over the uncalibrated."""

    inside: Bools
    width: Array


def _histories(people: People, draw: History, sequences: int) -> Histories:
    engine = people.engines[min(people.engines)]
    found = [_history(people, engine, draw, _rng("history", number)) for number in range(sequences)]
    inside, width = np.moveaxis(np.array(found), -1, 0)
    return Histories(inside.astype(bool), width)


def _history(people: People, engine: SimulationEngine, draw: History, rng: np.random.Generator) -> list[tuple[float, float]]:
    world, prior = World(rng), catalogue_prior(str(rng.choice(sorted(INTERVENTIONS))))
    kind = prior.intervention_type
    mean, between = draw(rng, prior.mean, prior.sd)
    wanted, on = _question(rng, kind)
    told: list[ExperimentResult] = []
    reaches: dict[str, Reach] = {}
    looks: list[tuple[float, float]] = []
    for done in range(max(LOOKS) + 1):
        if done in LOOKS:
            believed = calibrate(prior, told, reaches)
            said = SimulationEngine(engine.population, priors={kind: believed}).simulate(wanted, SELECTIONS[on])
            truth = world.average_effect(wanted, people.selected[on], rng.normal(mean, between))
            looks.append((float(said.ate_ci_lower <= truth <= said.ate_ci_upper), said.ate_ci_upper - said.ate_ci_lower))
        config, whom = _question(rng, kind)
        truth = world.average_effect(config, people.selected[whom], rng.normal(mean, between))
        n = int(np.exp(rng.uniform(np.log(200), np.log(5_000))))
        error = OUTCOME_SD * float(np.sqrt(2 / n))
        told.append(_experiment(str(done), config, EffectEstimate(rng.normal(truth, error), error, n, n)))
        reaches[str(done)] = engine.reach(config, SELECTIONS[whom])
    return [(inside, width / looks[0][1]) for inside, width in looks]


def _experiment(name: str, config: InterventionConfig, found: EffectEstimate) -> ExperimentResult:
    return ExperimentResult(
        experiment_id=name,
        observed_at=datetime(2026, 1, 1, tzinfo=UTC),
        twin_type=TwinType.HCP,
        brand=Brand.KISQALI,
        intervention=config,
        **found._asdict(),
    )


def _history_figures(histories: Mapping[str, Histories]) -> Iterator[Figure]:
    for name, seen in histories.items():
        share = seen.inside.mean(axis=0)
        worst = int(np.argmax(np.abs(share - 0.95)))
        yield Figure(
            f"next campaigns inside their 95 % interval over sequences of experiments, campaigns {name}",
            float(share[worst]),
            at_least=LOW,
            at_most=HIGH if name == EXPECTED else None,
            form=".1%",
            note=f"the worst look, after {LOOKS[worst]} experiments; over all looks {share.mean():.1%}",
        )
        yield Figure(
            f"width after {LOOKS[-1]} experiments over that before any, campaigns {name}",
            float(seen.width[:, -1].mean()),
            at_most=1.0,
            form=".2f",
        )


def _history_table(histories: Mapping[str, Histories]) -> Table:
    rows = [
        (
            name,
            *(f"{share:.1%}, {width:.2f}" for share, width in zip(seen.inside.mean(axis=0), seen.width.mean(axis=0), strict=True)),
        )
        for name, seen in histories.items()
    ]
    columns = ("campaigns", *(f"after {look}" for look in LOOKS))
    return Table("Next campaigns inside their interval, and its width over that before any experiment", columns, tuple(rows))


def _history_plots(histories: Mapping[str, Histories]) -> Iterator[Plot]:
    tones = ("one", "two", "warn")
    for title, caption, form, lines, told in (
        (
            "Coverage as experiments come in",
            "Share of sequences in which the next campaign's true effect lies inside its interval.",
            ".0%",
            BAND,
            {name: (seen.inside.mean(axis=0), _noise(seen.inside)) for name, seen in histories.items()},
        ),
        (
            "Width as experiments come in",
            "Width of the next campaign's interval over that before any experiment: what is learned.",
            ".0%",
            [],
            {name: (seen.width.mean(axis=0), []) for name, seen in histories.items()},
        ),
    ):
        curves = [
            Curve(name, LOOKS, y.tolist(), margins, tone) for (name, (y, margins)), tone in zip(told.items(), tones, strict=True)
        ]
        svg = curves_chart(curves, title=title, description=caption, x_label="experiments", form=form, x_form=".0f", lines=lines)
        yield Plot(caption, svg)


def _winner_figure(repetitions: int) -> Figure:
    """Of ten campaigns that were tested the one with the largest effect found: how much it really does."""
    rng, prior = _rng("winner"), catalogue_prior("email_campaign")
    config, found, believed, true = intervention("email_campaign"), [], [], []
    for _ in range(repetitions):
        means, between = zip(*(HISTORIES[EXPECTED](rng, prior.mean, prior.sd) for _ in range(10)), strict=True)
        effects = rng.normal(means, between)
        observed = rng.normal(effects, prior.sd)
        best = int(np.argmax(observed))
        found.append(observed[best])
        believed.append(calibrate(prior, [_experiment("best", config, EffectEstimate(observed[best], prior.sd, 500, 500))]).mean)
        true.append(means[best])
    return Figure(
        "overstatement of the best of ten tested campaigns, after calibration, in deviations of the prior",
        float(np.mean(believed) - np.mean(true)) / prior.sd,
        at_least=-0.15,
        at_most=0.15,
        form="+.2f",
        note=f"as it was found {(np.mean(found) - np.mean(true)) / prior.sd:+.2f}",
    )


def _together_figure(people: People, worlds: int) -> Iterator[Figure]:
    """Comparisons of all five interventions in one request."""
    rng, engine = _rng("together"), people.engines[min(people.engines)]
    configs = [intervention(name) for name in INTERVENTIONS]
    told = engine.simulate(configs[0], alternatives=configs[1:])
    held, best = [], []
    for _ in range(worlds):
        first, *others = (World(rng).average_effect(config, people.selected[0]) for config in configs)
        pairs = zip(told.alternatives, others, strict=True)
        held.append(all(each.difference_ci_lower <= other - first <= each.difference_ci_upper for each, other in pairs))
        best.append([first, *others][configs.index(told.best.intervention)])
    inside = (told.best.ate_ci_lower <= np.array(best)) & (np.array(best) <= told.best.ate_ci_upper)
    yield Figure("worlds in which all differences between five interventions lie inside", float(np.mean(held)), LOW, HIGH, ".1%")
    yield Figure("worlds in which the best of five lies inside its interval for the chosen", float(inside.mean()), LOW, form=".1%")


# -- two real trials


class Predicted(NamedTuple):
    """A trial predicted before and after another one was learned from, and what it found in truth."""

    reading: str
    learned: str
    predicted: str
    before: ChartInterval
    after: ChartInterval
    truth: EffectEstimate

    def place(self, told: ChartInterval) -> str:
        """Where the truth fell."""
        if told.lower <= self.truth.effect <= told.upper:
            return "inside"
        end = told.lower if self.truth.effect < told.lower else told.upper
        side = "below" if self.truth.effect < told.lower else "above"
        away = abs(self.truth.effect - end)
        return f"{side}, by {away:.1%} or {away / self.truth.standard_error:.1f} of its standard errors"


READINGS: Mapping[str, dict[str, Any]] = {"dose as run": {"frequency": "once", "duration_weeks": 2}, "reference dose": {}}


def _trials() -> list[Predicted]:
    mail, email = _mail(), _email()
    pairs = [("mail", mail, "Civic Duty", "Self"), ("mail", mail, "Self", "Civic Duty")]
    pairs += [("email", email, "one half", "the other half"), ("email", email, "the other half", "one half")]
    return [
        _predicted(reading, intervention("email_campaign", channel=channel, **dose), found, learned, predicted)
        for channel, found, learned, predicted in pairs
        for reading, dose in READINGS.items()
    ]


def _mail() -> dict[str, EffectEstimate]:
    """Both messages, each against a half of the control clusters of its own."""
    table = pd.read_csv(DATA / "mail_rct_two_messages.csv.gz")
    control = table["treatment"] == "No Postcard"
    clusters = table.loc[control, "cluster"].unique()
    half = table["cluster"].isin(_rng("mail").permutation(clusters)[: len(clusters) // 2])
    found = {}
    for message, own in (("Civic Duty", control & half), ("Self", control & ~half)):
        rows = table[(table["treatment"] == message) | own]
        found[message] = relative_effect(rows["primary_06"].to_numpy(), (rows["treatment"] == message).to_numpy(), rows["cluster"])
    return found


def _email() -> dict[str, EffectEstimate]:
    table = pd.read_csv(DATA / "email_rct_mens.csv.gz")
    first = _rng("email").permutation(len(table)) < len(table) // 2
    return {
        name: relative_effect(rows["visit"].to_numpy(), (rows["segment"] == "Mens E-Mail").to_numpy())
        for name, rows in (("one half", table[first]), ("the other half", table[~first]))
    }


def _predicted(
    reading: str, config: InterventionConfig, found: Mapping[str, EffectEstimate], learned: str, predicted: str
) -> Predicted:
    """On people of whom nothing is known that would bend an effect."""
    prior, twins = catalogue_prior(config.intervention_type), population(500, TwinType.PATIENT)
    told = [
        SimulationEngine(twins, priors={prior.intervention_type: each}).simulate(config)
        for each in (prior, calibrate(prior, [_experiment(learned, config, found[learned])]))
    ]
    before, after = (
        ChartInterval(f"{predicted}, {when}", each.ate, each.ate_ci_lower, each.ate_ci_upper, tone=tone)
        for each, when, tone in zip(told, ("before", f"by {learned}"), ("muted", "one"), strict=True)
    )
    return Predicted(f"{config.channel}, {reading}", learned, predicted, before, after, found[predicted])


def _trial_tables(trials: Sequence[Predicted]) -> Iterator[Table]:
    if not trials:
        return
    rows = [
        (
            each.reading,
            f"{each.learned} → {each.predicted}",
            f"{each.truth.effect:.1%} ± {1.96 * each.truth.standard_error:.1%}",
            _written(each.before),
            each.place(each.before),
            _written(each.after),
            each.place(each.after),
        )
        for each in trials
    ]
    columns = ("trial, reading", "learned from → predicted", "found", "before", "the truth fell", "after", "the truth fell")
    yield Table(
        "Two real trials: what was predicted before and after learning from the other part, and what was found",
        columns,
        tuple(rows),
    )


def _written(told: ChartInterval) -> str:
    return f"{told.estimate:.1%} [{told.lower:.1%}, {told.upper:.1%}]"


def _trial_plots(trials: Sequence[Predicted]) -> Iterator[Plot]:
    for reading in dict.fromkeys(each.reading for each in trials):
        items = [item for each in trials if each.reading == reading for item in _drawn(each)]
        caption = f"{reading}: predictions before and after calibration, and what the predicted trial found."
        yield Plot(caption, intervals_chart(items, title=f"A real trial, {reading}", description=caption))


def _drawn(each: Predicted) -> tuple[ChartInterval, ChartInterval, ChartInterval]:
    reach = 1.96 * each.truth.standard_error
    truth = ChartInterval(
        f"{each.predicted}, found", each.truth.effect, each.truth.effect - reach, each.truth.effect + reach, tone="good"
    )
    return each.before, each.after, truth


# -- experiments on real prescribers whose truth is known

PLANNED = 0.02


def _experiment_figures(people: People, repetitions: int) -> Iterator[Figure]:
    """What was planned on twins, run on real people; and what the treated would have done."""
    plan = ExperimentDesigner(people.generator).design(intervention(), effect=PLANNED)
    untreated = people.frame[TARGET].to_numpy(dtype=float)
    expected = people.generator.predict(people.frame)
    treated = np.repeat([True, False], [arm.n for arm in plan.arms])
    rng = _rng("experiments", people.name)
    found, on_average, of_each = [], [], []
    for _ in range(repetitions):
        rows = rng.choice(len(untreated), len(treated), replace=False)
        told = treated_counterfactuals(expected[rows], untreated[rows] + PLANNED * treated, treated)
        average, truth = told.average, untreated[rows][treated]
        found.append(average["difference_lower"] > 0)
        on_average.append(average["difference_lower"] <= PLANNED <= average["difference_upper"])
        of_each.append(np.mean((told.entities["without_lower"] <= truth) & (truth <= told.entities["without_upper"])))
    size = f"{plan.arms[0].n:,} and {plan.arms[1].n:,} people"
    yield Figure(
        f"experiments planned on twins that find an effect of {PLANNED:.0%}, {people.name}",
        float(np.mean(found)),
        at_least=0.75,
        form=".1%",
        note=f"planned {plan.power:.1%} with {size}",
    )
    yield Figure("experiments whose average effect lies inside its interval", float(np.mean(on_average)), LOW, HIGH, ".1%")
    yield Figure("untreated outcomes of the treated inside their interval", float(np.mean(of_each)), LOW, HIGH, ".1%")


# -- what it costs

DRAWS = 1_000


class Speed(NamedTuple):
    """Computing time of one simulation, and peaks of memory with ``DRAWS`` and with ten times as many."""

    twins: int
    groups: int
    seconds: float
    megabytes: float
    with_more_draws: float


def _speed(n: int) -> Speed:
    twins = population(features=_with_26_groups(n))
    simulate = lambda draws=DRAWS: SimulationEngine(twins, n_draws=draws).simulate(intervention())  # noqa: E731
    groups = simulate().heterogeneity.n_groups
    seconds = min(_computing(simulate) for _ in range(200 if n < 100_000 else 7))
    return Speed(n, groups, seconds, _peak(simulate), _peak(partial(simulate, 10 * DRAWS)))


def _with_26_groups(n: int) -> pd.DataFrame:
    rng = _rng("groups")
    specialties = ["oncology", "hematology", "primary_care", "cardiology", "neurology", "dermatology", "urology", "psychiatry"]
    stages = ["innovator", "early_adopter", "early_majority", "late_majority", "laggard"]
    return pd.DataFrame(
        {
            "specialty": rng.choice([*specialties, "rheumatology", "nephrology", "surgery", "endocrinology"], n),
            "region": rng.choice(["northeast", "south", "midwest", "west"], n),
            "decile": rng.integers(1, 11, n),
            "priority_tier": rng.integers(1, 6, n),
            "digital_engagement_score": rng.beta(2, 2, n),
            "adoption_stage": rng.choice(stages, n),
        }
    )


def _computing(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _peak(work: Callable[[], object]) -> float:
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def _speed_figures(speeds: Sequence[Speed]) -> Iterator[Figure]:
    for speed, bar in zip(speeds, (5.0, 500.0), strict=True):
        yield Figure(
            f"ms of computing: {speed.twins:,} twins, {DRAWS:,} draws, {speed.groups} subgroups",
            1000 * speed.seconds,
            at_most=bar,
            form=",.1f",
            note="least of many, the engine new each time",
        )
    large = speeds[-1]
    yield Figure(
        f"memory of {large.twins:,} twins with ten times the draws, over that with {DRAWS:,}",
        large.with_more_draws / large.megabytes,
        at_most=1.05,
        form=".3f",
        note=f"{large.megabytes:.0f} MB beside the twins themselves",
    )
