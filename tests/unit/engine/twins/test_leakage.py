"""Features that know the target."""

import numpy as np
import pandas as pd
import pytest

from engine import TwinGenerator
from engine.sample_tables import sample_hcps
from engine.twins import build_training_table
from engine.twins.leakage import FeatureKnowledge, copied_columns, feature_knowledge, near_copies, refuse_copies
from schemas import TwinType

N = 1200
TARGET = "prescribing_change"


def knowledge(**columns: object) -> dict[str, FeatureKnowledge]:
    rng = np.random.default_rng(5)
    noise = rng.normal(0, 0.1, N)
    frame = pd.DataFrame({"decile": rng.integers(1, 11, N), "practice_size": rng.integers(1, 60, N), TARGET: noise})
    frame = frame.assign(**columns)
    return {item.name: item for item in feature_knowledge(build_training_table(frame, TwinType.HCP, TARGET))}


def test_features_that_know_nothing_are_no_suspects_and_score_about_zero():
    for item in knowledge().values():
        assert not item.is_suspect
        assert item.alone < 0.02
        assert item.others is None


def test_a_copy_of_the_target_in_another_unit_is_a_suspect_whatever_its_form():
    rng = np.random.default_rng(1)
    for copy in (
        lambda frame: frame[TARGET] * -100 + 3,
        lambda frame: np.exp(frame[TARGET]),
        lambda frame: frame[TARGET] + rng.normal(0, 0.003, N),
    ):
        item = knowledge(copy=copy)["copy"]
        assert item.is_copy
        assert item.is_suspect


@pytest.mark.parametrize(
    "copy",
    [
        lambda y: y * 100,
        lambda y: -y,
        lambda y: y.rank() + 0.5,
        lambda y: np.exp(3 * y),
        lambda y: (y * 100).where(y.index % 3 > 0),
    ],
)
def test_a_training_refuses_a_feature_that_is_the_target_in_another_form(copy):
    frame = sample_hcps(1200, np.random.default_rng(0))
    with pytest.raises(ValueError, match="'growth' is the target 'prescribing_change' in another form"):
        TwinGenerator("hcp", "kisqali", n_jobs=1).train(frame.assign(growth=copy(frame[TARGET])), TARGET)


def test_a_training_tells_a_feature_that_is_nearly_the_target():
    rng = np.random.default_rng(0)
    frame = sample_hcps(1200, rng)
    table = build_training_table(frame.assign(growth=frame[TARGET] + rng.normal(0, 0.003, 1200)), TwinType.HCP, TARGET)
    refuse_copies(table, TARGET)
    assert [text.partition(",")[0] for text in near_copies(table)] == ["'growth' is nearly the target"]
    assert list(near_copies(build_training_table(frame, TwinType.HCP, TARGET))) == []


def test_levels_that_know_the_target_are_a_suspect():
    item = knowledge(label=lambda frame: pd.cut(frame[TARGET], 12).astype(str))["label"]
    assert item.is_suspect
    assert item.alone > 0.9
    assert item.correlation == 0


def test_a_strong_feature_among_strong_others_is_no_suspect():
    def shared(frame: pd.DataFrame) -> pd.Series:
        return frame["decile"] / 20 + frame[TARGET]

    items = knowledge(**{TARGET: shared, "volume": lambda frame: frame["decile"] * 100.0})
    assert items["decile"].alone > 0.5
    assert not items["decile"].is_suspect
    assert items["decile"].others == pytest.approx(items["volume"].others, abs=0.1)


def test_rows_of_one_entity_are_not_predicted_by_its_other_rows():
    ids = np.repeat(np.arange(N // 10), 10)
    effect = np.random.default_rng(2).normal(0, 0.1, N // 10)[ids]
    frame = {
        TARGET: lambda table: effect + table[TARGET] / 100,
        "entity_id": [f"e{row}" for row in ids],
        "own": np.random.default_rng(3).permutation(N // 10)[ids] // 3,
    }
    assert knowledge(**frame)["own"].alone < 0.1


def test_a_target_of_two_values_is_scored_by_the_area_under_the_curve():
    items = knowledge(**{TARGET: lambda frame: (frame["decile"] > 5) * 0.1})
    assert items["decile"].alone == 1
    assert abs(items["practice_size"].alone) < 0.1


def test_the_same_table_gives_the_same_scores():
    assert knowledge() == knowledge()


def test_a_target_that_is_computed_from_two_columns_is_told():
    frame = pd.DataFrame({"a": np.arange(1, 301.0), "b": np.arange(301.0, 1, -1), "c": 1.0})
    for formula, sentence in (
        (frame["b"] / frame["a"] - 1, "'b' / 'a' - 1 is the target: leave 'b' out"),
        (frame["a"] - frame["b"], "'a' - 'b' is the target: leave 'a' out"),
    ):
        assert list(copied_columns(frame.assign(y=formula), "y")) == [sentence]
    assert list(copied_columns(frame.assign(y=np.random.default_rng(0).normal(size=300)), "y")) == []
