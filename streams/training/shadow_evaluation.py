"""Evaluates two models in shadow: both predict the same later outcomes, and neither prediction is published.

An outcome with features is predicted from them. For an outcome that names a twin of a simulation, each model predicts from the
twin's features, and the change that the stored simulation expected for this twin is added.
"""

from __future__ import annotations

from datetime import datetime

import numpy as np
import numpy.typing as npt
import pandas as pd

from engine.promotion import Basis, Comparison, Predictions, compare_models
from engine.twins import TwinModel
from schemas import TWIN_TYPES, ModelCard, TwinType
from schemas.levels import levels_of
from schemas.twin_types import ALL_ROWS, segment_name
from sql.database import Database
from sql.segment_store import DEFAULT_SEGMENT_LIMITS
from sql.training_data_store import CHANGE, ENTITY, OBSERVED, simulated_rows, training_rows

__all__ = ["compare_predictions", "gate", "later_rows"]


async def later_rows(database: Database, line: str, as_of: datetime, since: datetime) -> pd.DataFrame:
    """Outcomes of a line that models can predict, observed in ``[since, as_of]``, oldest first."""
    own = (await training_rows(database, line, as_of, since)).assign(**{CHANGE: 0.0})
    simulated = await simulated_rows(database, line, as_of, since)
    if simulated.empty:
        return own
    parts = [part for part in (own, simulated) if not part.empty]
    return pd.concat(parts, ignore_index=True).sort_values([OBSERVED, ENTITY], kind="stable", ignore_index=True)


def gate(
    rows: pd.DataFrame, champion: TwinModel, challenger: TwinModel, trigger: str = ALL_ROWS, basis: Basis = "later"
) -> Comparison:
    """Compare two models on the same rows; ``trigger`` is the segment whose error has to become lower."""
    return compare_predictions(rows, champion.card, _predict(champion, rows), _predict(challenger, rows), trigger, basis)


def compare_predictions(
    rows: pd.DataFrame, card: ModelCard, champion: Predictions, challenger: Predictions, trigger: str, basis: Basis
) -> Comparison:
    """Compare predictions of two models for the same rows, of the line of ``card``."""
    return compare_models(
        rows[card.target].to_numpy(dtype=float),
        champion=champion,
        challenger=challenger,
        entities=rows[ENTITY].to_numpy() if ENTITY in rows else None,
        segments=_segments(rows, card.twin_type, trigger),
        trigger=trigger,
        basis=basis,
    )


def _predict(model: TwinModel, rows: pd.DataFrame) -> Predictions:
    change = rows[CHANGE].to_numpy(dtype=float) if CHANGE in rows else 0.0
    return Predictions(*(values + change for values in model.predict_all(rows)))


def _segments(rows: pd.DataFrame, twin_type: TwinType, trigger: str) -> dict[str, npt.NDArray[np.bool_]]:
    """Rows of the most frequent levels of each declared dimension and of ``trigger``, by the names of the fidelity segments."""
    segments: dict[str, npt.NDArray[np.bool_]] = {}
    for dimension in TWIN_TYPES[twin_type].segments:
        if dimension in rows:
            levels = levels_of(rows[dimension])
            names = levels.texts({level: segment_name(dimension, level) for level in levels.values})
            by_frequency = names.value_counts().index
            compared = {*by_frequency[: DEFAULT_SEGMENT_LIMITS.values], *by_frequency[by_frequency == trigger]}
            segments |= {name: (names == name).to_numpy(dtype=bool) for name in sorted(compared)}
    return segments
