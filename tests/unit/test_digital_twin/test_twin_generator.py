"""Twins of a trained generator resemble its table, satisfy filters and constraints; unusable tables are refused."""

from dataclasses import replace
from functools import cache
from uuid import uuid5

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ks_2samp
from sklearn.ensemble import RandomForestRegressor

from engine.sample_tables import sample_table
from engine.twin_generator import NotTrained, TwinGenerator
from engine.twins import ClinicalData, EmptyFilter, TwinModel, conformal_quantile, fit_density_ratio
from schemas import TWIN_TYPES, Brand, TwinType
from sql.model_card_rows import Artifact


@cache
def trained(twin_type: TwinType = TwinType.HCP, n: int = 2500, **settings: object) -> TwinGenerator:
    generator = TwinGenerator(twin_type, Brand.KISQALI, n_jobs=1, **settings)  # type: ignore[arg-type]  # names of the settings
    generator.train(sample_table(twin_type, n, np.random.default_rng(1)))
    return generator


@pytest.fixture(scope="module")
def hcps() -> TwinGenerator:
    return trained()


@pytest.fixture(scope="module")
def unseen() -> pd.DataFrame:
    return sample_table(TwinType.HCP, 4000, np.random.default_rng(99))


def test_twins_have_the_distribution_of_unseen_providers(hcps: TwinGenerator, unseen: pd.DataFrame) -> None:
    twins = hcps.generate(1000).frame
    for name in ("years_experience", "total_patient_volume", "digital_engagement_score", "prescribing_change"):
        # the critical distance of a two-sample Kolmogorov-Smirnov test at one in a thousand
        limit = 1.95 * np.sqrt((1000 + len(unseen)) / (1000 * len(unseen)))
        assert ks_2samp(twins[name], unseen[name]).statistic < limit, name
    shares = twins["specialty"].value_counts(normalize=True) - unseen["specialty"].value_counts(normalize=True)
    assert shares.abs().max() < 0.05


def test_twins_have_the_correlations_of_unseen_providers(hcps: TwinGenerator, unseen: pd.DataFrame) -> None:
    twins = hcps.generate(4000).frame
    names = ["decile", "total_patient_volume", "digital_engagement_score", "years_experience", "prescribing_change"]
    difference = (twins[names].corr("spearman") - unseen[names].corr("spearman")).abs()
    assert difference.to_numpy().max() < 0.1


def test_drawn_outcomes_vary_more_than_expected_ones(hcps: TwinGenerator) -> None:
    twins = hcps.generate(2000).frame
    assert twins["baseline_behavior"].std() < twins["prescribing_change"].std()
    assert twins["baseline_behavior"].mean() == pytest.approx(twins["prescribing_change"].mean(), abs=0.01)


def test_95_percent_intervals_cover_about_95_percent_of_unseen_outcomes(hcps: TwinGenerator, unseen: pd.DataFrame) -> None:
    lower, upper = hcps.predict_interval(unseen)
    inside = ((lower <= unseen["prescribing_change"]) & (unseen["prescribing_change"] <= upper)).mean()
    assert 0.93 <= inside <= 0.97


@pytest.mark.parametrize("twin_type", TwinType)
def test_domain_constraints_hold_in_every_row(twin_type: TwinType) -> None:
    entry = TWIN_TYPES[twin_type]
    frame = trained(twin_type, n=1500).generate(3000).frame
    for feature in entry.features:
        if feature.low is not None:
            assert (frame[feature.name] >= feature.low).all(), feature.name
        if feature.high is not None:
            assert (frame[feature.name] <= feature.high).all(), feature.name
        if feature.kind == "integer":
            assert pd.api.types.is_integer_dtype(frame[feature.name]), feature.name
    for smaller, larger in entry.not_above:
        assert (frame[smaller] <= frame[larger]).all()
    for ratio in entry.ratios:
        np.testing.assert_allclose(frame[ratio.name], frame[ratio.numerator] / frame[ratio.denominator])


def test_a_filter_holds_for_every_twin_and_its_real_rows_are_counted(hcps: TwinGenerator) -> None:
    population = hcps.generate(500, {"specialty": ["oncology", "hematology"], "tier": [1, 2], "min_decile": 7, "max_decile": 9})
    frame = population.frame
    assert set(frame["specialty"]) <= {"oncology", "hematology"}
    assert set(frame["priority_tier"]) <= {1, 2}
    assert frame["decile"].between(7, 9).all()
    source = sample_table(TwinType.HCP, 2500, np.random.default_rng(1))
    expected = (
        source["specialty"].isin(["oncology", "hematology"]) & source["priority_tier"].isin([1, 2]) & source["decile"].between(7, 9)
    )
    assert population.real_rows == expected.sum()


def test_a_filter_without_real_rows_is_refused_with_the_available_values(hcps: TwinGenerator) -> None:
    with pytest.raises(EmptyFilter, match=r"no real row matches .*specialty.* one of .*primary_care"):
        hcps.generate(100, {"specialty": ["astrology"]})


def test_a_filter_on_a_missing_column_is_refused(hcps: TwinGenerator) -> None:
    with pytest.raises(ValueError, match="hcp twins cannot be filtered by 'shoe_size'"):
        hcps.generate(100, {"shoe_size": [44]})
    few = TwinGenerator(TwinType.HCP, Brand.KISQALI, n_jobs=1)
    few.train(sample_table(TwinType.HCP, 1200, np.random.default_rng(1))[["specialty", "decile", "prescribing_change"]])
    with pytest.raises(ValueError, match="these twins have no 'region': the model has specialty, decile"):
        few.generate(10, {"region": ["south"]})


@pytest.mark.parametrize("n", [0, -1, 1_000_001])
def test_an_impossible_number_of_twins_is_refused(hcps: TwinGenerator, n: int) -> None:
    with pytest.raises(ValueError, match=f"n is {n}"):
        hcps.generate(n)


def test_the_same_table_settings_and_seed_give_the_same_model_and_twins_bit_for_bit(hcps: TwinGenerator) -> None:
    again = trained.__wrapped__()
    assert again.model.card == hcps.model.card
    first, second = hcps.generate(300, seed=7), again.generate(300, seed=7)
    assert first.population_id == second.population_id
    pd.testing.assert_frame_equal(first.frame, second.frame, check_exact=True)
    assert hcps.generate(300, seed=8).population_id != first.population_id
    assert trained(TwinType.HCP, n=1500, seed=1).model.card.model_id != trained(TwinType.HCP, n=1500).model.card.model_id


def test_a_model_restored_from_its_parts_is_the_same_bit_for_bit(hcps: TwinGenerator, unseen: pd.DataFrame) -> None:
    again = TwinModel.from_parts(hcps.model.to_parts())
    np.testing.assert_array_equal(again.predict(unseen), hcps.predict(unseen))
    pd.testing.assert_frame_equal(again.generate(200).frame, hcps.generate(200).frame, check_exact=True)


def test_a_model_stored_with_scores_without_sign_still_predicts_its_intervals(hcps: TwinGenerator, unseen: pd.DataFrame) -> None:
    """Its forest predicts the log of residuals, it has one group of scores, and its intervals are as wide below as above."""
    parts, table = hcps.model.to_parts(), hcps.model.table()
    encoded, size = hcps.model.encoded(table.features), np.abs(table.target - hcps.model.adjustment.expected)
    difficulty = RandomForestRegressor(20, min_samples_leaf=60, random_state=0).fit(encoded, np.log(size))
    scores = np.sort(size / np.exp(difficulty.predict(encoded)))
    arrays = {name: array for name, array in parts.arrays.items() if not name.startswith("conformal_")}
    meta = {name: value for name, value in parts.meta.items() if name not in {"conformal_version", "conformal_segments"}}
    older = TwinModel.from_parts(
        replace(
            parts,
            estimators={**parts.estimators, "difficulty": difficulty},
            arrays={**arrays, "conformal_scores": scores},
            meta=meta,
        )
    )
    lower, upper = older.predict_interval(unseen)
    expected = older.predict(unseen)
    half = np.exp(difficulty.predict(older.encoded(unseen))) * conformal_quantile(scores, 0.95)
    np.testing.assert_allclose(upper - expected, half)
    np.testing.assert_allclose(expected - lower, half)
    inside = (lower <= unseen["prescribing_change"]) & (unseen["prescribing_change"] <= upper)
    assert inside.mean() == pytest.approx(0.95, abs=0.03)


def test_a_model_stored_without_adjustment_draws_unadjusted_outcomes(hcps: TwinGenerator) -> None:
    parts = hcps.model.to_parts()
    arrays = {name: array for name, array in parts.arrays.items() if name != "expected"}
    meta = {name: value for name, value in parts.meta.items() if name != "adjusted_share"}
    older = TwinModel.from_parts(replace(parts, arrays=arrays, meta=meta))
    drawn = older.joint.sample(200, rng=np.random.default_rng(3)).frame
    pd.testing.assert_frame_equal(older.generate(200, seed=3).frame[drawn.columns], drawn, check_exact=True)
    assert older.assess(seed=3).n_held_out == 500


def test_a_model_with_a_density_ratio_chooses_its_twins_by_it_and_is_restored_bit_for_bit(
    monkeypatch: pytest.MonkeyPatch, hcps: TwinGenerator
) -> None:
    monkeypatch.setattr("engine.twins.density_ratio.NOTICEABLE", 0.0)
    ratio = fit_density_ratio(hcps.model.joint, seed=0)
    assert ratio is not None
    chosen = replace(hcps.model, ratio=ratio)
    twins = chosen.generate(500, {"min_decile": 8}, seed=3).frame
    rows = ratio.draw(hcps.model.joint, 500, np.random.default_rng(3), {"decile": lambda values: values >= 8}).frame
    features = [name for name in rows if name != "prescribing_change"]
    pd.testing.assert_frame_equal(twins[features], rows[features], check_exact=True)
    again = TwinModel.from_parts(chosen.to_parts())
    pd.testing.assert_frame_equal(again.generate(500, {"min_decile": 8}, seed=3).frame, twins, check_exact=True)
    assert chosen.assess(seed=3).n_held_out == 500


def test_a_model_stored_without_a_density_ratio_draws_what_it_drew(hcps: TwinGenerator) -> None:
    parts = hcps.model.to_parts()
    meta = {name: value for name, value in parts.meta.items() if name != "density_ratio"}
    older = TwinModel.from_parts(replace(parts, meta=meta))
    drawn = hcps.model.joint.sample(200, rng=np.random.default_rng(3)).frame
    twins = older.generate(200, seed=3).frame
    pd.testing.assert_frame_equal(twins[drawn.columns[:-1]], drawn[drawn.columns[:-1]], check_exact=True)


def test_a_table_of_enough_rows_of_different_entities_gives_a_density_ratio_where_it_is_needed(
    monkeypatch: pytest.MonkeyPatch, hcps: TwinGenerator
) -> None:
    assert hcps.model.ratio is None
    monkeypatch.setattr("engine.twin_generator.FEWEST_ROWS_OF_RATIO", 1200)
    monkeypatch.setattr("engine.twins.density_ratio.NOTICEABLE", 0.0)
    table = sample_table(TwinType.HCP, 1200, np.random.default_rng(1))
    generator = TwinGenerator(TwinType.HCP, Brand.KISQALI, n_jobs=1)
    generator.train(table)
    assert generator.model.ratio is not None
    generator.train(pd.concat([table, table.head(1)]).assign(hcp_id=[*map(str, range(1200)), "0"]))
    assert generator.model.ratio is None


def test_drawn_outcomes_are_adjusted_by_a_share_of_out_of_fold_differences(hcps: TwinGenerator) -> None:
    model, source = hcps.model, sample_table(TwinType.HCP, 2500, np.random.default_rng(1))
    assert 0 < model.adjustment.share < 1
    actual = source["prescribing_change"].to_numpy()
    out_of_fold = np.corrcoef(model.adjustment.expected, actual)[0, 1]
    assert out_of_fold == pytest.approx(model.card.metrics.fidelity)
    assert np.corrcoef(model.predict(source), actual)[0, 1] > out_of_fold + 0.02
    drawn, twins = model.joint.sample(2000, rng=np.random.default_rng(0)), model.generate(2000, seed=0).frame
    difference = twins["baseline_behavior"] - model.adjustment.expected[drawn.donors]
    adjusted = (drawn.frame["prescribing_change"] + model.adjustment.share * difference).clip(actual.min(), actual.max())
    np.testing.assert_allclose(twins["prescribing_change"], adjusted, atol=1e-9)


def test_a_population_without_filters_has_the_realism_that_training_measured(hcps: TwinGenerator) -> None:
    realism = hcps.generate(10).realism
    assert realism is not None
    assert realism.n_held_out == 500
    assert realism.auc < 0.6
    # two correlations of 500 rows each differ by 0.8 * sqrt(2 / 500) = 0.05 in the mean even when nothing is wrong
    assert realism.association_error < 0.06
    assert realism.exact_copies == 0
    assert TwinModel.from_parts(hcps.model.to_parts()).generate(10).realism == realism


def test_a_filtered_population_has_the_realism_of_its_own_filter_or_the_reason_why_not(hcps: TwinGenerator) -> None:
    unmeasured = hcps.generate(10, {"min_decile": 8})
    assert (unmeasured.realism, unmeasured.verdict.similarity) == (None, "not assessed")
    assert f"{unmeasured.real_rows:,} real rows" in unmeasured.verdict.reasons[0]

    measured = hcps.model.assess_population(unmeasured)
    assert measured.realism is not None
    assert measured.realism == hcps.model.assess({"min_decile": 8}, hcps.seed)
    assert measured.realism.n_held_out < 500  # the real rows of the filter, not all
    assert (measured.population_id, measured.twin_ids) == (unmeasured.population_id, unmeasured.twin_ids)

    few = hcps.model.assess_population(hcps.generate(10, {"decile": 10, "region": "south"}))
    assert (few.realism, few.verdict.similarity, few.verdict.privacy) == (None, "not assessed", "not assessed")
    assert few.unassessed is not None
    assert few.unassessed.startswith(f"only {few.real_rows} real rows satisfy the filters")


def test_a_population_is_assessed_by_its_own_model_only(hcps: TwinGenerator) -> None:
    other = hcps.generate(10).model_copy(update={"model_id": uuid5(hcps.model.card.model_id, "other")})
    with pytest.raises(ValueError, match=r"is of model .*, this is"):
        hcps.model.assess_population(other)


def test_twins_have_ids_of_their_population_and_metadata_of_their_model(hcps: TwinGenerator) -> None:
    population = hcps.generate(100)
    assert population.twins[7].twin_id == uuid5(population.population_id, "7")
    assert population.twins[7].metadata["model_fidelity"] == hcps.model.card.metrics.fidelity
    assert population.twins[7].features["specialty"] == population.frame["specialty"][7]


def test_a_weak_forest_is_compared_with_boosting_and_both_scores_are_stored() -> None:
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"decile": rng.integers(1, 11, 1500), "prescribing_change": rng.normal(0, 1, 1500)})
    generator = TwinGenerator(TwinType.HCP, Brand.KISQALI, n_jobs=1)
    metrics = generator.train(frame)
    assert set(generator.model.card.hyperparameters["cv_r2_of_tried"]) == {"RandomForest", "GradientBoosting"}
    assert any("R2 on unseen rows" in warning and "add specialty" in warning for warning in metrics.warnings)


def test_a_good_forest_is_selected_with_the_specified_hyperparameters(hcps: TwinGenerator) -> None:
    assert hcps.model.card.model_type == "RandomForest"
    settings = hcps.model.card.hyperparameters
    assert {name: settings[name] for name in ("n_estimators", "max_depth", "min_samples_split", "min_samples_leaf")} == {
        "n_estimators": 100,
        "max_depth": 15,
        "min_samples_split": 20,
        "min_samples_leaf": 10,
    }
    assert sum(hcps.model.card.metrics.feature_importance.values()) == pytest.approx(1.0)


def test_the_callers_frame_is_never_changed() -> None:
    frame = sample_table(TwinType.HCP, 1200, np.random.default_rng(4))
    before = frame.copy(deep=True)
    TwinGenerator(TwinType.HCP, Brand.KISQALI, n_jobs=1).train(frame)
    pd.testing.assert_frame_equal(frame, before)


def test_too_few_rows_are_refused_and_rows_without_a_target_do_not_count() -> None:
    frame = sample_table(TwinType.HCP, 1001, np.random.default_rng(5))
    frame.loc[:1, "prescribing_change"] = np.nan
    with pytest.raises(ValueError, match=r"999 rows .* at least 1000 are needed"):
        TwinGenerator(TwinType.HCP, Brand.KISQALI).train(frame)


@pytest.mark.parametrize("column", ["tumor_size", "Overall Survival", "hba1c"])
def test_a_clinical_column_is_refused_by_name(column: str) -> None:
    frame = sample_table(TwinType.HCP, 1200, np.random.default_rng(5)).assign(**{column: 1.0})
    with pytest.raises(ClinicalData, match=column):
        TwinGenerator(TwinType.HCP, Brand.KISQALI).train(frame)


def test_a_clinical_or_undeclared_target_is_refused_by_name() -> None:
    frame = sample_table(TwinType.HCP, 1200, np.random.default_rng(5)).assign(shoe_size=1.0)
    with pytest.raises(ClinicalData, match="mortality_rate"):
        TwinGenerator(TwinType.HCP, Brand.KISQALI).train(frame, "mortality_rate")
    with pytest.raises(ValueError, match="'shoe_size': use one of prescribing_change"):
        TwinGenerator(TwinType.HCP, Brand.KISQALI).train(frame, "shoe_size")


def test_the_default_features_of_patients_are_always_allowed() -> None:
    assert "primary_diagnosis_code" in trained(TwinType.PATIENT, n=1500).model.card.features


def test_an_impossible_value_is_refused_by_name() -> None:
    frame = sample_table(TwinType.HCP, 1200, np.random.default_rng(5))
    with pytest.raises(ValueError, match="'decile' holds 14: allowed is 1 to 10"):
        TwinGenerator(TwinType.HCP, Brand.KISQALI).train(frame.assign(decile=14))
    with pytest.raises(ValueError, match="'practice_size' holds 'many': numbers are expected"):
        TwinGenerator(TwinType.HCP, Brand.KISQALI).train(frame.assign(practice_size="many"))


def test_an_unusable_column_is_left_out_with_a_warning() -> None:
    frame = sample_table(TwinType.HCP, 1200, np.random.default_rng(5))
    frame = frame.assign(seen_on=pd.Timestamp("2026-01-01"), note=[f"note {row // 2}" for row in range(1200)], empty=None)
    generator = TwinGenerator(TwinType.HCP, Brand.KISQALI, n_jobs=1)
    metrics = generator.train(frame)
    assert not {"seen_on", "note", "empty"} & set(generator.model.card.features)
    assert any("fell back to the default features without seen_on, note" in warning for warning in metrics.warnings)


def test_gaps_and_unknown_levels_are_predicted(hcps: TwinGenerator, unseen: pd.DataFrame) -> None:
    odd = unseen.head(3).assign(specialty=["veterinary", None, "oncology"], practice_size=[np.nan, 1, 2])
    assert np.isfinite(hcps.predict(odd)).all()
    assert np.isfinite(hcps.predict(pd.DataFrame({"decile": [5]}))).all()


def test_generating_before_training_is_refused() -> None:
    with pytest.raises(NotTrained, match="call train"):
        TwinGenerator(TwinType.HCP, Brand.KISQALI).generate(10)


def test_saving_needs_a_registry_and_stores_the_model_in_it(hcps: TwinGenerator) -> None:
    with pytest.raises(ValueError, match="has no registry"):
        hcps.save_to_registry()
    saved: list[TwinModel] = []

    class InMemoryRegistry:
        def save(self, model: TwinModel) -> Artifact:
            saved.append(model)
            return Artifact("run 7", "0" * 64)

    generator = TwinGenerator(TwinType.HCP, Brand.KISQALI, registry=InMemoryRegistry())
    generator._model = hcps.model
    assert generator.save_to_registry() == generator.model.card.model_id
    assert generator.model.card.mlflow_run_id == "run 7"
    assert [model.with_card(generator.model.card) for model in saved] == [generator.model]
