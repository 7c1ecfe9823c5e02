from __future__ import annotations

from importlib.metadata import version
from itertools import combinations

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from dowhy.graph import get_descendants, get_instruments
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.sample_tables import sample_table
from engine.twin_generator import TwinGenerator
from engine.twins import CausalDisagreement, cross_check, select_features
from schemas import TWIN_TYPES, Brand, ModelCard, TwinType
from schemas.causal_graphs import CAUSAL_GRAPHS, CausalGraph
from streams.training.training_process import TrainingSpec, train_in_subprocess

NAMES = ("contact", "a", "b", "c", "d", "e", "sales")
EFFECT = 0.5


def graph_of(*edges: tuple[str, str]) -> CausalGraph:
    return CausalGraph(treatment="contact", edges=(("contact", "sales"), *edges))


def campaign(n: int, seed: int) -> pd.DataFrame:
    """Contacts go rather to the old and to group a, who buy more anyway; a contact itself adds ``EFFECT``."""
    rng = np.random.default_rng(seed)
    age, group = rng.normal(size=n), rng.choice(["a", "b", "c"], n)
    contact = rng.random(n) < 1 / (1 + np.exp(-age - (group == "a")))
    return pd.DataFrame(
        {"age": age, "group": group, "contact": contact, "sales": EFFECT * contact + age + (group == "a") + rng.normal(size=n)}
    )


CAMPAIGN = graph_of(("age", "contact"), ("age", "sales"), ("group", "contact"), ("group", "sales"))


@settings(max_examples=60)
@given(order=st.permutations(NAMES), drawn=st.data())
def test_on_any_graph_dowhy_agrees_to_the_adjustment_or_that_there_is_none(order: list[str], drawn: st.DataObject) -> None:
    if order.index("sales") < order.index("contact"):
        order.reverse()
    forward = [pair for pair in combinations(order, 2) if pair != ("contact", "sales")]
    edges = drawn.draw(st.lists(st.sampled_from(forward), unique=True, max_size=12))
    observed = drawn.draw(st.lists(st.sampled_from(NAMES[1:-1]), unique=True, min_size=1))
    selection = select_features(graph_of(*edges), "sales", [*observed, "unheard_of"])
    assert cross_check(selection, "sales", pd.DataFrame(columns=observed), 0).checked_by == f"dowhy {version('dowhy')}"


def test_effects_and_instruments_of_dowhy_are_dropped() -> None:
    for twin_type, graph in CAUSAL_GRAPHS.items():
        outcome = TWIN_TYPES[twin_type].default_target.name
        causes = nx.DiGraph(graph.edges)
        effects = get_descendants(causes, [graph.treatment]) | get_descendants(causes, [outcome])
        unwanted = {graph.treatment, *effects, *get_instruments(causes, [graph.treatment], [outcome])} - {outcome}
        selection = select_features(graph, outcome, [name for name in causes if name != outcome])
        assert unwanted <= set(selection.dropped)
        assert (
            cross_check(selection, outcome, pd.DataFrame(columns=[*selection.features, outcome]), 0).adjustment
            == selection.adjustment
        )


def test_an_adjustment_that_leaves_a_backdoor_open_is_refused_by_name() -> None:
    selection = select_features(CAMPAIGN, "sales", ["age", "group"])
    with pytest.raises(CausalDisagreement, match="a backdoor path of 'contact' left open given age"):
        cross_check(selection.model_copy(update={"adjustment": ("age",)}), "sales", campaign(10, 0), 0)
    with pytest.raises(CausalDisagreement, match="dowhy closes the backdoor paths of 'contact'"):
        cross_check(selection.model_copy(update={"adjustment": None}), "sales", campaign(10, 0), 0)


def test_a_true_effect_is_estimated_by_the_adjustment_and_survives_the_refuters() -> None:
    table = campaign(5000, 1)
    checked = cross_check(select_features(CAMPAIGN, "sales", ["age", "group", "contact"]), "sales", table, 0)
    placebo, common_cause, half = checked.refutations
    assert placebo.estimate == pytest.approx(EFFECT, abs=0.1)
    naive = table.groupby("contact")["sales"].mean().diff().iloc[-1]
    assert naive > 1.0  # without adjustment the effect looks more than twice as large
    assert placebo.after == pytest.approx(0, abs=0.1)
    assert common_cause.after == pytest.approx(EFFECT, abs=0.1)
    assert half.after == pytest.approx(EFFECT, abs=0.1)
    assert [refutation for refutation in checked.refutations if not refutation.survived] == []


@pytest.mark.parametrize("contact", [None, True, "by a friend"])
def test_without_a_treatment_that_varies_and_is_a_number_nothing_is_estimated(contact: object) -> None:
    table = campaign(100, 1).drop(columns="contact") if contact is None else campaign(100, 1).assign(contact=contact)
    assert cross_check(select_features(CAMPAIGN, "sales", ["age", "group"]), "sales", table, 0).refutations == ()


async def test_a_training_process_uses_dowhy_when_it_is_installed_and_stores_its_result_with_the_model() -> None:
    frame = sample_table(TwinType.HCP, 1200, np.random.default_rng(0))
    frame["campaign_contact"] = np.random.default_rng(1).random(1200) < 0.05 * frame["decile"]
    spec = TrainingSpec(
        twin_type=TwinType.HCP, brand=Brand.KISQALI, target="prescribing_change", n_jobs=1, model_type="RandomForest"
    )
    async with train_in_subprocess(spec, frame) as result:
        card = ModelCard.model_validate_json(result.model.card.model_dump_json())
    selection = card.metrics.selection
    assert selection is not None
    assert selection.checked_by == f"dowhy {version('dowhy')}"
    assert selection.dropped["campaign_contact"] == "the treatment itself"
    assert [refutation.test.split(":")[0] for refutation in selection.refutations] == [
        "placebo treatment",
        "random common cause",
        "half of the rows",
    ]


def test_the_check_changes_no_number_of_the_model() -> None:
    frame = sample_table(TwinType.PATIENT, 1100, np.random.default_rng(0))
    options = {"model_type": "RandomForest", "n_jobs": 1}
    checked = TwinGenerator(TwinType.PATIENT, Brand.KISQALI, check=cross_check, **options)
    alone = TwinGenerator(TwinType.PATIENT, Brand.KISQALI, **options)
    checked.train(frame)
    alone.train(frame)
    assert checked.model.card.model_id == alone.model.card.model_id
    pd.testing.assert_frame_equal(checked.generate(50).frame, alone.generate(50).frame)
