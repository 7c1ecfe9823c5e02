"""A request of a simulation, whose fields tests replace."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from schemas import InterventionConfig, SimulationRequest

__all__ = ["EMAIL", "email_request"]

EMAIL = InterventionConfig(intervention_type="email_campaign", channel="email", frequency="monthly", duration_weeks=12)


def email_request(**fields: Any) -> SimulationRequest:
    """A request to simulate e-mails to prescribers, with these fields."""
    usual = {"simulation_id": UUID(int=3), "requested_at": datetime(2025, 3, 1, tzinfo=UTC), "twin_type": "hcp", "brand": "kisqali"}
    return SimulationRequest.model_validate({**usual, "intervention": EMAIL, "seed": 5, **fields})
