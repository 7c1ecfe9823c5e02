"""Targets in another unit than declared are refused with the conversion that fits, in every twin type."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from engine.sample_tables import sample_table
from engine.twins.target_scale import few_implausible, scale_problem
from engine.twins.training_table import build_training_table
from schemas.twin_types import TWIN_TYPES, TwinType


def outcomes(twin_type: TwinType) -> np.ndarray:
    frame = sample_table(twin_type, 2000, np.random.default_rng(0))
    return frame[TWIN_TYPES[twin_type].target().name].to_numpy(dtype=float)


@pytest.mark.parametrize("twin_type", TwinType)
def test_the_declared_scale_is_plausible(twin_type: TwinType) -> None:
    target = TWIN_TYPES[twin_type].target()
    assert scale_problem(outcomes(twin_type), target) is None
    assert list(few_implausible(outcomes(twin_type), target)) == []


@pytest.mark.parametrize(
    ("twin_type", "factor", "expected"),
    [
        (TwinType.HCP, 100, "looks like percent: .* divide it by 100"),
        (TwinType.TERRITORY, 100, "looks like percentage points: .* divide it by 100"),
        (TwinType.PATIENT, 24, "looks like hours: .* divide it by 24"),
        (TwinType.PATIENT, 86_400, "looks like seconds: .* divide it by 86400"),
    ],
)
def test_another_unit_is_refused_with_its_conversion(twin_type: TwinType, factor: float, expected: str) -> None:
    frame = sample_table(twin_type, 2000, np.random.default_rng(0))
    target = TWIN_TYPES[twin_type].target().name
    with pytest.raises(ValueError, match=expected):
        build_training_table(frame.assign(**{target: frame[target] * factor}), twin_type, target)


def test_ratios_levels_and_differences_are_refused_as_changes() -> None:
    target, rng = TWIN_TYPES[TwinType.HCP].target(), np.random.default_rng(1)
    claims = rng.lognormal(5, 1, 1000).round() + 10
    assert "looks like a ratio to the year before" in str(scale_problem(1 + outcomes(TwinType.HCP), target))
    assert "looks like a level, not a change: no value is negative" in str(scale_problem(claims, target))
    differences = (rng.normal(0, 0.3, 1000) * claims).round() * 10
    assert "a difference of whole numbers is divided by the value before" in str(scale_problem(differences, target))


def test_a_flag_is_called_a_flag_and_no_ratio() -> None:
    target = TWIN_TYPES[TwinType.HCP].target()
    for share in (0.2, 0.8):
        problem = str(scale_problem((np.random.default_rng(2).random(1000) < share).astype(float), target))
        assert problem.startswith("'prescribing_change' looks like a flag, not a change: it is 0 or 1 in every row")


def test_a_percent_change_of_the_share_is_refused_with_its_own_conversion() -> None:
    target = TWIN_TYPES[TwinType.TERRITORY].target()
    problem = str(scale_problem(np.random.default_rng(2).normal(0, 8, 1000), target))
    assert "divide it by 100; a percent change of market_share is multiplied by market_share as well" in problem


@pytest.mark.parametrize("n", [1, 5, 50, 99])
def test_few_values_in_another_unit_are_refused_too_and_one_outlier_among_them_is_not(n: int) -> None:
    target = TWIN_TYPES[TwinType.HCP].target()
    assert "looks like percent" in str(scale_problem(np.full(n, 18.2), target))
    if n > 5:
        values = np.full(n, 0.182)
        values[3] = 18.2
        assert scale_problem(values, target) is None
        assert [text[:7] for text in few_implausible(values, target)] == ["1 value"]


def test_a_level_within_the_range_of_changes_is_found_beside_its_feature() -> None:
    target, rng = TWIN_TYPES[TwinType.TERRITORY].target(), np.random.default_rng(1)
    share = pd.Series(rng.uniform(0.02, 0.24, 1000))
    assert "looks like market_share itself, not its change" in str(scale_problem(share.to_numpy() + 0.001, target, share))
    assert scale_problem(rng.uniform(0.0, 0.05, 1000), target, share) is None


def test_few_implausible_values_are_told_and_not_refused() -> None:
    target, values = TWIN_TYPES[TwinType.HCP].target(), outcomes(TwinType.HCP).copy()
    values[:5] = 40.0
    assert scale_problem(values, target) is None
    (told,) = few_implausible(values, target)
    assert told.startswith("5 values of prescribing_change are beyond the plausible -1 to 3")


def test_a_negative_number_of_days_is_on_no_known_scale() -> None:
    target = TWIN_TYPES[TwinType.PATIENT].target()
    assert "is on no scale that is known: " in str(scale_problem(outcomes(TwinType.PATIENT) - 60.0, target))


def test_changes_with_long_tails_are_told_and_not_refused() -> None:
    target, values = TWIN_TYPES[TwinType.HCP].target(), np.random.default_rng(0).normal(0, 1, 2000)
    assert scale_problem(values, target) is None
    assert any("are beyond the plausible -1 to 3" in told for told in few_implausible(values, target))


def test_percent_is_found_where_most_have_not_changed() -> None:
    target, rng = TWIN_TYPES[TwinType.HCP].target(), np.random.default_rng(0)
    values = np.where(rng.random(2000) < 0.9, 0.0, rng.normal(0, 12, 2000))
    assert "looks like percent" in str(scale_problem(values, target))
