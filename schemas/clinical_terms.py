"""Terms that mark a column or a target as clinical by its name; such data is refused.

The default features and targets of the twin types are always allowed, whatever they contain.
"""

from __future__ import annotations

import re

from schemas.twin_types import TWIN_TYPES, TwinType

__all__ = ["CLINICAL_TERMS", "clinical_term"]

CLINICAL_TERMS: tuple[str, ...] = (
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

_PATTERN = re.compile(rf"(?:^|_)({'|'.join(map(re.escape, CLINICAL_TERMS))})(?:s|_|$)")


def clinical_term(twin_type: TwinType, column: str) -> str | None:
    """The clinical term in a column's name, or None where there is none or the catalogue allows the column.

    >>> clinical_term(TwinType.PATIENT, "risk_score") is None
    True
    >>> clinical_term(TwinType.HCP, "Overall Survival months")
    'survival'
    """
    entry = TWIN_TYPES[twin_type]
    if column in entry.by_name or column in {target.name for target in entry.targets}:
        return None
    match = _PATTERN.search(re.sub(r"\W+", "_", column.lower()))
    return match.group(1) if match else None
