"""Twins compared with held-out real rows: realism, privacy, and the accuracy of predicted outcomes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from statistics import mean
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, cpu_count, delayed
from sklearn.metrics import r2_score

from engine.sample_tables import sample_table
from engine.twin_generator import TwinGenerator
from engine.twins import (
    INTERVAL_LEVEL,
    TrainingTable,
    TwinModel,
    build_training_table,
    conformal_quantile,
    encode_features,
    fit_adjustment,
    fit_outcome_model,
    learn_joint,
    predict_outcome,
)
from engine.twins.detection import FOLDS, QUICK, detection_aucs
from engine.twins.marginal import fit_marginal
from engine.twins.realism import measure_realism
from engine.twins.relations import broken_rows, find_relations
from schemas import TWIN_TYPES, Brand, TwinType
from schemas.realism import BOOSTING, BOOSTING_WITH_RATIOS, FOREST, LONG_BOOSTING, RealismReport
from streams.reporting.charts import ChartInterval, Curve, ReferenceLine, Tone, curves_chart, intervals_chart
from streams.training import read_training_table
from tests.evidence.part import DATA, Figure, Part, Plot, Table

__all__ = ["measure"]


PRESCRIBERS, CLASSES = DATA / "hcp_partd_2013_2014.csv.gz", DATA / "hcp_class_claims_2013_2014.csv.gz"
ROWS = 10_000
SPLITS = 3
SEED = 20
TIMED, TIMED_FITS = 15, 2
R2_DRAWS = 4  # draws of twins over which a split's loss of R2 is averaged: a single one varies by a third of the bar
ENOUGH_REAL_ROWS = 200  # behind a subgroup, from which its twins have a bar
FEWEST_UNSEEN = 200  # unseen rows of a subgroup that its twins are compared with
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
TONES: Sequence[Tone] = ("one", "two", "good", "warn")
WIDE, NARROW = "real prescribers, all columns", "real prescribers, narrow set"
GENERATED = {TwinType.TERRITORY: "territories", TwinType.PATIENT: "patients"}
TERRITORY_SPLITS = 20
SUBGROUP_AUC = 0.58
AUC_BARS = {BOOSTING: 0.555, LONG_BOOSTING: 0.59, FOREST: 0.63, BOOSTING_WITH_RATIOS: 0.60}
BEFORE = {
    BOOSTING: "0.58 to 0.61 before twins were drawn as shares",
    LONG_BOOSTING: "0.65 before twins were drawn as shares",
    FOREST: "0.67 before twins were drawn as shares",
    BOOSTING_WITH_RATIOS: "0.96 before twins were drawn as shares",
}
BEFORE_SPEED = {WIDE: ("0.96 before twins were drawn as shares", "0.128 before twins were drawn as shares")}
FIRST_SPLIT_ONLY = (FOREST,)  # five forests of 500 trees take minutes

SENTENCES = f"""\
A model is trained on {ROWS:,} rows, and its twins are compared with {ROWS:,} unseen rows. The best possible figures are those \
of real rows: as many other real rows take the place of the twins and are compared in the same way. Figures are means over \
{SPLITS} random splits of each table into the three parts.
Real prescribers are the physicians of the Medicare Part D table, with every column of 2013 and the change of prescriptions to \
2014; the narrow set has the features of the catalogue that this table contains. Patients and territories come from the \
project's own generators, since no public table has them.
The area under the curve (AUC) is that of a boosted classifier of twins against unseen rows, cross-validated; 0.5 is chance. \
Rows of one draw are spread more evenly than independent rows. When one draw is cut into folds, a classifier trained on the \
other folds takes the missing part for real, and its AUC is too low. The AUC is therefore also reported with a separate draw \
in each fold, as in the report of every model, and by more classifiers: one of 500 rounds with a learning rate of 0.03, a forest \
of 500 trees (on the first split only), and one that is also given the ratios of all pairs of amounts.
Tried and left out, on the same three splits before the adjustment of outcomes (AUC of the boosted classifier, and with ratios; \
0.557 and 0.639 without): drawing a share that resembles another one, as costs and claims of the same payer, by the ratio of \
their odds, with quadratic predictions of each column and of its residual as features of its trees, gave 0.558 and 0.634 for \
half as much learning again; the predictions alone 0.556 and 0.637 (two splits). On one split (0.559 and 0.648 without) the odds \
alone gave 0.566 to 0.573 and 0.640 to 0.659; boosted means in place of the quadratic ones, with twice as many trees, 0.544 and \
0.623, but three times the learning and five times the drawing. Predictions of a row from all other rows tell a tree the \
response of that row (0.652).
Twins of a subgroup are those that are generated under a filter on their specialty, against all unseen and substitute real rows \
of the specialty; each fold is a draw of its own.
Near copies are nearer to a training row than 19 of 20 unseen rows are; closer \
ones are nearer to a training row than to any unseen row.
The loss by learning from twins is the R2 on unseen rows of a random forest trained on real rows, less that of one trained on \
as many twins, averaged over {R2_DRAWS} draws. Prediction intervals are those of the trained model; difficulty is their width, \
in tenths; a constant width is that of split conformal prediction, which fits on half of the rows and calibrates its width on \
the others.
Times are processor seconds, which other work on the machine does not count, the minimum of {TIMED} runs ({TIMED_FITS} of \
learning). Learning is divided by the {cpu_count()} processors whose threads share it; it includes the distribution and the \
adjustment of drawn outcomes; it does not include the model of the expected outcome, which every prediction needs."""


@dataclass(frozen=True)
class Case:
    """A table in three parts.

    Attributes:
        filters: a filter that some of its twins satisfy.
        training: rows that the model is trained on.
        unseen: rows that twins are compared with.
        substitutes: real rows that take the place of the twins.
    """

    name: str
    twin_type: TwinType
    target: str
    filters: Mapping[str, Any]
    training: pd.DataFrame
    unseen: pd.DataFrame
    substitutes: pd.DataFrame

    @cached_property
    def table(self) -> TrainingTable:
        """The training rows as a training table."""
        return build_training_table(self.training, self.twin_type, self.target)

    def convert(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Features and target of rows, in the form of the training table."""
        table = build_training_table(frame, self.twin_type, self.target).select(list(self.table.kinds))
        return table.with_target(self.target)

    def assess(self, rows: pd.DataFrame, seed: int) -> RealismReport:
        """Compare rows with the unseen and the training rows."""
        return measure_realism(
            [rows],
            held_out=self.convert(self.unseen),
            training=self.convert(self.training),
            categorical=self.table.categorical,
            rng=np.random.default_rng(seed),
            classifiers=(BOOSTING,),
        )


@dataclass(frozen=True)
class Realism:
    """Reports of a split's twins and of other real rows.

    Attributes:
        aucs: AUC of each classifier where each fold of the twins is a separate draw.
        impossible: share of the twins that break a relation that holds in every real row of the table.
        r2, r2_of_twins: R2 on unseen rows of a forest trained on real rows, and on twins.
    """

    twins: RealismReport
    real: RealismReport
    aucs: Mapping[str, float]
    impossible: float
    r2: float
    r2_of_twins: float


@dataclass(frozen=True)
class IntervalQuality:
    """Prediction intervals of a trained model on unseen rows.

    Attributes:
        covered: share of the outcomes inside, by level.
        worst: smallest share among the tenths by width, at 95 %.
        width: mean width at 95 %, in constant widths of the same level.
    """

    covered: Mapping[float, float]
    worst: float
    width: float


@dataclass(frozen=True)
class Speed:
    """Seconds for learning the distribution, for twins with outcomes and intervals, and for the same with a filter."""

    fit: float
    generate: float
    filtered: float


def measure(quick: bool) -> Part:
    """Every table on three splits; one split and a fifth of the rows in a quick run."""
    rows, splits = (ROWS // 5, 1) if quick else (ROWS, SPLITS)
    tasks = [(name, rows, SEED + split) for name in _tables() for split in range(splits)]
    measured = iter(Parallel(cpu_count())(delayed(_measured_split)(*task) for task in tasks))
    by_split = {name: [next(measured) for _ in range(splits)] for name in _tables()}
    cases, trained, realism = ({name: [split[k] for split in own] for name, own in by_split.items()} for k in range(3))
    models = {name: of_splits[0] for name, of_splits in trained.items()}
    intervals = {name: _interval_quality(of_splits[0], models[name]) for name, of_splits in cases.items()}
    subgroups = {name: list(_subgroups(cases[name][0], models[name])) for name in (WIDE, NARROW) if name in cases}
    speeds = {name: _speed(of_splits[0], models[name]) for name, of_splits in cases.items()}
    states = _real_territories() if CLASSES.is_file() else ()
    return Part(
        title="Twins are hard to distinguish from real rows outside of the training data",
        sentences=(*SENTENCES.splitlines(), *_absent()),
        figures=tuple(
            figure
            for name in cases
            for figure in (
                *_realism_figures(name, realism[name]),
                *_subgroup_figures(name, subgroups.get(name, ())),
                *_interval_figures(name, intervals[name]),
                *_speed_figures(name, speeds[name]),
            )
        ),
        tables=(_realism_table(realism), *(_subgroup_table(*pair) for pair in subgroups.items()), _model_table(models), *states),
        plots=(_calibration_plot(intervals), *_column_plots(realism)),
    )


# -- tables


def _tables() -> dict[str, Callable[[int, int], Case]]:
    real = {WIDE: _wide, NARROW: _narrow} if PRESCRIBERS.is_file() else {}
    return real | {name: _sampled(twin_type) for twin_type, name in GENERATED.items()}


def _absent() -> Iterator[str]:
    for path in (PRESCRIBERS, CLASSES):
        if not path.is_file():
            yield f"Without {path.name} the figures of real prescribers and territories are not measured."


def _wide(rows: int, seed: int) -> Case:
    table = pd.read_csv(PRESCRIBERS)
    columns = [name for name in table if name.endswith("_2013")]
    frame = table[columns].rename(columns=lambda name: name.removesuffix("_2013"))
    change = table["total_claims_2014"] / table["total_claims_2013"] - 1
    return _split_in_three(
        WIDE, TwinType.HCP, {"specialty": "Family Practice"}, frame.assign(prescribing_change=change), rows, seed
    )


def _narrow(rows: int, seed: int) -> Case:
    frame = read_training_table([PRESCRIBERS], TwinType.HCP).frame
    return _split_in_three(NARROW, TwinType.HCP, {"min_decile": 8}, frame.drop(columns="entity_id"), rows, seed)


def _sampled(twin_type: TwinType) -> Callable[[int, int], Case]:
    def make(rows: int, seed: int) -> Case:
        frame = sample_table(twin_type, 3 * rows, np.random.default_rng(seed))
        return _split_in_three(GENERATED[twin_type], twin_type, {"region": "west"}, frame, rows, seed)

    return make


def _split_in_three(name: str, twin_type: TwinType, filters: Mapping[str, Any], frame: pd.DataFrame, rows: int, seed: int) -> Case:
    order = np.random.default_rng(seed).permutation(len(frame))
    parts = [frame.iloc[order[start : start + rows]].reset_index(drop=True) for start in range(0, 3 * rows, rows)]
    return Case(name, twin_type, TWIN_TYPES[twin_type].default_target.name, filters, *parts)


# -- measuring


def _measured_split(name: str, rows: int, seed: int) -> tuple[Case, TwinModel, Realism]:
    """One split of a table, its model, and the realism of the twins."""
    case = _tables()[name](rows, seed)
    model = _model(case, seed)
    return case, model, _realism(case, model, seed)


def _realism(case: Case, model: TwinModel, seed: int) -> Realism:
    def draws(n: int, times: int) -> list[pd.DataFrame]:
        return [model.generate(n, seed=seed + draw).frame[[*model.kinds, case.target]] for draw in range(times)]

    rows, real = len(case.training), case.assess(case.convert(case.substitutes), seed)
    whole, rng = draws(rows, R2_DRAWS), np.random.default_rng(seed)
    left_out = () if seed == SEED else FIRST_SPLIT_ONLY
    classifiers = tuple(name for name in AUC_BARS if name not in left_out) if case.name == WIDE else QUICK
    folds, unseen = draws(rows // FOLDS, FOLDS), case.convert(case.unseen)
    aucs = detection_aucs(folds, unseen, case.table.categorical, rng, names=classifiers)
    r2_of_twins = mean(_r2(case, twins, seed) for twins in whole)
    impossible = _impossible(case, whole[0])
    return Realism(case.assess(whole[0], seed), real, aucs, impossible, _r2(case, case.training, seed), r2_of_twins)


def _impossible(case: Case, twins: pd.DataFrame) -> float:
    """Share of twins that break a relation that holds in every real row, whether the model has learned from that row or not."""
    rows = pd.concat(map(case.convert, (case.training, case.unseen, case.substitutes)), ignore_index=True)
    real = {name: fit_marginal(rows[name], categorical=name in case.table.categorical) for name in rows}
    broken = np.zeros(len(twins), dtype=bool)
    for relation in find_relations(real, case.target).listed:
        if relation.kind in ("determines", "step"):
            real_pairs = set(_pairs(rows[list(relation.columns)]))
            broken |= [pair not in real_pairs for pair in _pairs(twins[list(relation.columns)])]
        else:
            values = {name: twins[name].to_numpy(dtype=float, na_value=np.nan) for name in relation.columns}
            broken |= broken_rows(relation, values, real[relation.columns[0]].decimals)
    return float(broken.mean())


def _pairs(columns: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    """The rows of the columns, in which missing values are equal to one another."""
    return columns.astype(object).where(columns.notna(), None).itertuples(index=False, name=None)


def _r2(case: Case, rows: pd.DataFrame, seed: int) -> float:
    """R2 on unseen rows of a forest trained on these rows."""
    table = build_training_table(rows, case.twin_type, case.target).select(list(case.table.kinds))
    model, unseen = fit_outcome_model(table, "RandomForest", n_jobs=1, seed=seed), case.convert(case.unseen)
    return float(r2_score(unseen[case.target], predict_outcome(model, encode_features(model, unseen[list(table.kinds)]))))


def _model(case: Case, seed: int) -> TwinModel:
    generator = TwinGenerator(case.twin_type, Brand.KISQALI, case.target, seed=seed)
    generator.train(case.training)
    return generator.model


def _interval_quality(case: Case, model: TwinModel) -> IntervalQuality:
    actual = case.unseen[case.target].to_numpy(dtype=float)
    covered = {}
    for level in LEVELS:
        lower, upper = model.predict_interval(case.unseen, level)
        covered[level] = float(((lower <= actual) & (actual <= upper)).mean())
    lower, upper = model.predict_interval(case.unseen, INTERVAL_LEVEL)
    inside, tenth = (lower <= actual) & (actual <= upper), pd.qcut(upper - lower, 10, labels=False, duplicates="drop")
    worst = float(pd.Series(inside).groupby(tenth).mean().min())
    return IntervalQuality(covered, worst, float((upper - lower).mean()) / _constant_width(case, model))


def _constant_width(case: Case, model: TwinModel) -> float:
    """Width of the split-conformal interval: fitted on half of the rows, calibrated on the others."""
    half = len(case.table) // 2
    table = case.table.select([name for name in case.table.kinds if name in model.card.metrics.feature_importance])
    forest = fit_outcome_model(table.take(np.arange(half)), model.card.model_type, n_jobs=1, seed=SEED)
    residuals = table.target[half:] - predict_outcome(forest, encode_features(forest, table.features.iloc[half:]))
    return 2.0 * conformal_quantile(np.abs(residuals), INTERVAL_LEVEL)


def _speed(case: Case, model: TwinModel) -> Speed:
    rows, seeds, rng = case.convert(case.training), count(), np.random.default_rng(SEED)
    fit = _seconds(
        lambda: fit_adjustment(
            learn_joint(rows, case.twin_type, case.table.categorical, case.target, SEED, n_jobs=-1),
            model.adjustment.expected,
            rng,
            n_jobs=-1,
        ),
        TIMED_FITS,
    )
    return Speed(
        fit / cpu_count(),
        _seconds(lambda: model.generate(ROWS, seed=next(seeds)), TIMED),
        _seconds(lambda: model.generate(ROWS, case.filters, seed=next(seeds)), TIMED),
    )


def _seconds(work: Callable[[], object], times: int) -> float:
    seconds = []
    for _ in range(times):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


# -- subgroups


@dataclass(frozen=True)
class Subgroup:
    """Twins of one specialty against real rows of it that the model has not seen.

    Attributes:
        real_rows: training rows of the specialty.
        n: unseen rows of it.
        outcome, real_outcome: mean outcome of the twins and of the unseen rows; ``error`` is the standard error of the latter.
    """

    name: str
    real_rows: int
    n: int
    auc: float
    outcome: float
    real_outcome: float
    error: float


def _subgroups(case: Case, model: TwinModel) -> Iterator[Subgroup]:
    unseen = pd.concat([case.convert(case.unseen), case.convert(case.substitutes)], ignore_index=True)
    for name, n in unseen["specialty"].value_counts().items():
        if n < FEWEST_UNSEEN:
            return
        real = unseen[unseen["specialty"] == name].reset_index(drop=True)
        populations = [model.generate(n // FOLDS, {"specialty": name}, seed=SEED + fold) for fold in range(FOLDS)]
        draws = [population.frame[[*model.kinds, case.target]] for population in populations]
        auc = detection_aucs(draws, real, case.table.categorical, np.random.default_rng(SEED), names=(BOOSTING,))[BOOSTING]
        outcomes = real[case.target]
        twins = float(pd.concat(draws)[case.target].mean())
        yield Subgroup(str(name), populations[0].real_rows or 0, n, auc, twins, float(outcomes.mean()), float(outcomes.sem()))


def _subgroup_figures(name: str, subgroups: Sequence[Subgroup]) -> Iterator[Figure]:
    behind = [subgroup for subgroup in subgroups if subgroup.real_rows >= ENOUGH_REAL_ROWS]
    if not behind:
        return
    aucs = [subgroup.auc for subgroup in behind]
    note = f"{min(aucs):.3f} to {max(aucs):.3f}, {sum(auc <= SUBGROUP_AUC for auc in aucs)} of {len(aucs)} within the bar"
    what = f"{name}: AUC in specialties with {ENOUGH_REAL_ROWS} or more real rows, mean"
    yield Figure(what, mean(aucs), at_most=SUBGROUP_AUC, form=".4f", note=note)
    far = [abs(subgroup.outcome - subgroup.real_outcome) <= 1.96 * subgroup.error for subgroup in behind]
    what = f"{name}: of these, mean outcome of the twins within the 95 % interval of that of unseen rows"
    yield Figure(what, mean(far), form=".2f", note=f"{sum(far)} of {len(far)}")


def _subgroup_table(name: str, subgroups: Sequence[Subgroup]) -> Table:
    rows = tuple(
        (
            subgroup.name,
            f"{subgroup.real_rows:,}",
            f"{subgroup.n:,}",
            f"{subgroup.auc:.3f}",
            f"{subgroup.outcome:.3f}",
            f"{subgroup.real_outcome:.3f} ± {subgroup.error:.3f}",
        )
        for subgroup in subgroups
    )
    columns = ("", "training rows", "unseen rows", "AUC", "mean outcome of twins", "of unseen rows")
    return Table(f"Twins of one specialty, {name}", columns, rows)


# -- real territories


def _real_territories() -> Iterator[Table]:
    """States by drug class: too few rows for a model of outcomes, so only the distribution is fitted, to a third of them."""
    frame, target = _territories(), TWIN_TYPES[TwinType.TERRITORY].default_target.name
    reports = [_territory_split(frame, target, SEED + split) for split in range(TERRITORY_SPLITS)]
    rows = tuple(_report_row(name, [report[name] for report in reports]) for name in ("twins", "other real rows"))
    yield Table(
        f"{len(frame)} real territories, one per state and drug class: trained on {len(frame) // 3}, means of "
        f"{TERRITORY_SPLITS} splits, no bars",
        ("", *REPORTED),
        rows,
    )


def _territory_split(frame: pd.DataFrame, target: str, seed: int) -> dict[str, RealismReport]:
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(frame))
    training, unseen, substitutes = (frame.iloc[part].reset_index(drop=True) for part in np.array_split(order, 3))
    joint = learn_joint(training, TwinType.TERRITORY, ("region",), target, seed)
    compared = {"twins": joint.sample(len(unseen), rng=rng).frame, "other real rows": substitutes}
    return {
        name: measure_realism([rows], held_out=unseen, training=training, categorical=("region",), rng=np.random.default_rng(seed))
        for name, rows in compared.items()
    }


def _territories() -> pd.DataFrame:
    """Features of the catalogue that claims of 2013 contain, and the change of the target brand's share of its class to 2014."""
    physicians = read_training_table([PRESCRIBERS], TwinType.HCP).frame
    claims = pd.read_csv(CLASSES).merge(
        pd.DataFrame(
            {
                "hcp_id": physicians["entity_id"],
                "region": physicians["region"],
                "decile": physicians["decile"],
                "state": pd.read_csv(PRESCRIBERS)["state_2013"],
            }
        )
    )
    both = claims.groupby(["state", "region", "drug_class", "year"]).agg(
        total_hcps=("hcp_id", "nunique"),
        covered_hcps=("total_target_payment_number", lambda payments: int((payments > 0).sum())),
        total_patient_volume=("total_class_bene", "sum"),
        average_hcp_decile=("decile", "mean"),
        claims=("total_class_claims", "sum"),
        target_claims=("total_target_claims", "sum"),
    )
    first, second = both.xs(2013, level="year"), both.xs(2014, level="year")
    share, later = (year["target_claims"] / year["claims"] for year in (first, second))
    territories = first.assign(
        coverage_rate=first["covered_hcps"] / first["total_hcps"], market_share=share, market_share_change=later - share
    )
    return territories.dropna().reset_index().drop(columns=["state", "drug_class", "claims", "target_claims"])


# -- reporting

REPORTED = ("AUC", "near copies", "closer to training", "association error", "columns alike", "exact copies")


def _report_row(name: str, reports: Sequence[RealismReport]) -> tuple[str, ...]:
    def average(attribute: str, form: str) -> str:
        return format(mean(getattr(report, attribute) for report in reports), form)

    return (
        name,
        average("auc", ".3f"),
        average("near_copies", ".3f"),
        average("closer_to_training", ".3f"),
        average("association_error", ".4f"),
        average("marginal_score", ".3f"),
        average("exact_copies", ".4f"),
    )


def _realism_figures(name: str, splits: Sequence[Realism]) -> Iterator[Figure]:
    reports = [split.twins for split in splits]
    bars = {
        "auc": ("AUC of a classifier between twins and unseen rows", 0.56),
        "near_copies": ("near copies", 0.06 if name == WIDE else 0.07),
        "closer_to_training": ("closer to training than to unseen rows", 0.545 if name == WIDE else 0.55),
        "association_error": ("association error", 0.015),
    }
    for attribute, (what, most) in bars.items():
        values = [getattr(report, attribute) for report in reports]
        real = mean(getattr(split.real, attribute) for split in splits)
        note = f"{min(values):.3f} to {max(values):.3f}; other real rows {real:.3f}"
        yield Figure(f"{name}: {what}", mean(values), at_most=most, form=".4f", note=note)
    for classifier in splits[0].aucs:
        aucs = [split.aucs[classifier] for split in splits if classifier in split.aucs]
        before = f"; {BEFORE[classifier]}" if name == WIDE else ""
        note = f"{min(aucs):.3f} to {max(aucs):.3f}{before}"
        bar = AUC_BARS[classifier] if name == WIDE else None
        what = f"{name}: AUC with a separate draw in each fold, {classifier}"
        yield Figure(what, mean(aucs), at_most=bar, form=".4f", note=note)
    impossible = max(split.impossible for split in splits)
    yield Figure(f"{name}: twins that break a relation of all real rows, worst split", impossible, at_most=0.0, form=".4f")
    lost = [split.r2 - split.r2_of_twins for split in splits]
    note = f"R2 {mean(split.r2 for split in splits):.3f} of real rows, {mean(split.r2_of_twins for split in splits):.3f} of twins"
    yield Figure(f"{name}: R2 lost by learning from twins", mean(lost), at_most=0.02, form=".4f", note=note)


def _interval_figures(name: str, quality: IntervalQuality) -> Iterator[Figure]:
    yield Figure(f"{name}: 95 % intervals cover", quality.covered[INTERVAL_LEVEL], at_least=0.93, at_most=0.97, form=".3f")
    yield Figure(f"{name}: in the worst tenth of difficulty", quality.worst, at_least=0.92, form=".3f")
    yield Figure(f"{name}: mean width, in constant split-conformal widths", quality.width, at_most=1.0, form=".3f")


def _speed_figures(name: str, speed: Speed) -> Iterator[Figure]:
    fit, generate = BEFORE_SPEED.get(name, ("", ""))
    yield Figure(f"{name}: learn the distribution, s", speed.fit, at_most=5.0, form=".2f", note=fit)
    what = f"{name}: {ROWS:,} twins with outcomes and intervals, s"
    yield Figure(what, speed.generate, at_most=0.3, form=".3f", note=generate)
    yield Figure(f"{name}: the same with a filter, of the time without", speed.filtered / speed.generate, at_most=1.25, form=".2f")


def _realism_table(realism: Mapping[str, Sequence[Realism]]) -> Table:
    rows = [
        _report_row(f"{name}, {kind}", [getattr(split, attribute) for split in splits])
        for name, splits in realism.items()
        for kind, attribute in (("twins", "twins"), ("real rows", "real"))
    ]
    return Table("Twins, and as many other real rows", ("", *REPORTED), tuple(rows))


def _model_table(models: Mapping[str, TwinModel]) -> Table:
    rows = []
    for name, model in models.items():
        card = model.card
        tried = ", ".join(f"{model_type} {r2:.3f}" for model_type, r2 in card.hyperparameters["cv_r2_of_tried"].items())
        fidelity = "undefined" if card.metrics.fidelity is None else f"{card.metrics.fidelity:.3f}"
        rows.append((name, card.model_type, tried, fidelity, "; ".join(card.metrics.warnings) or "none"))
    return Table("The models of the outcome", ("", "chosen", "R2 in cross-validation", "fidelity", "warnings"), tuple(rows))


def _calibration_plot(intervals: Mapping[str, IntervalQuality]) -> Plot:
    curves = [
        Curve(name, LEVELS, [quality.covered[level] - level for level in LEVELS], tone=tone)
        for (name, quality), tone in zip(intervals.items(), TONES, strict=False)
    ]
    svg = curves_chart(
        curves,
        title="Calibration of prediction intervals",
        description="Coverage on unseen rows less the nominal level, against the level; zero is perfect.",
        x_label="nominal level",
        form="+.1%",
        x_form=".0%",
        lines=[ReferenceLine(0.0, "perfect"), ReferenceLine(0.02, "+2 %"), ReferenceLine(-0.02, "-2 %")],
        width=1140,
    )
    caption = "Share of unseen outcomes inside their interval, less the nominal level: intervals of every level hold."
    return Plot(caption, svg, wide=True)


def _column_plots(realism: Mapping[str, Sequence[Realism]]) -> Iterator[Plot]:
    for (name, splits), tone in zip(realism.items(), TONES, strict=False):
        yield Plot(
            f"Distance of each column of the twins from unseen rows ({name}): the dot. The other end of its line is the distance "
            "of as many real rows.",
            intervals_chart(
                [_column(column, splits, tone) for column in splits[0].twins.columns],
                title=f"Realism per column, {name}",
                description="Kolmogorov-Smirnov or total variation distance of each column, of twins and of real rows.",
                form=".1%",
            ),
        )


def _column(column: str, splits: Sequence[Realism], tone: Tone) -> ChartInterval:
    twins, real = (
        mean(1.0 - report.columns[column] for report in reports)
        for reports in zip(*((split.twins, split.real) for split in splits), strict=True)
    )
    return ChartInterval(column, twins, min(twins, real), max(twins, real), f"{twins:.1%} ({real:.1%})", tone)
