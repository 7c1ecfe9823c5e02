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


def test_a_strong_feature_among_others_that_know_as_much_together_is_no_suspect():
    rng = np.random.default_rng(4)
    parts = {f"visits_{place}": rng.normal(size=N) for place in range(4)}

    def shared(frame: pd.DataFrame) -> pd.Series:
        return (frame["decile"] - 5.5) / 29 + 0.045 * sum(parts.values()) + frame[TARGET] / 10

    items = knowledge(**{**parts, TARGET: shared})
    assert items["decile"].alone > 0.5
    assert not any(item.is_suspect for item in items.values())


def test_two_leaks_do_not_hide_each_other():
    leaks = {
        "note": lambda frame: pd.cut(frame[TARGET], [-9, -0.1, 0, 0.1, 9], labels=["lost", "down", "up", "won"]).astype(str),
        "responder": lambda frame: np.where(frame[TARGET] > 0, "yes", "no"),
        "stage": lambda frame: np.floor(frame[TARGET] * 20),
    }
    items = knowledge(**leaks)
    assert {name for name, item in items.items() if item.is_suspect} == set(leaks)
    assert "all features that are no suspects together with" in items["responder"].suspicion


def test_a_leak_is_not_hidden_by_a_pair_of_columns_that_makes_the_target():
    before = np.random.default_rng(6).gamma(3, 40, N).round() + 20
    items = knowledge(
        before=before,
        after=lambda frame: (before * (1 + frame[TARGET])).round(1),
        responder=lambda frame: np.where(frame[TARGET] > 0, "yes", "no"),
    )
    assert [name for name, item in items.items() if item.is_suspect] == ["responder"]


@pytest.mark.parametrize("is_text", [False, True])
def test_a_value_that_is_missing_where_the_target_is_low_or_high_is_a_suspect(is_text):
    known = np.resize(["a", "b", "c"], N) if is_text else np.random.default_rng(8).normal(size=N)

    def late(share: float, is_low: bool):
        def column(frame: pd.DataFrame) -> pd.Series:
            limit = frame[TARGET].quantile(share if is_low else 1 - share)
            return pd.Series(known).mask(frame[TARGET] < limit if is_low else frame[TARGET] > limit)

        return column

    for share, is_low in ((0.25, True), (0.03, True), (0.25, False)):
        item = knowledge(late=late(share, is_low))["late"]
        assert item.is_suspect
        assert item.suspicion.startswith("'late' is missing where the target is at one end")
    at_random = pd.Series(known).mask(np.random.default_rng(9).random(N) < 0.25)
    assert not knowledge(late=at_random)["late"].is_suspect
    assert knowledge(late=late(0.005, True))["late"].absence == 0  # so few rows show nothing


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


def pair_table(n: int, formula, decimals: int | None = None) -> pd.DataFrame:
    """A target that is made of two volumes, of which the second is written with one decimal."""
    rng = np.random.default_rng(11)
    change = rng.normal(0, 0.15, n).clip(-0.8)
    before = rng.gamma(3, 30, n).round() + 5
    after = (before * (1 + change)).round(1)
    target = formula(after, before, change)
    frame = pd.DataFrame({"before": before, "after": after, "decile": rng.integers(1, 11, n), "visits": rng.poisson(9, n)})
    return frame.assign(y=target if decimals is None else np.round(target, decimals))


@pytest.mark.parametrize(
    ("formula", "sentence"),
    [
        (lambda after, before, change: after / before, "'after' / 'before' is the target: leave 'after' out"),
        (lambda after, before, change: after / before - 1, "'after' / 'before' - 1 is the target: leave 'after' out"),
        (lambda after, before, change: before / after, "'before' / 'after' is the target: leave 'before' out"),
        (lambda after, before, change: after - before, "'after' - 'before' is the target: leave 'after' out"),
        (lambda after, before, change: change, "'after' / 'before' has the order of the target"),
        (lambda after, before, change: 100 * change, "'after' / 'before' has the order of the target"),
        (lambda after, before, change: np.log1p(change), "'after' / 'before' has the order of the target"),
    ],
)
@pytest.mark.parametrize("decimals", [None, 4, 2])
def test_a_target_of_two_columns_is_told_however_it_is_rounded(formula, sentence, decimals):
    (told,) = copied_columns(pair_table(1500, formula, decimals), "y")
    assert told.startswith(sentence) or (decimals == 2 and told.startswith(sentence.partition(" is the")[0].removesuffix(" - 1")))


def test_pairs_are_found_in_a_sorted_and_large_table_with_missing_targets():
    frame = pair_table(30_000, lambda after, before, change: after / before - 1, 3)
    frame["y"] = frame["y"].where(frame.index % 3 > 0)
    (told,) = copied_columns(frame.sort_values("y"), "y")
    assert told.startswith("'after' / 'before' - 1 is the target")


@pytest.mark.parametrize(
    "formula",
    [
        lambda after, before, change: np.random.default_rng(1).normal(0, 0.1, len(change)).round(2),
        lambda after, before, change: change + np.random.default_rng(1).normal(0, 0.08, len(change)),
        lambda after, before, change: after.round(),  # one column alone, which is told as a copy
        lambda after, before, change: (change > 0) * 1.0,  # too few values for an order
        lambda after, before, change: before * np.random.default_rng(1).lognormal(0, 0.2, len(change)),
    ],
)
def test_columns_that_do_not_make_the_target_are_not_told(formula):
    assert list(copied_columns(pair_table(1500, formula), "y")) == []


def test_a_target_that_is_mostly_zero_is_not_made_by_what_tells_zero_from_all_else():
    rng = np.random.default_rng(12)
    bought = rng.random(9000) < 0.02
    frame = pd.DataFrame({"bought": bought * 1.0, "is_new": rng.integers(0, 2, 9000) * 1.0, "visits": rng.poisson(5, 9000) + 1.0})
    spent = np.where(bought, rng.gamma(2, 50, 9000).round(2), 0.0)
    assert list(copied_columns(frame.assign(y=spent), "y")) == []
    (told,) = copied_columns(frame.assign(y=spent, price=spent / frame["visits"] + 0, paid=spent * frame["visits"]), "y")
    assert told == "'paid' / 'visits' is the target: leave 'paid' out"
