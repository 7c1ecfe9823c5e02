"""The work of a request decides whether it is accepted and in which lane it is computed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from schemas import InterventionConfig, SimulationRequest
from schemas.events import MAX_ALTERNATIVES
from streams.settings import Settings
from streams.simulation.request_budget import TooLarge, flow_of, lane_of, require_within_budget, work_of

EMAIL = InterventionConfig(intervention_type="email_campaign", channel="email", frequency="monthly", duration_weeks=12)


def a_request(alternatives: int = 0, **fields: Any) -> SimulationRequest:
    names = {"simulation_id": uuid4(), "requested_at": datetime(2025, 3, 1, tzinfo=UTC), "twin_type": "hcp", "brand": "kisqali"}
    return SimulationRequest.model_validate({**names, "intervention": EMAIL, "alternatives": [EMAIL] * alternatives, **fields})


def test_the_work_is_twins_times_interventions():
    assert [work_of(a_request(alternatives), 500) for alternatives in (0, 1, 10)] == [500, 1000, 5500]


def test_ten_million_twins_with_all_alternatives_are_accepted_by_default():
    require_within_budget(a_request(MAX_ALTERNATIVES), 10_000_000, Settings())


def test_a_larger_one_names_its_size_the_bound_and_the_setting():
    require_within_budget(a_request(3), 250, Settings(max_simulated_twins=1000))
    reason = r"251 twins with 3 alternatives are 1,004 simulated twins: at most 1,000 are allowed .*\(TWIN_MAX_SIMULATED_TWINS\)"
    with pytest.raises(TooLarge, match=reason):
        require_within_budget(a_request(3), 251, Settings(max_simulated_twins=1000))


def test_the_default_number_of_twins_is_small_with_any_number_of_alternatives():
    assert lane_of(work_of(a_request(MAX_ALTERNATIVES), 10_000), Settings(), stored=False) == "small"
    assert lane_of(work_of(a_request(MAX_ALTERNATIVES), 10_001), Settings(), stored=False) == "large"
    assert lane_of(1, Settings(large_simulation_twins=0), stored=False) == "large"


def test_stored_twins_which_take_longer_to_load_are_large_earlier():
    assert [lane_of(work, Settings(large_simulation_twins=100), stored=True) for work in (20, 21)] == ["small", "large"]


def test_requesters_and_orders_of_magnitude_have_flows_of_their_own():
    ours, theirs = a_request(requested_by="us"), a_request(requested_by="them")
    assert flow_of(ours, 1000) == flow_of(ours, 9999)
    assert len({flow_of(ours, 999), flow_of(ours, 1000), flow_of(theirs, 1000)}) == 3
