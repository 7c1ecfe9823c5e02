"""Populations for tests, built from tables instead of a trained model."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd

from schemas import (
    INTERVENTIONS,
    TWIN_TYPES,
    Baseline,
    Brand,
    InterventionConfig,
    ModelCard,
    TwinModelMetrics,
    TwinPopulation,
    TwinType,
)

BASELINE = Baseline(
    n=5000,
    mae=0.10,
    rmse=0.13,
    correlation=0.5,
    coverage_95pct=0.95,
    center=0.02,
    scale=0.25,
    clip=0.5,
    clipped_mean=0.2,
    clipped_sd=0.15,
)
METRICS = TwinModelMetrics(train_r2=0.5, train_mae=0.1, train_rmse=0.13, cv_r2_mean=0.4, cv_r2_std=0.02, training_samples=5000)


def card(twin_type: TwinType, features: tuple[str, ...]) -> ModelCard:
    return ModelCard(
        model_id=UUID(int=1),
        twin_type=twin_type,
        brand=Brand.KISQALI,
        target=TWIN_TYPES[twin_type].default_target.name,
        model_type="RandomForest",
        features=features,
        hyperparameters={},
        training_samples=5000,
        metrics=METRICS,
        baseline=BASELINE,
    )


def hcps(n: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "specialty": rng.choice(["oncology", "hematology", "primary_care", "dermatology"], n, p=[0.2, 0.1, 0.6, 0.1]),
            "region": rng.choice(["northeast", "south", "midwest", "west"], n),
            "decile": rng.integers(1, 11, n),
            "priority_tier": rng.integers(1, 6, n),
            "digital_engagement_score": rng.beta(2, 2, n),
            "adoption_stage": rng.choice(["innovator", "early_adopter", "early_majority", "laggard"], n, p=[0.05, 0.15, 0.5, 0.3]),
        }
    )


def patients(n: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "age_group": rng.choice(["18-39", "40-64", "65+"], n),
            "geographic_region": rng.choice(["north", "south"], n),
            "journey_stage": rng.choice(["diagnosis", "treatment"], n),
        }
    )


def territories(n: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"region": rng.choice(["north", "south"], n), "urban_rural_mix": rng.uniform(0, 1, n)})


TABLES = {TwinType.HCP: hcps, TwinType.PATIENT: patients, TwinType.TERRITORY: territories}
EXPECTED = {TwinType.HCP: (0.02, 0.1, 0.13), TwinType.PATIENT: (60.0, 10.0, 15.0), TwinType.TERRITORY: (0.0, 0.01, 0.02)}


def population(
    n: int = 2000, twin_type: TwinType = TwinType.HCP, seed: int = 0, features: pd.DataFrame | None = None, **fields: Any
) -> TwinPopulation:
    """``n`` twins whose outcome is their expected outcome plus normal noise."""
    table = TABLES[twin_type](n, seed) if features is None else features
    rng = np.random.default_rng(seed + 1)
    center, between, within = EXPECTED[twin_type]
    expected = rng.normal(center, between, len(table))
    model = card(twin_type, tuple(table))
    frame = table.assign(**{"baseline_behavior": expected, model.target: expected + rng.normal(0, within, len(table))})
    defaults = {
        "population_id": UUID(int=2),
        "name": "test",
        "real_rows": 5000,
        "model": model,
        "model_id": model.model_id,
    } | fields
    return TwinPopulation(twin_count=len(frame), frame=frame, **defaults)


def intervention(kind: str = "speaker_program_invitation", **fields: Any) -> InterventionConfig:
    """An intervention at the reference dose in its own channel; ``fields`` replace these values."""
    own = INTERVENTIONS[kind].channel if kind in INTERVENTIONS else "email"
    return InterventionConfig(
        **{"intervention_type": kind, "channel": own, "frequency": "monthly", "duration_weeks": 12, "intensity": None} | fields
    )
