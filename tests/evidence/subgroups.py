"""Effects in subgroups that experiments teach: in simulated sequences of experiments, and between halves of real trials."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from engine import SimulationEngine
from engine.effects import catalogue_prior
from engine.effects.calibration import calibrate
from engine.experiments import EffectEstimate, relative_effect
from engine.sample_tables import sample_hcps
from schemas import EffectPrior, ExperimentResult, SubgroupResult, in_effect
from schemas.arrays import Flags, Floats
from schemas.catalogue import BUILT_IN, Catalogue, laid_over
from streams.reporting.charts import Curve, ReferenceLine, curves_chart
from tests.evidence.part import DATA, Figure, Part, Plot, Table, seeded_rng
from tests.evidence.simulation import EXPERIMENT_COUNTS, experiment
from tests.populations import intervention, population
from tests.subgroup_worlds import DIMENSIONS, HIDDEN, People, Setting, draw_people, sequence

__all__ = ["measure"]

SENTENCES = """\
In each of {sequences} sequences of experiments a world draws all uncertain parameters of the catalogue, and each \
level of specialty, tier and region deviates from what the moderators explain by a factor whose logarithm has a \
standard deviation of 0.03, 0.10 or 0.30, three quarters of its variance in all campaigns alike and a quarter in one \
campaign. Before each experiment three random campaigns are simulated and the most promising one is run, on 400 to \
5,000 people in each arm, whose outcomes are drawn one by one; it reports its effect, and those by specialty, tier and \
region. After 0, 1, 2, 4, 8 and 16 experiments two other campaigns are simulated, and their true average effects, in \
all people, in the 17 subgroups and under a filter (oncologists of the South), are compared with their intervals. \
Truth is computed independently of the engine. "Without subgroups" are such sequences whose experiments report their \
overall effect alone, {settings} of them, and as many of each other setting: any campaign is run; only significant \
successes are told; each coefficient of a moderator is two standard deviations from what the catalogue believes; up to \
two experiments of 5,000 to 20,000 people in an arm; 100 to 400 people in an arm; each experiment reports the levels \
of one feature; each reports half of the levels; one level of each feature (oncology, tier 1, the South) is never \
reported.
A deviation of a level is drawn for subgroups, not for the people that a filter selects: the interval of a filter on one \
level is 0.96 to 1.00 times as wide as that of the same people as a subgroup of all, and in 80 sequences of other seeds \
97.0 % of true effects are inside in place of 97.2 %.
The real trials are the e-mail trial (visits, by history of spending, place, channel of earlier purchases, and whether \
new) and the mailing (turnout, by size of the household, sex and vote two years before; two messages). Half of the \
people, whole household clusters, teach one experiment with its subgroups; those of the other half are predicted at \
the dose of the trial, {splits} random halves each. Halves have one truth: that observed effects are inside says that \
intervals are not too narrow for sampling error, not that the next campaign will be inside. What the halves do tell is \
whether differences between subgroups are learned: they are compared with no differences at all and with those of the \
first half as they were observed.
Tried and failed: a coefficient of a moderator without a deviation of its level learns slowly where the catalogue is \
wrong about it; with levels that only deviate where an experiment reports them, they are covered to 0.88 before any \
(60 sequences)."""

USUAL = Setting("most promising run")
OVERALL = "without subgroups"
SETTINGS = (
    Setting("any campaign run", is_promising=False),
    Setting("only successes told", only_successes=True),
    Setting("moderators far from the catalogue", is_far=True),
    Setting("few large experiments", sizes=(5_000, 20_000), counts=(0, 1, 2)),
    Setting("many small experiments", sizes=(100, 400), counts=(0, 4, 16)),
    Setting("levels of one feature reported", features=1, counts=(0, 1, 4, 16)),
    Setting("half of the levels reported", reported=0.5, counts=(0, 1, 4, 16)),
    Setting("levels never reported", hides=True, counts=(0, 1, 4, 16)),
)
LOW, HIGH = 0.93, 0.97


class Sequences(NamedTuple):
    """Whether truth lies inside, and the interval's width: ``(sequences, counts, rows)``, of all people, a filter and subgroups.

    A subgroup that is not reported is nan.
    """

    counts: tuple[int, ...]
    inside: Floats
    width: Floats

    def share(self, rows: Rows) -> Floats:
        """Share inside by number of experiments, ``(counts,)``."""
        return np.asarray(np.nanmean(self.inside[..., rows], axis=(0, 2)))

    def error(self, rows: Rows) -> Floats:
        """Standard error of these shares, ``(counts,)``: the rows of one sequence are missed together."""
        return _standard_error(np.nanmean(self.inside[..., rows], axis=2))

    def average(self, rows: Rows) -> tuple[float, float]:
        """Share inside on average over the numbers of experiments, with its standard error."""
        shares = np.nanmean(self.inside[..., rows], axis=(1, 2))
        return float(np.nanmean(shares)), float(_standard_error(shares))

    def narrowing(self, rows: Rows) -> Floats:
        """Median width over that before any experiment, ``(counts,)``."""
        return np.asarray(np.nanmedian(self.width[..., rows] / self.width[:, :1, rows], axis=(0, 2)))


Rows = list[int]


def _standard_error(shares: Floats) -> Floats:
    return np.asarray(np.nanstd(shares, axis=0) / np.sqrt(np.isfinite(shares).sum(axis=0)))


class _Parts(NamedTuple):
    """Rows of all people, of a filter, and of subgroups by their kind; those of all campaigns that are simulated at once."""

    everyone: Rows
    filtered: Rows
    groups: Rows
    by_kind: Mapping[str, Rows]

    @classmethod
    def of(cls, people: People) -> _Parts:
        groups = [(dimension, level) for dimension, level, _ in people.groups()]
        size = 2 + len(groups)

        def rows(chosen: Sequence[int]) -> Rows:
            return [campaign * size + row for campaign in range(2) for row in chosen]

        kinds = {name: [2 + i for i, (dimension, _) in enumerate(groups) if dimension == name] for name in DIMENSIONS}
        kinds["never reported"] = [2 + i for i, (dimension, level) in enumerate(groups) if HIDDEN[dimension] == level]
        by_kind = {name: rows(chosen) for name, chosen in kinds.items()}
        return cls(rows([0]), rows([1]), rows(range(2, size)), by_kind)


def measure(quick: bool) -> Part:
    """600 sequences, 150 of each other setting, and 20 halves of each trial; a tenth of them in a quick run."""
    sequences, settings, splits = (60, 20, 2) if quick else (600, 150, 20)
    people = draw_people(2_000, seeded_rng("subgroups"))
    usual = _run(people, USUAL, sequences)
    others = {setting.name: _run(people, setting, settings) for setting in SETTINGS}
    others[OVERALL] = _run(people, USUAL, settings, reports=False)
    halves = list(_halves(splits)) if DATA.is_dir() else []
    parts = _Parts.of(people)
    return Part(
        title="Experiments teach who responds",
        sentences=tuple(SENTENCES.format(sequences=sequences, settings=settings, splits=splits).splitlines()),
        figures=(*_sequence_figures(usual, others, parts), *_half_figures(halves), *_speed_figures()),
        tables=(_sequence_table({USUAL.name: usual, **others}, parts), _kind_table(usual, others, parts), *_half_tables(halves)),
        plots=(_plot({"with subgroups": usual, OVERALL: others[OVERALL]}, parts),),
    )


# -- sequences of experiments


def _run(people: People, setting: Setting, sequences: int, *, reports: bool = True) -> Sequences:
    rows = np.array([sequence(people, setting, number, reports=reports) for number in range(sequences)])
    _, lower, upper, truth = np.moveaxis(rows, -1, 0)
    inside = np.where(np.isnan(lower), np.nan, (lower <= truth) & (truth <= upper))
    return Sequences(setting.counts, inside, upper - lower)


def _sequence_figures(usual: Sequences, others: Mapping[str, Sequences], parts: _Parts) -> Iterator[Figure]:
    share, error = usual.share(parts.groups), usual.error(parts.groups)
    average, average_error = usual.average(parts.groups)
    worst = int(np.argmax(np.abs(share - 0.95)))
    yield Figure(
        "true effects of subgroups inside their 95 % interval over sequences of chosen experiments",
        average,
        at_least=LOW,
        at_most=HIGH,
        form=".1%",
        note=f"standard error {average_error:.1%}, on average over the numbers of experiments; the farthest from 95 %"
        f" {share[worst]:.1%}, after {usual.counts[worst]}, with a standard error of {error[worst]:.1%}",
    )
    yield Figure(
        "the same at the number of experiments where it is farthest from 95 %",
        float(share[worst]),
        at_least=LOW,
        at_most=HIGH,
        form=".1%",
        note=", ".join(f"{s:.1%} ({e:.1%}) after {n}" for s, e, n in zip(share, error, usual.counts, strict=True)),
    )
    width = usual.narrowing(parts.groups)
    yield Figure(
        "width of subgroups' intervals after 16 experiments over that before any",
        float(width[-1]),
        at_most=1.0,
        form=".2f",
        note=", ".join(f"{value:.2f} after {count}" for value, count in zip(width[1:], usual.counts[1:], strict=True)),
    )
    filtered, filtered_error = usual.average(parts.filtered)
    note = f"standard error {filtered_error:.1%}"
    yield Figure("the same under a filter, on average over the numbers of experiments", filtered, form=".1%", note=note)
    for name, run in others.items():
        average, average_error = run.average(parts.groups)
        yield Figure(f"subgroups inside, {name}", average, form=".1%", note=f"standard error {average_error:.1%}")


def _sequence_table(runs: Mapping[str, Sequences], parts: _Parts) -> Table:
    chosen = {"all people": parts.everyone, "a filter": parts.filtered, "17 subgroups": parts.groups}
    rows = [(f"{name}: {what}", *_cells(run, part)) for name, run in runs.items() for what, part in chosen.items()]
    columns = ("", *(f"after {count}" for count in EXPERIMENT_COUNTS))
    return Table("Truth inside the interval, its standard error, and its median width relative to the first", columns, tuple(rows))


def _cells(run: Sequences, part: Rows) -> Iterator[str]:
    by_count = dict(zip(run.counts, zip(run.share(part), run.error(part), run.narrowing(part), strict=True), strict=True))
    for count in EXPERIMENT_COUNTS:
        yield "{:.1%} ± {:.1%}, {:.2f}".format(*by_count[count]) if count in by_count else ""


def _kind_table(usual: Sequences, others: Mapping[str, Sequences], parts: _Parts) -> Table:
    kinds = {name: rows for name, rows in parts.by_kind.items() if name in DIMENSIONS}
    rows = [(f"{USUAL.name}: {name}", *_cells(usual, part)) for name, part in kinds.items()]
    hidden = "levels never reported"
    rows.append((f"{hidden}: those levels", *_cells(others[hidden], parts.by_kind["never reported"])))
    columns = ("", *(f"after {count}" for count in EXPERIMENT_COUNTS))
    return Table("The same by kind of subgroup", columns, tuple(rows))


def _plot(runs: Mapping[str, Sequences], parts: _Parts) -> Plot:
    caption = "Share of subgroups whose true effect in the next campaign lies inside its interval."
    curves = [
        Curve(name, EXPERIMENT_COUNTS, run.share(parts.groups).tolist(), [], tone)
        for (name, run), tone in zip(runs.items(), ("one", "two"), strict=True)
    ]
    lines = [ReferenceLine(LOW, "93 %", "bad"), ReferenceLine(HIGH, "97 %", "bad")]
    chart = curves_chart(
        curves, title="Coverage of subgroups", description=caption, x_label="experiments", form=".0%", x_form=".0f", lines=lines
    )
    return Plot(caption, chart)


def _subgroup(dimension: str, level: str, estimate: EffectEstimate) -> SubgroupResult:
    return SubgroupResult(dimension=dimension, level=level, **estimate._asdict())


def _by_level(levels: np.ndarray) -> Iterator[tuple[str, Flags]]:
    for level in np.unique(levels).tolist():
        yield level, levels == level


# -- halves of real trials


class Half(NamedTuple):
    """A subgroup of the second half of a trial: as observed, as predicted, and its difference from all in three ways."""

    trial: str
    group: str
    observed: EffectEstimate
    lower: float
    upper: float
    difference: float
    learned: float
    raw: float


class _Trial(NamedTuple):
    name: str
    frame: pd.DataFrame
    channel: str
    dimensions: tuple[str, ...]
    clusters: str | None


def _trials() -> Iterator[_Trial]:
    email = pd.read_csv(DATA / "email_rct_mens.csv.gz")
    email = email.rename(columns={"history_segment": "spending", "zip_code": "place", "channel": "bought_by", "visit": "outcome"})
    email = email.assign(treated=email["segment"] == "Mens E-Mail")
    yield _Trial("e-mail", email, "email", ("spending", "place", "bought_by", "newbie"), None)
    mail = pd.read_csv(DATA / "mail_rct_two_messages.csv.gz")
    mail = mail.assign(household=mail["hh_size"].clip(upper=4), outcome=mail["primary_06"], voted=mail["primary_04"])
    for message in ("Civic Duty", "Self"):
        rows = mail[mail["treatment"].isin([message, "No Postcard"])].reset_index(drop=True)
        rows = rows.assign(treated=rows["treatment"] == message)
        yield _Trial(f"mail, {message}", rows, "mail", ("household", "sex", "voted"), "cluster")


def _catalogue(dimensions: Sequence[str]) -> Catalogue:
    features = {name: {"kind": "category"} for name in dimensions}
    return Catalogue.model_validate(
        laid_over({"twin_types": {"hcp": {"features": features, "dimensions": [*dimensions]}}}, BUILT_IN)
    )


def _halves(splits: int) -> Iterator[Half]:
    for trial in _trials():
        with in_effect(_catalogue(trial.dimensions)):
            for split in range(splits):
                yield from _split(trial, seeded_rng("halves", trial.name, split))


def _split(trial: _Trial, rng: np.random.Generator) -> Iterator[Half]:
    frame = trial.frame
    units = frame[trial.clusters].to_numpy() if trial.clusters else np.arange(len(frame))
    names = np.unique(units)
    first = np.isin(units, rng.permutation(names)[: len(names) // 2])
    teaching, other = _result(trial, frame[first]), _result(trial, frame[~first])
    twins = population(features=frame[[*trial.dimensions]].sample(2_000, random_state=rng).astype(str).reset_index(drop=True))
    engine = SimulationEngine(twins, priors={"email_campaign": calibrate(catalogue_prior("email_campaign"), [teaching])})
    predicted = engine.simulate(teaching.intervention)
    raw = {(group.dimension, group.level): group.effect / teaching.effect for group in teaching.subgroups}
    by_group = {
        (name, effect.group): effect for name, effects in predicted.heterogeneity.by_dimension.items() for effect in effects
    }
    for group in other.subgroups:
        key = (group.dimension, group.level)
        effect = by_group[key]
        tolerance = 1.96 * group.standard_error
        yield Half(
            trial.name,
            f"{group.dimension} {group.level}",
            EffectEstimate(group.effect, group.standard_error, group.n_treated, group.n_control),
            effect.estimate - math.hypot(effect.estimate - effect.ci_lower, tolerance),
            effect.estimate + math.hypot(effect.ci_upper - effect.estimate, tolerance),
            group.effect / other.effect - 1.0,
            effect.estimate / predicted.ate - 1.0,
            raw[key] - 1.0,
        )


def _result(trial: _Trial, frame: pd.DataFrame) -> ExperimentResult:
    clusters = frame[trial.clusters].to_numpy() if trial.clusters else None
    outcome, treated = frame["outcome"].to_numpy(dtype=float), frame["treated"].to_numpy()

    def effect(rows: Flags) -> EffectEstimate:
        return relative_effect(outcome[rows], treated[rows], None if clusters is None else clusters[rows])

    groups = [
        _subgroup(name, level, effect(rows))
        for name in trial.dimensions
        for level, rows in _by_level(frame[name].astype(str).to_numpy())
    ]
    config = intervention("email_campaign", channel=trial.channel, frequency="once", duration_weeks=2)
    whole = experiment(trial.name, config, effect(np.ones(len(frame), dtype=bool)))
    return whole.model_copy(update={"subgroups": tuple(groups)})


def _half_figures(halves: Sequence[Half]) -> Iterator[Figure]:
    if not halves:
        return
    inside = np.mean([half.lower <= half.observed.effect <= half.upper for half in halves])
    yield Figure("subgroups of real trials predicted from the other half, inside", float(inside), at_least=0.90, form=".1%")
    learned, raw, none = _errors(halves)
    yield Figure(
        "error of learned differences between subgroups of real trials, over that of no differences",
        learned / none,
        at_most=1.0,
        form=".2f",
        note=f"as observed in the first half {raw / none:.2f}; the error holds the sampling error of the second half",
    )


def _errors(halves: Sequence[Half]) -> tuple[float, float, float]:
    """Root mean square errors of differences: as learned, as observed in the other half, and of none; weighted by precision."""
    weight = np.array([half.observed.standard_error**-2.0 for half in halves])
    truth, learned, raw = np.array([(half.difference, half.learned, half.raw) for half in halves]).T
    return tuple(float(np.sqrt(weight @ (truth - guess) ** 2 / weight.sum())) for guess in (learned, raw, np.zeros(len(truth))))


def _half_tables(halves: Sequence[Half]) -> Iterator[Table]:
    if not halves:
        return
    rows = []
    for trial in dict.fromkeys(half.trial for half in halves):
        own = [half for half in halves if half.trial == trial]
        learned, raw, none = _errors(own)
        inside = np.mean([half.lower <= half.observed.effect <= half.upper for half in own])
        rows.append((trial, f"{len({half.group for half in own})}", f"{inside:.1%}", f"{none:.2f}", f"{raw:.2f}", f"{learned:.2f}"))
    columns = ("trial", "subgroups", "inside", "error: no differences", "as observed in the first half", "as learned")
    yield Table(
        "Subgroups of one half of a trial predicted from the other; differences as shares of the whole effect", columns, tuple(rows)
    )


# -- computing costs


def _speed_figures() -> Iterator[Figure]:
    rng = seeded_rng("subgroup speed")
    specialties = [f"specialty {number}" for number in range(12)]
    frame = sample_hcps(10_000, rng).assign(specialty=rng.choice(specialties, 10_000))
    twins = population(
        features=frame[["specialty", "region", "decile", "priority_tier", "digital_engagement_score", "adoption_stage"]]
    )
    groups = [_subgroup("specialty", name, EffectEstimate(0.05, 0.02, 100, 100)) for name in specialties]
    result = experiment("one", intervention(), EffectEstimate(0.05, 0.006, 1_200, 1_200)).model_copy(
        update={"subgroups": tuple(groups)}
    )
    kind = result.intervention.intervention_type
    for name, prior in (("learned", calibrate(catalogue_prior(kind), [result])), ("of the catalogue", catalogue_prior(kind))):
        yield Figure(
            f"ms of computing: 10,000 twins, 26 subgroups, parameters {name}",
            1000 * min(_seconds(twins, prior) for _ in range(50)),
            at_most=5.0 if prior.learned is None else None,
            form=".1f",
            note="12 levels of the specialty have terms of their own" if prior.learned else "",
        )


def _seconds(twins: object, prior: EffectPrior) -> float:
    started = time.process_time()
    SimulationEngine(twins, priors={prior.intervention_type: prior}).simulate(intervention(prior.intervention_type))  # type: ignore[arg-type]  # any twins
    return time.process_time() - started
