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
from engine.effects.parameter_learning import LEVEL_SDS, OWN_SHARE
from engine.experiments import EffectEstimate, relative_effect
from engine.sample_tables import sample_hcps
from schemas import INTERVENTIONS, EffectPrior, ExperimentResult, InterventionConfig, Reach, SubgroupResult, in_effect
from schemas.arrays import Flags, Floats
from schemas.catalogue import BUILT_IN, Catalogue, laid_over
from streams.reporting.charts import Curve, ReferenceLine, curves_chart
from tests.effect_worlds import World, draw_campaigns, moderator_terms
from tests.evidence.part import DATA, Figure, Part, Plot, Table, seeded_rng
from tests.evidence.simulation import EXPERIMENT_COUNTS, OUTCOME_SD, experiment, random_campaign
from tests.populations import intervention, population

__all__ = ["measure"]

SENTENCES = """\
In each of {sequences} sequences of experiments a world draws all uncertain parameters of the catalogue, and each level of \
specialty, tier and region deviates from what the moderators explain by a factor whose logarithm has a standard deviation of \
0.05, 0.15 or 0.40, three quarters of its variance in all campaigns alike and a quarter in one campaign. Before each \
experiment three random campaigns are simulated and the most promising one is run, on 400 to 5,000 people in each arm, whose \
outcomes are drawn one by one; it reports its effect, and those by specialty, tier and region. After 0, 1, 2, 4, 8 and 16 \
experiments another campaign is simulated, and its true average effects, in all people, in the 17 subgroups and under a filter \
(oncologists of the South), are compared with their intervals. Truth is computed independently of the engine. "Without \
subgroups" is the same sequence whose experiments report their overall effect alone.
The real trials are the e-mail trial (visits, by history of spending, place, channel of earlier purchases, and whether new) and \
the mailing (turnout, by size of the household, sex and vote two years before; two messages). Half of the people, whole \
household clusters, teach one experiment with its subgroups; those of the other half are predicted at the dose of the trial, \
{splits} random halves each. Halves have one truth: that observed effects are inside says that intervals are not too narrow for \
sampling error, not that the next campaign will be inside. What the halves do tell is whether differences between subgroups \
are learned: they are compared with no differences at all and with those of the first half as they were observed.
Tried and failed: a coefficient of a moderator without a deviation of its level learns slowly where the catalogue is wrong \
about it; with levels that only deviate where an experiment reports them, they are covered to 0.88 before any (60 sequences)."""

DIMENSIONS = ("specialty", "priority_tier", "region")
CHOICES = 3
ALL_LEARNED, OVERALL = "with subgroups", "without subgroups"
LOW, HIGH = 0.93, 0.97


class _People(NamedTuple):
    """People of simulated experiments: features, their moderators, and the levels of each dimension, ``(n,)`` each."""

    frame: pd.DataFrame
    terms: Mapping[tuple[str, str], Floats]
    levels: Mapping[str, np.ndarray]


class Campaigns:
    """A world in which levels of features deviate from what moderators explain, in all campaigns and in each."""

    def __init__(self, rng: np.random.Generator, people: _People, intervention_type: str) -> None:
        self._rng, self._people, self._world = rng, people, World(rng)
        self._mean, self._between = draw_campaigns(rng, INTERVENTIONS[intervention_type].effect)
        self._sd = float(rng.choice([*LEVEL_SDS], p=[*LEVEL_SDS.values()]))
        self._shared = [self._deviations(levels, 1.0 - OWN_SHARE) for levels in people.levels.values()]

    def _deviations(self, levels: np.ndarray, share: float) -> dict[str, float]:
        names = np.unique(levels).tolist()
        return dict(zip(names, self._rng.normal(0.0, math.sqrt(share) * self._sd, len(names)), strict=True))

    def effects(self, config: InterventionConfig) -> Floats:
        """Effect of a new campaign on each person, ``(n,)``."""
        log = np.zeros(len(self._people.frame))
        for levels, shared in zip(self._people.levels.values(), self._shared, strict=True):
            own = self._deviations(levels, OWN_SHARE)
            log += [shared[level] + own[level] for level in levels]
        base = float(self._rng.normal(self._mean, self._between)) * self._world.dose(config)
        return np.asarray(base * self._world.factors(self._people.terms, config.channel) * np.exp(log))


class Sequences(NamedTuple):
    """Whether truth lies inside, and the interval's width: ``(sequences, counts, rows)``, of all people, a filter and subgroups.

    A subgroup that is not reported is nan.
    """

    inside: Floats
    width: Floats

    def share(self, rows: slice) -> Floats:
        """Share inside by number of experiments, ``(counts,)``."""
        return np.asarray(np.nanmean(self.inside[..., rows], axis=(0, 2)))

    def narrowing(self, rows: slice) -> Floats:
        """Median width over that before any experiment, ``(counts,)``."""
        return np.asarray(np.nanmedian(self.width[..., rows] / self.width[:, :1, rows], axis=(0, 2)))


_ALL, _FILTER, _GROUPS = slice(0, 1), slice(1, 2), slice(2, None)


def measure(quick: bool) -> Part:
    """100 sequences and 20 halves of each trial; a tenth of them in a quick run."""
    sequences, splits = (10, 2) if quick else (100, 20)
    runs = {name: _run(sequences, reports=name == ALL_LEARNED) for name in (ALL_LEARNED, OVERALL)}
    halves = list(_halves(splits)) if DATA.is_dir() else []
    return Part(
        title="Experiments teach who responds",
        sentences=tuple(SENTENCES.format(sequences=sequences, splits=splits).splitlines()),
        figures=(*_sequence_figures(runs), *_half_figures(halves), *_speed_figures()),
        tables=(_sequence_table(runs), *_half_tables(halves)),
        plots=(_plot(runs),),
    )


# -- sequences of experiments


def _run(sequences: int, *, reports: bool) -> Sequences:
    frame = sample_hcps(4_000, seeded_rng("subgroups"))
    levels = {name: frame[name].astype(str).to_numpy() for name in DIMENSIONS}
    people = _People(frame, moderator_terms(frame), levels)
    rows = np.array([_sequence(people, number, reports=reports) for number in range(sequences)])
    _, lower, upper, truth = np.moveaxis(rows, -1, 0)
    inside = np.where(np.isnan(lower), np.nan, (lower <= truth) & (truth <= upper))
    return Sequences(inside, upper - lower)


def _sequence(people: _People, number: int, *, reports: bool) -> list[list[tuple[float, ...]]]:
    rng = seeded_rng("subgroup sequences", number)
    kind = str(rng.choice(sorted(INTERVENTIONS)))
    twins = population(features=people.frame[[*DIMENSIONS, "decile", "adoption_stage", "digital_engagement_score"]])
    prior, campaigns, next_config = catalogue_prior(kind), Campaigns(rng, people, kind), random_campaign(rng, kind)[0]
    experiments: list[ExperimentResult] = []
    reaches: dict[str, Reach] = {}
    rows = []
    for count in range(max(EXPERIMENT_COUNTS) + 1):
        if count in EXPERIMENT_COUNTS:
            engine = SimulationEngine(twins, priors={kind: calibrate(prior, experiments, reaches)})
            rows.append(_compared(engine, people, next_config, campaigns.effects(next_config)))
        choices = [random_campaign(rng, kind)[0] for _ in range(CHOICES)]
        config = choices[int(np.argmax([engine.twin_effects(choice).mean() for choice in choices]))]
        result = _experiment(str(count), config, people, campaigns.effects(config), rng)
        experiments.append(result if reports else result.model_copy(update={"subgroups": ()}))
        groups = [(group.dimension, group.level) for group in experiments[-1].subgroups]
        reaches[str(count)] = engine.reach(config, subgroups=groups)
    return rows


def _compared(engine: SimulationEngine, people: _People, config: InterventionConfig, truth: Floats) -> list[tuple[float, ...]]:
    """Estimate, interval and true effect of all people, of oncologists of the South, and of each subgroup."""
    result = engine.simulate(config)
    selected = engine.simulate(config, {"specialty": ["oncology"], "region": ["south"]})
    is_selected = (people.levels["specialty"] == "oncology") & (people.levels["region"] == "south")
    rows = [
        (result.ate, result.ate_ci_lower, result.ate_ci_upper, float(truth.mean())),
        (selected.ate, selected.ate_ci_lower, selected.ate_ci_upper, float(truth[is_selected].mean())),
    ]
    for name, levels in people.levels.items():
        reported = {effect.group: effect for effect in result.heterogeneity.by_dimension.get(name, ())}
        for level in np.unique(levels).tolist():
            effect = reported.get(level)
            values = (effect.estimate, effect.ci_lower, effect.ci_upper) if effect else (math.nan,) * 3
            rows.append((*values, float(truth[levels == level].mean())))
    return rows


def _experiment(
    name: str, config: InterventionConfig, people: _People, effects: Floats, rng: np.random.Generator
) -> ExperimentResult:
    n = int(np.exp(rng.uniform(np.log(400), np.log(5_000))))
    rows, treated = rng.integers(len(effects), size=2 * n), np.repeat([True, False], n)
    outcome = rng.normal(effects[rows] * treated, OUTCOME_SD)
    groups = [
        _subgroup(dimension, level, _difference(outcome[is_level], treated[is_level]))
        for dimension, levels in people.levels.items()
        for level, is_level in _by_level(levels[rows])
        if min(treated[is_level].sum(), (~treated[is_level]).sum()) >= 2
    ]
    return experiment(name, config, _difference(outcome, treated)).model_copy(update={"subgroups": tuple(groups)})


def _subgroup(dimension: str, level: str, estimate: EffectEstimate) -> SubgroupResult:
    return SubgroupResult(dimension=dimension, level=level, **estimate._asdict())


def _by_level(levels: np.ndarray) -> Iterator[tuple[str, Flags]]:
    for level in np.unique(levels).tolist():
        yield level, levels == level


def _difference(outcome: Floats, treated: Flags) -> EffectEstimate:
    n_treated, n_control = int(treated.sum()), int((~treated).sum())
    effect = float(outcome[treated].mean() - outcome[~treated].mean())
    return EffectEstimate(effect, OUTCOME_SD * math.sqrt(1 / n_treated + 1 / n_control), n_treated, n_control)


def _sequence_figures(runs: Mapping[str, Sequences]) -> Iterator[Figure]:
    run, overall = runs[ALL_LEARNED], runs[OVERALL]
    share = run.share(_GROUPS)
    worst = int(np.argmax(np.abs(share - 0.95)))
    yield Figure(
        "true effects of subgroups inside their 95 % interval over sequences of chosen experiments",
        float(share.mean()),
        at_least=LOW,
        at_most=HIGH,
        form=".1%",
        note=f"on average over the numbers of experiments; the farthest from 95 % {share[worst]:.1%},"
        f" after {EXPERIMENT_COUNTS[worst]}, with a standard error of {_sequence_error(run.inside[:, worst, _GROUPS]):.1%}",
    )
    width = run.narrowing(_GROUPS)
    yield Figure(
        "width of subgroups' intervals after 16 experiments over that before any",
        float(width[-1]),
        at_most=1.0,
        form=".2f",
        note=", ".join(f"{value:.2f} after {count}" for value, count in zip(width[1:], EXPERIMENT_COUNTS[1:], strict=True)),
    )
    filtered = run.share(_FILTER)
    yield Figure("the same under a filter, on average over the numbers of experiments", float(filtered.mean()), form=".1%")
    yield Figure(
        "subgroups inside after 16 experiments that report their overall effect alone",
        float(overall.share(_GROUPS)[-1]),
        form=".1%",
        note=f"with subgroups {share[-1]:.1%}",
    )


def _sequence_error(inside: Floats) -> float:
    """Standard error of the share inside, ``(sequences, rows)``: the subgroups of one sequence are missed together."""
    shares = np.nanmean(inside, axis=1)
    return float(np.nanstd(shares) / math.sqrt(np.isfinite(shares).sum()))


def _sequence_table(runs: Mapping[str, Sequences]) -> Table:
    rows = [
        (
            f"{what}, {name}",
            *(f"{share:.1%}, {width:.2f}" for share, width in zip(run.share(part), run.narrowing(part), strict=True)),
        )
        for name, run in runs.items()
        for what, part in (("all people", _ALL), ("a filter", _FILTER), ("17 subgroups", _GROUPS))
    ]
    columns = ("", *(f"after {count}" for count in EXPERIMENT_COUNTS))
    return Table("Truth inside the interval, and its median width relative to the first", columns, tuple(rows))


def _plot(runs: Mapping[str, Sequences]) -> Plot:
    caption = "Share of subgroups whose true effect in the next campaign lies inside its interval."
    curves = [
        Curve(name, EXPERIMENT_COUNTS, run.share(_GROUPS).tolist(), [], tone)
        for (name, run), tone in zip(runs.items(), ("one", "two"), strict=True)
    ]
    lines = [ReferenceLine(LOW, "93 %", "bad"), ReferenceLine(HIGH, "97 %", "bad")]
    svg = curves_chart(
        curves, title="Coverage of subgroups", description=caption, x_label="experiments", form=".0%", x_form=".0f", lines=lines
    )
    return Plot(caption, svg)


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
