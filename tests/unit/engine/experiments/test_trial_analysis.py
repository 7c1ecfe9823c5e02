"""The rows of a finished experiment: effects with honest errors, whatever the arms, clusters and covariates."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, t, ttest_ind

from engine.experiments import FEWEST_OF_SUBGROUP, analyse_trial, relative_effect
from schemas import TWIN_TYPES, TwinType

CHANGE = TWIN_TYPES[TwinType.HCP].target()
DAYS = TWIN_TYPES[TwinType.PATIENT].target()
MARKET_SHARE = TWIN_TYPES[TwinType.TERRITORY].target()


def widening(freedom: int) -> float:
    return float(t.ppf(0.975, freedom) / norm.ppf(0.975))


def people(seed: int, n: int = 400, effect: float = 0.05, noise: float = 0.1):
    rng = np.random.default_rng(seed)
    prediction, treated = rng.normal(0.0, 0.2, n), rng.permutation(n) < n // 2
    return prediction + effect * treated + rng.normal(0.0, noise, n), treated, prediction


def test_without_covariates_it_is_the_difference_of_means_with_welchs_error() -> None:
    outcome, treated, _ = people(0)
    analysis = analyse_trial(outcome, treated, CHANGE)
    welch = ttest_ind(outcome[treated], outcome[~treated], equal_var=False)
    difference = outcome[treated].mean() - outcome[~treated].mean()
    assert analysis.overall == analysis.unadjusted
    assert analysis.overall.effect == pytest.approx(difference)
    assert analysis.overall.standard_error == pytest.approx(difference / welch.statistic * widening(199))
    assert (analysis.overall.people, analysis.overall.units, analysis.saved) == ((200, 200), (200, 200), 0.0)


def test_adjusting_for_the_prediction_is_the_regression_with_interactions_and_saves_its_squared_correlation() -> None:
    outcome, treated, prediction = people(1, n=4000)
    analysis = analyse_trial(outcome, treated, CHANGE, covariates={"prediction": prediction})
    centred = prediction - prediction.mean()
    design = np.column_stack([np.ones(4000), treated, centred, treated * centred])
    assert analysis.overall.effect == pytest.approx(np.linalg.lstsq(design, outcome, rcond=None)[0][1])
    assert analysis.saved == pytest.approx(0.2**2 / (0.2**2 + 0.1**2), abs=0.03)
    assert analysis.covariates == ("prediction",)


@pytest.mark.parametrize(("target", "sign"), [(CHANGE, 1.0), (DAYS, -1.0), (MARKET_SHARE, 1.0)])
def test_an_effect_is_a_fraction_of_what_its_target_says_and_positive_when_desired(target, sign) -> None:
    rng = np.random.default_rng(2)
    treated = np.arange(2000) < 1000
    outcome = rng.gamma(4.0, 10.0, 2000) * np.where(treated, 0.8, 1.0)
    analysis = analyse_trial(outcome, treated, target, level=np.full(2000, 80.0))
    means = outcome[treated].mean(), outcome[~treated].mean()
    base = {CHANGE.name: 1.0, DAYS.name: means[1], MARKET_SHARE.name: 80.0}[target.name]
    assert analysis.overall.effect == pytest.approx(sign * (means[0] - means[1]) / base)
    if target is DAYS:
        delta = relative_effect(outcome, treated)
        assert analysis.overall.standard_error == pytest.approx(delta.standard_error * widening(999))


@pytest.mark.parametrize("clustered", [False, True])
def test_its_interval_covers_the_effect_in_95_of_100_experiments(clustered: bool) -> None:
    rng = np.random.default_rng(3)
    inside = 0
    for _ in range(400):
        clusters = np.repeat(np.arange(24), 20)
        treated = (rng.permutation(24) < 12)[clusters] if clustered else rng.random(480) < 0.4
        prediction = rng.normal(0.0, 0.2, 480) + 0.05 * rng.normal(size=24)[clusters]
        outcome = prediction + (0.05 + 0.2 * prediction) * treated + rng.normal(0.0, np.where(treated, 0.2, 0.1))
        outcome += 0.1 * rng.normal(size=24)[clusters] if clustered else 0.0
        effect, error, *_ = analyse_trial(
            outcome, treated, CHANGE, clusters=clusters if clustered else None, covariates={"prediction": prediction}
        ).overall
        inside += abs(effect - 0.05) < 1.96 * error
    assert 0.925 <= inside / 400 <= 0.98  # 95 % within two and a half standard errors, and rather too wide with few clusters


def test_effects_by_level_are_those_of_the_people_of_the_level_alone() -> None:
    outcome, treated, prediction = people(4, n=800)
    specialty = np.where(np.arange(800) % 4 == 0, "Surgery", "Oncology")
    specialty[:5] = "Rare"
    frame = pd.DataFrame({"specialty": specialty, "region": "south"})
    analysis = analyse_trial(outcome, treated, CHANGE, covariates={"prediction": prediction}, dimensions=frame)
    of_surgeons = specialty == "Surgery"
    alone = analyse_trial(
        outcome[of_surgeons], treated[of_surgeons], CHANGE, covariates={"prediction": prediction[of_surgeons]}
    ).overall
    assert [(group.dimension, group.level) for group in analysis.subgroups] == [("specialty", "Oncology"), ("specialty", "Surgery")]
    assert (analysis.subgroups[1].effect, analysis.subgroups[1].standard_error) == pytest.approx(alone[:2])
    assert sum(group.n_treated for group in analysis.subgroups) == treated[5:].sum()
    assert (
        analysis.skipped["specialty"] == f"1 levels with fewer than {FEWEST_OF_SUBGROUP} units in an arm, or equal outcomes: Rare"
    )
    assert analysis.skipped["region"].startswith("1 levels: from 2 to 50")


def test_a_covariate_without_variance_is_ignored_and_a_missing_value_counts_as_average() -> None:
    outcome, treated, prediction = people(5)
    gaps = prediction.copy()
    gaps[::10] = np.nan
    filled = np.where(np.isnan(gaps), np.nanmean(gaps), gaps)
    analysis = analyse_trial(outcome, treated, CHANGE, covariates={"prediction": gaps, "constant": np.ones(400)})
    assert analysis.covariates == ("prediction",)
    assert analysis.skipped["constant"].startswith("it does not vary in either arm")
    assert analysis.overall.effect == pytest.approx(
        analyse_trial(outcome, treated, CHANGE, covariates={"prediction": filled}).overall.effect
    )


def test_few_clusters_are_doubted_and_not_adjusted() -> None:
    outcome, treated, prediction = people(6, n=120)
    clusters = np.where(treated, np.arange(120) % 6, 100 + np.arange(120) % 6)
    analysis = analyse_trial(outcome, treated, CHANGE, clusters=clusters, covariates={"prediction": prediction})
    assert analysis.overall.units == (6, 6)
    assert analysis.covariates == ()
    assert analysis.skipped == {"prediction": "too few units of assignment to adjust for it"}
    assert analysis.warnings == ("only 6 clusters in the smaller arm: its standard error is rough, 20 or more are needed",)


def test_experiments_that_give_no_effect_are_refused_with_the_reason() -> None:
    outcome, treated, _ = people(7, n=40)
    missing = np.where(np.arange(40) == 3, np.nan, outcome)
    with pytest.raises(ValueError, match="1 outcomes are missing, the first in row 4"):
        analyse_trial(missing, treated, CHANGE)
    with pytest.raises(ValueError, match="the control arm is empty: all 40 people are treated"):
        analyse_trial(outcome, np.ones(40, dtype=bool), CHANGE)
    with pytest.raises(ValueError, match="the treated arm has 2 units of assignment"):
        analyse_trial(outcome, np.arange(40) < 2, CHANGE)
    with pytest.raises(ValueError, match="2 of 20 clusters have people of both arms, such as 0, 10"):
        analyse_trial(outcome, np.arange(40) < 20, CHANGE, clusters=(np.arange(40) + 1) // 2 % 20)
    with pytest.raises(ValueError, match="all outcomes of each arm are equal"):
        analyse_trial(np.where(treated, 0.1, 0.0), treated, CHANGE)
    with pytest.raises(ValueError, match="mean outcome of the controls is -1"):
        analyse_trial(outcome - outcome[~treated].mean() - 1.0, treated, DAYS)
    with pytest.raises(ValueError, match="share of market_share, whose mean is nan"):
        analyse_trial(outcome, treated, MARKET_SHARE)


STATSMODELS = {
    ("change", False): (0.0377850484, (0.0135963222, 0.0116569164), (-0.02946622, -0.01057977), 0.0278383500),
    ("change", True): (0.0377850484, (0.0230362347, 0.0173820233), (-0.02946622, -0.01057977), 0.0443733030),
    ("yes or no", False): (0.1201571760, (0.0449025021, 0.0417631570), (0.07032371, -0.07243085), 0.0616030408),
    ("yes or no", True): (0.1201571760, (0.0403376437, 0.0414788469), (0.07032371, -0.07243085), 0.0573396481),
    ("counts", False): (-0.2201868403, (0.8583360376, 0.9980606512), (0.71053703, -1.37074197), 1.2937195668),
    ("counts", True): (-0.2201868403, (0.8104230452, 1.0293289698), (0.71053703, -1.37074197), 1.2721693091),
}
"""Of statsmodels 0.15, OLS in each arm with clustered errors: effect at the mean, errors of both arms, difference of their slopes,
and the error without covariates."""


@pytest.mark.parametrize(("name", "clustered"), STATSMODELS)
def test_effects_and_errors_of_changes_yes_or_no_and_counts_are_those_of_statsmodels(name: str, clustered: bool) -> None:
    rng = np.random.default_rng(20)
    clusters = np.repeat(np.arange(60), 4)
    treated = (np.arange(60) % 2 == 0)[clusters]
    x = rng.normal(size=(240, 2)) + 0.5 * rng.normal(size=60)[clusters, None]
    outcomes = {"change": x @ [0.1, 0.05] + 0.05 * treated + 0.1 * rng.normal(size=60)[clusters] + rng.normal(0, 0.1, 240)}
    outcomes["yes or no"] = (rng.random(240) < 0.3 + 0.2 * treated).astype(float)
    outcomes["counts"] = rng.negative_binomial(0.3, 0.05, 240).astype(float)
    units = clusters if clustered else np.arange(240)
    analysis = analyse_trial(outcomes[name], treated, CHANGE, clusters=units, covariates={"first": x[:, 0], "second": x[:, 1]})
    effect, errors, slopes, unadjusted = STATSMODELS[name, clustered]
    freedom = len(np.unique(units)) // 2 - 1
    assert analysis.overall.effect == pytest.approx(effect)
    assert analysis.unadjusted.standard_error == pytest.approx(unadjusted * widening(freedom))
    sums = np.array([np.bincount(units, column) for column in (x - x.mean(axis=0)).T])
    of_mean = len(sums.T) / (len(sums.T) - 1) * sums @ sums.T / 240**2  # the covariates' mean is that of these people alone
    variance = sum(np.square(errors)) + np.array(slopes) @ of_mean @ slopes
    assert analysis.overall.standard_error == pytest.approx(np.sqrt(variance) * widening(freedom - 2), rel=1e-5)


@pytest.mark.parametrize("covariate", ["the arm", "contacts"])
def test_a_covariate_that_one_arm_has_alike_leaves_the_effect_alone(covariate: str) -> None:
    outcome, treated, prediction = people(8)
    columns = {"the arm": 3.0 * treated, "contacts": np.where(treated, np.arange(400) % 7, 0.0)}
    covariates = {"prediction": prediction, covariate: columns[covariate]}
    analysis = analyse_trial(outcome, treated, CHANGE, covariates=covariates)
    assert analysis.overall == analyse_trial(outcome, treated, CHANGE, covariates={"prediction": prediction}).overall
    assert analysis.skipped[covariate].startswith("it does not vary in ")
    frame = pd.DataFrame({"half": np.arange(400) % 2})
    by_half = analyse_trial(
        outcome,
        treated,
        CHANGE,
        covariates={"prediction": prediction, "in one half": np.where(frame["half"] == 1, columns[covariate], prediction)},
        dimensions=frame,
    )
    alone = analyse_trial(outcome, treated, CHANGE, covariates={"prediction": prediction}, dimensions=frame)
    assert by_half.subgroups[1] == alone.subgroups[1]


def test_covariates_that_depend_on_each_other_count_once() -> None:
    outcome, treated, prediction = people(9)
    alone = analyse_trial(outcome, treated, CHANGE, covariates={"prediction": prediction}).overall
    twice = analyse_trial(outcome, treated, CHANGE, covariates={"prediction": prediction, "doubled": 2.0 * prediction}).overall
    assert twice.effect == pytest.approx(alone.effect)
    assert twice.standard_error / widening(197) == pytest.approx(alone.standard_error / widening(198))


def test_a_covariate_that_the_experiment_changed_is_doubted() -> None:
    outcome, treated, prediction = people(10)
    assert analyse_trial(outcome, treated, CHANGE, covariates={"prediction": prediction}).warnings == ()
    (warning,) = analyse_trial(outcome, treated, CHANGE, covariates={"visits": prediction + 0.2 * treated}).warnings
    assert warning.startswith("visits differs between the arms (p = ")


def test_outcomes_with_a_long_tail_are_doubted_where_arms_or_the_scale_do_not_cancel_it() -> None:
    rng = np.random.default_rng(11)
    outcome = rng.lognormal(0.0, 1.5, 1000)
    uneven, even = np.arange(1000) < 100, np.arange(1000) < 500
    assert any("so long a tail" in warning for warning in analyse_trial(outcome, uneven, DAYS).warnings)
    assert any("so long a tail" in warning for warning in analyse_trial(outcome, even, DAYS).warnings)
    assert analyse_trial(rng.normal(3.0, 1.0, 1000), uneven, DAYS).warnings == ()
    assert analyse_trial((rng.random(1000) < 0.3).astype(float), even, CHANGE).warnings == ()


def test_an_arm_whose_outcomes_are_all_equal_is_doubted() -> None:
    outcome, treated, _ = people(12)
    analysis = analyse_trial(np.where(treated, outcome, 0.0), treated, CHANGE)
    assert analysis.warnings[0].startswith("all outcomes of the control arm are equal")


def test_outcomes_without_noise_between_units_or_beside_the_covariates_are_refused() -> None:
    outcome, treated, _ = people(13)
    with pytest.raises(ValueError, match=r"the covariates \(last year\) explain all outcomes exactly"):
        analyse_trial(outcome, treated, CHANGE, covariates={"last year": outcome})
    clusters = np.where(treated, 0, 100) + np.cumsum(treated) % 20 * treated + np.cumsum(~treated) % 20 * ~treated
    same_in_each = np.where(np.arange(400) % 2, 0.1, -0.1)
    for arm in (treated, ~treated):
        same_in_each[arm] = np.where(np.arange(200) // 20 % 2, 0.1, -0.1)  # half of the people of each cluster
    with pytest.raises(ValueError, match="with a standard error of 0: outcomes that differ between units of assignment"):
        analyse_trial(same_in_each, treated, CHANGE, clusters=clusters)
    with pytest.raises(ValueError, match="no larger than numbers can be"), np.errstate(over="ignore", invalid="ignore"):
        analyse_trial(1e200 * outcome, treated, CHANGE)


def test_three_units_in_each_arm_give_students_interval_and_a_doubt() -> None:
    outcome, treated = np.array([0.3, 0.1, 0.2, 0.0, 0.1, -0.1]), np.arange(6) < 3
    analysis = analyse_trial(outcome, treated, CHANGE)
    assert analysis.overall.effect == pytest.approx(0.2)
    assert analysis.overall.standard_error == pytest.approx(0.1 * np.sqrt(2 / 3) * widening(2))
    assert analysis.warnings == ("only 3 people in the smaller arm: its standard error is rough, 20 or more are needed",)
