"""Estimates the performance of a model before its outcomes arrive, and counts the predictions whose outcome is pending."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from uuid import UUID

import numpy as np

from engine.fidelity import count_labels, estimate_fidelity, survivorship_weights
from schemas.fidelity_models import DriftRule, EstimatedFidelity, Labels
from schemas.levels import frame_of_records
from schemas.twin_models import ModelCard
from sql import pending_label_store as store
from sql.database import Database
from streams.monitoring.line_metrics import set_estimate_metrics, set_label_metrics

__all__ = [
    "EXPIRE_S",
    "estimate_from_newest_rows",
    "estimate_performance",
    "is_worse",
    "latest_cohorts",
    "level_weights",
    "pending_labels",
]

EXPIRE_S = 90 * 86_400.0
"""Age of a prediction from which its outcome is no longer expected."""

_NEWEST_ROWS = 2_000  # that an estimate is based on
_COHORTS = 20


async def estimate_performance(database: Database, card: ModelCard) -> EstimatedFidelity | None:
    """Estimate the performance of a model, count its pending outcomes, and set the metrics of both."""
    set_label_metrics(card.line, pending_labels(await latest_cohorts(database, card.line)).values())
    estimate = await estimate_from_newest_rows(database, card)
    set_estimate_metrics(card.line, estimate)
    return estimate


async def estimate_from_newest_rows(database: Database, card: ModelCard) -> EstimatedFidelity | None:
    """Estimate the performance of a model on the newest rows it predicted, and store it; None while there are no such rows."""
    rows = await store.newest_rows(database, card.line, card.model_id, _NEWEST_ROWS)
    if not rows or not card.baseline.inputs:
        return None
    features = frame_of_records([row.features for row in rows])
    interval = np.array([(row.lower, row.upper) for row in rows], dtype=float)
    half_width = (interval[:, 1] - interval[:, 0]) / 2
    estimate = estimate_fidelity(features, [row.predicted for row in rows], half_width, card.baseline)
    await store.save_estimate(database, card.line, card.model_id, estimate)
    return estimate


async def latest_cohorts(database: Database, line: str) -> list[store.Cohort]:
    """Return the latest simulations of a line that have reported outcomes."""
    return await store.cohorts(database, line, _COHORTS)


def is_worse(estimate: EstimatedFidelity, rule: DriftRule) -> bool:
    """Whether the expected error is large enough for the rule on the MAE to fire, and inputs have moved beyond chance."""
    return bool(estimate.moved) and estimate.mae is not None and estimate.mae > (1 + rule.limit) * estimate.baseline_mae


def pending_labels(cohorts: Iterable[store.Cohort]) -> dict[UUID, Labels]:
    """Count the outcomes of each simulation by their status."""
    return {
        cohort.simulation_id: count_labels(cohort.age_s, cohort.predicted, cohort.arrived, cohort.missing, EXPIRE_S)
        for cohort in cohorts
    }


def level_weights(cohorts: Iterable[store.Cohort], dimension: str) -> dict[str, float]:
    """Return the survivorship weights of the levels of a dimension, over all simulations."""
    predicted: Counter[str] = Counter()
    arrived: Counter[str] = Counter()
    for cohort in cohorts:
        for level, (n_predicted, n_arrived) in cohort.levels.items():
            if level.startswith(f"{dimension}="):
                predicted[level] += n_predicted
                arrived[level] += n_arrived
    return survivorship_weights(predicted, arrived)
