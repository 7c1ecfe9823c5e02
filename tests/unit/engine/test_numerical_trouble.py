"""Training tables with numerical problems: each problem is handled in a defined way, and no figure is ever NaN.

Constant columns and single categories are used and cause a warning; missing values are a value of their own; infinities
in a default feature are refused, in another column they exclude the column; numbers beyond 1e30 are refused; outliers
have no influence because of ranks and quantiles; repeated rows cause a warning; a column without any value is left out;
1,000 rows are enough and 999 are not; a constant target is refused.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from engine.sample_tables import sample_table
from engine.twin_generator import TwinGenerator
from engine.twins import build_training_table
from schemas import Brand, TwinModelMetrics, TwinType

TARGET = "prescribing_change"


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return sample_table(TwinType.HCP, 1500, np.random.default_rng(3))


def train(frame: pd.DataFrame) -> tuple[TwinGenerator, TwinModelMetrics]:
    generator = TwinGenerator(TwinType.HCP, Brand.KISQALI, model_type="RandomForest", n_jobs=1)
    return generator, generator.train(frame)


def figures(generator: TwinGenerator, metrics: TwinModelMetrics) -> list[float]:
    """All numbers in the metrics of a model and in its twins."""
    values = [value for value in metrics.model_dump().values() if isinstance(value, float)]
    twins = generator.generate(200).frame
    return [*values, *twins[[TARGET, "baseline_behavior", "baseline_lower", "baseline_upper"]].to_numpy().ravel()]


def test_constant_columns_single_categories_and_gaps_are_reproduced_with_a_warning(frame: pd.DataFrame) -> None:
    odd = frame.assign(practice_type="group", years_experience=10, calls=3.5)
    odd.loc[::4, ["digital_engagement_score", "specialty"]] = np.nan
    generator, metrics = train(odd)
    assert (
        "columns with the same value in every row carry no information: years_experience, practice_type, calls" in metrics.warnings
    )
    twins = generator.generate(400).frame
    assert twins["practice_type"].unique().tolist() == ["group"]
    assert twins["years_experience"].unique().tolist() == [10]
    assert twins["calls"].unique().tolist() == [3.5]
    assert twins["digital_engagement_score"].isna().mean() == pytest.approx(0.25, abs=0.06)
    assert twins["specialty"].isna().mean() == pytest.approx(0.25, abs=0.06)
    assert all(metrics.feature_importance[name] == 0 for name in ("practice_type", "years_experience", "calls"))
    assert np.isfinite(figures(generator, metrics)).all()


def test_outliers_of_20_sigma_change_neither_the_intervals_nor_the_twins(frame: pd.DataFrame) -> None:
    with_outliers = frame.copy()
    rows = np.random.default_rng(0).choice(len(frame), 5, replace=False)
    with_outliers.loc[rows, TARGET] = frame[TARGET].mean() + 20 * frame[TARGET].std()
    with_outliers.loc[rows, "interaction_frequency"] = (
        frame["interaction_frequency"].mean() + 20 * frame["interaction_frequency"].std()
    )
    (plain, _), (robust, metrics) = train(frame), train(with_outliers)
    widths = [np.subtract(*generator.predict_interval(frame)[::-1]) for generator in (plain, robust)]
    assert np.median(widths[1]) == pytest.approx(np.median(widths[0]), rel=0.1)
    lower, upper = robust.predict_interval(frame)
    assert 0.93 <= ((lower <= frame[TARGET]) & (frame[TARGET] <= upper)).mean() <= 0.99
    spread = frame[TARGET].quantile(0.75) - frame[TARGET].quantile(0.25)
    medians = [generator.generate(1500).frame[TARGET].median() for generator in (plain, robust)]
    assert abs(medians[1] - medians[0]) < 0.15 * spread
    assert np.isfinite(figures(robust, metrics)).all()


def test_exactly_a_thousand_rows_are_enough(frame: pd.DataFrame) -> None:
    generator, metrics = train(frame.head(1000))
    assert metrics.training_samples == 1000
    assert np.isfinite(figures(generator, metrics)).all()


def test_a_row_without_a_finite_target_is_dropped_and_counted(frame: pd.DataFrame) -> None:
    odd = frame.assign(**{TARGET: frame[TARGET].where(frame.index >= 3, [np.inf, -np.inf, np.nan, *frame[TARGET][3:]])})
    table = build_training_table(odd, TwinType.HCP, TARGET)
    assert (len(table), table.n_dropped) == (1497, 3)


def test_a_column_without_any_value_is_left_out_with_a_warning(frame: pd.DataFrame) -> None:
    table = build_training_table(frame.assign(peer_influence_score=np.nan), TwinType.HCP, TARGET)
    assert "peer_influence_score" not in table.features
    assert "columns left out, no value in any row: peer_influence_score" in table.warnings


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e31])
def test_an_infinite_or_huge_number_excludes_a_user_column_and_is_refused_in_a_default_feature(
    frame: pd.DataFrame, value: float
) -> None:
    with_budget = frame.assign(budget=np.where(frame.index == 7, value, 1.0 * frame.index))
    table = build_training_table(with_budget, TwinType.HCP, TARGET)
    assert "budget" not in table.features
    assert "columns left out, infinite or larger than 1e+30 in some rows: budget" in table.warnings
    with pytest.raises(ValueError, match="'interaction_frequency' holds"):
        build_training_table(frame.assign(interaction_frequency=with_budget["budget"]), TwinType.HCP, TARGET)


def test_repeated_rows_cause_a_warning(frame: pd.DataFrame) -> None:
    twice = pd.concat([frame, frame.head(500)], ignore_index=True)
    assert any("25% of the rows repeat others" in warning for warning in build_training_table(twice, TwinType.HCP, TARGET).warnings)
    assert not any("repeat" in warning for warning in build_training_table(frame, TwinType.HCP, TARGET).warnings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.assign(**{TARGET: 0.1}), f"'{TARGET}' is 0.1 in every row: there is nothing to learn"),
        (
            lambda frame: frame.assign(**{TARGET: frame[TARGET] * 1e32}),
            rf"'{TARGET}' holds .*: the largest absolute value allowed is 1e\+30",
        ),
        (lambda frame: frame.head(999), "999 rows with a value of 'prescribing_change' are too few"),
    ],
)
def test_a_constant_or_huge_target_and_too_few_rows_are_refused(
    frame: pd.DataFrame, change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build_training_table(change(frame), TwinType.HCP, TARGET)


def test_large_numbers_within_the_limit_are_used(frame: pd.DataFrame) -> None:
    generator, metrics = train(frame.assign(budget=frame["interaction_frequency"] * 1e28))
    assert np.isfinite(figures(generator, metrics)).all()
    assert generator.generate(100).frame["budget"].max() <= frame["interaction_frequency"].max() * 1e28
