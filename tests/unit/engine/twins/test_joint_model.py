"""Rows drawn from a fitted joint distribution resemble the table, satisfy filters and constraints, and are reproducible."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ks_2samp, spearmanr

from engine.twins.empty_filter import EmptyFilter
from engine.twins.joint_fit import fit_joint
from engine.twins.joint_model import Constraints, JointModel

CATEGORIES = ["specialty", "region"]


def table(n: int = 3000, seed: int = 0) -> pd.DataFrame:
    """Skewed volumes by specialty, a decile, an integer below another, gaps that depend on the region, a flag, an outcome."""
    rng = np.random.default_rng(seed)
    specialty = rng.choice(["cardiology", "oncology", "primary care"], n, p=[0.2, 0.1, 0.7])
    region = rng.choice(["north", "south"], n, p=[0.4, 0.6])
    volume = np.round(np.exp(rng.normal(4 + (specialty == "oncology"), 0.8))).astype(int) + 1
    engagement = np.where(rng.random(n) < np.where(region == "north", 0.4, 0.05), np.nan, rng.beta(2, 3, n))
    return pd.DataFrame(
        {
            "volume": volume,
            "specialty": specialty,
            "target_volume": rng.binomial(volume, 0.3),
            "region": region,
            "decile": np.ceil(10 * pd.Series(volume).rank(method="first") / n).astype(int),
            "engagement": engagement,
            "digital": rng.random(n) < 0.3,
            "change": 0.1 * (specialty == "oncology") + 0.2 * np.nan_to_num(engagement) + rng.normal(0, 0.1, n),
        }
    )


def fit(frame: pd.DataFrame, **options: object) -> JointModel:
    defaults = {"categorical": CATEGORIES, "first": ["specialty", "region"], "last": "change", "rng": np.random.default_rng(1)}
    return fit_joint(frame, **(defaults | options))


@pytest.fixture(scope="module")
def real() -> pd.DataFrame:
    return table()


@pytest.fixture(scope="module")
def model(real: pd.DataFrame) -> JointModel:
    return fit(real, constraints=Constraints({"target_volume": "volume"}))


@pytest.fixture(scope="module")
def twins(model: JointModel) -> pd.DataFrame:
    return model.sample(3000, rng=np.random.default_rng(2)).frame


def test_columns_order_and_dtypes_are_those_of_the_training_frame(real: pd.DataFrame, twins: pd.DataFrame) -> None:
    pd.testing.assert_series_equal(twins.dtypes, real.dtypes)
    assert twins.index.equals(pd.RangeIndex(3000))


@pytest.mark.parametrize("column", ["volume", "target_volume", "decile", "engagement", "change"])
def test_marginals_of_numbers_agree_with_the_distribution_that_the_table_was_drawn_from(twins: pd.DataFrame, column: str) -> None:
    unseen = table(seed=9)
    assert ks_2samp(twins[column].dropna(), unseen[column].dropna()).pvalue > 0.001


def test_frequencies_of_levels_are_reproduced_within_sampling_error(twins: pd.DataFrame) -> None:
    share = twins["specialty"].value_counts(normalize=True)
    assert share["primary care"] == pytest.approx(0.7, abs=4 * np.sqrt(0.21 / 3000))
    assert share["oncology"] == pytest.approx(0.1, abs=4 * np.sqrt(0.09 / 3000))


def test_gaps_are_reproduced_with_their_dependence(twins: pd.DataFrame) -> None:
    share = twins["engagement"].isna().groupby(twins["region"]).mean()
    assert share["north"] == pytest.approx(0.4, abs=0.06)
    assert share["south"] == pytest.approx(0.05, abs=0.03)


def test_columns_are_learned_jointly(real: pd.DataFrame, twins: pd.DataFrame) -> None:
    numeric = ["volume", "target_volume", "decile", "engagement", "change"]
    correlation = spearmanr(real[numeric].fillna(-1)).statistic
    assert np.abs(spearmanr(twins[numeric].fillna(-1)).statistic - correlation).max() < 0.06
    means = twins.groupby("specialty")["change"].mean()
    assert means["oncology"] - means["cardiology"] == pytest.approx(0.1, abs=0.03)


def test_an_upper_bound_holds_in_every_row(real: pd.DataFrame, twins: pd.DataFrame) -> None:
    assert (twins["target_volume"] <= twins["volume"]).all()
    rate = twins["target_volume"].sum() / twins["volume"].sum()
    assert rate == pytest.approx(real["target_volume"].sum() / real["volume"].sum(), abs=0.02)


def test_values_never_leave_the_observed_range(real: pd.DataFrame, twins: pd.DataFrame) -> None:
    numbers = ["volume", "target_volume", "decile", "engagement", "change"]
    assert (twins[numbers].min() >= real[numbers].min()).all()
    assert (twins[numbers].max() <= real[numbers].max()).all()


def test_no_continuous_value_is_a_verbatim_copy_but_point_masses_are_kept() -> None:
    rng = np.random.default_rng(3)
    cost = np.where(rng.random(4000) < 0.25, 0.0, np.exp(rng.normal(8, 1, 4000)))
    frame = pd.DataFrame({"level": rng.choice(["a", "b"], 4000), "cost": cost})
    drawn = fit_joint(frame, categorical=["level"], rng=rng).sample(4000, rng=rng).frame["cost"]
    assert (drawn == 0).mean() == pytest.approx(0.25, abs=0.03)
    assert not drawn[drawn > 0].isin(frame["cost"]).any()


def test_a_constant_and_an_empty_column_are_reproduced() -> None:
    frame = pd.DataFrame({"one": 1.5, "none": np.nan, "level": ["a"] * 200, "x": np.arange(200.0)})
    drawn = fit_joint(frame, categorical=["level"], rng=np.random.default_rng(0)).sample(50, rng=np.random.default_rng(0)).frame
    assert (drawn["one"] == 1.5).all()
    assert drawn["none"].isna().all()
    assert (drawn["level"] == "a").all()


@pytest.mark.parametrize("dtype", ["Int64", "Float64", "boolean", "category", "string", "int16", "float32"])
def test_pandas_dtypes_are_preserved(dtype: str) -> None:
    is_text = dtype in ("category", "string")
    values = pd.Series((["a", "b", "c", None] if is_text else [1, 0, 1, 0]) * 100)
    values = values.astype(dtype)
    if dtype in ("Int64", "Float64", "boolean"):
        values[::7] = pd.NA
    frame = pd.DataFrame({"x": np.arange(400.0), "y": values})
    drawn = fit_joint(frame, categorical=["y"] if is_text else [], rng=np.random.default_rng(0)).sample(
        400, rng=np.random.default_rng(0)
    )
    assert str(drawn.frame["y"].dtype) == dtype
    assert drawn.frame["y"].isna().mean() == pytest.approx(values.isna().mean(), abs=0.03)


def test_a_ratio_is_computed_and_can_be_filtered_on() -> None:
    rng = np.random.default_rng(4)
    total = rng.poisson(60, 2000)
    total[:20] = 0
    covered = rng.binomial(total, rng.beta(4, 2, 2000))
    rate = np.divide(covered, total, out=np.zeros(2000), where=total > 0)
    frame = pd.DataFrame({"coverage_rate": rate, "covered_hcps": covered, "total_hcps": total})
    rules = Constraints({"covered_hcps": "total_hcps"}, {"coverage_rate": ("covered_hcps", "total_hcps")})
    model = fit_joint(frame, categorical=[], constraints=rules, rng=rng)
    drawn = model.sample(2000, rng=rng).frame
    expected = np.divide(drawn["covered_hcps"], drawn["total_hcps"], out=np.zeros(2000), where=drawn["total_hcps"] > 0)
    np.testing.assert_array_equal(drawn["coverage_rate"], expected)
    assert (drawn["coverage_rate"] <= 1).all()
    well = model.sample(500, rng=rng, allowed={"coverage_rate": lambda values: values >= 0.9})
    assert (well.frame["coverage_rate"] >= 0.9).all()
    assert len(well.frame) == 500
    assert well.real_rows == (rate >= 0.9).sum()


def test_as_many_rows_as_asked_for_are_drawn_where_hardly_any_row_satisfies_the_filter() -> None:
    rng = np.random.default_rng(6)
    frame = pd.DataFrame({"part": rng.integers(1, 50, 1000), "whole": rng.integers(50, 1000, 1000)})
    frame["share"] = frame["part"] / frame["whole"]
    model = fit_joint(frame, categorical=[], constraints=Constraints({}, {"share": ("part", "whole")}), rng=rng)
    rarest = float(frame["share"].nlargest(2).iloc[1])
    drawn = model.sample(3000, rng=rng, allowed={"share": lambda values: values >= rarest})
    assert (len(drawn.frame), len(drawn.donors), drawn.real_rows) == (3000, 3000, 2)
    assert (drawn.frame["share"] >= rarest).all()


def test_a_filter_holds_in_every_row_and_its_real_rows_are_counted(model: JointModel, real: pd.DataFrame) -> None:
    allowed = {
        "specialty": lambda values: values.isin(["oncology"]),
        "decile": lambda values: values >= 8,
        "engagement": lambda values: (values <= 0.5).fillna(value=False),
    }
    drawn = model.sample(1500, rng=np.random.default_rng(5), allowed=allowed)
    assert len(drawn.frame) == 1500
    for column, predicate in allowed.items():
        assert predicate(drawn.frame[column]).all()
    behind = (real["specialty"] == "oncology") & (real["decile"] >= 8) & (real["engagement"] <= 0.5)
    assert drawn.real_rows == behind.sum()


def test_filtered_rows_have_the_conditional_distribution(model: JointModel) -> None:
    drawn = model.sample(2000, rng=np.random.default_rng(6), allowed={"decile": lambda values: values >= 9}).frame
    unseen = table(n=20_000, seed=9).query("decile >= 9")
    assert (drawn["specialty"] == "oncology").mean() == pytest.approx((unseen["specialty"] == "oncology").mean(), abs=0.06)
    assert drawn["volume"].median() == pytest.approx(unseen["volume"].median(), rel=0.1)


def test_a_filter_that_few_real_rows_satisfy_can_be_sampled() -> None:
    frame = table(2000)
    frame.loc[[3, 77], "specialty"] = "genetics"
    frame.loc[[3, 77], "region"] = ["north", "south"]
    allowed = {"specialty": lambda values: values == "genetics", "region": lambda values: values == "south"}
    drawn = fit(frame).sample(300, rng=np.random.default_rng(0), allowed=allowed)
    assert drawn.real_rows == 1
    assert (drawn.frame["specialty"] == "genetics").all()
    assert (drawn.frame["region"] == "south").all()


def test_a_filter_without_real_rows_is_refused_with_the_condition_to_drop() -> None:
    frame = table(2000)
    frame = frame[~((frame["specialty"] == "oncology") & (frame["region"] == "north"))].reset_index(drop=True)
    allowed = {
        "specialty": lambda values: values.isin(["oncology"]),
        "region": lambda values: values.isin(["north"]),
        "decile": lambda values: values >= 2,
    }
    with pytest.raises(EmptyFilter, match="without specialty") as refusal:
        fit(frame).sample(10, rng=np.random.default_rng(0), allowed=allowed)
    rich = frame[frame["decile"] >= 2]
    assert refusal.value.columns == ("specialty", "region", "decile")
    assert refusal.value.rows_without == {
        "specialty": (rich["region"] == "north").sum(),
        "region": (rich["specialty"] == "oncology").sum(),
        "decile": 0,
    }
    assert refusal.value.available["region"] == ("south",)
    assert set(refusal.value.available["specialty"]) == {"primary care", "cardiology"}


def test_a_value_that_no_row_has_is_refused_with_the_available_ones(model: JointModel) -> None:
    with pytest.raises(EmptyFilter, match="one of primary care, cardiology, oncology") as refusal:
        model.sample(10, rng=np.random.default_rng(0), allowed={"specialty": lambda values: values == "wizardry"})
    assert refusal.value.rows_alone == {"specialty": 0}
    with pytest.raises(EmptyFilter, match="from 1 to 10"):
        model.sample(10, rng=np.random.default_rng(0), allowed={"decile": lambda values: values > 10})


def test_an_unknown_column_in_a_filter_is_refused_with_the_available_ones(model: JointModel) -> None:
    with pytest.raises(ValueError, match=r"\['tier'\].*'specialty'"):
        model.sample(10, rng=np.random.default_rng(0), allowed={"tier": lambda values: values == 1})


@pytest.mark.parametrize("n", [0, -3])
def test_a_number_of_rows_below_one_is_refused(model: JointModel, n: int) -> None:
    with pytest.raises(ValueError, match=str(n)):
        model.sample(n, rng=np.random.default_rng(0))


def test_text_that_is_not_declared_and_infinite_values_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'region'.*declare it categorical"):
        fit_joint(table(50), categorical=["specialty"], rng=np.random.default_rng(0))
    frame = table(50).assign(engagement=np.inf)
    with pytest.raises(ValueError, match="'engagement' holds 50 infinite"):
        fit(frame)
    with pytest.raises(ValueError, match="empty"):
        fit(frame.iloc[:0])


def test_the_callers_frame_is_not_changed(real: pd.DataFrame) -> None:
    before = real.copy(deep=True)
    fit(real)
    pd.testing.assert_frame_equal(real, before)


def test_the_same_generator_state_draws_the_same_rows_bit_for_bit(model: JointModel, real: pd.DataFrame) -> None:
    again = fit(real, constraints=Constraints({"target_volume": "volume"}))
    first = model.sample(1000, rng=np.random.default_rng(7)).frame
    pd.testing.assert_frame_equal(first, again.sample(1000, rng=np.random.default_rng(7)).frame, check_exact=True)
    assert not first.equals(model.sample(1000, rng=np.random.default_rng(8)).frame)


def test_the_model_does_not_depend_on_the_number_of_threads(real: pd.DataFrame) -> None:
    alone, together = (fit(real, n_jobs=n_jobs) for n_jobs in (1, 3))
    assert alone.meta == together.meta
    for name, array in alone.arrays().items():
        np.testing.assert_array_equal(array, together.arrays()[name], err_msg=name)


def test_a_stored_model_draws_the_same_rows_bit_for_bit(model: JointModel) -> None:
    file = io.BytesIO()
    np.savez_compressed(file, **model.arrays())
    file.seek(0)
    with np.load(file, allow_pickle=False) as stored:
        loaded = JointModel.from_arrays(dict(stored), json.loads(json.dumps(model.meta)))
    for allowed in ({}, {"decile": lambda values: values >= 5}):
        original = model.sample(1000, rng=np.random.default_rng(7), allowed=allowed).frame
        restored = loaded.sample(1000, rng=np.random.default_rng(7), allowed=allowed).frame
        pd.testing.assert_frame_equal(original, restored, check_exact=True)


def test_each_donor_has_its_share_of_the_draws() -> None:
    """As many draws as rows from original column: systematic sampling takes each row exactly once."""
    frame = pd.DataFrame({"x": pd.Series(np.repeat(np.arange(20), 50))})
    drawn = fit_joint(frame, categorical=[], rng=np.random.default_rng(0)).sample(1000, rng=np.random.default_rng(0)).frame
    assert drawn["x"].value_counts().eq(50).all()


def correlated_columns(n: int = 4000) -> pd.DataFrame:
    """Two uncorrelated columns, three correlated ones, and an outcome."""
    rng = np.random.default_rng(5)
    drive = rng.normal(size=n)
    group = {name: drive + rng.normal(0, noise, n) for name, noise in (("far", 0.9), ("near", 0.3), ("middle", 0.6))}
    return pd.DataFrame(
        {**group, "key": rng.integers(0, 1500, n), "hash": rng.integers(0, 1500, n), "change": drive + rng.normal(size=n)}
    )


def test_weakly_correlated_columns_are_drawn_first_and_then_by_falling_correlation() -> None:
    order = [column.name for column in fit(correlated_columns(), categorical=[], first=[]).columns]

    assert set(order[:2]) == {"key", "hash"}
    assert order[2:] == ["near", "middle", "far", "change"]


@pytest.mark.parametrize("columns", [3, 20])
def test_an_outcome_has_small_leaves_where_the_table_has_many_columns(columns: int) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(10_000, columns)), columns=[f"x{k}" for k in range(columns)])

    def smallest_leaf(last: str | None) -> int:
        donors = np.diff(fit_joint(frame, categorical=[], last=last, rng=np.random.default_rng(1)).conditionals[-1].starts)
        return int(donors[donors > 0].min())

    assert smallest_leaf(None) >= 9
    assert smallest_leaf(f"x{columns - 1}") in ((5,) if columns == 20 else range(90, 110))


def test_conditional_means_of_a_skewed_outcome_are_reproduced() -> None:
    """The mean of a log-normal variable is exp(mu + sigma^2 / 2), and a tenth of the rows hold most of its variance."""
    rng = np.random.default_rng(0)
    rate = rng.uniform(size=8000)
    frame = pd.DataFrame({"rate": rate, "noise": rng.normal(size=8000), "sales": np.exp(rate + rng.normal(0, 0.8, 8000))})
    drawn = fit_joint(frame, categorical=[], last="sales", rng=rng).sample(40_000, rng=rng).frame
    fifth = np.minimum((drawn["rate"] * 5).astype(int), 4)
    means = [5 * (np.exp((k + 1) / 5) - np.exp(k / 5)) * np.exp(0.32) for k in range(5)]
    assert drawn.groupby(fifth)["sales"].mean().to_numpy() == pytest.approx(means, rel=0.1)
