"""Which priors a simulation takes when its catalogue and its effects version know different campaigns."""

from __future__ import annotations

from uuid import uuid4

from schemas import EffectPrior, SimulationRequest
from sql.simulation_store import Pins
from streams.simulation import Simulator

LINE = "hcp:kisqali:prescribing_change"


async def test_a_prior_of_a_campaign_that_the_catalogue_lacks_stops_no_simulation_of_another():
    request = SimulationRequest.model_validate(
        {
            "simulation_id": uuid4(),
            "requested_at": "2026-03-01T00:00:00Z",
            "twin_type": "hcp",
            "brand": "kisqali",
            "intervention": {
                "intervention_type": "email_campaign",
                "channel": "email",
                "frequency": "monthly",
                "duration_weeks": 12,
            },
        }
    )
    priors = {
        name: EffectPrior(intervention_type=name, mean=0.06, sd=0.01, source="experiments")
        for name in ("email_campaign", "webinar_of_another_catalogue")
    }
    simulator = Simulator(None, None)
    simulator._calibrated[LINE, 3] = priors  # as they were stored under a catalogue that had both campaigns
    pins = Pins(request.simulation_id, LINE, None, 3, None, stored=False, request=request, answer=None)
    taken = await simulator.priors(pins, request)
    assert taken["email_campaign"] == priors["email_campaign"]
    assert "webinar_of_another_catalogue" not in taken
