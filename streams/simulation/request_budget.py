"""The budget of a request: its work, whether it is accepted, and the lane in which it is computed.

The work of a request is its number of twins times the number of interventions that are compared on them.
"""

from __future__ import annotations

from schemas import SimulationRequest
from sql.simulation_queue_store import Lane
from streams.settings import Settings

__all__ = ["TooLarge", "flow_of", "lane_of", "require_within_budget", "work_of"]


_COST_OF_STORED = 5  # a stored twin is loaded in the time in which five are generated


class TooLarge(ValueError):
    """The request is above the budget of one request."""


def work_of(request: SimulationRequest, twin_count: int) -> int:
    """The work of a request, in twins."""
    return twin_count * (1 + len(request.alternatives))


def require_within_budget(request: SimulationRequest, twin_count: int, settings: Settings) -> None:
    """Check that a request is not too large.

    Raises:
        TooLarge: when it is; it names its size, the bound and the setting.
    """
    work, allowed = work_of(request, twin_count), settings.max_simulated_twins
    if work > allowed:
        raise TooLarge(
            f"{twin_count:,} twins with {len(request.alternatives)} alternatives are {work:,} simulated twins: at most {allowed:,}"
            " are allowed for one request (TWIN_MAX_SIMULATED_TWINS)"
        )


def lane_of(work: int, settings: Settings, *, stored: bool) -> Lane:
    """The lane of a request of this size; ``stored`` twins are loaded, which takes longer than to generate them."""
    return "large" if work * (_COST_OF_STORED if stored else 1) > settings.large_simulation_twins else "small"


def flow_of(request: SimulationRequest, work: int) -> str:
    """Requests of one requester and one order of magnitude, which are computed in their order.

    >>> from uuid import UUID
    >>> campaign = {"intervention_type": "email_campaign", "channel": "email", "frequency": "monthly", "duration_weeks": 12}
    >>> names = {"twin_type": "hcp", "brand": "kisqali", "requested_by": "planning"}
    >>> request = SimulationRequest(simulation_id=UUID(int=1), requested_at="2025-03-01T00:00Z", intervention=campaign, **names)
    >>> flow_of(request, 10_000), flow_of(request, 99_999)
    ('planning 1e4', 'planning 1e4')
    """
    return f"{request.requested_by} 1e{len(str(work)) - 1}"
