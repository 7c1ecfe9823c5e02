"""Simulated tables of entities for demonstrations and tests, where no real table is available.

Marginals and correlations follow published figures of US prescribers and territories, with sources at each generator; the relations
to the targets are assumptions. Nothing here describes a real provider, patient or territory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from schemas.arrays import Floats, Integers
from schemas.twin_types import TwinType

__all__ = ["sample_hcps", "sample_patients", "sample_table", "sample_territories"]


REGIONS, REGION_SHARE = ("south", "west", "northeast", "midwest"), (0.36, 0.24, 0.20, 0.20)

# Share of active US physicians (AAMC, Physician Specialty Data Report 2022, large specialties rescaled), and Medicare Part D
# beneficiaries a prescriber (CMS, Part D Prescribers by Provider), roughly.
SPECIALTIES = {
    "primary_care": (0.52, 480),
    "oncology": (0.09, 190),
    "hematology": (0.04, 180),
    "dermatology": (0.08, 340),
    "neurology": (0.09, 260),
    "rheumatology": (0.05, 300),
    "allergy_immunology": (0.05, 220),
    "nephrology": (0.08, 240),
}
# Rogers, Diffusion of Innovations (2003).
ADOPTION_STAGES = {"innovator": 0.025, "early_adopter": 0.135, "early_majority": 0.34, "late_majority": 0.34, "laggard": 0.16}
CHANNELS = ("email", "in_person", "phone", "video", "web")


def sample_hcps(n: int, rng: np.random.Generator) -> pd.DataFrame:
    """Providers with the features of the catalogue and ``prescribing_change``; about 60 % of its variance can be predicted.

    Volumes are log-normal with a long tail as in the CMS Part D files; half of the physicians work in practices of at most ten
    (AMA Physician Practice Benchmark Survey 2022); adopters follow Rogers' shares, and digital engagement falls with years in
    practice. The change of prescribing depends on engagement, adoption, peers and contacts, plus noise with heavy tails.
    """
    specialty = rng.choice(list(SPECIALTIES), n, p=_shares([share for share, _ in SPECIALTIES.values()]))
    years = np.clip(rng.gamma(5.0, 5.0, n), 0, 60).round().astype(int)
    size = np.minimum(np.ceil(rng.lognormal(1.9, 1.5, n)), 3000).astype(int)
    volume = np.maximum(rng.lognormal(np.log([SPECIALTIES[s][1] for s in specialty]), 0.55), 11).round().astype(int)
    decile = _tenths(volume)
    target_share = np.where(np.isin(specialty, ["oncology", "hematology"]), 0.22, 0.07) * rng.gamma(4.0, 0.25, n)
    engagement = _logistic(0.6 - 0.04 * (years - 25) + rng.normal(0, 0.9, n))
    adoption_stage = _adoption_stages(0.9 * _normal(engagement) + rng.normal(0, 1, n))
    influence = _logistic(-0.8 + 0.12 * (decile - 5.5) + 0.02 * (years - 25) + rng.normal(0, 0.8, n))
    frequency = np.round(rng.gamma(1.6, 0.5 + 0.12 * decile, n), 1)
    frame = pd.DataFrame(
        {
            "specialty": specialty,
            "years_experience": years,
            "practice_type": np.where(size == 1, "solo", np.where(size > 100, "hospital", "group")),
            "practice_size": size,
            "region": rng.choice(REGIONS, n, p=REGION_SHARE),
            "decile": decile,
            "priority_tier": np.clip(6 - (decile + rng.integers(0, 2, n)) // 2, 1, 5),
            "total_patient_volume": volume,
            "target_patient_volume": np.minimum((volume * np.minimum(target_share, 1)).round(), volume).astype(int),
            "digital_engagement_score": engagement.round(3),
            "preferred_channel": np.where(
                engagement > 0.55, rng.choice(CHANNELS[:1] + CHANNELS[3:], n), rng.choice(CHANNELS[:3], n)
            ),
            "last_interaction_days": np.minimum(rng.exponential(30.0 / (0.3 + frequency)), 720).round().astype(int),
            "interaction_frequency": frequency,
            "adoption_stage": adoption_stage,
            "peer_influence_score": influence.round(3),
        }
    )
    adoption_effect = pd.Series(adoption_stage).map(
        {"innovator": 0.16, "early_adopter": 0.10, "early_majority": 0.03, "late_majority": -0.03, "laggard": -0.10}
    )
    change = (
        0.02
        + adoption_effect.to_numpy(dtype=float)
        + 0.16 * (engagement - 0.6)
        + 0.05 * np.log1p(frequency) * (influence > 0.35)
        + 0.10 * (target_share - 0.1)
        - 0.02 * (pd.Series(frame["region"]) == "northeast").to_numpy()
        + 0.05 * rng.standard_t(5, n)
    )
    return frame.assign(prescribing_change=np.maximum(change, -0.95))


def sample_patients(n: int, rng: np.random.Generator) -> pd.DataFrame:
    """Patient journeys with the features of the catalogue and ``journey_progression_days``; no column is clinical.

    Insurance shares follow the US Census Bureau's coverage report of 2022. Days to the next stage are log-normal: longer for
    complex journeys and missing coverage.
    """
    age = rng.choice(["18-34", "35-49", "50-64", "65-79", "80+"], n, p=[0.10, 0.19, 0.32, 0.30, 0.09])
    old = np.isin(age, ["65-79", "80+"])
    insurance = np.where(
        old & (rng.random(n) < 0.93), "medicare", rng.choice(["commercial", "medicaid", "uninsured"], n, p=[0.70, 0.21, 0.09])
    )
    comorbidities = rng.poisson(np.where(old, 2.2, 0.9))
    complexity = np.clip(rng.gamma(2.0 + 0.7 * comorbidities, 0.8), 0, 10)
    covered = (insurance != "uninsured") & (rng.random(n) < 0.96)
    journey_stage = rng.choice(["awareness", "evaluation", "initiation", "maintenance"], n, p=[0.2, 0.25, 0.25, 0.3])
    line = 1 + rng.binomial(3, 0.25, n)
    index = np.clip(rng.normal(50, 18, n) - 8 * (insurance == "medicaid"), 0, 100)
    log_days_by_stage = {"awareness": 0.5, "evaluation": 0.2, "initiation": -0.3, "maintenance": 0.1}
    stage_days = pd.Series(journey_stage).map(log_days_by_stage).to_numpy(dtype=float)
    log_days = 3.6 + stage_days + 0.09 * complexity + 0.45 * ~covered - 0.006 * (index - 50) + 0.08 * (line - 1)
    return pd.DataFrame(
        {
            "age_group": age,
            "gender": rng.choice(["female", "male"], n, p=[0.54, 0.46]),
            "geographic_region": rng.choice(REGIONS, n, p=REGION_SHARE),
            "socioeconomic_index": index.round(1),
            "primary_diagnosis_code": rng.choice(["L50.1", "D59.5", "N02.8", "C50.9"], n, p=[0.4, 0.1, 0.15, 0.35]),
            "comorbidity_count": comorbidities,
            "risk_score": _logistic(-1.2 + 0.4 * comorbidities + 0.5 * old + rng.normal(0, 0.6, n)).round(3),
            "journey_complexity_score": complexity.round(2),
            "insurance_type": insurance,
            "insurance_coverage_flag": covered,
            "journey_stage": journey_stage,
            "journey_duration_days": (rng.gamma(2.0, 60.0, n) * (1 + 0.3 * (line - 1))).round().astype(int),
            "treatment_line": line,
            "journey_progression_days": np.exp(log_days + rng.normal(0, 0.30, n)).round(1),
        }
    )


def sample_territories(n: int, rng: np.random.Generator) -> pd.DataFrame:
    """Territories with the features of the catalogue and ``market_share_change``.

    Providers and postal codes scale with population as in the Census Bureau's county files: log-normal and strongly correlated;
    urban territories are small and dense.
    """
    urban = rng.beta(2.4, 1.6, n)
    people = rng.lognormal(13.2, 0.6, n)
    total = np.maximum((people / 1000 * rng.lognormal(0.75, 0.25, n)).round(), 5).astype(int)
    covered = rng.binomial(total, np.clip(0.25 + 0.45 * urban + rng.normal(0, 0.1, n), 0.02, 0.98))
    rate = covered / total
    competitor = np.clip(rng.beta(2, 2, n) * 0.7 + 0.3 * urban, 0, 1)
    share = np.clip(0.18 - 0.14 * competitor + 0.12 * rate + rng.normal(0, 0.04, n), 0.005, 0.9)
    decile = np.clip(5.5 + 2.2 * (urban - 0.6) + rng.normal(0, 0.6, n), 1, 10)
    change = 0.006 + 0.05 * (rate - 0.5) - 0.035 * (competitor - 0.6) - 0.03 * (share - 0.15) + 0.002 * (decile - 5.5)
    return pd.DataFrame(
        {
            "region": rng.choice(REGIONS, n, p=REGION_SHARE),
            "state_count": 1 + rng.binomial(4, 0.25 * (1 - urban)),
            "zip_count": np.maximum((people / 9000 * (1.6 - urban)).round(), 1).astype(int),
            "total_hcps": total,
            "covered_hcps": covered,
            "coverage_rate": rate,
            "total_patient_volume": (total * rng.lognormal(5.4, 0.3, n)).round().astype(int),
            "market_share": share.round(4),
            "competitor_presence_score": competitor.round(3),
            "average_hcp_decile": decile.round(2),
            "urban_rural_mix": urban.round(3),
            "population_density": np.exp(2.2 + 6.0 * urban + rng.normal(0, 0.5, n)).round(1),
            "market_share_change": change + rng.normal(0, 0.008, n),
        }
    )


def sample_table(twin_type: TwinType, n: int, rng: np.random.Generator) -> pd.DataFrame:
    """A table of ``n`` entities of any twin type.

    Example:
        >>> sample_table(TwinType.TERRITORY, 3, np.random.default_rng(1)).shape
        (3, 13)
    """
    make = {TwinType.HCP: sample_hcps, TwinType.PATIENT: sample_patients, TwinType.TERRITORY: sample_territories}
    return make[twin_type](n, rng)


def _shares(weights: list[float]) -> Floats:
    return np.asarray(weights, dtype=float) / sum(weights)


def _logistic(x: Any) -> Floats:
    return np.asarray(1.0 / (1.0 + np.exp(-np.asarray(x, dtype=float))))


def _normal(x: Floats) -> Floats:
    return np.asarray((x - x.mean()) / x.std())


def _tenths(volume: npt.NDArray[Any]) -> Integers:
    ranks = pd.Series(volume).rank(method="first").to_numpy()
    return np.ceil(10 * ranks / len(volume)).astype(np.int64)


def _adoption_stages(readiness: Floats) -> npt.NDArray[Any]:
    """Adoption stages in Rogers' shares, in order of readiness."""
    ranks = pd.Series(-readiness).rank(method="first").to_numpy() / len(readiness)
    edges = np.cumsum(list(ADOPTION_STAGES.values()))
    index = np.minimum(np.searchsorted(edges, ranks, side="left"), len(ADOPTION_STAGES) - 1)
    return np.asarray(list(ADOPTION_STAGES), dtype=object)[index]
