"""Drawn outcomes are adjusted by a share of expected differences, and stay in the range and on the grid of real outcomes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.twins.donor_adjustment import DonorAdjustment, fit_adjustment
from engine.twins.joint_fit import fit_joint
from engine.twins.joint_model import JointModel, SampledTable
from engine.twins.marginal import fit_marginal

NOISE = 0.3
ROWS = 4000


def mean_sales(calls: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Average sales: a wave too short for the leaves of one tree."""
    return np.sin(12 * calls)


def expected_sales(real: pd.DataFrame) -> npt.NDArray[np.float64]:
    return mean_sales(real["calls"].to_numpy())


@pytest.fixture(scope="module")
def real() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    calls = rng.uniform(0, 9, ROWS)
    return pd.DataFrame({"calls": calls, "sales": mean_sales(calls) + rng.normal(0, NOISE, ROWS)})


@pytest.fixture(scope="module")
def joint(real: pd.DataFrame) -> JointModel:
    return fit_joint(real, categorical=[], last="sales", rng=np.random.default_rng(1))


def test_adjusted_outcomes_follow_the_expected_ones_and_keep_the_noise_of_their_donors(
    real: pd.DataFrame, joint: JointModel
) -> None:
    adjustment = fit_adjustment(joint, expected_sales(real), np.random.default_rng(2))
    sampled = joint.sample(ROWS, rng=np.random.default_rng(3))
    expected = mean_sales(sampled.frame["calls"].to_numpy())
    plain, adjusted = sampled.frame["sales"], adjustment.adjust(joint, sampled, expected).frame["sales"]
    assert adjustment.share > 0.9
    assert np.std(plain - expected) > 1.5 * NOISE
    # a standard deviation of n values has a standard error of sd / sqrt(2 n); the share leaves a little of the difference
    assert np.std(adjusted - expected) == pytest.approx(NOISE, rel=0.1)
    assert np.corrcoef(adjusted, expected)[0, 1] > np.corrcoef(plain, expected)[0, 1]


def test_an_uninformative_expectation_has_a_share_near_zero(joint: JointModel) -> None:
    rng = np.random.default_rng(4)
    # the slope on pure noise has a standard error of the outcome's deviation, 0.77, over sqrt(ROWS)
    assert fit_adjustment(joint, rng.normal(size=ROWS), rng).share < 0.05
    assert fit_adjustment(joint, np.full(ROWS, 0.2), rng).share == 0.0


def test_the_share_is_small_where_the_tree_explains_the_expected_outcome() -> None:
    rng = np.random.default_rng(5)
    step = rng.integers(0, 3, ROWS).astype(float)
    frame = pd.DataFrame({"step": step, "sales": step + rng.normal(0, 0.1, ROWS)})
    joint = fit_joint(frame, categorical=[], last="sales", rng=rng)
    # a prediction of the rows' own noise is the only way to be nearer than the leaf's mean
    assert fit_adjustment(joint, step + rng.normal(0, 0.1, ROWS), rng).share < 0.1


def test_every_adjusted_outcome_comes_from_the_reported_donor(real: pd.DataFrame, joint: JointModel) -> None:
    sampled = joint.sample(500, rng=np.random.default_rng(6), allowed={"calls": lambda values: values < 1})
    assert (sampled.frame["calls"] < 1).all()
    own = real["sales"].to_numpy()[sampled.donors]
    # values lie between the midpoints to a donor's neighbours, and half of 4,000 standard normals lie closer than 0.001
    assert np.median(np.abs(sampled.frame["sales"] - own)) < 0.002
    moved = DonorAdjustment(expected_sales(real), 1.0).adjust(joint, sampled, np.zeros(500)).frame["sales"]
    low, high = real["sales"].min(), real["sales"].max()
    np.testing.assert_allclose(moved, np.clip(sampled.frame["sales"] - expected_sales(real)[sampled.donors], low, high))


@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.sampled_from(["continuous", "whole", "tenths", "mass", "flag"]))
def test_outcomes_stay_in_range_and_on_their_grid_and_point_masses_do_not_change(seed: int, share: float, kind: str) -> None:
    rng = np.random.default_rng(seed)
    values = outcomes(kind, rng)
    column = fit_marginal(pd.Series(values, name="sales"), categorical=False)
    moved = column.shift(values, share * rng.normal(0, 50, len(values)))
    assert moved.min() >= values.min()
    assert moved.max() <= values.max()
    if kind in ("whole", "tenths", "flag"):
        assert np.isin(moved, values).all()
    if kind == "mass":
        assert (moved[values == 0] == 0).all()
    if kind == "flag":
        assert (moved == values).all()


def outcomes(kind: str, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    if kind == "flag":
        return rng.integers(0, 2, 600).astype(float)
    drawn = np.round(rng.normal(100, 3, 600), {"whole": 0, "tenths": 1}.get(kind, 12))
    return np.where(rng.random(600) < 0.3, 0.0, drawn) if kind == "mass" else drawn


def test_the_share_does_not_depend_on_the_number_of_threads(real: pd.DataFrame, joint: JointModel) -> None:
    alone, together = (fit_adjustment(joint, expected_sales(real), np.random.default_rng(9), n_jobs).share for n_jobs in (1, 2))
    assert alone == together


def test_whole_numbers_keep_their_dtype() -> None:
    rng = np.random.default_rng(7)
    calls = rng.uniform(0, 9, 2000)
    frame = pd.DataFrame({"calls": calls, "visits": rng.poisson(20 + 3 * calls)})
    joint = fit_joint(frame, categorical=[], last="visits", rng=rng)
    sampled = joint.sample(300, rng=rng)
    expected = 20 + 3 * sampled.frame["calls"].to_numpy()
    adjusted = DonorAdjustment(20 + 3 * calls, 1.0).adjust(joint, sampled, expected)
    assert adjusted.frame["visits"].dtype == frame["visits"].dtype
    assert not adjusted.frame["visits"].equals(sampled.frame["visits"])
    assert sampled.frame is not adjusted.frame


def test_a_level_that_one_half_of_the_rows_lacks_is_accepted() -> None:
    rng = np.random.default_rng(8)
    level = np.array(["a", "b"] * 400)
    level[17] = "seen once"
    frame = pd.DataFrame({"level": level, "sales": (level == "a") + rng.normal(size=800)})
    joint = fit_joint(frame, categorical=["level"], last="sales", rng=rng)
    adjustment = fit_adjustment(joint, (level == "a").astype(float), rng)
    assert 0.0 <= adjustment.share <= 1.0
    assert isinstance(adjustment.adjust(joint, joint.sample(50, rng=rng), np.zeros(50)), SampledTable)
