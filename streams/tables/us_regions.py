"""Regions of the US Census Bureau, by the code or the name of a state."""

from __future__ import annotations

from schemas.levels import level_key

__all__ = ["OTHER_REGION", "REGION_OF_STATE", "is_state", "region_of"]

_CENSUS_REGIONS = {
    "northeast": "CT ME MA NH RI VT NJ NY PA",
    "midwest": "IL IN MI OH WI IA KS MN MO NE ND SD",
    "south": "DE DC FL GA MD NC SC VA WV AL KY MS TN AR LA OK TX",
    "west": "AZ CO ID MT NV NM UT WY AK CA HI OR WA",
}
REGION_OF_STATE = {state: region for region, states in _CENSUS_REGIONS.items() for state in states.split()}
"""Regions of the US Census Bureau by the postal code of the state, in capitals."""

OTHER_REGION = "other"
"""Of territories, military addresses and what is no state."""

_NAMES = {
    "CT": "connecticut", "ME": "maine", "MA": "massachusetts", "NH": "new hampshire", "RI": "rhode island", "VT": "vermont",
    "NJ": "new jersey", "NY": "new york", "PA": "pennsylvania", "IL": "illinois", "IN": "indiana", "MI": "michigan",
    "OH": "ohio", "WI": "wisconsin", "IA": "iowa", "KS": "kansas", "MN": "minnesota", "MO": "missouri", "NE": "nebraska",
    "ND": "north dakota", "SD": "south dakota", "DE": "delaware", "DC": "district of columbia", "FL": "florida",
    "GA": "georgia", "MD": "maryland", "NC": "north carolina", "SC": "south carolina", "VA": "virginia",
    "WV": "west virginia", "AL": "alabama", "KY": "kentucky", "MS": "mississippi", "TN": "tennessee", "AR": "arkansas",
    "LA": "louisiana", "OK": "oklahoma", "TX": "texas", "AZ": "arizona", "CO": "colorado", "ID": "idaho", "MT": "montana",
    "NV": "nevada", "NM": "new mexico", "UT": "utah", "WY": "wyoming", "AK": "alaska", "CA": "california", "HI": "hawaii",
    "OR": "oregon", "WA": "washington",
}  # fmt: skip
_BY_KEY = {level_key(text): REGION_OF_STATE[state] for state, name in _NAMES.items() for text in (state, name)}
_WITHOUT_REGION = frozenset(map(level_key, ("PR", "VI", "GU", "AS", "MP", "AA", "AE", "AP", "ZZ", "XX")))


def region_of(state: str) -> str:
    """Region of a state by its code or name in any case; ``other`` for anything else.

    >>> region_of("ny"), region_of("New York "), region_of("PR")
    ('northeast', 'northeast', 'other')
    """
    return _BY_KEY.get(level_key(state), OTHER_REGION)


def is_state(text: str) -> bool:
    """Whether a text is the code or the name of a state, or the code of a territory or of military addresses."""
    return level_key(text) in _BY_KEY or level_key(text) in _WITHOUT_REGION
