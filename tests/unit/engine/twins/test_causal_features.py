from __future__ import annotations

import numpy as np
import pytest

from engine.sample_tables import sample_table
from engine.twin_generator import TwinGenerator
from engine.twins.causal_features import select_features
from schemas import TWIN_TYPES, Brand, TwinType
from schemas.causal_graphs import CAUSAL_GRAPHS, CausalGraph, FeatureSelection

OBSERVED = ["age", "capacity", "budget", "visits", "region", "mood", "next_year"]
EDGES = (
    ("age", "contact"),
    ("age", "sales"),
    ("capacity", "budget"),
    ("budget", "contact"),
    ("contact", "visits"),
    ("visits", "sales"),
    ("region", "sales"),
    ("sales", "next_year"),
)


def select(*more: tuple[str, str], without: tuple[str, ...] = ()) -> FeatureSelection:
    graph = CausalGraph(treatment="contact", edges=(*EDGES, *more))
    return select_features(graph, "sales", [name for name in OBSERVED if name not in without])


def test_confounders_and_causes_of_the_outcome_are_kept_effects_and_instruments_are_not() -> None:
    selection = select()
    assert selection.features == ("age", "region", "mood")
    assert selection.adjustment == ("age",)
    assert selection.outcome_parents == ("age", "region")
    assert selection.undeclared == ("mood",)
    assert set(selection.dropped) == {"capacity", "budget", "visits", "next_year"}
    assert selection.dropped["visits"] == "an effect of contact"
    assert selection.dropped["next_year"] == "an effect of contact"
    assert selection.dropped["budget"] == "an instrument: acts on sales through contact only"


def test_with_an_unobserved_common_cause_a_column_on_its_path_closes_the_backdoor() -> None:
    """capacity <- wealth -> sales: with wealth unobserved, capacity or budget has to be adjusted for (Pearl 2009, 3.3)."""
    selection = select(("wealth", "capacity"), ("wealth", "sales"))
    assert selection.adjustment in {("age", "budget"), ("age", "capacity")}
    assert set(selection.adjustment) <= set(selection.features)


def test_a_collider_is_not_adjusted_for() -> None:
    """M-bias: age <- u -> mood <- v -> sales leaves nothing open until mood is conditioned on."""
    selection = select(("u", "contact"), ("u", "mood"), ("v", "mood"), ("v", "sales"))
    assert selection.adjustment == ("age",)


def test_an_unobserved_confounder_is_reported_as_lacking() -> None:
    selection = select(without=("age",))
    assert selection.adjustment is None
    assert selection.lacking == ("age",)


def test_invalid_graphs_are_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="'coupon' is in no edge"):
        CausalGraph(treatment="coupon", edges=EDGES)
    with pytest.raises(ValueError, match="has no 'profit', the outcome"):
        select_features(CausalGraph(treatment="contact", edges=EDGES), "profit", OBSERVED)
    with pytest.raises(ValueError, match=r"cycle: .*sales"):
        select(("sales", "age"))
    with pytest.raises(ValueError, match="leaves no feature of 'sales': visits is an effect of contact"):
        select_features(CausalGraph(treatment="contact", edges=EDGES), "sales", ["visits"])


@pytest.mark.parametrize("twin_type", TwinType)
def test_features_of_the_catalogue_close_every_backdoor_of_its_graph_and_none_is_an_effect(twin_type: TwinType) -> None:
    entry = TWIN_TYPES[twin_type]
    selection = select_features(CAUSAL_GRAPHS[twin_type], entry.default_target.name, list(entry.by_name))
    assert selection.adjustment
    assert selection.features == tuple(entry.by_name)
    assert not selection.undeclared


def test_a_dropped_column_stays_in_the_twins_but_does_not_change_the_expected_outcome() -> None:
    frame = sample_table(TwinType.HCP, 1500, np.random.default_rng(0))
    noise = np.random.default_rng(1).normal(size=1500)
    leaking = frame.assign(next_year_claims=frame["prescribing_change"] * 100 + 500 + noise)
    generator = TwinGenerator(TwinType.HCP, Brand.KISQALI, model_type="RandomForest", n_jobs=1)
    metrics = generator.train(leaking)
    assert metrics.cv_r2_mean < 0.9
    assert metrics.selection is not None
    assert metrics.selection.dropped == {"next_year_claims": "an effect of campaign_contact"}
    assert any("next_year_claims, an effect of campaign_contact" in warning for warning in metrics.warnings)
    assert "next_year_claims" in generator.generate(50).frame
    rows = leaking.head(20)
    np.testing.assert_array_equal(generator.predict(rows), generator.predict(rows.assign(next_year_claims=0.0)))


def test_a_user_can_pass_another_graph() -> None:
    frame = sample_table(TwinType.HCP, 1200, np.random.default_rng(0))[["decile", "specialty", "prescribing_change"]]
    graph = CausalGraph(
        treatment="visit", edges=(("specialty", "visit"), ("visit", "prescribing_change"), ("decile", "prescribing_change"))
    )
    generator = TwinGenerator(TwinType.HCP, Brand.KISQALI, model_type="RandomForest", graph=graph, n_jobs=1)
    metrics = generator.train(frame)
    assert metrics.selection is not None
    assert metrics.selection.features == ("decile",)
    assert set(metrics.feature_importance) == {"decile"}
