"""Results of experiments: what they have measured, on whom, and with which variant."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from schemas import ExperimentResult, InterventionConfig, SimulationRequest
from schemas.events import canonical_digest

CAMPAIGN = {"intervention_type": "email_campaign", "channel": "email", "frequency": "once", "duration_weeks": 2}


def result(**fields: Any) -> ExperimentResult:
    return ExperimentResult.model_validate(
        {
            "experiment_id": "spring",
            "observed_at": datetime(2026, 3, 1, tzinfo=UTC),
            "twin_type": "hcp",
            "brand": "kisqali",
            "intervention": CAMPAIGN,
            "effect": 0.02,
            "standard_error": 0.01,
            "n_treated": 400,
            "n_control": 400,
            **fields,
        }
    )


def test_events_without_the_fields_that_came_later_are_the_bytes_that_they_were() -> None:
    assert hashlib.sha256(result().model_dump_json(exclude={"withdrawn", "confirmed", "control_ratio"}).encode()).hexdigest() == (
        "bc84ff9d9668d7f11b01141648ff19949f3dcb1197ca0b2cdf9e1f980c2d56a5"
    )
    request = SimulationRequest(
        simulation_id=UUID(int=7),
        requested_at=datetime(2026, 3, 1, tzinfo=UTC),
        twin_type="hcp",
        brand="kisqali",
        intervention=InterventionConfig(**CAMPAIGN),
    )
    assert canonical_digest(request).hex() == "faa44d31444ef477488064c9f5624e00c1d4f1807f115e533adc35a30319a83d"


@pytest.mark.parametrize("fields", [{"variant": "A"}, {"intervention": {**CAMPAIGN, "variant": "A"}}])
def test_a_variant_is_that_of_the_result_and_of_its_intervention_wherever_it_is_told(fields: dict[str, Any]) -> None:
    event = result(**fields)
    assert (event.variant, event.intervention.variant) == ("A", "A")
    assert ExperimentResult.model_validate_json(event.model_dump_json()) == event
    assert "variant" not in result().model_dump()


def test_two_different_variants_are_refused() -> None:
    with pytest.raises(ValidationError, match="variant 'B' and that of the intervention, 'A', differ"):
        result(variant="B", intervention={**CAMPAIGN, "variant": "A"})


def test_several_channels_hold_the_main_one_and_are_known_ones() -> None:
    assert result(channels=["email", "phone"]).channels == ("email", "phone")
    with pytest.raises(ValidationError, match="lack the main one, email"):
        result(channels=["phone"])
    with pytest.raises(ValidationError, match="Input should be 'email'"):
        result(channels=["fax"])


@pytest.mark.parametrize(
    ("fields", "measures"),
    [
        ({}, True),
        ({"outcome": "prescribing_change", "unit": "points", "population": "hcp"}, True),
        ({"outcome": "visit"}, False),
        ({"unit": "relative"}, False),
        ({"population": "customers"}, False),
        ({"twin_type": "patient", "unit": "relative"}, True),
        ({"twin_type": "patient", "unit": "points"}, False),
    ],
)
def test_only_results_on_the_target_in_its_unit_and_on_people_of_its_kind_measure_it(
    fields: dict[str, Any], measures: bool
) -> None:
    assert result(**fields).measures_target is measures


SURGEONS = {
    "dimension": "specialty",
    "level": "Surgery",
    "effect": 0.03,
    "standard_error": 0.02,
    "n_treated": 200,
    "n_control": 150,
}
OTHERS = SURGEONS | {"level": "Other", "n_treated": 200, "n_control": 250}


def test_effects_by_subgroup_are_part_of_a_result_and_of_its_text() -> None:
    event = result(subgroups=[SURGEONS, OTHERS, SURGEONS | {"dimension": "decile", "level": 10.0}])
    assert [(group.dimension, group.level) for group in event.subgroups] == [
        ("specialty", "Surgery"),
        ("specialty", "Other"),
        ("decile", "10"),
    ]
    assert ExperimentResult.model_validate_json(event.model_dump_json()) == event
    assert "subgroups" not in result().model_dump()


@pytest.mark.parametrize(
    ("subgroups", "message"),
    [
        ([SURGEONS, SURGEONS | {"level": " surgery"}], "subgroup specialty = 'Surgery' is there more than once"),
        ([SURGEONS, OTHERS | {"n_treated": 201}], "subgroups by specialty hold n_treated 401, more than the 400 of the experiment"),
        ([SURGEONS | {"standard_error": 0.0}], "greater than 0"),
        ([SURGEONS | {"n_control": 1}], "greater than or equal to 2"),
        ([SURGEONS | {"level": "  "}], "valid string"),
        ([SURGEONS | {"p_value": 0.01}], "Extra inputs are not permitted"),
    ],
)
def test_subgroups_that_cannot_be_parts_of_the_experiment_are_refused(subgroups: list[Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        result(subgroups=subgroups)
