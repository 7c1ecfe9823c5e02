"""Prediction intervals on unseen prescribers: by specialty, where misses can be foreseen, and in states that were left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import mean

import numpy as np
import pandas as pd
from scipy.stats import binom
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.preprocessing import OrdinalEncoder

from engine.twin_generator import TwinGenerator
from engine.twins import INTERVAL_LEVEL, TwinModel
from schemas import Brand, TwinType
from schemas.arrays import Flags, Floats, Integers
from streams.training import read_training_table
from tests.evidence.part import DATA, Figure, Part, Table

__all__ = ["measure"]

PRESCRIBERS = DATA / "hcp_partd_2013_2014.csv.gz"
TARGET = "prescribing_change"
ROWS, SPLITS, SEED, STATES = 10_000, 3, 40, 9
LARGE = 200
"""Unseen rows from which a specialty is judged by itself."""

LOWEST, HIGHEST = 0.925, 0.975
NARROW, WIDE = "narrow set", "all columns"

SENTENCES = f"""\
Models are trained on {ROWS:,} real prescribers, and their 95 % prediction intervals are compared with the outcomes of all others.
Every figure is of rows that took no part in training or calibration, over {SPLITS} random splits.
Specialties with {LARGE} unseen rows or more are judged by themselves. Were each covered with a probability of exactly 95 %, a few \
would still lie outside of {LOWEST:.1%} to {HIGHEST:.1%}; the bar is the number that chance exceeds in one split of forty. \
Quantiles of a specialty are learned from a few hundred rows of it at most, whose sampling error takes more of them outside over \
all splits.
The worst tenth is found by a classifier that learns the misses in one half of the unseen rows from features and intervals, \
and names the tenth of the other half with most expected misses.
For new places, {STATES} random states are left out of training, and their prescribers are predicted with the state as a feature. \
Intervals of rows with a new level are widened by a factor that training measures by leaving out whole levels. No one can foresee \
a state that differs from the learned ones by more than they differ from each other."""


@dataclass(frozen=True)
class Coverage:
    """Unseen rows against their intervals.

    Attributes:
        inside: share of outcomes inside; ``below`` and ``above`` of those beyond each end.
        by_specialty: share inside and number of rows of each large specialty.
        worst_tenth: share inside where a classifier expects most misses.
        width: mean width.
    """

    inside: float
    below: float
    above: float
    by_specialty: pd.DataFrame
    worst_tenth: float
    width: float

    @property
    def n_outside(self) -> int:
        """Specialties beyond ``LOWEST`` to ``HIGHEST``."""
        return int((~self.by_specialty["mean"].between(LOWEST, HIGHEST)).sum())

    @property
    def outside_by_chance(self) -> int:
        """Most specialties outside in 39 of 40 splits, were each covered with a probability of 95 %."""
        rng, outside = np.random.default_rng(SEED), self.chances_outside
        return int(np.quantile((rng.random((10_000, len(outside))) > 1.0 - outside).sum(axis=1), 0.975))

    @property
    def chances_outside(self) -> Floats:
        """Probability of each specialty to lie outside, were it covered with a probability of 95 %."""
        n = self.by_specialty["size"].to_numpy()
        below = binom.cdf(np.ceil(LOWEST * n) - 1, n, INTERVAL_LEVEL)
        return np.asarray(1.0 - binom.cdf(np.floor(HIGHEST * n), n, INTERVAL_LEVEL) + below)


def measure(quick: bool) -> Part:
    """Both tables on three splits, and in states that were left out; one split of fewer rows in a quick run."""
    if not PRESCRIBERS.is_file():
        return Part("Prediction intervals of real prescribers", (f"not measured: {PRESCRIBERS.name} is absent",))
    rows, splits = (ROWS // 5, 1) if quick else (ROWS, SPLITS)
    tables: Mapping[str, Callable[[], pd.DataFrame]] = {NARROW: _narrow, WIDE: _wide}
    covered = {name: [_of_random_rows(make(), rows, SEED + split) for split in range(splits)] for name, make in tables.items()}
    places = [_of_new_states(_wide(), rows, SEED + split) for split in range(splits)]
    return Part(
        title="Prediction intervals cover every large specialty, and say more of new places",
        sentences=tuple(SENTENCES.splitlines()),
        figures=(*(figure for name, of_splits in covered.items() for figure in _figures(name, of_splits)), *_place_figures(places)),
        tables=(_specialty_table(covered),),
    )


def _narrow() -> pd.DataFrame:
    return read_training_table([PRESCRIBERS], TwinType.HCP).frame.drop(columns="entity_id")


def _wide() -> pd.DataFrame:
    table = pd.read_csv(PRESCRIBERS)
    columns = {name: name.removesuffix("_2013") for name in table if name.endswith("_2013")}
    change = table["total_claims_2014"] / table["total_claims_2013"] - 1
    return table[list(columns)].rename(columns=columns).assign(prescribing_change=change)


def _trained(rows: pd.DataFrame, seed: int) -> TwinModel:
    generator = TwinGenerator(TwinType.HCP, Brand.KISQALI, TARGET, seed=seed)
    generator.train(rows)
    return generator.model


def _of_random_rows(frame: pd.DataFrame, rows: int, seed: int) -> Coverage:
    order = np.random.default_rng(seed).permutation(len(frame))
    model, unseen = _trained(frame.iloc[order[:rows]], seed), frame.iloc[order[rows:]].reset_index(drop=True)
    expected, lower, upper = model.predict_all(unseen)
    actual = unseen[TARGET].to_numpy(dtype=float)
    below, above = actual < lower, actual > upper
    groups = pd.Series(~(below | above)).groupby(unseen["specialty"].to_numpy()).agg(["mean", "size"])
    return Coverage(
        inside=float(1 - below.mean() - above.mean()),
        below=float(below.mean()),
        above=float(above.mean()),
        by_specialty=groups[groups["size"] >= LARGE],
        worst_tenth=_worst_tenth(unseen.drop(columns=TARGET), [expected, expected - lower, upper - expected], below | above, seed),
        width=float((upper - lower).mean()),
    )


def _worst_tenth(features: pd.DataFrame, numbers: Sequence[Floats], misses: Flags, seed: int) -> float:
    """Share inside of the tenth of each half in which a classifier of the other half's misses expects most."""
    text = features.select_dtypes(exclude="number").columns
    codes = OrdinalEncoder().fit_transform(features[text].astype(str))
    columns = np.column_stack([features.drop(columns=text).to_numpy(dtype=float), codes, *numbers])
    order = np.random.default_rng(seed).permutation(len(columns))
    halves = np.array_split(order, 2)
    return mean(1 - float(misses[_most_expected(columns, misses, *pair)].mean()) for pair in (halves, halves[::-1]))


def _most_expected(columns: Floats, misses: Flags, learned: Integers, judged: Integers) -> Integers:
    classifier = HistGradientBoostingClassifier(max_iter=60, learning_rate=0.05, max_leaf_nodes=8, random_state=0)
    probability = classifier.fit(columns[learned], misses[learned]).predict_proba(columns[judged])[:, 1]
    return judged[np.argsort(-probability, kind="stable")[: len(judged) // 10]]


def _of_new_states(frame: pd.DataFrame, rows: int, seed: int) -> dict[str, float]:
    """Coverage of all rows of states that were left out, of the lowest of them, and both without wider intervals."""
    rng = np.random.default_rng(seed)
    counts = frame["state"].value_counts()
    left_out = rng.choice(counts.index[counts >= LARGE].to_numpy(dtype=object), STATES, replace=False)
    new = frame["state"].isin(left_out)
    known_rows = np.flatnonzero(~new)
    model = _trained(frame.iloc[rng.choice(known_rows, min(rows, len(known_rows)), replace=False)], seed)
    unseen = frame[new].reset_index(drop=True)
    expected, lower, upper = model.predict_all(unseen)
    factor, actual = model.card.metrics.new_levels["state"].widening, unseen[TARGET].to_numpy(dtype=float)
    of_factor = partial(_by_state, unseen["state"], actual - expected, expected - lower, upper - expected)
    overall, lowest = of_factor(1.0)
    plain_overall, plain_lowest = of_factor(1.0 / factor)
    return {"overall": overall, "lowest": lowest, "plain": plain_overall, "plain lowest": plain_lowest, "factor": factor}


def _by_state(states: pd.Series[str], errors: Floats, below: Floats, above: Floats, factor: float) -> tuple[float, float]:
    inside = pd.Series((errors >= -below * factor) & (errors <= above * factor))
    return float(inside.mean()), float(inside.groupby(states).mean().min())


def _figures(name: str, splits: Sequence[Coverage]) -> Iterator[Figure]:
    def average(value: Callable[[Coverage], float]) -> float:
        return mean(map(value, splits))

    yield Figure(f"{name}: 95 % intervals cover", average(lambda c: c.inside), at_least=0.94, at_most=0.96, form=".3f")
    yield Figure(f"{name}: outcomes below an interval", average(lambda c: c.below), at_least=0.015, at_most=0.035, form=".3f")
    yield Figure(f"{name}: outcomes above an interval", average(lambda c: c.above), at_least=0.015, at_most=0.035, form=".3f")
    worst = max(splits, key=lambda c: c.n_outside - c.outside_by_chance)
    total, chance = sum(split.n_outside for split in splits), sum(split.chances_outside.sum() for split in splits)
    n_judged = sum(len(split.by_specialty) for split in splits)
    of_all = f"over all splits {total} of {n_judged}, {chance:.1f} by chance"
    note = f"of {len(worst.by_specialty)}; in the split with most beyond chance; {of_all}"
    yield Figure(f"{name}: specialties outside", worst.n_outside, at_most=worst.outside_by_chance, form=".0f", note=note)
    yield Figure(f"{name}: in the worst tenth", average(lambda c: c.worst_tenth), at_least=0.90, form=".3f")
    yield Figure(f"{name}: mean width", average(lambda c: c.width), form=".3f")


def _place_figures(splits: Sequence[Mapping[str, float]]) -> Iterator[Figure]:
    def average(key: str) -> float:
        return mean(split[key] for split in splits)

    widths = ", ".join(f"{split['factor']:.2f}" for split in splits)
    yield Figure("new states: 95 % intervals cover", average("overall"), at_least=0.94, form=".3f", note=f"widened {widths} times")
    yield Figure("new states: in the one that is covered least", average("lowest"), form=".3f")
    yield Figure("new states, intervals not widened", average("plain"), form=".3f")
    yield Figure("new states, intervals not widened: in the one that is covered least", average("plain lowest"), form=".3f")


def _specialty_table(covered: Mapping[str, Sequence[Coverage]]) -> Table:
    rows = []
    for name, splits in covered.items():
        shares = pd.concat([split.by_specialty["mean"] for split in splits], axis=1)
        for specialty, of_splits in shares.iterrows():
            rows.append((f"{name}: {specialty}", *("–" if np.isnan(share) else f"{share:.1%}" for share in of_splits)))
    n_splits = max(len(splits) for splits in covered.values())
    return Table("Share of outcomes inside, by specialty", ("specialty", *(f"split {k + 1}" for k in range(n_splits))), tuple(rows))
