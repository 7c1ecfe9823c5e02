"""Whatever valid request is computed, it has a result that can be stored, or is rejected with a reason: it never fails."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pandas as pd
from hypothesis import given, settings

from engine import SimulationEngine
from engine.twins import TwinModel
from schemas import RealismReport, SimulationRequest, SimulationResult, TwinType
from schemas.filters import canonical_filters
from schemas.twin_models import LOWER, UPPER
from sql.simulation_store import Recipe
from streams.simulation import decode_request
from streams.simulation.computation import (
    COMPUTATION_REFUSALS,
    draw_population,
    generate_population,
    prepare_twins,
    simulate_population,
)
from tests.request_bodies import bodies

REQUEST = {
    "simulation_id": UUID(int=2),
    "requested_at": "2026-03-01T00:00:00Z",
    "twin_type": "hcp",
    "brand": "kisqali",
    "intervention": {"intervention_type": "email_campaign", "channel": "email", "frequency": "monthly", "duration_weeks": 12},
}


@given(body=bodies())
@settings(max_examples=150)
def test_a_request_is_computed_or_refused_with_a_reason(model: TwinModel, body: dict[str, Any]) -> None:
    request = decode_request(json.dumps(body).encode()).request
    if request is None or request.twin_type is not TwinType.HCP:
        return
    recipe = Recipe(UUID(int=1), 100, request.effective_seed, request.filters.model_dump(exclude_none=True))
    try:
        result = simulate_population(prepare_twins(generate_population(model, recipe)), {}, request)
    except COMPUTATION_REFUSALS:  # each of them is a reason to reject the request
        return
    stored = json.loads(json.dumps(result.model_dump(mode="json"), allow_nan=False))
    assert SimulationResult.model_validate(stored) == result


def test_twins_without_intervals_are_those_with_intervals_and_have_the_same_result(model: TwinModel) -> None:
    request, recipe = SimulationRequest.model_validate(REQUEST), Recipe(UUID(int=1), 300, 3, {"min_decile": 3})
    drawn, generated = draw_population(model, recipe), generate_population(model, recipe)
    assert set(generated.frame) - set(drawn.frame) == {LOWER, UPPER}
    pd.testing.assert_frame_equal(drawn.frame, generated.frame[list(drawn.frame)])
    assert simulate_population(prepare_twins(drawn), {}, request) == simulate_population(prepare_twins(generated), {}, request)


def test_an_answer_warns_of_the_realism_in_the_card_whatever_is_known_of_its_twins_later(model: TwinModel) -> None:
    shares = {"exact_copies": 0.0, "near_copies": 0.05, "closer_to_training": 0.5}
    bad = RealismReport(auc=0.95, marginal_score=0.99, association_error=0.01, **shares, n_synthetic=2000, n_held_out=2000)
    doubtful = model.with_realism(bad)
    request = SimulationRequest.model_validate(REQUEST)
    filtered = Recipe(UUID(int=1), 100, 3, {"min_decile": 2})
    twins = generate_population(doubtful, filtered)
    result = simulate_population(prepare_twins(twins), {}, request)
    assert [warning for warning in result.warnings if "not realistic" in warning] == [
        "these twins are not realistic: an AUC of 0.950 is above 0.818 (of twins of the model without filters)"
    ]
    everyone = generate_population(doubtful, Recipe(UUID(int=1), 100, 3)).with_realism(None)  # as a recipe is stored
    assert (
        "these twins are not realistic: an AUC of 0.950 is above 0.818"
        in simulate_population(prepare_twins(everyone), {}, request).warnings
    )
    measured_later = twins.with_realism(bad.model_copy(update={"auc": 0.5}))
    assert simulate_population(prepare_twins(measured_later), {}, request) == result
    assert not any(
        "not realistic" in warning for warning in SimulationEngine(measured_later).simulate(request.intervention).warnings
    )


def test_filters_in_canonical_form_make_the_same_twins(model: TwinModel) -> None:
    filters = {"specialty": ["oncology", "cardiology"], "min_decile": "4", "region": "south"}
    recipes = [Recipe(UUID(int=1), 100, 3, of) for of in (filters, canonical_filters(TwinType.HCP, filters))]
    first, second = (generate_population(model, recipe) for recipe in recipes)
    pd.testing.assert_frame_equal(first.frame, second.frame, check_exact=True)
    assert first.population_id == second.population_id
