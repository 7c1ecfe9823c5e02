"""Terms that mark a column or a target as clinical by its name; such data is refused.

The default features and targets of the twin types are always allowed, whatever they contain.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from schemas.catalogue_in_effect import SequenceView, catalogue_in_effect
from schemas.twin_types import TWIN_TYPES, TwinType

__all__ = ["BUILT_IN_TERMS", "CLINICAL_TERMS", "clinical_pattern", "clinical_term", "term_in"]

BUILT_IN_TERMS: tuple[str, ...] = (
    "adverse",
    "allergy",
    "biomarker",
    "biopsy",
    "blood",
    "bmi",
    "cholesterol",
    "clinical",
    "comorbidity",
    "creatinine",
    "cure",
    "death",
    "diagnosis",
    "dose",
    "dosage",
    "efficacy",
    "glucose",
    "hba1c",
    "hospitalization",
    "hospitalisation",
    "lab",
    "lesion",
    "metastasis",
    "morbidity",
    "mortality",
    "mutation",
    "pfs",
    "progression_free",
    "prognosis",
    "relapse",
    "remission",
    "safety",
    "side_effect",
    "survival",
    "symptom",
    "toxicity",
    "tumor",
    "tumour",
    "vital",
)

CLINICAL_TERMS = SequenceView[str](lambda catalogue: catalogue.clinical_terms)
"""Terms of the catalogue in effect: the built-in ones, and any that a user adds."""


def clinical_pattern(terms: Iterable[str]) -> re.Pattern[str]:
    """Pattern of a name in small letters that holds one of the terms, which is its first group."""
    return re.compile(rf"(?:^|_)({'|'.join(map(re.escape, terms))})(?:s|_|$)")


def clinical_term(twin_type: TwinType, column: str) -> str | None:
    """The clinical term in a column's name, or None where there is none or the catalogue allows the column.

    >>> clinical_term(TwinType.PATIENT, "risk_score") is None
    True
    >>> clinical_term(TwinType.HCP, "Overall Survival months")
    'survival'
    """
    entry = TWIN_TYPES[twin_type]
    if column in entry.by_name or column in entry.declared:
        return None
    return term_in(column, catalogue_in_effect().clinical_names)


def term_in(name: str, pattern: re.Pattern[str]) -> str | None:
    """The term of a pattern that a name holds, None where it holds none."""
    match = pattern.search(re.sub(r"\W+", "_", name.lower()))
    return match.group(1) if match else None
