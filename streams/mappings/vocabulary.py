"""By which other names the declared columns go, and by which rule a column of such a name is read.

A name that is not here is matched by the words of the declared name alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from schemas.twin_types import TWIN_TYPES, TwinType

__all__ = ["ALIASES", "SPECIALTY_WORDS", "Alias", "aliases_of"]


class Alias(NamedTuple):
    """Names of a column from which a feature is read by a rule."""

    names: tuple[str, ...]
    by: str = "value"


_ID: Mapping[TwinType, tuple[str, ...]] = {
    TwinType.HCP: (
        "npi",
        "national provider id",
        "provider id",
        "prescriber id",
        "hcp id",
        "physician id",
        "account id",
        "customer id",
        "customer master id",
        "provider npi",
        "prescriber npi",
        "recipient npi",
        "id",
    ),
    TwinType.PATIENT: ("patient id", "member id", "person id", "enrollee id", "subject id", "id"),
    TwinType.TERRITORY: ("territory id", "territory", "territory code", "id"),
}
_TIMES = ("observed date", "observation date", "outcome date", "snapshot date", "as of date", "period end")

ALIASES: Mapping[str, tuple[Alias, ...]] = {
    "specialty": (
        Alias(("specialty", "provider type", "prescriber type", "physician specialty", "taxonomy", "recipient specialty")),
    ),
    "years_experience": (
        Alias(("years experience", "years practice", "practice years", "tenure years")),
        Alias(("graduation years", "medical school graduation", "license years", "practice start years"), "years_before"),
    ),
    "practice_type": (Alias(("practice type", "practice setting", "care setting", "site type", "setting")),),
    "practice_size": (
        Alias(("practice size", "group size", "group practice size", "physician count", "practice physician count")),
    ),
    "region": (
        Alias(("region", "census region", "sales region", "area")),
        Alias(
            (
                "state",
                "provider state",
                "practice state",
                "mailing state",
                "recipient state",
                "address state",
                "state province",
                "administrative area",
            ),
            "us_region",
        ),
    ),
    "decile": (
        Alias(("decile", "prescriptions decile", "target decile", "market decile", "volume decile", "potential decile")),
        Alias(
            (
                "total prescriptions",
                "prescriptions",
                "total claims",
                "claims",
                "claims count",
                "total claims count",
                "prescriptions volume",
                "prescriptions count",
                "total prescriptions count",
            ),
            "decile",
        ),
    ),
    "priority_tier": (Alias(("tier", "priority tier", "target tier", "priority", "call tier", "segment tier")),),
    "total_patient_volume": (
        Alias(
            (
                "patients",
                "total patients",
                "patients count",
                "patients volume",
                "total patients count",
                "panel size",
                "patients panel",
            )
        ),
    ),
    "target_patient_volume": (
        Alias(
            (
                "target patients",
                "eligible patients",
                "indicated patients",
                "class patients",
                "target patients count",
                "brand patients",
            )
        ),
    ),
    "digital_engagement_score": (
        Alias(
            (
                "digital engagement",
                "digital score",
                "engagement score",
                "digital affinity",
                "email engagement",
                "digital engagement index",
            )
        ),
    ),
    "preferred_channel": (Alias(("preferred channel", "channel preference", "best channel", "channel")),),
    "last_interaction_days": (
        Alias(
            (
                "days since last call",
                "days since last interaction",
                "days since last contact",
                "days since last visit",
                "last call days",
                "days last contact",
            )
        ),
        Alias(("last call date", "last interaction date", "last contact date", "last visit date", "last call"), "days_before"),
    ),
    "interaction_frequency": (
        Alias(("calls month", "call frequency", "interactions month", "contacts month", "contact frequency", "visits month")),
    ),
    "adoption_stage": (Alias(("adoption stage", "adopter type", "adoption", "adoption segment", "adoption ladder")),),
    "peer_influence_score": (Alias(("peer influence", "influence score", "kol score", "peer score", "network score", "kol")),),
    "prescribing_change": (
        Alias(
            (
                "prescribing change",
                "prescriptions change",
                "claims change",
                "prescriptions growth",
                "claims growth",
                "volume change",
            )
        ),
    ),
    "age_group": (Alias(("age group", "age band", "age range", "age bucket")),),
    "gender": (Alias(("gender", "sex")),),
    "geographic_region": (
        Alias(("region", "geographic region", "area", "geography")),
        Alias(("state", "patients state", "residence state"), "us_region"),
    ),
    "primary_diagnosis_code": (Alias(("diagnosis", "primary diagnosis", "icd", "diagnosis icd")),),
    "comorbidity_count": (Alias(("comorbidity", "comorbidities", "comorbidities count", "conditions count")),),
    "insurance_type": (
        Alias(("insurance", "payer", "payer type", "plan type", "insurance type", "channel payer", "line business")),
    ),
    "insurance_coverage_flag": (Alias(("covered", "insured", "is covered", "coverage flag")),),
    "journey_stage": (Alias(("stage", "journey stage", "patients stage", "funnel stage")),),
    "journey_duration_days": (Alias(("days on journey", "journey days", "days since diagnosis", "duration days")),),
    "treatment_line": (Alias(("line therapy", "lot", "treatment line", "therapy line")),),
    "journey_progression_days": (Alias(("days to next stage", "progression days", "days next stage")),),
    "state_count": (Alias(("states", "states count")),),
    "zip_count": (Alias(("zips", "zip count", "zip codes", "postal codes")),),
    "total_hcps": (Alias(("providers", "total providers", "providers count", "total providers count")),),
    "covered_hcps": (Alias(("covered providers", "called providers", "target providers")),),
    "coverage_rate": (Alias(("coverage", "coverage rate", "reach", "coverage percent")),),
    "market_share": (Alias(("market share", "share", "brand share", "market share percent")),),
    "competitor_presence_score": (Alias(("competitor presence", "competitor score", "competitor intensity")),),
    "average_hcp_decile": (Alias(("average decile", "average provider decile", "mean decile")),),
    "urban_rural_mix": (Alias(("urban share", "urban percent", "urban")),),
    "population_density": (Alias(("population density", "density")),),
    "market_share_change": (Alias(("market share change", "share change")),),
}
"""Other names of features and targets, in the usual form of their words (see ``name_parts``)."""

SPECIALTY_WORDS = (
    "allerg",
    "anesthes",
    "cardio",
    "chiropract",
    "colorectal",
    "critical care",
    "dent",
    "dermat",
    "electrophys",
    "emergency",
    "endocrin",
    "family",
    "gastro",
    "general practice",
    "geriatr",
    "gynecol",
    "hematol",
    "hepatol",
    "hospitalist",
    "immunol",
    "infectious",
    "internal medicine",
    "interventional",
    "nephrol",
    "neurol",
    "neurosurg",
    "nurse",
    "obstet",
    "oncol",
    "ophthalm",
    "optomet",
    "oral surg",
    "orthop",
    "otolaryng",
    "pain",
    "pathol",
    "pediatr",
    "physician assistant",
    "plastic",
    "podiat",
    "primary care",
    "psych",
    "pulmon",
    "radiol",
    "rehabilit",
    "rheumat",
    "sleep",
    "sport",
    "surgery",
    "thoracic",
    "urolog",
    "vascular",
)
"""Beginnings and names of medical specialties, in small letters."""


def aliases_of(name: str, twin_type: TwinType) -> tuple[Alias, ...]:
    """The names and rules by which a declared column may be read, its own name first, and those that filters give it."""
    entry = TWIN_TYPES[twin_type]
    filters = [text for text, feature in entry.filters.items() if feature == name and text not in entry.by_name]
    own = Alias(tuple(text.replace("_", " ") for text in (name, *filters)))
    if name == "entity_id":
        return (own, Alias(_ID[twin_type]))
    if name == "observed_at":
        return (own, Alias(_TIMES))
    return (own, *ALIASES.get(name, ()))
