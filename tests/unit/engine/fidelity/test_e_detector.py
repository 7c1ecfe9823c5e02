from __future__ import annotations

import math
from decimal import Decimal, getcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.fidelity.baseline import HoldoutRows, compute_errors
from engine.fidelity.e_detector import (
    AVERAGE_RUN_LENGTH,
    BETS,
    LOG_QUANTUM,
    DetectorState,
    accumulate,
    discoveries,
    log_normalizers,
    rounded_log_bets,
    series_reference,
    upper_mean,
)
from engine.fidelity.error_sums import add_sums, contributions
from schemas import Baseline
from schemas.events import SUM_FIELDS
from schemas.twin_models import Errors


def baseline_of(errors: np.ndarray) -> Baseline:
    loss = np.abs(errors)
    clip = 1.5 * np.quantile(loss, 0.99)
    clipped = np.minimum(loss / clip, 1)
    return Baseline(
        n=len(loss),
        mae=loss.mean(),
        rmse=np.sqrt((loss**2).mean()),
        center=0.0,
        scale=1.0,
        clip=clip,
        clipped_mean=clipped.mean(),
        clipped_sd=clipped.std(ddof=1),
    )


NORMAL = baseline_of(np.random.default_rng(0).normal(size=20_000))


def cells_of(errors: np.ndarray, baseline: Baseline, cell: int) -> list[tuple[int, ...]]:
    no_interval = np.full(len(errors), np.nan)
    rows = contributions(np.zeros(len(errors)), errors, no_interval, no_interval, baseline)
    return [add_sums(rows[i : i + cell].tolist()) for i in range(0, len(rows), cell)]


def sizes(errors: np.ndarray) -> np.ndarray:
    """Sizes of errors, in units of the clip."""
    return np.minimum(np.abs(errors) / NORMAL.clip, 1.0)


def per_outcome(errors: np.ndarray, baseline: Baseline) -> np.ndarray:
    """The detector as defined in the paper, R_t = (R_{t-1} + 1) * L_t for each bet, averaged over the bets: shape (n,)."""
    m0 = upper_mean(baseline)
    stakes, path = [0.0] * len(BETS), []
    for error in errors:
        x = min(abs(error) / baseline.clip, 1.0)
        stakes = [(stake + 1.0) * (1.0 + bet / m0 * (x - m0)) for stake, bet in zip(stakes, BETS, strict=True)]
        path.append(sum(stakes) / len(BETS))
    return np.array(path)


def outcomes_to_alarm(errors: np.ndarray, baseline: Baseline, cell: int = 200, step: int = 20) -> int | None:
    """Outcomes until the alarm when open cells are evaluated every ``step`` outcomes."""
    steps = cells_of(errors, baseline, step)
    state = DetectorState()
    for first in range(0, len(steps), cell // step):
        for last in range(first + 1, min(first + cell // step, len(steps)) + 1):
            current = accumulate([add_sums(steps[first:last])], state)
            if current.ratio() >= 1:
                return last * step
        state = current
    return None


def test_cells_of_one_outcome_are_the_detector_of_the_paper():
    errors = np.random.default_rng(1).normal(size=400) * 1.3
    path = [accumulate(cells_of(errors[:n], NORMAL, 1), DetectorState(last_count=1)).ratio(1.0) for n in (1, 10, 100, 400)]
    assert path == pytest.approx(per_outcome(errors, NORMAL)[[0, 9, 99, 399]], rel=1e-5)


def test_cells_of_200_detect_a_change_about_as_soon_as_the_detector_of_the_paper():
    samples = [np.random.default_rng(seed).normal(size=3000) * 1.2 for seed in range(25)]
    chained = np.median([outcomes_to_alarm(errors, NORMAL) for errors in samples])
    paper = np.median([np.argmax(per_outcome(errors, NORMAL) >= AVERAGE_RUN_LENGTH) + 1 for errors in samples])
    assert chained <= 1.3 * paper
    assert 250 < paper < 600


def test_an_increase_by_half_is_detected_within_a_few_hundred_outcomes():
    delays = [outcomes_to_alarm(np.random.default_rng(seed).normal(size=2000) * 1.5, NORMAL) for seed in range(25)]
    assert np.median(delays) <= 200


@pytest.mark.parametrize("name", ["normal", "t3"])
def test_without_a_change_hardly_any_series_raises_an_alarm(name):
    def draw(rng: np.random.Generator, n: int) -> np.ndarray:
        return rng.normal(size=n) if name == "normal" else rng.standard_t(3, size=n)

    alarms = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        baseline = baseline_of(draw(rng, 5000))
        alarms += accumulate(cells_of(draw(rng, 20_000), baseline, 200), DetectorState()).peak_ratio() >= 1
    assert alarms <= 4


def test_the_expected_growth_of_a_stake_is_at_most_one_without_a_change():
    loss = np.random.default_rng(3).normal(size=200_000)
    assert (np.exp(LOG_QUANTUM * rounded_log_bets(sizes(loss), NORMAL)).mean(axis=0) <= 1.0).all()


def test_the_upper_mean_covers_the_true_mean_in_19_of_20_baselines():
    rng = np.random.default_rng(4)
    clip = 1.5 * 2.5758
    x = np.linspace(0, 12, 2_000_001)
    true = np.trapezoid(np.minimum(x / clip, 1) * 2 * np.exp(-x * x / 2) / math.sqrt(2 * math.pi), x)
    covered = 0
    for _ in range(1000):
        clipped = np.minimum(np.abs(rng.normal(size=1000)) / clip, 1)
        covered += true <= upper_mean(
            NORMAL.model_copy(update={"n": 1000, "clipped_mean": clipped.mean(), "clipped_sd": clipped.std(ddof=1)})
        )
    assert 930 <= covered <= 970


def test_the_upper_mean_of_a_baseline_without_errors_follows_the_rule_of_three():
    faultless = NORMAL.model_copy(update={"n": 1000, "mae": 0.0, "clipped_mean": 0.0, "clipped_sd": 0.0})
    assert (1 - upper_mean(faultless)) ** 1000 == pytest.approx(0.05, rel=0.01)


def test_log_growths_are_correctly_rounded_to_the_billionth():
    getcontext().prec = 40
    losses = sizes(np.random.default_rng(5).normal(size=300))
    m0 = upper_mean(NORMAL)
    for row, loss in zip(rounded_log_bets(losses, NORMAL).tolist(), losses.tolist(), strict=True):
        exact = [Decimal(1.0 + bet * (loss / m0 - 1.0)).ln() * 10**9 for bet in BETS]
        assert row == [int(log.to_integral_value()) for log in exact]


def test_values_halfway_between_two_integers_are_rounded_correctly():
    m0 = upper_mean(NORMAL)
    doubtful = [(math.exp((k + 0.5) * 1e-9) - 1) / BETS[4] * m0 + m0 for k in range(-40_000_000, 40_000_000, 1_000_003)]
    rounded = rounded_log_bets(np.minimum(doubtful, 1.0), NORMAL)[:, 4]
    getcontext().prec = 40
    exact = [int((Decimal(1.0 + BETS[4] * (min(x, 1.0) / m0 - 1.0)).ln() * 10**9).to_integral_value()) for x in doubtful]
    assert rounded.tolist() == exact


@settings(max_examples=50)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=12), st.integers(0, 12), st.integers(0, 1000))
def test_accumulating_in_two_parts_equals_accumulating_at_once_and_empty_cells_are_skipped(counts, cut, seed):
    errors = np.random.default_rng(seed).normal(size=sum(counts))
    ends = np.cumsum(counts)
    empty = (0,) * len(SUM_FIELDS)
    cells = [cells_of(errors[end - n : end], NORMAL, n)[0] if n else empty for n, end in zip(counts, ends, strict=True)]
    whole = accumulate(cells, DetectorState())
    assert accumulate(cells[cut:], accumulate(cells[:cut], DetectorState())) == whole
    assert accumulate([cell for cell in cells if cell[0]], DetectorState()) == whole


def test_the_first_cell_starts_as_many_stakes_as_an_assessment_needs_outcomes():
    cell = cells_of(np.random.default_rng(6).normal(size=50), NORMAL, 50)[0]
    growth = [math.exp(log_bet * 1e-9) for log_bet in cell[SUM_FIELDS.index("log_bet_0") :][: len(BETS)]]
    after = accumulate([cell], DetectorState())
    assert after.ratio(1.0) == pytest.approx(200 * sum(growth) / len(BETS))
    twice = accumulate([cell, cell], DetectorState())
    assert twice.ratio(1.0) == pytest.approx(sum((200 * g + 50) * g for g in growth) / len(BETS))


def test_overwhelming_evidence_stays_a_finite_number():
    after = accumulate(cells_of(np.full(40_000, 100.0), NORMAL, 200), DetectorState())
    assert math.isfinite(after.ratio())
    assert after.ratio() > 1e200


def test_the_peak_ratio_keeps_an_alarm_that_is_over():
    rng = np.random.default_rng(7)
    errors = np.concatenate([rng.normal(size=1000) * 2, rng.normal(size=20_000) * 0.3])
    after = accumulate(cells_of(errors, NORMAL, 200), DetectorState())
    assert after.ratio() < 1 <= after.peak_ratio()


def errors_like(errors: np.ndarray) -> Errors:
    return compute_errors(HoldoutRows(errors, np.zeros(len(errors)), -np.ones(len(errors)), np.ones(len(errors))), NORMAL.clip)


@pytest.mark.parametrize("size", [0.5, 1.0, 2.0])
def test_bets_on_a_segment_are_e_values_for_its_own_mean_and_detect_its_own_change(size):
    rng = np.random.default_rng(8)
    segment = errors_like(rng.normal(size=50_000) * size)
    start = DetectorState(reference=series_reference(NORMAL, segment))
    log_bets = LOG_QUANTUM * rounded_log_bets(sizes(rng.normal(size=200_000) * size), NORMAL)
    growth = np.exp(log_bets - start.reference.log_normalizers).mean(axis=0)
    assert (growth <= 1.0).all()
    assert accumulate(cells_of(rng.normal(size=20_000) * size, NORMAL, 200), start).peak_ratio() < 1
    assert accumulate(cells_of(rng.normal(size=1_000) * size * 1.5, NORMAL, 200), start).ratio() > 1


def test_a_normalized_bet_on_all_rows_equals_a_bet_of_another_size_on_the_segment():
    segment = errors_like(np.random.default_rng(9).normal(size=50_000) * 2)
    ratio = upper_mean(NORMAL, segment) / upper_mean(NORMAL)
    error = np.array([0.3, 1.0, 2.5])
    segment_bets = np.array(BETS) * ratio / (1 + np.array(BETS) * (ratio - 1))
    exact = np.log(1 + segment_bets * (error[:, None] / NORMAL.clip / upper_mean(NORMAL, segment) - 1))
    log_bets = LOG_QUANTUM * rounded_log_bets(sizes(error), NORMAL)
    assert log_bets - log_normalizers(NORMAL, segment) == pytest.approx(exact, abs=LOG_QUANTUM)


def test_the_limit_of_a_single_discovery_is_proportional_to_the_number_of_series():
    assert discoveries({"a": 1.0}, 1) == {"a"}
    assert discoveries({"a": 19.9}, 20) == set()
    assert discoveries({"a": 20.0}, 20) == {"a"}


@settings(max_examples=100)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=12), st.integers(0, 8))
def test_discoveries_follow_the_definition_of_the_procedure(values, more):
    n = len(values) + more
    ranked = sorted(values, reverse=True)
    passed = [k for k in range(1, len(values) + 1) if ranked[k - 1] >= n / k * (1 - 1e-12)]
    expected = {name for name, value in enumerate(values) if passed and value >= ranked[max(passed) - 1]}
    assert discoveries(dict(enumerate(values)), n) <= expected
    assert len(discoveries(dict(enumerate(values)), n)) == (max(passed) if passed else 0)
