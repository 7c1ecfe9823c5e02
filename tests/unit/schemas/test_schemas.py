"""Schemas: strict validation, canonical content, and the interface of populations and twins."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4, uuid5

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from schemas import (
    Baseline,
    Brand,
    DigitalTwin,
    EffectPrior,
    InterventionConfig,
    OutcomeEvent,
    PopulationFilter,
    SimulationRecommendation,
    SimulationRequest,
    SourceId,
    TwinPopulation,
    TwinType,
)
from schemas.base import Moment, require_one_of, utc_time
from schemas.events import canonical_digest
from schemas.twin_models import twins_to_frame
from tests.populations import BASELINE, card, hcps, population


def test_enums_have_the_specified_values():
    assert [kind.value for kind in TwinType] == ["hcp", "patient", "territory"]
    assert [brand.value for brand in Brand] == ["remibrutinib", "fabhalta", "kisqali"]
    assert [recommendation.value for recommendation in SimulationRecommendation] == ["deploy", "do_not_deploy", "test_further"]


@given(st.floats(allow_nan=False) | st.sampled_from([-62_135_596_800.0, 253_402_300_799.9999, 253_402_300_800.0]))
def test_any_seconds_are_a_time_that_can_be_written(seconds):
    at = utc_time(seconds)
    assert datetime.fromisoformat(at.isoformat()) == at
    inside = -62_135_596_800 <= seconds < 253_402_300_799
    if inside:
        assert abs(at - datetime(1970, 1, 1, tzinfo=UTC) - timedelta(seconds=seconds)) <= timedelta(microseconds=1)
    else:
        assert at.year == (1 if seconds < 0 else 9999)


def test_a_refusal_names_the_value_and_what_is_allowed():
    with pytest.raises(ValueError, match="unknown fruit 'nut': use one of apple, pear"):
        require_one_of("fruit", "nut", ["pear", "apple"])
    assert require_one_of("fruit", "pear", ["pear", "apple"]) == "pear"


def test_an_intervention_needs_no_intensity():
    config = InterventionConfig(intervention_type="email_campaign", channel="email", frequency="monthly", duration_weeks=12)
    assert config.intensity is None


def test_a_request_without_a_seed_derives_it_from_its_id():
    fields = {
        "simulation_id": UUID(int=2**127 + 5),
        "requested_at": datetime(2026, 1, 1, tzinfo=UTC),
        "twin_type": "hcp",
        "brand": "kisqali",
        "intervention": {"intervention_type": "email_campaign", "channel": "email", "frequency": "once", "duration_weeks": 1},
    }
    assert SimulationRequest(**fields).effective_seed == 5
    assert SimulationRequest(**fields, seed=7).effective_seed == 7
    assert SimulationRequest(**fields, seed=0).effective_seed == 0
    assert SimulationRequest(**fields).line == "hcp:kisqali:prescribing_change"


def test_a_source_reads_as_topic_partition_and_incarnation():
    assert str(SourceId(topic="outcome-events", partition=3, incarnation=1)) == "outcome-events:3:1"


@pytest.mark.parametrize(
    ("name", "value"),
    [("n", 1), ("scale", 0.0), ("clip", 0.0), ("clipped_mean", 1.1), ("clipped_sd", -0.1), ("mae", -1.0), ("rmse", float("nan"))],
)
def test_a_baseline_with_impossible_figures_is_refused(name, value):
    with pytest.raises(ValidationError, match=name):
        Baseline(**BASELINE.model_dump() | {name: value})


def test_a_prior_has_no_negative_deviation():
    with pytest.raises(ValidationError, match="sd"):
        EffectPrior(intervention_type="email_campaign", mean=0.1, sd=-0.1)


def test_outcomes_that_differ_in_any_field_have_different_digests():
    fields = {
        "event_id": UUID(int=1),
        "observed_at": datetime(2026, 1, 1, tzinfo=UTC),
        "twin_type": "hcp",
        "brand": "kisqali",
        "metric_type": "prescribing_change",
        "actual_value": 0.1,
        "predicted_value": 0.2,
    }
    digest = canonical_digest(OutcomeEvent(**fields))
    for change in (
        {"event_id": UUID(int=2)},
        {"actual_value": np.nextafter(0.1, 1)},
        {"actual_value": None},
        {"revision": 1},
        {"treated": True},
        {"segment": {"region": "south"}},
        {"brand": "fabhalta"},
    ):
        assert canonical_digest(OutcomeEvent(**fields | change)) != digest
    assert canonical_digest(OutcomeEvent(**fields)) == digest
    assert len(digest) == 32


def test_a_population_is_a_table_and_its_twins_are_its_rows():
    twins = population(50)
    assert twins.twin_type is TwinType.HCP
    assert len(twins.twins) == twins.twin_count == 50
    for i in (0, 49):
        twin, row = twins.twins[i], twins.frame.iloc[i]
        assert twin.features == {name: row[name] for name in twins.features}
        assert twin.baseline_behavior == row["baseline_behavior"]
        assert twin.metadata["outcome"] == row["prescribing_change"]
        assert twin.twin_id == uuid5(twins.population_id, str(i)) == twins.twin_ids[i]


def test_the_metadata_of_a_twin_hold_version_training_time_and_fidelity_of_its_model():
    metadata = population(10).twins[0].metadata
    assert {"brand", "target", "model_type", "model_trained_at", "model_fidelity"} <= set(metadata)
    assert population(10).twins[0].model_id == population(10).model_id


def test_a_population_made_of_twins_keeps_their_ids():
    twins = population(20)
    again = TwinPopulation(population_id=UUID(int=9), model_id=twins.model_id, name="again", model=twins.model, twins=twins.twins)
    assert again.twin_count == 20
    assert again.twin_ids == twins.twin_ids
    pd.testing.assert_frame_equal(again.frame, twins.frame[list(again.frame)], check_dtype=False)


def test_a_population_has_the_six_fields_of_the_brief_and_needs_no_model():
    made = population(20)
    six = {"population_id": UUID(int=9), "model_id": made.model_id, "name": "six", "twin_count": 20, "filters_applied": {}}
    plain = TwinPopulation(**six, twins=made.twins)
    assert plain.twins == made.twins
    assert (plain.twin_type, plain.target, plain.twin_ids) == (made.twin_type, made.target, made.twin_ids)
    assert set(plain.features) == set(made.features)
    assert plain.take([3]).twins == [made.twins[3]]
    with pytest.raises(ValidationError, match="twin_count is 21, but the frame has 20 rows"):
        TwinPopulation(**six | {"twin_count": 21}, twins=made.twins)
    with pytest.raises(ValueError, match="made of a frame needs the card of its model"):
        TwinPopulation(**six, frame=made.frame)


@pytest.mark.parametrize("mode", ["python", "json"])
def test_a_dump_tells_the_twins_on_request_and_makes_the_population_again(mode):
    made = population(20)
    assert "twins" not in made.model_dump(mode=mode)
    dumped = made.model_dump(mode=mode, twins=True)
    assert len(dumped["twins"]) == 20
    again = TwinPopulation(**dumped)
    assert again.twins == made.twins
    assert again.model == made.model


def test_twins_without_an_outcome_make_a_table_without_one():
    model = card(TwinType.HCP, ("decile",))
    twin = DigitalTwin(twin_id=uuid4(), model_id=model.model_id, twin_type="hcp", features={"decile": 3}, baseline_behavior=0.1)
    assert list(twins_to_frame([twin], model.target, model.features)) == ["decile", "baseline_behavior"]


def test_a_population_whose_count_or_columns_are_wrong_is_refused():
    model = card(TwinType.HCP, tuple(hcps(5)))
    fields = {"population_id": UUID(int=1), "model_id": model.model_id, "name": "x", "model": model}
    with pytest.raises(ValidationError, match="twin_count is 6, but the frame has 5 rows"):
        TwinPopulation(**fields, twin_count=6, frame=hcps(5).assign(baseline_behavior=0.0))
    with pytest.raises(ValidationError, match="lacks the column 'baseline_behavior'"):
        TwinPopulation(**fields, twin_count=5, frame=hcps(5))


def test_equal_outcomes_have_one_digest_whatever_their_json() -> None:
    template = (
        '{"event_id": "11111111-1111-4111-8111-111111111111", "observed_at": "2026-01-01T00:00:00Z", "twin_type": "hcp",'
        ' "brand": "kisqali", "metric_type": "prescribing_change", "actual_value": %s, "entity_id": "a", "features": %s}'
    )
    first = OutcomeEvent.model_validate_json(template % ("0.0", '{"decile": 7, "practice_size": 2}'))
    second = OutcomeEvent.model_validate_json(template % ("-0.0", '{"practice_size": 2.0, "decile": 7.0}'))
    assert canonical_digest(first) == canonical_digest(second)


def test_one_value_of_a_filter_is_a_list_of_one() -> None:
    assert PopulationFilter(specialty="oncology", tier=1) == PopulationFilter(specialty=["oncology"], tier=[1])  # type: ignore[arg-type]  # as JSON may have it


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_moment_outside_of_the_calendar_in_utc_is_refused_as_any_invalid_value(at: str) -> None:
    with pytest.raises(ValidationError, match="outside of the years 1 to 9999"):
        TypeAdapter(Moment).validate_python(at)
