"""Twins held against real rows that they were not learned from: how real, how private, and how well their outcomes are foretold."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from statistics import mean
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from joblib import cpu_count
from sklearn.metrics import r2_score

from engine.sample_tables import sample_table
from engine.twin_generator import TwinGenerator
from engine.twins import (
    INTERVAL_LEVEL,
    TrainingTable,
    TwinModel,
    build_training_table,
    encode_features,
    fit_adjustment,
    fit_outcome_model,
    learn_joint,
    predict_outcome,
)
from engine.twins.conformal import conformal_quantile
from engine.twins.realism import FOLDS, detection_auc, measure_realism
from schemas import TWIN_TYPES, Brand, TwinType
from schemas.twin_models import RealismReport
from streams.reporting.charts import ChartInterval, Curve, ReferenceLine, Tone, curves_chart, intervals_chart
from streams.training import as_training_table, read_table
from tests.evidence.part import DATA, Figure, Part, Plot, Table

__all__ = ["measure"]

Array = npt.NDArray[np.float64]

PRESCRIBERS, CLASSES = DATA / "hcp_partd_2013_2014.csv.gz", DATA / "hcp_class_claims_2013_2014.csv.gz"
ROWS = 10_000
SPLITS = 3
SEED = 20
TIMED = 15
LEARNED_FROM = 4  # draws of twins that a split's loss of R2 is the mean of: one alone varies by a third of the bar
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
TONES: Sequence[Tone] = ("one", "two", "good", "warn")
WIDE, NARROW = "real prescribers, all columns", "real prescribers, narrow set"
GENERATED = {TwinType.TERRITORY: "territories", TwinType.PATIENT: "patients"}
TERRITORY_SPLITS = 20

SENTENCES = f"""\
Twins are learned from {ROWS:,} rows and held against {ROWS:,} others, which the generator never saw. What can be had at best is \
what real rows get: as many again stand in the twins' place, and are judged by the same figures. Figures are means over {SPLITS} \
random splits of each table into the three parts.
Real prescribers are the physicians of the Medicare Part D table, with every column of 2013 and the change of prescriptions to \
2014; the narrow set are the features of the catalogue that can be had from it. Patients and territories come from the project's \
own generators, since no public table has them.
The area under the curve (AUC) is that of a boosted classifier, cross-validated, between twins and unseen rows, 0.5 a coin. Twins \
of one draw are spread more evenly than chance would spread them, and where a fold is left out the others are thin: a classifier \
that learned from those is blinder than it would be to new twins. So the figure is given too of folds that are draws of their own, \
as every model's report gives it. Near \
copies are nearer to a row learned from than 19 of 20 unseen rows are; closer are those nearer to a row learned from than to any \
unseen one.
What learning from twins loses is the R2 on unseen rows of a random forest trained on real rows, less that of one trained on as \
many twins, the mean of {LEARNED_FROM} draws of them. Prediction intervals are those of the trained model; difficulty is their own \
width, in tenths; a constant width is that of split conformal prediction, which fits on half of the rows and finds its width on \
the others.
Times are seconds on the clock, with {cpu_count()} processors, the least of {TIMED} runs, on whatever machine measured this page, \
busy or not. Learning is that of the distribution, and of how far drawn outcomes follow expected ones; the model of the expected \
outcome, which every prediction needs, is not in it."""


@dataclass(frozen=True)
class Case:
    """A table that twins are made of, in parts: learned from, unseen, and real rows that stand in the twins' place.

    Attributes:
        filters: that some of its twins satisfy.
    """

    name: str
    twin_type: TwinType
    target: str
    filters: Mapping[str, Any]
    known: pd.DataFrame
    unseen: pd.DataFrame
    others: pd.DataFrame

    @cached_property
    def table(self) -> TrainingTable:
        """The rows learned from, in form."""
        return build_training_table(self.known, self.twin_type, self.target)

    def in_form(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Features and target of other rows, in the form of those learned from."""
        table = build_training_table(frame, self.twin_type, self.target).select(list(self.table.kinds))
        return table.with_target(self.target)

    def judged(self, rows: pd.DataFrame, seed: int) -> RealismReport:
        """Rows held against the unseen ones and against those learned from."""
        return measure_realism(
            [rows],
            held_out=self.in_form(self.unseen),
            training=self.in_form(self.known),
            categorical=self.table.categorical,
            rng=np.random.default_rng(seed),
        )


@dataclass(frozen=True)
class Realism:
    """A split's twins and the real rows in their place, judged alike.

    Attributes:
        auc_of_draws: where each fold of the twins is a draw of its own.
        r2, r2_of_twins: of what learns from real rows, and from twins.
    """

    twins: RealismReport
    real: RealismReport
    auc_of_draws: float
    r2: float
    r2_of_twins: float


@dataclass(frozen=True)
class Foretold:
    """Prediction intervals of a trained model on unseen rows.

    Attributes:
        covered: share of the outcomes inside, by level.
        worst: of the tenths by width, at 95 %.
        width: mean, in constant widths of the same level.
    """

    covered: Mapping[float, float]
    worst: float
    width: float


@dataclass(frozen=True)
class Speed:
    """Seconds: of learning the distribution, of twins with outcomes and intervals, and of the same with a filter."""

    fit: float
    generate: float
    filtered: float


def measure(quick: bool) -> Part:
    """Every table on three splits; one split and a fifth of the rows in a quick run."""
    rows, splits = (ROWS // 5, 1) if quick else (ROWS, SPLITS)
    cases = {name: [make(rows, SEED + split) for split in range(splits)] for name, make in _tables().items()}
    trained = {name: [_model(case, SEED + split) for split, case in enumerate(each)] for name, each in cases.items()}
    found = {
        name: [_realism(*pair, SEED + split) for split, pair in enumerate(zip(each, trained[name], strict=True))]
        for name, each in cases.items()
    }
    models = {name: each[0] for name, each in trained.items()}
    foretold = {name: _foretold(each[0], models[name]) for name, each in cases.items()}
    speeds = {name: _speed(each[0], models[name]) for name, each in cases.items()}
    states = _real_territories() if CLASSES.is_file() else ()
    return Part(
        title="Twins are hard to tell from people they were not learned from",
        sentences=(*SENTENCES.splitlines(), *_absent()),
        figures=tuple(
            figure
            for name in cases
            for figure in (
                *_realism_figures(name, found[name]),
                *_interval_figures(name, foretold[name]),
                *_speed_figures(name, speeds[name]),
            )
        ),
        tables=(_realism_table(found), _model_table(models), *states),
        plots=(_calibration_plot(foretold), *_column_plots(found)),
    )


# -- tables


def _tables() -> dict[str, Callable[[int, int], Case]]:
    real = {WIDE: _wide, NARROW: _narrow} if PRESCRIBERS.is_file() else {}
    return real | {name: _sampled(twin_type) for twin_type, name in GENERATED.items()}


def _absent() -> Iterator[str]:
    for path in (PRESCRIBERS, CLASSES):
        if not path.is_file():
            yield f"Not measured for want of {path.name}: what is said of real prescribers and territories."


def _wide(rows: int, seed: int) -> Case:
    table = read_table(PRESCRIBERS)
    columns = [name for name in table if name.endswith("_2013")]
    frame = table[columns].rename(columns=lambda name: name.removesuffix("_2013"))
    change = table["total_claims_2014"] / table["total_claims_2013"] - 1
    return _parted(WIDE, TwinType.HCP, {"specialty": "Family Practice"}, frame.assign(prescribing_change=change), rows, seed)


def _narrow(rows: int, seed: int) -> Case:
    frame = as_training_table(read_table(PRESCRIBERS), TwinType.HCP).frame
    return _parted(NARROW, TwinType.HCP, {"min_decile": 8}, frame.drop(columns="entity_id"), rows, seed)


def _sampled(twin_type: TwinType) -> Callable[[int, int], Case]:
    def make(rows: int, seed: int) -> Case:
        frame = sample_table(twin_type, 3 * rows, np.random.default_rng(seed))
        return _parted(GENERATED[twin_type], twin_type, {"region": "west"}, frame, rows, seed)

    return make


def _parted(name: str, twin_type: TwinType, filters: Mapping[str, Any], frame: pd.DataFrame, rows: int, seed: int) -> Case:
    order = np.random.default_rng(seed).permutation(len(frame))
    parts = [frame.iloc[order[start : start + rows]].reset_index(drop=True) for start in range(0, 3 * rows, rows)]
    return Case(name, twin_type, TWIN_TYPES[twin_type].default_target.name, filters, *parts)


# -- measuring


def _realism(case: Case, model: TwinModel, seed: int) -> Realism:
    def draws(n: int, times: int) -> list[pd.DataFrame]:
        return [model.generate(n, seed=seed + draw).frame[[*model.kinds, case.target]] for draw in range(times)]

    rows, real = len(case.known), case.judged(case.in_form(case.others), seed)
    whole, rng = draws(rows, LEARNED_FROM), np.random.default_rng(seed)
    auc = detection_auc(draws(rows // FOLDS, FOLDS), case.in_form(case.unseen), case.table.categorical, rng)
    r2_of_twins = mean(_r2(case, twins, seed) for twins in whole)
    return Realism(case.judged(whole[0], seed), real, auc, _r2(case, case.known, seed), r2_of_twins)


def _r2(case: Case, rows: pd.DataFrame, seed: int) -> float:
    """Of a forest that learned from these rows, on the unseen ones."""
    table = build_training_table(rows, case.twin_type, case.target).select(list(case.table.kinds))
    model, unseen = fit_outcome_model(table, "RandomForest", n_jobs=1, seed=seed), case.in_form(case.unseen)
    return float(r2_score(unseen[case.target], predict_outcome(model, encode_features(model, unseen[list(table.kinds)]))))


def _model(case: Case, seed: int) -> TwinModel:
    generator = TwinGenerator(case.twin_type, Brand.KISQALI, case.target, seed=seed)
    generator.train(case.known)
    return generator.model


def _foretold(case: Case, model: TwinModel) -> Foretold:
    actual = case.unseen[case.target].to_numpy(dtype=float)
    covered = {}
    for level in LEVELS:
        lower, upper = model.predict_interval(case.unseen, level)
        covered[level] = float(((lower <= actual) & (actual <= upper)).mean())
    lower, upper = model.predict_interval(case.unseen, INTERVAL_LEVEL)
    inside, tenth = (lower <= actual) & (actual <= upper), pd.qcut(upper - lower, 10, labels=False, duplicates="drop")
    worst = float(pd.Series(inside).groupby(tenth).mean().min())
    return Foretold(covered, worst, float((upper - lower).mean()) / _constant_width(case, model))


def _constant_width(case: Case, model: TwinModel) -> float:
    """Of a split-conformal interval: fitted on half of the rows, its one width found on the others."""
    half = len(case.table) // 2
    table = case.table.select([name for name in case.table.kinds if name in model.card.metrics.feature_importance])
    forest = fit_outcome_model(table.take(np.arange(half)), model.card.model_type, n_jobs=1, seed=SEED)
    residuals = table.target[half:] - predict_outcome(forest, encode_features(forest, table.features.iloc[half:]))
    return 2.0 * conformal_quantile(np.abs(residuals), INTERVAL_LEVEL)


def _speed(case: Case, model: TwinModel) -> Speed:
    rows, seeds, rng = case.in_form(case.known), count(), np.random.default_rng(SEED)
    return Speed(
        _seconds(
            lambda: fit_adjustment(
                learn_joint(rows, case.twin_type, case.table.categorical, case.target, SEED, n_jobs=-1),
                model.adjustment.expected,
                rng,
                n_jobs=-1,
            )
        ),
        _seconds(lambda: model.generate(ROWS, seed=next(seeds))),
        _seconds(lambda: model.generate(ROWS, case.filters, seed=next(seeds))),
    )


def _seconds(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(TIMED):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)


# -- real territories


def _real_territories() -> Iterator[Table]:
    """State by drug class: too few rows for a model of outcomes, so only the distribution is learned, from a third of them."""
    frame, target = _territories(), TWIN_TYPES[TwinType.TERRITORY].default_target.name
    reports = [_territory_split(frame, target, SEED + split) for split in range(TERRITORY_SPLITS)]
    rows = tuple(_told(name, [each[name] for each in reports]) for name in ("twins", "real rows in their place"))
    yield Table(
        f"{len(frame)} real territories, a state and a drug class each: {len(frame) // 3} learned from, means of "
        f"{TERRITORY_SPLITS} splits, no bars",
        ("", *REPORTED),
        rows,
    )


def _territory_split(frame: pd.DataFrame, target: str, seed: int) -> dict[str, RealismReport]:
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(frame))
    known, unseen, others = (frame.iloc[part].reset_index(drop=True) for part in np.array_split(order, 3))
    joint = learn_joint(known, TwinType.TERRITORY, ("region",), target, seed)
    placed = {"twins": joint.sample(len(unseen), rng=rng).frame, "real rows in their place": others}
    return {
        name: measure_realism([rows], held_out=unseen, training=known, categorical=("region",), rng=np.random.default_rng(seed))
        for name, rows in placed.items()
    }


def _territories() -> pd.DataFrame:
    """Features of the catalogue that claims tell, of 2013, and how the target brand's share of the class moved to 2014."""
    physicians = as_training_table(read_table(PRESCRIBERS), TwinType.HCP).frame
    claims = read_table(CLASSES).merge(
        pd.DataFrame(
            {
                "hcp_id": physicians["entity_id"],
                "region": physicians["region"],
                "decile": physicians["decile"],
                "state": read_table(PRESCRIBERS)["state_2013"],
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
    known = first.assign(
        coverage_rate=first["covered_hcps"] / first["total_hcps"], market_share=share, market_share_change=later - share
    )
    return known.dropna().reset_index().drop(columns=["state", "drug_class", "claims", "target_claims"])


# -- telling

REPORTED = ("AUC", "near copies", "closer to training", "association error", "columns alike", "exact copies")


def _told(name: str, reports: Sequence[RealismReport]) -> tuple[str, ...]:
    def of(attribute: str, form: str) -> str:
        return format(mean(getattr(report, attribute) for report in reports), form)

    return (
        name,
        of("auc", ".3f"),
        of("near_copies", ".3f"),
        of("closer_to_training", ".3f"),
        of("association_error", ".4f"),
        of("marginal_score", ".3f"),
        of("exact_copies", ".4f"),
    )


def _realism_figures(name: str, found: Sequence[Realism]) -> Iterator[Figure]:
    reports = [each.twins for each in found]
    bars = {
        "auc": ("AUC of a classifier between twins and unseen rows", 0.56),
        "near_copies": ("near copies", 0.07),
        "closer_to_training": ("closer to training than to unseen rows", 0.55),
        "association_error": ("association error", 0.015),
    }
    for attribute, (what, most) in bars.items():
        values = [getattr(report, attribute) for report in reports]
        real = mean(getattr(each.real, attribute) for each in found)
        note = f"{min(values):.3f} to {max(values):.3f}; real rows in their place {real:.3f}"
        yield Figure(f"{name}: {what}", mean(values), at_most=most, form=".4f", note=note)
    apart = [each.auc_of_draws for each in found]
    note = f"{min(apart):.3f} to {max(apart):.3f}"
    yield Figure(f"{name}: AUC where each fold of the twins is a draw of its own", mean(apart), form=".4f", note=note)
    lost = [each.r2 - each.r2_of_twins for each in found]
    note = f"R2 {mean(each.r2 for each in found):.3f} of real rows, {mean(each.r2_of_twins for each in found):.3f} of twins"
    yield Figure(f"{name}: R2 lost by learning from twins", mean(lost), at_most=0.02, form=".4f", note=note)


def _interval_figures(name: str, foretold: Foretold) -> Iterator[Figure]:
    yield Figure(f"{name}: 95 % intervals cover", foretold.covered[INTERVAL_LEVEL], at_least=0.93, at_most=0.97, form=".3f")
    yield Figure(f"{name}: in the worst tenth of difficulty", foretold.worst, at_least=0.92, form=".3f")
    yield Figure(f"{name}: mean width, in constant split-conformal widths", foretold.width, at_most=1.0, form=".3f")


def _speed_figures(name: str, speed: Speed) -> Iterator[Figure]:
    yield Figure(f"{name}: learn the distribution, s", speed.fit, at_most=1.5, form=".2f")
    yield Figure(f"{name}: {ROWS:,} twins with outcomes and intervals, s", speed.generate, at_most=0.15, form=".3f")
    yield Figure(f"{name}: the same with a filter, of the time without", speed.filtered / speed.generate, at_most=1.25, form=".2f")


def _realism_table(found: Mapping[str, Sequence[Realism]]) -> Table:
    rows = [
        _told(f"{name}, {placed}", [getattr(each, attribute) for each in splits])
        for name, splits in found.items()
        for placed, attribute in (("twins", "twins"), ("real rows", "real"))
    ]
    return Table("Twins, and as many real rows in their place", ("", *REPORTED), tuple(rows))


def _model_table(models: Mapping[str, TwinModel]) -> Table:
    rows = []
    for name, model in models.items():
        card = model.card
        tried = ", ".join(f"{each} {r2:.3f}" for each, r2 in card.hyperparameters["cv_r2_of_tried"].items())
        fidelity = "undefined" if card.metrics.fidelity is None else f"{card.metrics.fidelity:.3f}"
        rows.append((name, card.model_type, tried, fidelity, "; ".join(card.metrics.warnings) or "none"))
    return Table("The models of the outcome", ("", "chosen", "R2 in cross-validation", "fidelity", "warnings"), tuple(rows))


def _calibration_plot(foretold: Mapping[str, Foretold]) -> Plot:
    curves = [
        Curve(name, LEVELS, [each.covered[level] - level for level in LEVELS], tone=tone)
        for (name, each), tone in zip(foretold.items(), TONES, strict=False)
    ]
    svg = curves_chart(
        curves,
        title="Calibration of prediction intervals",
        description="Coverage on unseen rows less the level asked for, against the level; zero is perfect.",
        x_label="level asked for",
        form="+.1%",
        x_form=".0%",
        lines=[ReferenceLine(0.0, "perfect"), ReferenceLine(0.02, "+2 %"), ReferenceLine(-0.02, "-2 %")],
        width=1140,
    )
    caption = "Share of unseen outcomes inside their interval, less the level that was asked for: intervals of every level hold."
    return Plot(caption, svg, wide=True)


def _column_plots(found: Mapping[str, Sequence[Realism]]) -> Iterator[Plot]:
    for (name, splits), tone in zip(found.items(), TONES, strict=False):
        yield Plot(
            f"How far each column of the twins is from unseen rows ({name}): the dot. The other end of its line is how far as many "
            "real rows are.",
            intervals_chart(
                [_column(column, splits, tone) for column in splits[0].twins.columns],
                title=f"Realism per column, {name}",
                description="Kolmogorov-Smirnov or total variation distance of each column, of twins and of real rows.",
                form=".1%",
            ),
        )


def _column(column: str, splits: Sequence[Realism], tone: Tone) -> ChartInterval:
    twins, real = (
        mean(1.0 - report.columns[column] for report in each)
        for each in zip(*((split.twins, split.real) for split in splits), strict=True)
    )
    return ChartInterval(column, twins, min(twins, real), max(twins, real), f"{twins:.1%} ({real:.1%})", tone)
