"""The spread of real outcomes within a filter, and whether the experiment that is planned with it has the power that it claims."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.random import Generator
from scipy.stats import t as student

from engine import SimulationEngine, TwinGenerator
from engine.experiments import plan_experiment
from engine.twins.outcome_spread import measure_spread
from tests.populations import intervention

RNG_SEED = 5


def doctors(n: int, rng: Generator) -> pd.DataFrame:
    """Oncologists, whose change follows from their engagement, and surgeons, of whom nothing is known but noise."""
    frame = pd.DataFrame({"specialty": rng.choice(["oncology", "surgery"], n, p=[0.8, 0.2])})
    frame["digital_engagement_score"] = rng.uniform(0, 1, n)
    predictable = (frame["digital_engagement_score"] - 0.5).where(frame["specialty"] == "oncology", 0.0)
    noise = np.where(frame["specialty"] == "oncology", 0.05, 0.2)
    return frame.assign(prescribing_change=predictable + rng.normal(0, noise))


@pytest.fixture(scope="module")
def generator() -> TwinGenerator:
    generator = TwinGenerator("hcp", "kisqali", model_type="HistGradientBoosting", n_jobs=1, seed=0)
    generator.train(doctors(4000, np.random.default_rng(RNG_SEED)), "prescribing_change")
    return generator


def adjusted_power(generator: TwinGenerator, specialty: str, n_treated: int, n_control: int, effect: float) -> float:
    """Share of 1,000 trials in which the analysis that adjusts for the twin's prediction finds the effect."""
    rng, n, trials = np.random.default_rng(1), n_treated + n_control, 1000
    everyone = doctors(10 * n * trials, rng)
    people = everyone[everyone["specialty"] == specialty].head(n * trials)
    predicted = generator.predict(people).reshape(trials, n)
    treated = np.arange(n) < n_treated
    outcome = people["prescribing_change"].to_numpy().reshape(trials, n) + effect * treated
    found = [significant(np.column_stack([np.ones(n), treated, x]), y) for x, y in zip(predicted, outcome, strict=True)]
    return float(np.mean(found))


def significant(design: np.ndarray, outcome: np.ndarray) -> bool:
    """Whether the second coefficient of an ordinary least-squares fit differs from 0 at 5 %."""
    inverse = np.linalg.pinv(design.T @ design)
    coefficients = inverse @ design.T @ outcome
    residuals = outcome - design @ coefficients
    freedom = len(outcome) - np.linalg.matrix_rank(design)
    error = np.sqrt(residuals @ residuals / freedom * inverse[1, 1])
    return bool(abs(coefficients[1]) > student.ppf(0.975, freedom) * error)


def test_an_experiment_within_a_specialty_has_the_power_that_its_plan_claims(generator):
    twins = generator.generate(4000, {"specialty": ["surgery"]})
    plan = plan_experiment(SimulationEngine(twins, min_effect_threshold=0.1).simulate(intervention()))
    assert twins.spread is not None
    assert twins.spread.correlation < 0.45  # 0.9 among all doctors
    treated, control = plan.arms
    assert adjusted_power(generator, "surgery", treated.n, control.n, 0.1) == pytest.approx(0.8, abs=0.08)


def test_filters_of_a_simulation_select_the_real_rows_too(generator):
    everyone, surgeons = generator.generate(4000), generator.generate(4000, {"specialty": ["surgery"]})
    further = SimulationEngine(everyone).simulate(intervention(), {"specialty": ["surgery"]}).required_sample_size
    assert further["real_rows"] == surgeons.spread.n == surgeons.real_rows
    assert further["outcome_sd"] == surgeons.spread.sd
    assert further["prediction_correlation"] == surgeons.spread.correlation


def test_below_200_real_rows_no_gain_from_the_prediction_is_counted_on(generator):
    twins = generator.generate(4000, {"specialty": ["surgery"], "min_digital_engagement_score": 0.8})
    plan = plan_experiment(SimulationEngine(twins).simulate(intervention()))
    assert twins.spread.n < 200
    assert plan.correlation == 0
    assert plan.warnings[0].endswith(f": {twins.spread.n} real rows satisfy the filters, and 200 are needed to measure it")


def test_one_slip_among_the_outcomes_does_not_change_the_spread():
    rng = np.random.default_rng(0)
    expected = rng.normal(size=2000)
    outcome = expected + rng.normal(size=2000)
    everyone = np.ones(2000, dtype=bool)
    clean = measure_spread(outcome, expected, everyone)
    outcome[7] = expected[7] = 1e6
    slipped = measure_spread(outcome, expected, everyone)
    assert clean.sd == pytest.approx(np.sqrt(2), rel=0.05)
    assert clean.correlation == pytest.approx(np.sqrt(0.5), abs=0.05)
    assert (clean.n_extreme, slipped.n_extreme) == (0, 1)
    assert slipped.sd == pytest.approx(clean.sd, rel=0.03)
    assert slipped.correlation <= clean.correlation + 0.01


def test_extreme_outcomes_that_recur_keep_their_variance():
    """A normal law and one outcome in 200 at 30: variance 0.995 + 0.005 x 0.995 x 900; an experiment meets them as often."""
    rng = np.random.default_rng(3)
    outcome = np.where(np.arange(20_000) % 200 == 0, 30.0, rng.normal(size=20_000))
    spread = measure_spread(outcome, rng.normal(size=20_000), np.ones(20_000, dtype=bool))
    assert spread.sd == pytest.approx(np.sqrt(0.995 + 0.005 * 0.995 * 900), rel=0.02)
    assert spread.n_extreme == 0


def test_outcomes_that_are_nearly_all_zero_keep_their_variance():
    outcome = np.zeros(10_000)
    outcome[:300] = 1.0
    spread = measure_spread(outcome, np.zeros(10_000), np.ones(10_000, dtype=bool))
    assert (spread.sd, spread.n_extreme, spread.correlation) == (pytest.approx(np.sqrt(0.03 * 0.97)), 0, None)


def test_few_rows_are_shrunk_toward_the_whole_table():
    outcome = np.concatenate([np.tile([-1.0, 1.0], 500), np.tile([-3.0, 3.0], 25)])
    part = np.arange(1050) >= 1000
    spread = measure_spread(outcome, outcome, part)
    assert spread.n == 50
    assert spread.sd**2 == pytest.approx(0.5 * 9.0 + 0.5 * outcome.var())
