"""Scoring outcomes from any JSON: each element is scored or refused with a short reason, and none raises."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.twins import FeatureGaps
from sql.dead_letter_store import RefusedRecord
from sql.feature_count_store import FeatureCount
from streams.bounds import BoundSettings
from streams.ingestion import feature_names
from streams.ingestion.decoding import decode
from streams.ingestion.feature_names import FeatureUse, count_features
from streams.ingestion.outcome_batch import parked_element
from streams.ingestion.rows import NewElements, refused_rows
from streams.ingestion.scoring import ScoredBatch, score
from streams.ingestion.scoring_context import ScoringContext, SimulatedTwins
from streams.kafka.batch_consumer import PollBatch
from tests.outcomes import LINE, START, TOPIC, make_card, outcome, record
from tests.populations import population

CARD = make_card()


class Model:
    """Predicts the decile; like a trained model it raises for text and for numbers that no float holds."""

    def predict_rows(self, frame: pd.DataFrame) -> tuple[Any, Any, Any, FeatureGaps]:
        expected = frame.reindex(columns=["decile"])["decile"].astype(float).fillna(0.0).to_numpy()
        missing = frame.reindex(columns=["decile"]).isna().to_numpy()
        return expected, expected - 1, expected + 1, FeatureGaps(("decile",), missing, np.zeros_like(missing))


CONTEXT = ScoringContext(
    champions={LINE: [(START - timedelta(days=1), CARD.model_id)]}, cards={CARD.model_id: CARD}, models={CARD.model_id: Model()}
)


def scored(values: Sequence[Any], context: ScoringContext = CONTEXT) -> tuple[ScoredBatch, list[RefusedRecord]]:
    """The scored batch of these records, and the rows of its refused elements."""
    records = [record(number, value) for number, value in enumerate(values)]
    decoded = decode(PollBatch(TOPIC, 0, 0, records), 300.0, BoundSettings(max_name_length=2_000_000, max_string_length=2_000_000))
    batch = score(decoded, context)
    every = NewElements(np.ones(len(decoded.outcomes), np.bool_), np.ones(len(decoded.refused), np.bool_))
    return batch, refused_rows(batch, every)


def with_features(number: int, features: Any, **fields: Any) -> dict[str, Any]:
    """An outcome that is predicted from features; a null leaves the field out."""
    nothing = dict.fromkeys(("predicted_value", "predicted_lower", "predicted_upper"))
    return outcome(number, **nothing, entity_id="someone", features=features, segment={}, **fields)


@pytest.mark.parametrize("blank", ["", " ", "\t\n", "\u00a0"])
def test_a_blank_level_is_missing_in_a_segment_and_in_features(blank: str):
    batch, refused = scored(
        [
            outcome(0, segment={"region": blank, "specialty": " oncology "}),
            with_features(1, {"decile": 3, "region": blank}),
            with_features(2, {"decile": 3, "region": "west"}) | {"segment": {"region": blank}},
        ]
    )
    assert refused == []
    series = [batch.scores.groups[index].segments for index in batch.scores.group_index]
    assert series == [("all", "specialty=oncology"), ("all",), ("all", "region=west")]


@pytest.mark.parametrize("level", ["x" * 101, "x" * 1_000_000, "line\nbreak", 10**150, -(10**120)])
@pytest.mark.parametrize("place", ["segment", "features"])
def test_a_level_that_can_be_no_key_is_refused_and_its_neighbours_count(level: Any, place: str):
    bad = with_features(1, {"decile": 1, "region": level})
    if place == "segment":
        bad = outcome(1, segment={"region": str(level)})

    batch, (refused,) = scored([[outcome(0), bad, with_features(2, {"decile": 2, "region": "south"})]])

    assert batch.is_accepted.tolist() == [True, False, True]
    assert (refused.element, refused.kind) == (1, place)
    assert refused.reason.endswith("is printable text of at most 100 characters")
    assert len(refused.reason) < 300


@pytest.mark.parametrize("decile", [10**400, "high", "x" * 1_000_000])
def test_features_that_cannot_be_predicted_from_are_refused_with_a_short_reason(decile: Any):
    batch, (refused,) = scored([with_features(0, {"decile": decile}), with_features(1, {"decile": 3})])

    assert batch.is_accepted.tolist() == [False, True]
    assert (refused.kind, len(refused.reason) <= 2000) == ("features", True)


BEYOND = [
    ({"predicted_lower": -1e308, "predicted_upper": 1e308}, "predicted_lower -1e+308"),
    ({"predicted_upper": 20_000.1}, "predicted_upper 20000.1"),
    ({"predicted_value": 1e308, "predicted_upper": 1.7e308}, "predicted_value 1e+308"),
    ({"actual_value": -1e308}, "actual_value -1e+308"),
    (
        {"actual_value": None, "predicted_value": -1e308, "predicted_lower": None, "predicted_upper": None},
        "predicted_value -1e+308",
    ),
]


@pytest.mark.parametrize(("fields", "named"), BEYOND)
def test_a_number_beyond_what_sums_can_hold_is_refused_with_its_name_and_the_bound(fields: dict[str, Any], named: str):
    batch, (refused,) = scored([outcome(0), outcome(1, **fields), outcome(2, predicted_upper=20_000.0)])

    assert batch.is_accepted.tolist() == [True, False, True]
    assert batch.scores.in_sums.tolist() == [True, False, True]
    assert refused.kind == "range"
    assert refused.reason == f"{named} is outside of 0 +- 20000, the range in which this model is monitored"


def test_a_treated_outcome_beyond_the_range_is_refused_though_it_enters_no_sum():
    batch, (refused,) = scored([with_features(0, {"decile": 1}, treated=True, actual_value=1e308)])

    assert (batch.is_accepted.tolist(), refused.kind) == ([False], "range")


class UnboundedModel(Model):
    """Knows too little for an interval."""

    def predict_rows(self, frame: pd.DataFrame) -> tuple[Any, Any, Any, FeatureGaps]:
        expected, _, _, gaps = super().predict_rows(frame)
        return expected, np.full(len(frame), -np.inf), np.full(len(frame), np.inf), gaps


def test_an_infinite_interval_of_a_model_refuses_no_outcome():
    context = replace(CONTEXT, models={CARD.model_id: UnboundedModel()})
    batch, refused = scored([with_features(0, {"decile": 1})], context)

    assert (batch.is_accepted.tolist(), refused) == ([True], [])


class BrokenModel:
    """Raises an error that no feature explains, for one level or for every row."""

    def __init__(self, level: int | None) -> None:
        self.level = level
        self.calls = 0

    def predict_rows(self, frame: pd.DataFrame) -> tuple[Any, Any, Any, FeatureGaps]:
        self.calls += 1
        if self.level is None or (frame["decile"] == self.level).any():
            raise AttributeError("'Tree' object has no attribute 'missing_go_to_left'")
        return Model().predict_rows(frame)


@pytest.mark.parametrize(("level", "n_parked", "most_calls"), [(7, 1, 40), (None, 1000, 130)])
def test_rows_for_which_a_model_fails_are_parked_and_a_broken_model_costs_no_call_a_row(level: Any, n_parked: int, most_calls: int):
    model = BrokenModel(level)
    context = replace(CONTEXT, models={CARD.model_id: model})
    values = [with_features(number, {"decile": number % 1000}) for number in range(1000)]

    batch, refused = scored([[outcome(2000), *values]], context)

    assert batch.is_accepted.sum() == 1001 - n_parked
    assert batch.is_accepted[0]
    assert {(row.kind, row.exception) for row in refused} == {("parked", "AttributeError")}
    assert "missing_go_to_left" in refused[0].traceback
    assert model.calls <= most_calls


def test_outcomes_that_need_what_cannot_be_loaded_are_parked_and_their_neighbours_count():
    refusal = parked_element(OSError("gone"), "model 1 cannot be loaded: OSError: gone")
    context = replace(CONTEXT, models={}, unavailable={CARD.model_id: refusal, UUID(int=9): refusal})
    twin = dict.fromkeys(("predicted_value", "predicted_lower", "predicted_upper")) | {
        "simulation_id": str(UUID(int=9)),
        "twin_id": str(UUID(int=8)),
    }

    batch, refused = scored([[outcome(0), with_features(1, {"decile": 3}), outcome(2, **twin)]], context)

    assert batch.is_accepted.tolist() == [True, False, False]
    assert [(row.element, row.kind, row.reason) for row in refused] == [
        (1, "parked", refusal.reason),
        (2, "parked", refusal.reason),
    ]


def test_a_treated_twin_whose_change_is_unknown_is_refused_by_name_and_an_untreated_one_counts():
    frame = pd.DataFrame({"region": ["south", "south"], "baseline_behavior": [0.1, 0.2]})
    twins = population(features=frame, model_id=CARD.model_id)
    rows = {UUID(int=8): 0, UUID(int=7): 1}
    simulated = SimulatedTwins(CARD.line, CARD.model_id, twins, np.array([np.nan, np.nan]), rows)
    context = replace(CONTEXT, simulations={UUID(int=9): simulated})
    nothing = dict.fromkeys(("predicted_value", "predicted_lower", "predicted_upper"))
    named = [
        nothing | {"simulation_id": str(UUID(int=9)), "twin_id": str(twin_id), "treated": treated, "segment": {}}
        for twin_id, treated in ((UUID(int=8), True), (UUID(int=7), False))
    ]
    batch, refused = scored([[outcome(0, **named[0]), outcome(1, **named[1])]], context)
    assert batch.is_accepted.tolist() == [False, True]
    assert [(row.kind, row.reason) for row in refused] == [
        ("twin", f"the effect on twin {UUID(int=8)} is a share of a value that it does not have: train with it")
    ]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**31, 2**63, 2**64, 10**308, 10**400])
    | st.floats()
    | st.text()
    | st.sampled_from(["hcp", "x" * 3000]),
    lambda values: st.lists(values, max_size=2) | st.dictionaries(st.sampled_from(["decile", "region", "x"]), values, max_size=2),
    max_leaves=4,
)
FIELDS = st.sampled_from(
    [*sorted(outcome(0)), "revision", "model_id", "simulation_id", "twin_id", "features", "treated", "surprise"]
)
FEATURES = st.dictionaries(st.sampled_from(["decile", "region", "specialty", "x"]), VALUES, max_size=3)
ELEMENTS = st.builds(
    lambda number, fields: outcome(number) | fields, st.integers(0, 9), st.dictionaries(FIELDS, VALUES, max_size=1)
)


@given(st.lists(ELEMENTS | st.builds(with_features, st.integers(0, 9), FEATURES), min_size=1, max_size=4), st.booleans())
def test_whatever_json_is_in_an_outcome_it_is_scored_or_refused(elements: list[dict[str, Any]], as_array: bool):
    batch, refused = scored([elements] if as_array else elements)

    assert len(refused) + int(batch.is_accepted.sum()) == len(elements)
    assert all(0 < len(row.reason) <= 2000 for row in refused)
    assert all(len(series) <= 150 for group in batch.scores.groups for series in group.segments)
    assert json.dumps([row.reason for row in refused])


LINE_CONTEXT = replace(CONTEXT, line_features={LINE: frozenset({"decile", "trx_growth"})})


def test_unknown_features_are_refused_with_the_names_that_come_close():
    renamed = {"Decile": 7, "Region": "south", "digitalEngagementScore": 0.3}
    batch, refused = scored(
        [[with_features(0, renamed), with_features(1, {"decile": 3, "shoe_size": 43}), with_features(2, {"decile": 3})]]
    )
    assert batch.is_accepted.tolist() == [False, False, True]
    assert [row.kind for row in refused] == ["features", "features"]
    assert refused[0].reason.startswith(
        "unknown features 'Decile', 'Region', 'digitalEngagementScore': did you mean decile, region, digital_engagement_score?"
    )
    assert refused[1].reason.startswith("unknown features 'shoe_size': ")
    assert "knows decile;" in refused[1].reason


def test_names_are_compared_for_the_first_outcomes_of_a_batch_alone(
    monkeypatch: pytest.MonkeyPatch,
):
    compared: list[str] = []
    monkeypatch.setattr(feature_names, "get_close_matches", lambda name, *_, **__: compared.append(name) or [])
    values = [with_features(number, {f"shoe_size_{number}_{i}": 43 for i in range(9)}) for number in range(120)]

    _, refused = scored([values])

    assert len(refused) == 120
    assert "'shoe_size_119_0'" in refused[-1].reason
    assert len(compared) == 50 * 5


@pytest.mark.parametrize("features", [{}, {"decile": None}, {"region": "south"}, {"entity_id": "a"}])
def test_an_outcome_without_a_value_of_any_feature_of_the_champion_is_refused(features: dict[str, Any]):
    batch, (refused,) = scored([with_features(0, features), with_features(1, {"decile": 3})])
    assert batch.is_accepted.tolist() == [False, True]
    assert refused.kind == "features"
    assert refused.reason.endswith("has a value: it uses decile")


def test_a_feature_that_only_another_model_of_the_line_knows_is_accepted_and_counted():
    values = [with_features(0, {"decile": 3, "trx_growth": 0.1, "hcp_id": "a"}), with_features(1, {"decile": 3, "region": "south"})]
    batch, refused = scored(values, LINE_CONTEXT)
    assert not refused
    assert scored(values)[1][0].reason.startswith("unknown features 'trx_growth'")
    assert count_features(batch.scores.feature_uses, np.array([0, 1])) == [
        FeatureCount(LINE, CARD.model_id, "decile", outcomes=2),
        FeatureCount(LINE, CARD.model_id, "region", unused=1),
        FeatureCount(LINE, CARD.model_id, "trx_growth", unused=1),
    ]
    assert count_features(batch.scores.feature_uses, np.array([1])) == [
        FeatureCount(LINE, CARD.model_id, "decile", outcomes=1),
        FeatureCount(LINE, CARD.model_id, "region", unused=1),
    ]


def test_missing_values_and_unseen_levels_are_counted_by_feature():
    missing = np.array([[False, True], [False, False], [False, True]])
    unseen = np.array([[True, False], [False, False], [True, False]])
    use = FeatureUse(LINE, CARD.model_id, np.array([4, 5, 6]), FeatureGaps(("region", "decile"), missing, unseen))
    assert count_features([use], np.array([4, 5, 9])) == [
        FeatureCount(LINE, CARD.model_id, "decile", outcomes=2, missing=1),
        FeatureCount(LINE, CARD.model_id, "region", outcomes=2, unseen=1),
    ]


def test_a_segment_is_the_same_in_every_spelling_of_its_level():
    levels = ["South", "south ", " SOUTH", "  "]
    spelled = [with_features(number, {"decile": 1, "region": level}) for number, level in enumerate(levels)]
    others = [outcome(9, segment={"region": "SOUTH"}), with_features(10, {"decile": 1, "priority_tier": 2.0})]
    batch, refused = scored([spelled, *others])
    assert not refused
    series = [batch.scores.groups[index].segments for index in batch.scores.group_index.tolist()]
    assert series == [("all", "region=south")] * 3 + [("all",), ("all", "region=south"), ("all", "priority_tier=2")]
