"""Bodies of simulation requests: a valid one, and a strategy of those that strangers may send."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from schemas import TWIN_TYPES, SimulationRequest

__all__ = ["BODY", "bodies"]

BODY = {
    "simulation_id": "00000000-0000-0000-0000-000000000007",
    "requested_at": "2025-03-01T00:00:00Z",
    "twin_type": "hcp",
    "brand": "kisqali",
    "intervention": {"intervention_type": "email_campaign", "channel": "email", "frequency": "monthly", "duration_weeks": 12},
}

NUMBERS = st.integers() | st.sampled_from([2**31, 2**53, 2**63, 2**64, -(2**64), 10**308, 10**309, 10**400]) | st.floats()
WORDS = st.text() | st.sampled_from(
    ["hcp", "email", "monthly", "tumour", "\ud800", "x" * 10_000, "9999-12-31T23:59:59.999999-14:00"]
)
NAMES = st.sampled_from(
    [*TWIN_TYPES["hcp"].by_name, *(f"min_{name}" for name in TWIN_TYPES["hcp"].by_name), "tier", "max_decile", "min_"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(NAMES | WORDS, values, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from([*sorted(SimulationRequest.model_fields.keys() - {"simulation_id"}), "surprise"])
INTERVENTIONS = st.dictionaries(st.sampled_from([*BODY["intervention"], "intensity", "surprise"]), VALUES, max_size=2)


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Any]:
    """A valid request in which any JSON stands in some fields, in the filters or in the intervention."""
    body = BODY | draw(st.dictionaries(FIELDS, VALUES, max_size=2))
    if draw(st.booleans()):
        body |= {"filters": draw(st.dictionaries(NAMES, VALUES, max_size=2))}
    if draw(st.booleans()):
        body |= {"intervention": BODY["intervention"] | draw(INTERVENTIONS)}
    return body
