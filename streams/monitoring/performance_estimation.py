"""What can be said of a model before its outcomes arrive: who is still waited for, and what errors to expect. An estimate only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from uuid import UUID

import numpy as np
import pandas as pd

from engine.fidelity.input_drift import estimate_fidelity
from engine.fidelity.label_delay import count_labels, survivorship_weights
from schemas.fidelity_models import DRIFT_RULES, EstimatedFidelity, Labels
from schemas.twin_models import ModelCard
from sql import pending_label_store as store
from sql.database import Database
from streams.metrics import ESTIMATED_MAE, INPUT_SHIFT, PREDICTIONS

__all__ = ["EXPIRE_S", "NEWEST_ROWS", "estimate", "estimate_performance", "followed", "is_worse", "pending_labels", "weights_of"]

NEWEST_ROWS = 2_000
"""Rows that an estimate is made of."""

EXPIRE_S = 90 * 86_400.0
"""Age of a prediction from which its outcome is not waited for any more."""

_COHORTS = 20
_RISE = next(rule.limit for rule in DRIFT_RULES if rule.name == "mae_increase")


async def estimate_performance(database: Database, card: ModelCard) -> EstimatedFidelity | None:
    """Estimate the fidelity of a model and count who is waited for; keep it and let the metrics tell."""
    _show_labels(card.line, pending_labels(await followed(database, card.line)).values())
    found = await estimate(database, card)
    if found is not None:
        _show_estimate(card.line, found)
    return found


async def estimate(database: Database, card: ModelCard) -> EstimatedFidelity | None:
    """Estimate the fidelity of a model by the newest rows it was asked about, and keep it; None while it was asked about none."""
    rows = await store.newest_rows(database, card.line, card.model_id, NEWEST_ROWS)
    if not rows or not card.baseline.inputs:
        return None
    features = pd.DataFrame([dict(row.features) for row in rows])
    ends = np.array([(row.lower, row.upper) for row in rows], dtype=float)
    found = estimate_fidelity(features, [row.predicted for row in rows], (ends[:, 1] - ends[:, 0]) / 2, card.baseline)
    await store.save_estimate(database, card.line, card.model_id, found)
    return found


async def followed(database: Database, line: str) -> list[store.Cohort]:
    """The latest simulations that outcomes are reported of."""
    return await store.cohorts(database, line, _COHORTS)


def is_worse(found: EstimatedFidelity) -> bool:
    """Whether so much larger errors are expected that the rule would call for a retrain, and inputs have moved beyond chance."""
    return bool(found.moved) and found.mae is not None and found.mae > (1 + _RISE) * found.baseline_mae


def pending_labels(cohorts: Iterable[store.Cohort]) -> dict[UUID, Labels]:
    """What became of the predictions of each simulation."""
    return {
        cohort.simulation_id: count_labels(cohort.age_s, cohort.predicted, cohort.arrived, cohort.missing, EXPIRE_S)
        for cohort in cohorts
    }


def weights_of(cohorts: Iterable[store.Cohort], dimension: str) -> dict[str, float]:
    """Survivorship weights of the levels of a dimension, over all simulations."""
    predicted: Counter[str] = Counter()
    arrived: Counter[str] = Counter()
    for cohort in cohorts:
        for level, (said, came) in cohort.levels.items():
            if level.startswith(f"{dimension}="):
                predicted[level] += said
                arrived[level] += came
    return survivorship_weights(predicted, arrived)


def _show_estimate(line: str, found: EstimatedFidelity) -> None:
    if found.mae is not None:
        ESTIMATED_MAE.labels(line=line).set(found.mae)
    for column in found.columns:
        INPUT_SHIFT.labels(line=line, column=column.name).set(column.psi / column.limit)


def _show_labels(line: str, found: Iterable[Labels]) -> None:
    told = list(found)
    for state in ("matured", "missing", "pending", "expired"):
        PREDICTIONS.labels(line=line, state=state).set(sum(getattr(each, state) for each in told))
