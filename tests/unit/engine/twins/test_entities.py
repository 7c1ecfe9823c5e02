"""Rows of one entity stay together: folds, calibration scores, realism, and the number of independent rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import KFold

from engine.fidelity.effective_sample_size import effective_rows
from engine.sample_tables import sample_hcps
from engine.twin_generator import TwinGenerator
from engine.twins.conformal import conformal_quantile, fit_conformal
from engine.twins.detection import BOOSTING, detection_aucs
from engine.twins.entities import cut, entity_codes, entity_weights, folds, shuffle
from engine.twins.training_table import build_training_table
from engine.twins.twin_model import TwinModel
from schemas.twin_types import Brand, TwinType

TARGET = "prescribing_change"


def repeated_hcps(entities: int, rows_each: int, seed: int) -> pd.DataFrame:
    """Prescribers with several rows each, whose outcomes share most of their noise, in random order."""
    rng = np.random.default_rng(seed)
    alone = sample_hcps(entities, rng).drop(columns="entity_id", errors="ignore")
    frame = alone.loc[alone.index.repeat(rows_each)].reset_index(drop=True)
    shared = np.repeat(rng.normal(0, 0.1, entities), rows_each)
    frame[TARGET] = 0.3 * frame[TARGET] + shared + rng.normal(0, 0.05, len(frame))
    frame["hcp_id"] = [f"hcp-{seed}-{row // rows_each}" for row in range(len(frame))]
    return frame.sample(frac=1, random_state=0, ignore_index=True)


@pytest.fixture(scope="module")
def repeated() -> TwinGenerator:
    generator = TwinGenerator(TwinType.HCP, Brand.KISQALI, model_type="RandomForest", n_jobs=2)
    generator.train(repeated_hcps(300, 10, seed=1))
    return generator


def test_no_entity_is_in_training_and_test_rows_of_a_fold() -> None:
    entities = np.random.default_rng(0).integers(0, 40, 300)
    parts = list(folds(entities, 5, seed=3))
    assert all(not set(entities[train]) & set(entities[test]) for train, test in parts)
    assert sorted(np.concatenate([test for _, test in parts])) == list(range(300))


def test_with_one_row_per_entity_splits_are_the_usual_ones() -> None:
    own = np.arange(103)
    usual = KFold(5, shuffle=True, random_state=7).split(own)
    for (train, test), (usual_train, usual_test) in zip(folds(own, 5, seed=7), usual, strict=True):
        assert train.tolist() == usual_train.tolist()
        assert test.tolist() == usual_test.tolist()
    assert shuffle(own, np.random.default_rng(1)).tolist() == np.random.default_rng(1).permutation(103).tolist()
    assert [cut(own, place) for place in (0, 20, 103)] == [0, 20, 103]


def test_a_cut_never_divides_an_entity() -> None:
    entities = np.repeat(np.arange(20), np.random.default_rng(0).integers(1, 9, 20))
    ordered = entities[shuffle(entities, np.random.default_rng(5))]
    for place in range(len(ordered) + 1):
        at = cut(ordered, place)
        assert at <= place
        assert not set(ordered[:at]) & set(ordered[at:])


def test_rows_without_an_id_are_entities_of_their_own() -> None:
    assert entity_codes(pd.Series(["a", None, "a", None])).tolist() == [0, 1, 0, 2]
    assert entity_codes(pd.Series([None, None, "a"])) is None


def test_equal_weights_give_the_quantile_without_weights() -> None:
    scores = np.random.default_rng(0).exponential(size=57)
    for level in (0.5, 0.9, 0.95, 0.99):
        assert conformal_quantile(scores, level, entity_weights(np.arange(57))) == conformal_quantile(scores, level)


def test_an_entity_with_many_scores_counts_once() -> None:
    scores = np.array([*range(1, 20), *[100.0] * 500])
    assert conformal_quantile(scores, 0.9, entity_weights(np.array([*range(19), *[19] * 500]))) == 19.0
    assert conformal_quantile(scores, 0.9) == 100.0


def test_intervals_cover_entities_that_have_several_rows_in_training() -> None:
    """Each entity has one residual, ten times: 60 residuals are known, not 600."""
    rng = np.random.default_rng(2)
    covered = []
    for seed in range(40):
        entities = np.repeat(np.arange(60), 10)
        conformal, _ = fit_conformal(rng.uniform(size=(600, 1)), rng.normal(size=60)[entities], seed, entities)
        widths = conformal.widths(rng.uniform(size=(2000, 1)), pd.DataFrame(index=range(2000)), 0.95)
        actual = rng.normal(size=2000)
        covered.append(((-widths.below <= actual) & (actual <= widths.above)).mean())
    assert np.mean(covered) > 0.94


def test_the_effective_number_of_rows_is_that_of_kish() -> None:
    entities = np.repeat(np.arange(50), 4)
    assert effective_rows(np.random.default_rng(0).normal(size=50)[entities], entities) == pytest.approx(50)
    independent = effective_rows(np.random.default_rng(0).normal(size=20_000), np.repeat(np.arange(5000), 4))
    assert independent == pytest.approx(20_000, rel=0.1)
    rng = np.random.default_rng(1)
    half = rng.normal(size=5000).repeat(4) + rng.normal(size=20_000)  # intraclass correlation 0.5: design effect 1 + 3 / 2
    assert effective_rows(half, np.repeat(np.arange(5000), 4)) == pytest.approx(20_000 / 2.5, rel=0.05)


def test_a_classifier_does_not_recognise_real_rows_by_other_rows_of_their_entity() -> None:
    """Real rows come ten times each, synthetic ones once: only rows of one entity in two folds tell them apart."""
    rng = np.random.default_rng(0)
    entities = np.repeat(np.arange(100), 10)
    real = pd.DataFrame({name: rng.normal(size=100)[entities] for name in "xyz"})
    order = rng.permutation(len(real))
    draws = [pd.DataFrame({name: rng.normal(size=200) for name in "xyz"}) for _ in range(5)]
    apart = detection_aucs(draws, real.iloc[order], [], np.random.default_rng(1), entities[order], names=[BOOSTING])[BOOSTING]
    mixed = detection_aucs(draws, real.iloc[order], [], np.random.default_rng(1), names=[BOOSTING])[BOOSTING]
    assert apart < 0.6
    assert mixed > 0.8


def test_figures_of_a_model_are_of_entities_it_has_not_seen(repeated: TwinGenerator) -> None:
    new = repeated_hcps(2000, 2, seed=9)
    metrics, actual = repeated.model.card.metrics, new[TARGET]
    unseen_r2 = 1 - ((actual - repeated.predict(new)) ** 2).sum() / ((actual - actual.mean()) ** 2).sum()
    lower, upper = repeated.predict_interval(new)
    assert metrics.cv_r2_mean == pytest.approx(unseen_r2, abs=0.1)
    assert ((lower <= actual) & (actual <= upper)).mean() > 0.93
    assert (metrics.training_samples, metrics.n_entities) == (3000, 300)
    assert 300 <= repeated.model.card.baseline.n_effective < 900
    assert any("3,000 rows are of 300 entities by the column 'hcp_id'" in warning for warning in metrics.warnings)


def test_twins_are_no_copies_of_entities_with_several_rows(repeated: TwinGenerator) -> None:
    """Leaves of ten rows would hold one entity: a quarter of the twins came close to a training row."""
    realism = repeated.model.card.metrics.realism
    assert realism is not None
    assert realism.near_copies < 0.1
    assert realism.closer_to_training < 0.65


def test_as_independent_rows_the_same_table_would_promise_too_much() -> None:
    generator = TwinGenerator(TwinType.HCP, Brand.KISQALI, model_type="RandomForest", n_jobs=2)
    metrics = generator.train(repeated_hcps(300, 10, seed=1).drop(columns="hcp_id"))
    assert metrics.cv_r2_mean > 0.3
    assert generator.model.card.baseline.n_effective is None


def test_a_stored_model_keeps_the_entities_of_its_rows(repeated: TwinGenerator) -> None:
    restored = TwinModel.from_parts(repeated.model.to_parts())
    assert restored.table().n_entities == 300
    assert restored.assess(seed=1) == repeated.model.assess(seed=1)
    new = repeated_hcps(20, 1, seed=3)
    assert (restored.predict_interval(new)[0] == repeated.predict_interval(new)[0]).all()


def test_the_entities_are_part_of_the_identity_of_a_table() -> None:
    frame = repeated_hcps(150, 10, seed=2)
    other = frame.assign(hcp_id=frame["hcp_id"].sample(frac=1, random_state=1).to_numpy())
    digests = {build_training_table(table, TwinType.HCP, TARGET).digest() for table in (frame, other, frame.drop(columns="hcp_id"))}
    assert len(digests) == 3


def test_rows_of_too_few_entities_are_refused_with_their_number() -> None:
    with pytest.raises(ValueError, match=r"1,000 rows are of 20 entities by the column 'hcp_id': at least 30 entities are needed"):
        build_training_table(repeated_hcps(20, 50, seed=1), TwinType.HCP, TARGET)


def test_evaluated_rows_of_too_few_entities_are_refused_with_their_number() -> None:
    frame = pd.concat([repeated_hcps(200, 5, seed=1), repeated_hcps(20, 20, seed=2)], ignore_index=True)
    generator = TwinGenerator(TwinType.HCP, Brand.KISQALI, model_type="RandomForest", n_jobs=2)
    with pytest.raises(ValueError, match="the 400 rows that are evaluated are of 20 entities: at least 30 are needed"):
        generator.train(frame, n_carried_rows=1000)
