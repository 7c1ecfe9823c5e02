"""Whatever valid request is computed, it has a result that can be stored, or is rejected with a reason: it never fails."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings

from engine import TwinGenerator
from engine.sample_tables import sample_hcps
from engine.twins import TwinModel
from schemas import Brand, SimulationResult, TwinType
from sql.simulation_store import Recipe
from streams.simulation import decode_request
from streams.simulation.computation import COMPUTATION_REFUSALS, generate_population, simulate_population
from tests.request_bodies import bodies


@pytest.fixture(scope="module")
def model() -> TwinModel:
    generator = TwinGenerator(twin_type=TwinType.HCP, brand=Brand.KISQALI, n_jobs=1, seed=0)
    generator.train(sample_hcps(1000, np.random.default_rng(0)))
    return generator.model


@given(body=bodies())
@settings(max_examples=150)
def test_a_request_is_computed_or_refused_with_a_reason(model: TwinModel, body: dict[str, Any]) -> None:
    request = decode_request(json.dumps(body).encode()).request
    if request is None or request.twin_type is not TwinType.HCP:
        return
    recipe = Recipe(UUID(int=1), 100, request.effective_seed, request.filters.model_dump(exclude_none=True))
    try:
        result = simulate_population(generate_population(model, recipe), {}, request)
    except COMPUTATION_REFUSALS:  # each of them is a reason to reject the request
        return
    stored = json.loads(json.dumps(result.model_dump(mode="json"), allow_nan=False))
    assert SimulationResult.model_validate(stored) == result
