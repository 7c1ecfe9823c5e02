from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from engine.twin_generator import TwinGenerator
from engine.twins.new_levels import left_out_level_names
from engine.twins.training_table import TrainingTable
from schemas.twin_types import Brand, TwinType

N_STATES, EFFECT_SD, NOISE_SD = 60, 0.05, 0.05


def states(n: int, names: list[str], effects: np.ndarray, seed: int) -> pd.DataFrame:
    """Outcomes with a mean of their own in each state, and normal noise of the same size."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, len(names), n)
    decile = rng.integers(1, 11, n)
    change = effects[codes] + rng.normal(0, NOISE_SD, n)
    return pd.DataFrame({"home_state": np.array(names)[codes], "decile": decile, "prescribing_change": change})


@pytest.fixture(scope="module")
def generator() -> TwinGenerator:
    effects = np.random.default_rng(1).normal(0, EFFECT_SD, N_STATES)
    generator = TwinGenerator(TwinType.HCP, Brand.KISQALI, model_type="RandomForest", n_jobs=1)
    generator.train(states(6000, [f"s{index}" for index in range(N_STATES)], effects, 2))
    return generator


def coverage(generator: TwinGenerator, frame: pd.DataFrame) -> float:
    lower, upper = generator.predict_interval(frame)
    return float(((lower <= frame["prescribing_change"]) & (frame["prescribing_change"] <= upper)).mean())


def test_rows_of_new_states_are_covered_by_intervals_that_are_wider_by_the_spread_between_states(generator: TwinGenerator) -> None:
    """A new state adds the variance between states: with as much variance within, the interval is sqrt(2) times as wide."""
    effects = np.random.default_rng(3).normal(0, EFFECT_SD, 200)
    new = states(20_000, [f"t{index}" for index in range(200)], effects, 4)
    assert coverage(generator, new) == pytest.approx(0.95, abs=0.025)
    lower, upper = generator.predict_interval(new)
    assert (upper - lower).mean() == pytest.approx(2 * 1.96 * np.hypot(EFFECT_SD, NOISE_SD), rel=0.2)


def test_intervals_of_learned_states_stay_as_they_are(generator: TwinGenerator) -> None:
    effects = np.random.default_rng(1).normal(0, EFFECT_SD, N_STATES)
    seen = states(20_000, [f"s{index}" for index in range(N_STATES)], effects, 5)
    assert coverage(generator, seen) == pytest.approx(0.95, abs=0.015)
    lower, upper = generator.predict_interval(seen)
    assert (upper - lower).mean() < 2 * 1.96 * np.hypot(EFFECT_SD, NOISE_SD)


def test_training_tells_what_new_levels_cost(generator: TwinGenerator) -> None:
    metrics = generator.model.card.metrics
    measured = metrics.new_levels["home_state"]
    assert (measured.levels, measured.rows) == (N_STATES, 6000)
    assert measured.coverage < 0.95
    assert measured.worst_coverage is None or measured.worst_coverage <= measured.coverage
    sentence = f"where the home_state is new they are made {measured.widening:.2f} times as wide"
    assert any(sentence in warning for warning in metrics.warnings)
    new = states(10, ["elsewhere"], np.zeros(1), 6)
    assert any(f"its interval is {measured.widening:.2f} times as wide" in text for text in generator.model.gap_sentences(new))


def test_features_of_two_levels_are_not_left_out_and_declared_segments_come_first() -> None:
    frame = pd.DataFrame({"state": list("abcd") * 100, "sex": list("mf") * 200, "region": list("nsnw") * 100, "few": ["x"] * 400})
    table = TrainingTable(frame, np.zeros(400), dict.fromkeys(frame, "category"), 0, ())
    assert left_out_level_names(table, ["region"]) == ["region", "state"]
