"""Rows that are chosen by a density ratio have the density of real rows, satisfy filters, and are reproducible."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier

from engine.twins.density_ratio import POOL, DensityRatio, bounded_weights, draw_rows, fit_density_ratio
from engine.twins.joint_fit import fit_joint
from engine.twins.joint_model import JointModel
from schemas.arrays import Floats


@pytest.fixture(scope="module")
def uniform() -> JointModel:
    """A distribution whose rows are uniform between 0 and 1, in two regions."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"region": rng.choice(["north", "south"], 4000), "x": rng.random(4000)})
    return fit_joint(frame, categorical=["region"], first=["region"], rng=rng)


@pytest.fixture(scope="module")
def rising(uniform: JointModel) -> DensityRatio:
    """Learned from real rows of the density 3/4 + x/2, whose mean is 3/8 + 1/6."""
    rng, n = np.random.default_rng(1), 40_000
    real = np.sqrt(2.25 + 4 * rng.random(n)) - 1.5  # the inverse of its distribution function, 3x/4 + x^2/4
    features = np.column_stack([rng.integers(2, size=2 * n), np.concatenate([real, rng.random(n)])])
    classifier = HistGradientBoostingClassifier(max_iter=30, categorical_features=[True, False], random_state=0)
    levels = {"region": ("north", "south")}
    return DensityRatio(classifier.fit(features, np.repeat([1, 0], n)), ("region", "x"), levels, ())


def test_chosen_rows_have_the_density_of_real_rows(uniform: JointModel, rising: DensityRatio) -> None:
    drawn = draw_rows(uniform, None, 20_000, np.random.default_rng(2), {}).frame
    chosen = draw_rows(uniform, rising, 20_000, np.random.default_rng(2), {}).frame
    assert drawn["x"].mean() == pytest.approx(1 / 2, abs=0.008)
    assert chosen["x"].mean() == pytest.approx(3 / 8 + 1 / 6, abs=0.008)
    assert (chosen["x"] < 0.5).mean() == pytest.approx(3 / 8 + 1 / 16, abs=0.015)


def test_no_drawn_row_is_chosen_twice(uniform: JointModel, rising: DensityRatio) -> None:
    assert draw_rows(uniform, rising, 5000, np.random.default_rng(3), {}).frame["x"].is_unique


def test_under_a_filter_rows_are_chosen_in_the_same_way(uniform: JointModel, rising: DensityRatio) -> None:
    allowed = {"region": lambda values: values == "north"}
    chosen = draw_rows(uniform, rising, 20_000, np.random.default_rng(4), allowed)
    assert (chosen.frame["region"] == "north").all()
    assert chosen.real_rows == (uniform.training("region") == "north").sum()
    assert chosen.frame["x"].mean() == pytest.approx(3 / 8 + 1 / 6, abs=0.012)


def test_donors_stay_with_their_rows(uniform: JointModel, rising: DensityRatio) -> None:
    chosen = draw_rows(uniform, rising, 1000, np.random.default_rng(5), {})
    gap = np.abs(chosen.frame["x"] - uniform.training("x").to_numpy()[chosen.donors])
    assert gap.max() < 0.01  # a value lies between the neighbours of its donor's


def test_one_row_can_be_drawn(uniform: JointModel, rising: DensityRatio) -> None:
    assert len(draw_rows(uniform, rising, 1, np.random.default_rng(6), {}).frame) == 1


def test_equal_states_give_equal_rows_and_so_does_a_restored_ratio(uniform: JointModel, rising: DensityRatio) -> None:
    restored = DensityRatio.from_meta(rising.classifier, json.loads(json.dumps(rising.meta)))
    first, second, third = (
        draw_rows(uniform, ratio, 3000, np.random.default_rng(7), {}).frame for ratio in (rising, rising, restored)
    )
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    pd.testing.assert_frame_equal(first, third, check_exact=True)


def payers(n: int) -> pd.DataFrame:
    """Claims and costs of three payers, with gaps, a level in one row, and a flag."""
    rng = np.random.default_rng(8)
    claims = rng.lognormal(5, 1, n).round(2)
    return pd.DataFrame(
        {
            "payer": np.where(np.arange(n) == 0, "rare", rng.choice(["a", "b", "c"], n)),
            "claims": claims,
            "cost": np.where(rng.random(n) < 0.1, np.nan, (claims * rng.lognormal(4, 0.1, n)).round(2)),
            "days": (claims * rng.lognormal(3, 0.5, n)).round(2),
            "change": np.log(claims) - 5 + rng.normal(0, 0.5, n),
        }
    )


def uneven() -> JointModel:
    """A distribution of claims and costs of three payers whose last column's trees have lost what they had learned."""
    joint = fit_joint(payers(2000), categorical=["payer"], last="change", rng=np.random.default_rng(9))
    *conditionals, _ = joint.conditionals
    shuffled = replace(joint.conditionals[-1], donors=np.random.default_rng(1).permutation(2000), siblings=())
    return replace(joint, conditionals=(*conditionals, shuffled))


def test_the_classifier_sees_levels_numbers_and_the_ratios_of_amounts_the_least_noisy_first() -> None:
    ratio = fit_density_ratio(uneven(), seed=0)
    assert ratio is not None
    assert [set(pair) for pair in ratio.ratios] == [{"claims", "cost"}, {"claims", "days"}, {"cost", "days"}]
    rows = pd.DataFrame(
        {"payer": ["rare", "unknown", None], "claims": [2.0, 0.0, 1.0], "cost": [6.0, 1.0, np.nan], "days": [1.0, 1.0, 1.0]}
    ).assign(change=0.0)
    features = ratio.features(rows)
    assert features[:, 0].tolist()[:2] == [3.0, 4.0]
    assert np.isnan(features[2, 0])
    sign = 1.0 if ratio.ratios[0] == ("cost", "claims") else -1.0
    assert features[0, 5] == pytest.approx(sign * np.log(3.0))
    assert np.isnan(features[2, 5])
    assert np.isfinite(features[1]).all()  # an amount of zero


def test_a_ratio_is_learned_only_where_drawn_rows_are_told_from_real_ones_and_then_repeatably() -> None:
    table = payers(2000)
    assert fit_density_ratio(fit_joint(table, categorical=["payer"], last="change", rng=np.random.default_rng(9)), seed=3) is None
    joint = uneven()
    first, second = (fit_density_ratio(joint, seed=3) for _ in range(2))
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first.estimate(table), second.estimate(table))


def test_chosen_rows_keep_a_dependence_that_drawn_rows_have_lost() -> None:
    joint, table = uneven(), payers(2000)
    ratio = fit_density_ratio(joint, seed=0)
    drawn, chosen = (draw_rows(joint, each, 5000, np.random.default_rng(2), {}).frame for each in (None, ratio))
    real, without, with_ratio = (frame["change"].corr(np.log(frame["claims"])) for frame in (table, drawn, chosen))
    assert real > 0.8
    assert abs(without) < 0.05
    assert with_ratio > 0.15


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=40), st.floats(1.01, 4.0))
def test_bounded_weights_have_a_mean_of_1_and_keep_the_order(weights: list[float], largest: float) -> None:
    ratios: Floats = np.array(weights)
    bounded = bounded_weights(ratios, largest)
    assert bounded.mean() == pytest.approx(1.0)
    assert bounded.max() <= largest * (1 + 1e-9)
    free = bounded < largest * (1 - 1e-9)
    assert np.ptp(bounded[free] / ratios[free]) < 1e-6 * (bounded[free] / ratios[free]).max() if free.any() else True
    assert (np.diff(bounded[np.argsort(ratios)]) >= -1e-9).all()


def test_weights_within_the_bound_stay_in_proportion() -> None:
    assert bounded_weights(np.array([1.0, 2.0, 3.0]), 1.5).tolist() == [0.5, 1.0, 1.5]
    assert bounded_weights(np.array([8.0, 1.0, 2.0, 1.0]), POOL)[0] == pytest.approx(POOL)
