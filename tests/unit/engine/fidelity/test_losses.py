"""The losses of the detector beside the size of errors: e-values, what each detects, and what the order of rows does not change."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from engine.fidelity import add_sums, bias_verdict, contributions, dominating_segment, negate, series_reference
from engine.fidelity.baseline import HoldoutRows, compute_baseline
from engine.fidelity.e_detector import LOSSES, DetectorState, accumulate
from schemas import Baseline
from schemas.events import SUM_FIELDS, padded_sums

LEVELS = np.array(["a", "b", "c", "d"])


class Rows:
    """Rows whose errors are four times as large at one end of the predictions as at the other, with 95 % intervals."""

    def __init__(self, n: int, seed: int, *, too_high: float = 0.0, narrower: float = 1.0, slope: float = 1.0) -> None:
        rng = np.random.default_rng(seed)
        expected = rng.uniform(-1.0, 1.0, n)
        self.spread = 0.25 * 4.0 ** ((expected + 1.0) / 2.0)
        self.actual = slope * expected + rng.normal(size=n) * self.spread
        self.predicted = expected + too_high * self.spread
        half_width = 1.96 * narrower * self.spread
        self.lower, self.upper = self.predicted - half_width, self.predicted + half_width
        self.level = LEVELS[rng.integers(0, 4, n)]

    def baseline(self) -> Baseline:
        rows = HoldoutRows(self.actual, self.predicted, self.lower, self.upper)
        return compute_baseline(rows, pd.DataFrame({"region": self.level}), ["region"])

    def sums(self, baseline: Baseline, order: np.ndarray | None = None, *, with_intervals: bool = True) -> np.ndarray:
        ends = (self.lower, self.upper) if with_intervals else (np.full(len(self.actual), np.nan),) * 2
        rows = contributions(self.predicted, self.actual, *ends, baseline)
        return rows if order is None else rows[order]


BASELINE = Rows(20_000, 0).baseline()


def after(rows: np.ndarray, baseline: Baseline = BASELINE, cell: int = 200) -> DetectorState:
    cells = [add_sums(rows[first : first + cell].tolist()) for first in range(0, len(rows), cell)]
    return accumulate(cells, DetectorState(reference=series_reference(baseline)))


@pytest.mark.parametrize("with_intervals", [True, False])
def test_the_expected_growth_of_every_stake_is_at_most_one_without_a_change(with_intervals):
    rows = Rows(200_000, 1).sums(BASELINE, with_intervals=with_intervals)
    growth = np.exp(series_reference(BASELINE).log_growth(rows)).mean(axis=0)
    assert (growth <= 1.0).all()


@pytest.mark.parametrize(
    ("change", "loss"),
    [
        ({"too_high": 0.3}, "over"),
        ({"too_high": -0.3}, "under"),
        ({"narrower": 0.75}, "misses"),
        ({"slope": 0.6}, "slope"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_change_is_carried_by_its_own_loss(change, loss):
    state = after(Rows(2_000, 2, **change).sums(BASELINE))
    assert state.ratio() >= 1.0
    assert tuple(state.loss_ratios()) == LOSSES
    assert state.loss_ratios()[loss] >= 1.0
    assert state.loss_ratios()[{"over": "under", "under": "over", "misses": "under", "slope": "over"}[loss]] < 1.0


def test_an_alarm_of_all_losses_together_has_one_that_reaches_the_limit_alone():
    rows = Rows(2_000, 3, too_high=0.25).sums(BASELINE)
    states = [after(rows[: 100 * n]) for n in range(1, 21)]
    raised = [state for state in states if state.ratio() >= 1.0]
    assert 0 < len(raised) < len(states)
    assert all(max(state.loss_ratios().values()) >= 1.0 for state in raised)


def test_rows_sorted_by_difficulty_are_no_change_and_are_one_for_a_baseline_without_expectations():
    rows = Rows(10_000, 4)
    order = np.argsort(-rows.spread)
    plain = BASELINE.model_copy(update={"expected": None})
    assert after(rows.sums(BASELINE, order)).peak_ratio() < 1.0
    assert after(rows.sums(plain, order), plain).peak_ratio() >= 1.0
    assert after(rows.sums(plain), plain).peak_ratio() < 1.0


def test_sums_of_losses_are_taken_back_exactly():
    rows = Rows(500, 5, too_high=0.5).sums(BASELINE).tolist()
    assert add_sums([*rows, *map(negate, rows[100:])]) == add_sums(rows[:100])


def test_models_without_expectations_have_no_such_sums_and_their_detector_knows_only_the_size():
    plain = BASELINE.model_copy(update={"expected": None})
    rows = Rows(500, 6, too_high=1.0).sums(plain)
    first = SUM_FIELDS.index("excess_error")
    assert not rows[:, first:].any()
    assert tuple(after(rows, plain).loss_ratios()) == ("size",)
    assert padded_sums(rows[0, :first].tolist()) == tuple(rows[0].tolist())
    assert bias_verdict(rows.sum(axis=0).tolist(), plain.model_copy(update={"losses": {}})) is None


def test_a_segment_is_compared_with_its_own_losses():
    rows, later = Rows(20_000, 7), Rows(4_000, 8)
    biased = rows.level == "a"
    rows.actual = rows.actual - np.where(biased, 0.4 * rows.spread, 0.0)
    baseline = rows.baseline()
    later.actual = later.actual - 0.4 * later.spread
    sums = later.sums(baseline)
    cells = [add_sums(sums[first : first + 200].tolist()) for first in range(0, len(sums), 200)]
    ratios = {
        level: accumulate(cells, DetectorState(reference=series_reference(baseline, baseline.segments[f"region={level}"]))).ratio()
        for level in ("a", "b")
    }
    assert ratios["a"] < 1.0 <= ratios["b"]


def test_the_bias_verdict_fires_beyond_a_tenth_of_the_half_width_and_needs_enough_outcomes():
    high, low = (bias_verdict(Rows(2_000, 9, too_high=by).sums(BASELINE).sum(axis=0).tolist(), BASELINE) for by in (0.3, -0.3))
    none = bias_verdict(Rows(2_000, 9).sums(BASELINE).sum(axis=0).tolist(), BASELINE)
    few = bias_verdict(Rows(199, 9, too_high=1.0).sums(BASELINE).sum(axis=0).tolist(), BASELINE)
    assert high is not None
    assert low is not None
    assert none is not None
    assert few is not None
    assert (high.fired, low.fired, none.fired, few.fired) == (True, True, False, False)
    assert "too high by" in high.reason
    assert "too low by" in low.reason
    assert few.reason == "199 outcomes are too few to judge, 200 are needed"


def test_outcomes_of_one_segment_are_named_and_a_mix_like_that_of_the_baseline_is_not():
    even = {f"region={level}": 50 for level in LEVELS}
    assert dominating_segment(even, 200, BASELINE) is None
    assert dominating_segment(even | {"region=a": 140, "region=b": 20, "region=c": 20, "region=d": 20}, 200, BASELINE) is None
    assert dominating_segment({"region=c": 190, "region=a": 10}, 200, BASELINE) == "region=c"
    assert dominating_segment({"region=new": 200}, 200, BASELINE) == "region=new"
    assert dominating_segment({"region=c": 20}, 200, BASELINE) is None  # most outcomes have no level


def test_nothing_is_said_of_the_mix_of_levels_that_the_baseline_does_not_have() -> None:
    """Without segments of its own a baseline does not tell its mix: any one may be like it."""
    assert dominating_segment({"region=c": 200}, 200, BASELINE.model_copy(update={"segments": {}})) is None
    half = {name: errors for name, errors in BASELINE.segments.items() if name in {"region=a", "region=b"}}
    partial = BASELINE.model_copy(update={"segments": half})
    rest = 200 - round(200 * sum(errors.n for errors in half.values()) / BASELINE.n)
    assert dominating_segment({"region=new": rest, "region=a": 200 - rest}, 200, partial) is None
