"""Simulated effects: coverage in worlds with a known truth, predictions of two real trials, and computing costs."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from engine import ExperimentDesigner, SimulationEngine, TwinGenerator
from engine.effects import catalogue_prior
from engine.effects.calibration import calibrate
from engine.experiments import EffectEstimate, relative_effect, treated_counterfactuals
from engine.sample_tables import sample_hcps
from schemas import INTERVENTIONS, Brand, Channel, ExperimentResult, Frequency, InterventionConfig, Reach, TwinType
from schemas.arrays import Flags, Floats
from schemas.filters import Filters, conditions, rows_matching
from schemas.interventions import Uncertain
from streams.reporting.charts import Chart, ChartInterval, Curve, ReferenceLine, curves_chart, intervals_chart
from streams.training import read_training_table
from tests.effect_worlds import Terms, World, draw_campaigns, moderator_terms, right_campaigns
from tests.evidence.part import DATA, Figure, Part, Plot, Table, seeded_rng
from tests.populations import intervention, population

__all__ = ["EXPERIMENT_COUNTS", "OUTCOME_SD", "experiment", "measure", "random_campaign"]


TARGET = "prescribing_change"
TRAINING_ROWS, TEST_ROWS = 10_000, 10_000
SIZES = (1_000, 3_000, 10_000, 30_000, 100_000)
SELECTIONS: Sequence[Filters] = ({}, {}, {"min_decile": 6}, {"tier": [1, 2]}, {"region": ["south"]})
EXPERIMENT_COUNTS = (0, 1, 2, 4, 8, 16)
"""Numbers of experiments after which the next campaign is simulated."""

OUTCOME_SD = 0.15
LOW, HIGH = 0.93, 0.97
BAND = [ReferenceLine(LOW, "93 %", "bad"), ReferenceLine(HIGH, "97 %", "bad")]
SENTENCES = """\
A world draws all uncertain parameters of the catalogue: base effects, factors of channels, saturation of doses, and \
coefficients of moderators. In each of {worlds:,} worlds one of the five interventions is simulated with random channel, \
frequency, duration and intensity, on all or on selected people. Its true effect on {test_rows:,} people that the model was \
not trained on is computed independently of the engine. The model is trained on {training_rows:,} other people of {tables}.
Sequences of experiments are drawn in such worlds too. True effects of campaigns vary around the mean of their type; each \
experiment has a random dose and selected people, 200 to 5,000 in each arm, and calibrates the prior; after 0, 1, 2, 4, 8 and \
16 experiments the next campaign is simulated and compared with its true effect. There are four kinds of worlds: as the prior \
expects, in some of which nothing works or several times as much does; and worlds in which the catalogue is right, campaigns \
differing as the calibration expects, not at all, or by half of the prior's standard deviation. The calibration has no prior \
information that the catalogue is right or that campaigns hardly differ, so in the last three its interval is conservative and \
covers more than its nominal level.
The two real trials are not about prescribers: a mailing before an election (primary of August 2006, voted or not, assigned by \
household cluster) and an e-mail campaign (visited the shop within two weeks). Both enter as a relative change with its \
cluster-robust delta-method error, as "email_campaign" by mail and by e-mail, read in two ways: at the dose of the trial \
(once, two weeks), and as the catalogue's reference dose. Calibration and prediction share no row: control clusters and \
customers are split in halves. The halves of the e-mail trial have the same truth, so only sampling error can take one outside.
For counterfactuals and the plan of an experiment, the real change of prescriptions of held-out physicians is their untreated \
outcome; arms are drawn and a known effect is added to the treated, so that the untreated outcome of the treated is known."""


def measure(quick: bool) -> Part:
    """500 worlds and sequences, 300 experiments on real prescribers; a tenth of them in a quick run."""
    worlds, experiments = (50, 30) if quick else (500, 300)
    sizes = (SIZES[0], SIZES[2]) if quick else SIZES
    peoples = list(_peoples(sizes))
    covered = {people.name: _coverage(people, worlds) for people in peoples}
    histories = {name: _histories(peoples[0], draw, worlds) for name, draw in HISTORIES.items()}
    trials = _trials() if DATA.is_dir() else []
    speeds = [_speed(n) for n in (10_000, 1_000_000)]
    return Part(
        title="Intervals of simulated effects have their nominal coverage",
        sentences=tuple(
            SENTENCES.format(
                worlds=worlds,
                test_rows=TEST_ROWS,
                training_rows=TRAINING_ROWS,
                tables=" and of ".join(people.name for people in peoples),
            ).splitlines()
        ),
        figures=(
            *_coverage_figures(covered),
            *_history_figures(histories),
            _winner_figure(worlds),
            *_comparison_figures(peoples[0], worlds),
            *(figure for people in peoples[1:] for figure in _experiment_figures(people, experiments)),
            *_speed_figures(speeds),
        ),
        tables=(_coverage_table(covered), _history_table(histories), *_trial_tables(trials)),
        plots=(*_coverage_plots(covered), *_history_plots(histories), *_trial_plots(trials)),
    )


# -- people, and twins of other people


class People(NamedTuple):
    """Held-out people, the model trained on others, and engines on its twins by their number.

    ``selected`` holds the moderators of the people that satisfy each of ``SELECTIONS``.
    """

    name: str
    frame: pd.DataFrame
    selected: tuple[Terms, ...]
    generator: TwinGenerator
    engines: Mapping[int, SimulationEngine]


def _peoples(sizes: Sequence[int]) -> Iterator[People]:
    """A generated table with all moderators, and the real prescribers with those that their table contains."""
    yield _people("a generated table with all features", sample_hcps(TRAINING_ROWS + TEST_ROWS, seeded_rng("table")), sizes)
    if DATA.is_dir():
        table = read_training_table([DATA / "hcp_partd_2013_2014.csv.gz"], TwinType.HCP).frame
        table = table.sample(TRAINING_ROWS + TEST_ROWS, random_state=seeded_rng("prescribers")).reset_index(drop=True)
        yield _people("the Medicare prescribers", table.drop(columns="entity_id"), sizes)


def _people(name: str, table: pd.DataFrame, sizes: Sequence[int]) -> People:
    generator = TwinGenerator(TwinType.HCP, Brand.KISQALI)
    generator.train(table[:TRAINING_ROWS], TARGET)
    engines = {n: SimulationEngine(generator.generate(n, seed=n)) for n in sizes}
    frame = table[TRAINING_ROWS:].reset_index(drop=True)
    selected = tuple(moderator_terms(frame[rows_matching(frame, conditions(TwinType.HCP, filters))]) for filters in SELECTIONS)
    return People(name, frame, selected, generator, engines)


def random_campaign(rng: np.random.Generator, kind: str | None = None) -> tuple[InterventionConfig, int]:
    """A campaign, and the index of its filter in ``SELECTIONS``."""
    config = InterventionConfig(
        intervention_type=kind or str(rng.choice(sorted(INTERVENTIONS))),
        channel=str(rng.choice([channel.value for channel in Channel])),
        frequency=str(rng.choice([frequency.value for frequency in Frequency])),
        duration_weeks=int(rng.integers(2, 53)),
        intensity=float(rng.uniform(0.5, 2.0)),
    )
    return config, int(rng.integers(len(SELECTIONS)))


# -- coverage and width by the number of twins


class Coverage(NamedTuple):
    """Simulations by number of twins: whether the interval holds the truth, and its width; shape ``(worlds, sizes)`` each."""

    sizes: tuple[int, ...]
    inside: Flags
    width: Floats

    @property
    def drift(self) -> Floats:
        """Average width relative to that on the fewest twins, minus 1; shape ``(sizes,)``."""
        return np.asarray(self.width.mean(axis=0) / self.width[:, 0].mean() - 1.0)


def _coverage(people: People, worlds: int) -> Coverage:
    rng, inside, width = seeded_rng("worlds", people.name), [], []
    for _ in range(worlds):
        config, selection = random_campaign(rng)
        truth = World(rng).average_effect(config, people.selected[selection])
        results = [engine.simulate(config, SELECTIONS[selection]) for engine in people.engines.values()]
        inside.append([result.ate_ci_lower <= truth <= result.ate_ci_upper for result in results])
        width.append([result.ate_ci_upper - result.ate_ci_lower for result in results])
    return Coverage(tuple(people.engines), np.array(inside), np.array(width))


def _coverage_figures(covered: Mapping[str, Coverage]) -> Iterator[Figure]:
    for name, coverage in covered.items():
        worst = int(np.argmax(np.abs(coverage.inside.mean(axis=0) - 0.95)))
        yield Figure(
            f"worlds whose true average lies inside the 95 % interval, {name}",
            float(coverage.inside[:, worst].mean()),
            at_least=LOW,
            at_most=HIGH,
            form=".1%",
            note=f"the worst of {len(coverage.sizes)} numbers of twins: {coverage.sizes[worst]:,}",
        )
        widest = int(np.argmax(np.abs(coverage.drift)))
        yield Figure(
            f"change of the interval's width with the number of twins, {name}",
            float(coverage.drift[widest]),
            at_least=-0.05,
            at_most=0.05,
            form="+.1%",
            note=f"the largest, from {coverage.sizes[0]:,} to {coverage.sizes[widest]:,} twins",
        )


def _coverage_table(covered: Mapping[str, Coverage]) -> Table:
    rows = [
        (
            f"{name}, {n:,} twins",
            f"{coverage.inside[:, i].mean():.1%}",
            f"{coverage.width[:, i].mean():.4f}",
            f"{coverage.drift[i]:+.2%}",
        )
        for name, coverage in covered.items()
        for i, n in enumerate(coverage.sizes)
    ]
    return Table("Intervals by the number of twins", ("", "inside", "average width", "change"), tuple(rows))


def _coverage_plots(covered: Mapping[str, Coverage]) -> Iterator[Plot]:
    curves = [
        Curve(name, coverage.sizes, coverage.inside.mean(axis=0).tolist(), _noise(coverage.inside), tone)
        for (name, coverage), tone in zip(covered.items(), ("one", "two"), strict=False)
    ]
    caption = "Share of worlds whose true average over real people lies inside the interval, with its sampling error."
    yield Plot(caption, _by_twins(curves, "Coverage by the number of twins", caption, ".0%", BAND))
    curves = [
        Curve(name, coverage.sizes, (coverage.drift + 1.0).tolist(), tone=tone)
        for (name, coverage), tone in zip(covered.items(), ("one", "two"), strict=False)
    ]
    caption = "Average width of the interval relative to that on the fewest twins: more twins add no information."
    bars = [ReferenceLine(0.95, "−5 %", "bad"), ReferenceLine(1.05, "+5 %", "bad")]
    yield Plot(caption, _by_twins(curves, "Width by the number of twins", caption, ".2f", bars))


def _by_twins(curves: Sequence[Curve], title: str, caption: str, form: str, lines: Sequence[ReferenceLine]) -> Chart:
    return curves_chart(
        curves, title=title, description=caption, x_label="twins", form=form, x_form=",.0f", log_x=True, lines=lines
    )


def _noise(inside: Flags) -> list[float]:
    """Half width of the 95 % interval of each share."""
    share = inside.mean(axis=0)
    return (1.96 * np.sqrt(share * (1.0 - share) / len(inside))).tolist()


# -- sequences of experiments

History = Callable[[np.random.Generator, Uncertain], tuple[float, float]]
"""Draws the mean of all campaigns of a type and the standard deviation between them, given the prior."""

EXPECTED, RIGHT = "as expected", "as the catalogue says"
HISTORIES: Mapping[str, History] = {
    EXPECTED: draw_campaigns,
    RIGHT: right_campaigns,
    "all alike": lambda rng, prior: (rng.normal(prior.mean, prior.sd), 0.0),
    "half a deviation apart": lambda rng, prior: (rng.normal(prior.mean, np.sqrt(0.75) * prior.sd), 0.5 * prior.sd),
}


class Histories(NamedTuple):
    """By number of experiments: whether the next campaign's interval holds its true effect, and its width relative to the first."""

    inside: Flags
    width: Floats


def _histories(people: People, draw: History, sequences: int) -> Histories:
    engine = people.engines[min(people.engines)]
    world = partial(World, has_tails=draw is HISTORIES[EXPECTED])
    sequence_results = [_history(people, engine, draw, world, seeded_rng("history", number)) for number in range(sequences)]
    inside, width = np.moveaxis(np.array(sequence_results), -1, 0)
    return Histories(inside.astype(bool), width)


def _history(
    people: People,
    engine: SimulationEngine,
    draw: History,
    new_world: Callable[[np.random.Generator], World],
    rng: np.random.Generator,
) -> list[tuple[float, float]]:
    world, prior = new_world(rng), catalogue_prior(str(rng.choice(sorted(INTERVENTIONS))))
    kind = prior.intervention_type
    mean, between = draw(rng, INTERVENTIONS[kind].effect)
    next_config, next_selection = random_campaign(rng, kind)
    experiments: list[ExperimentResult] = []
    reaches: dict[str, Reach] = {}
    results: list[tuple[float, float]] = []
    for n_experiments in range(max(EXPERIMENT_COUNTS) + 1):
        if n_experiments in EXPERIMENT_COUNTS:
            priors = {kind: calibrate(prior, experiments, reaches)}
            result = SimulationEngine(engine.population, priors=priors).simulate(next_config, SELECTIONS[next_selection])
            truth = world.average_effect(next_config, people.selected[next_selection], rng.normal(mean, between))
            inside = float(result.ate_ci_lower <= truth <= result.ate_ci_upper)
            results.append((inside, result.ate_ci_upper - result.ate_ci_lower))
        config, selection = random_campaign(rng, kind)
        truth = world.average_effect(config, people.selected[selection], rng.normal(mean, between))
        n = int(np.exp(rng.uniform(np.log(200), np.log(5_000))))
        error = OUTCOME_SD * float(np.sqrt(2 / n))
        experiments.append(experiment(str(n_experiments), config, EffectEstimate(rng.normal(truth, error), error, n, n)))
        reaches[str(n_experiments)] = engine.reach(config, SELECTIONS[selection])
    return [(inside, width / results[0][1]) for inside, width in results]


def experiment(name: str, config: InterventionConfig, estimate: EffectEstimate) -> ExperimentResult:
    return ExperimentResult(
        experiment_id=name,
        observed_at=datetime(2026, 1, 1, tzinfo=UTC),
        twin_type=TwinType.HCP,
        brand=Brand.KISQALI,
        intervention=config,
        **estimate._asdict(),
    )


def _history_figures(histories: Mapping[str, Histories]) -> Iterator[Figure]:
    for name, history in histories.items():
        share = history.inside.mean(axis=0)
        worst = int(np.argmax(np.abs(share - 0.95)))
        yield Figure(
            f"next campaigns inside their 95 % interval over sequences of experiments, campaigns {name}",
            float(share[worst]),
            at_least=LOW,
            at_most=HIGH if name == EXPECTED else None,
            form=".1%",
            note=f"the worst, after {EXPERIMENT_COUNTS[worst]} experiments; on average {share.mean():.1%}",
        )
        yield Figure(
            f"width after {EXPERIMENT_COUNTS[-1]} experiments over that before any, campaigns {name}",
            float(np.median(history.width[:, -1])),
            at_most=1.0,
            form=".2f",
        )


def _history_table(histories: Mapping[str, Histories]) -> Table:
    rows = [
        (
            name,
            *(
                f"{share:.1%}, {width:.2f}"
                for share, width in zip(history.inside.mean(axis=0), history.width.mean(axis=0), strict=True)
            ),
        )
        for name, history in histories.items()
    ]
    columns = ("campaigns", *(f"after {n_experiments}" for n_experiments in EXPERIMENT_COUNTS))
    title = "Next campaigns inside their interval, and its width relative to that before any experiment"
    return Table(title, columns, tuple(rows))


def _history_plots(histories: Mapping[str, Histories]) -> Iterator[Plot]:
    tones = ("one", "good", "two", "warn")
    for title, caption, form, lines, series in (
        (
            "Coverage by the number of experiments",
            "Share of sequences in which the next campaign's true effect lies inside its interval.",
            ".0%",
            BAND,
            {name: (history.inside.mean(axis=0), _noise(history.inside)) for name, history in histories.items()},
        ),
        (
            "Width by the number of experiments",
            "Width of the next campaign's interval relative to that before any experiment.",
            ".0%",
            [],
            {name: (history.width.mean(axis=0), []) for name, history in histories.items()},
        ),
    ):
        curves = [
            Curve(name, EXPERIMENT_COUNTS, y.tolist(), margins, tone)
            for (name, (y, margins)), tone in zip(series.items(), tones, strict=True)
        ]
        chart = curves_chart(curves, title=title, description=caption, x_label="experiments", form=form, x_form=".0f", lines=lines)
        yield Plot(caption, chart)


def _winner_figure(repetitions: int) -> Figure:
    """Overstatement of the campaign with the largest observed effect among ten tested ones."""
    kind = "email_campaign"
    rng, prior = seeded_rng("winner"), catalogue_prior(kind)
    config, raw, calibrated, true = intervention(kind), [], [], []
    for _ in range(repetitions):
        means, between = zip(*(draw_campaigns(rng, INTERVENTIONS[kind].effect) for _ in range(10)), strict=True)
        effects = rng.normal(means, between)
        observed = rng.normal(effects, prior.sd)
        best = int(np.argmax(observed))
        raw.append(observed[best])
        best_only = experiment("best", config, EffectEstimate(observed[best], prior.sd, 500, 500))
        calibrated.append(calibrate(prior, [best_only]).mean)
        true.append(means[best])
    return Figure(
        "overstatement of the best of ten tested campaigns, after calibration, in deviations of the prior",
        float(np.mean(calibrated) - np.mean(true)) / prior.sd,
        at_least=-0.15,
        at_most=0.15,
        form="+.2f",
        note=f"without calibration {(np.mean(raw) - np.mean(true)) / prior.sd:+.2f}",
    )


def _comparison_figures(people: People, worlds: int) -> Iterator[Figure]:
    """Comparisons of all five interventions in one request."""
    rng, engine = seeded_rng("together"), people.engines[min(people.engines)]
    configs = [intervention(name) for name in INTERVENTIONS]
    result = engine.simulate(configs[0], alternatives=configs[1:])
    all_inside, best = [], []
    for _ in range(worlds):
        first, *others = (World(rng).average_effect(config, people.selected[0]) for config in configs)
        pairs = zip(result.alternatives, others, strict=True)
        all_inside.append(
            all(
                alternative.difference_ci_lower <= effect - first <= alternative.difference_ci_upper
                for alternative, effect in pairs
            )
        )
        best.append([first, *others][configs.index(result.best.intervention)])
    inside = (result.best.ate_ci_lower <= np.array(best)) & (np.array(best) <= result.best.ate_ci_upper)
    share = float(np.mean(all_inside))
    yield Figure("worlds in which all differences between five interventions lie inside", share, LOW, HIGH, ".1%")
    yield Figure("worlds in which the best of five lies inside its interval for the chosen", float(inside.mean()), LOW, form=".1%")


# -- two real trials


class PredictedTrial(NamedTuple):
    """A trial predicted before and after calibration by another one, and its observed effect."""

    reading: str
    calibrated_by: str
    predicted: str
    before: ChartInterval
    after: ChartInterval
    observed: EffectEstimate

    def position(self, interval: ChartInterval) -> str:
        """Whether the observed effect lies inside of an interval, and its distance otherwise."""
        if interval.lower <= self.observed.effect <= interval.upper:
            return "inside"
        end = interval.lower if self.observed.effect < interval.lower else interval.upper
        side = "below" if self.observed.effect < interval.lower else "above"
        distance = abs(self.observed.effect - end)
        return f"{side}, by {distance:.1%} or {distance / self.observed.standard_error:.1f} of its standard errors"


READINGS: Mapping[str, dict[str, Any]] = {"dose as run": {"frequency": "once", "duration_weeks": 2}, "reference dose": {}}


def _trials() -> list[PredictedTrial]:
    mail, email = _mail(), _email()
    pairs = [("mail", mail, "Civic Duty", "Self"), ("mail", mail, "Self", "Civic Duty")]
    pairs += [("email", email, "one half", "the other half"), ("email", email, "the other half", "one half")]
    return [
        _predict_trial(reading, intervention("email_campaign", channel=channel, **dose), estimates, calibrated_by, predicted)
        for channel, estimates, calibrated_by, predicted in pairs
        for reading, dose in READINGS.items()
    ]


def _mail() -> dict[str, EffectEstimate]:
    """Both messages, each compared with its own half of the control clusters."""
    table = pd.read_csv(DATA / "mail_rct_two_messages.csv.gz")
    control = table["treatment"] == "No Postcard"
    clusters = table.loc[control, "cluster"].unique()
    half = table["cluster"].isin(seeded_rng("mail").permutation(clusters)[: len(clusters) // 2])
    estimates = {}
    for message, own_control in (("Civic Duty", control & half), ("Self", control & ~half)):
        rows = table[(table["treatment"] == message) | own_control]
        treated = (rows["treatment"] == message).to_numpy()
        estimates[message] = relative_effect(rows["primary_06"].to_numpy(), treated, rows["cluster"])
    return estimates


def _email() -> dict[str, EffectEstimate]:
    table = pd.read_csv(DATA / "email_rct_mens.csv.gz")
    first = seeded_rng("email").permutation(len(table)) < len(table) // 2
    return {
        name: relative_effect(rows["visit"].to_numpy(), (rows["segment"] == "Mens E-Mail").to_numpy())
        for name, rows in (("one half", table[first]), ("the other half", table[~first]))
    }


def _predict_trial(
    reading: str, config: InterventionConfig, estimates: Mapping[str, EffectEstimate], calibrated_by: str, predicted: str
) -> PredictedTrial:
    """Predict a trial on people without any moderator, before and after calibration by another trial."""
    prior, twins = catalogue_prior(config.intervention_type), population(500, TwinType.PATIENT)
    calibrated = calibrate(prior, [experiment(calibrated_by, config, estimates[calibrated_by])])
    results = [SimulationEngine(twins, priors={prior.intervention_type: used}).simulate(config) for used in (prior, calibrated)]
    before, after = (
        ChartInterval(f"{predicted}, {when}", result.ate, result.ate_ci_lower, result.ate_ci_upper, tone=tone)
        for result, when, tone in zip(results, ("before", f"by {calibrated_by}"), ("muted", "one"), strict=True)
    )
    return PredictedTrial(f"{config.channel}, {reading}", calibrated_by, predicted, before, after, estimates[predicted])


def _trial_tables(trials: Sequence[PredictedTrial]) -> Iterator[Table]:
    if not trials:
        return
    rows = [
        (
            trial.reading,
            f"{trial.calibrated_by} → {trial.predicted}",
            f"{trial.observed.effect:.1%} ± {1.96 * trial.observed.standard_error:.1%}",
            _interval_text(trial.before),
            trial.position(trial.before),
            _interval_text(trial.after),
            trial.position(trial.after),
        )
        for trial in trials
    ]
    columns = ("trial, reading", "calibrated by → predicted", "observed", "before", "observed is", "after", "observed is")
    yield Table(
        "Two real trials: predictions before and after calibration by the other part, and observed effects",
        columns,
        tuple(rows),
    )


def _interval_text(interval: ChartInterval) -> str:
    return f"{interval.estimate:.1%} [{interval.lower:.1%}, {interval.upper:.1%}]"


def _trial_plots(trials: Sequence[PredictedTrial]) -> Iterator[Plot]:
    for reading in dict.fromkeys(trial.reading for trial in trials):
        items = [item for trial in trials if trial.reading == reading for item in _chart_intervals(trial)]
        caption = f"{reading}: predictions before and after calibration, and the observed effect of the predicted trial."
        yield Plot(caption, intervals_chart(items, title=f"A real trial, {reading}", description=caption))


def _chart_intervals(trial: PredictedTrial) -> tuple[ChartInterval, ChartInterval, ChartInterval]:
    effect, half = trial.observed.effect, 1.96 * trial.observed.standard_error
    observed = ChartInterval(f"{trial.predicted}, observed", effect, effect - half, effect + half, tone="good")
    return trial.before, trial.after, observed


# -- experiments on real prescribers with a known truth

PLANNED = 0.02


def _experiment_figures(people: People, repetitions: int) -> Iterator[Figure]:
    """Experiments planned on twins and run on real people: power, and coverage of effects and of untreated outcomes."""
    plan = ExperimentDesigner(people.generator).design(intervention(), effect=PLANNED)
    untreated = people.frame[TARGET].to_numpy(dtype=float)
    expected = people.generator.predict(people.frame)
    treated = np.repeat([True, False], [arm.n for arm in plan.arms])
    rng = seeded_rng("experiments", people.name)
    significant, effect_inside, outcomes_inside = [], [], []
    for _ in range(repetitions):
        rows = rng.choice(len(untreated), len(treated), replace=False)
        result = treated_counterfactuals(expected[rows], untreated[rows] + PLANNED * treated, treated)
        average, truth = result.average, untreated[rows][treated]
        significant.append(average["difference_lower"] > 0)
        effect_inside.append(average["difference_lower"] <= PLANNED <= average["difference_upper"])
        lower, upper = result.entities["without_lower"], result.entities["without_upper"]
        outcomes_inside.append(np.mean((lower <= truth) & (truth <= upper)))
    size = f"{plan.arms[0].n:,} and {plan.arms[1].n:,} people"
    yield Figure(
        f"experiments planned on twins that find an effect of {PLANNED:.0%}, {people.name}",
        float(np.mean(significant)),
        at_least=0.75,
        form=".1%",
        note=f"planned {plan.power:.1%} with {size}",
    )
    yield Figure("experiments whose average effect lies inside its interval", float(np.mean(effect_inside)), LOW, HIGH, ".1%")
    yield Figure("untreated outcomes of the treated inside their interval", float(np.mean(outcomes_inside)), LOW, HIGH, ".1%")


# -- computing costs

DRAWS = 1_000


class Speed(NamedTuple):
    """Processor time of one simulation, and peak memory with ``DRAWS`` and with ten times as many."""

    twins: int
    groups: int
    seconds: float
    megabytes: float
    with_more_draws: float


def _speed(n: int) -> Speed:
    twins = population(features=_with_26_groups(n))
    simulate = lambda draws=DRAWS: SimulationEngine(twins, n_draws=draws).simulate(intervention())  # noqa: E731
    groups = simulate().heterogeneity.n_groups
    seconds = min(_processor_time(simulate) for _ in range(200 if n < 100_000 else 7))
    return Speed(n, groups, seconds, _peak(simulate), _peak(partial(simulate, 10 * DRAWS)))


def _with_26_groups(n: int) -> pd.DataFrame:
    rng = seeded_rng("groups")
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


def _processor_time(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


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
            note="minimum of many runs, with a new engine each time",
        )
    large = speeds[-1]
    yield Figure(
        f"memory of {large.twins:,} twins with ten times the draws, over that with {DRAWS:,}",
        large.with_more_draws / large.megabytes,
        at_most=1.05,
        form=".3f",
        note=f"{large.megabytes:.0f} MB in addition to the twins",
    )
