"""Measures twins of real and generated tables against held-out real rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from statistics import mean
from typing import Any

import numpy as np
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
    conformal_quantile,
    encode_features,
    fit_adjustment,
    fit_density_ratio,
    fit_outcome_model,
    learn_joint,
    predict_outcome,
)
from engine.twins.detection import CLASSIFIERS, FOLDS, QUICK, detection_aucs
from engine.twins.marginal import fit_marginal
from engine.twins.realism import measure_realism
from engine.twins.relations import broken_rows, find_relations
from schemas import TWIN_TYPES, Brand, TwinType
from schemas.realism import BOOSTING, FOREST, RealismReport
from streams.training import read_training_table
from tests.evidence.part import DATA

__all__ = [
    "CLASSES",
    "LEVELS",
    "NARROW",
    "PRESCRIBERS",
    "R2_DRAWS",
    "ROWS",
    "SEED",
    "TIMED",
    "TIMED_FITS",
    "WIDE",
    "Case",
    "IntervalQuality",
    "Realism",
    "Speed",
    "Subgroup",
    "interval_quality",
    "measured_speed",
    "measured_split",
    "subgroups",
    "tables",
    "territories",
    "territory_split",
]


PRESCRIBERS, CLASSES = DATA / "hcp_partd_2013_2014.csv.gz", DATA / "hcp_class_claims_2013_2014.csv.gz"
WIDE, NARROW = "real prescribers, all columns", "real prescribers, narrow set"
GENERATED = {TwinType.TERRITORY: "territories", TwinType.PATIENT: "patients"}
ROWS = 10_000
SEED = 20
TIMED, TIMED_FITS = 15, 2
R2_DRAWS = 4  # draws of twins over which a split's loss of R2 is averaged: a single one varies by a third of the bar
FEWEST_UNSEEN = 200  # unseen rows of a subgroup that its twins are compared with
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
SLOW = (FOREST,)  # five forests of 500 trees take minutes: on the first split only


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


# -- tables


def tables() -> dict[str, Callable[[int, int], Case]]:
    real = {WIDE: _wide, NARROW: _narrow} if PRESCRIBERS.is_file() else {}
    return real | {name: _sampled(twin_type) for twin_type, name in GENERATED.items()}


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


# -- realism, intervals and speed


def measured_split(name: str, rows: int, seed: int) -> tuple[Case, TwinModel, Realism]:
    """One split of a table, its model, and the realism of the twins."""
    case = tables()[name](rows, seed)
    model = _model(case, seed)
    return case, model, _realism(case, model, seed)


def _realism(case: Case, model: TwinModel, seed: int) -> Realism:
    def draws(n: int, times: int) -> list[pd.DataFrame]:
        return [model.generate(n, seed=seed + draw).frame[[*model.kinds, case.target]] for draw in range(times)]

    rows, real = len(case.training), case.assess(case.convert(case.substitutes), seed)
    whole, rng = draws(rows, R2_DRAWS), np.random.default_rng(seed)
    left_out = () if seed == SEED else SLOW
    classifiers = tuple(name for name in CLASSIFIERS if name not in left_out) if case.name == WIDE else QUICK
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


def interval_quality(case: Case, model: TwinModel) -> IntervalQuality:
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


def measured_speed(case: Case, model: TwinModel) -> Speed:
    rows, seeds, rng = case.convert(case.training), count(), np.random.default_rng(SEED)

    def learn() -> None:
        joint = learn_joint(rows, case.twin_type, case.table.categorical, case.target, SEED, n_jobs=-1)
        fit_adjustment(joint, model.adjustment.expected, rng, n_jobs=-1)
        fit_density_ratio(joint, SEED)

    return Speed(
        _seconds(learn, TIMED_FITS) / cpu_count(),
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


def subgroups(case: Case, model: TwinModel) -> Iterator[Subgroup]:
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


# -- real territories


def territory_split(frame: pd.DataFrame, target: str, seed: int) -> dict[str, RealismReport]:
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(frame))
    training, unseen, substitutes = (frame.iloc[part].reset_index(drop=True) for part in np.array_split(order, 3))
    joint = learn_joint(training, TwinType.TERRITORY, ("region",), target, seed)
    compared = {"twins": joint.sample(len(unseen), rng=rng).frame, "other real rows": substitutes}
    return {
        name: measure_realism([rows], held_out=unseen, training=training, categorical=("region",), rng=np.random.default_rng(seed))
        for name, rows in compared.items()
    }


def territories() -> pd.DataFrame:
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
