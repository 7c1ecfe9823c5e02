"""Two models on the same later outcomes: neither answers for them, both are asked what they would have said.

An outcome with features is predicted from them. An outcome that names a twin of a simulation is replayed: each model predicts the
twin's features, and what the stored simulation expected to change for this twin is added.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial

import numpy as np
import numpy.typing as npt
import pandas as pd

from engine.promotion.promotion_gate import Comparison, Predictions, compare_models
from engine.twins.twin_model import TwinModel
from schemas import TWIN_TYPES
from schemas.twin_types import ALL_ROWS, segment_name
from sql.database import Database
from sql.training_data_store import CHANGE, ENTITY, OBSERVED, simulated_rows, training_rows

__all__ = ["gate", "later_rows"]


async def later_rows(database: Database, line: str, as_of: datetime, since: datetime) -> pd.DataFrame:
    """Outcomes of a line that both models can be asked about, observed in ``[since, as_of]``, oldest first."""
    own = await training_rows(database, line, as_of, since)
    simulated = await simulated_rows(database, line, as_of, since)
    if simulated.empty:
        return own.assign(**{CHANGE: 0.0})
    parts = [part for part in (own.assign(**{CHANGE: 0.0}), simulated) if not part.empty]
    return pd.concat(parts, ignore_index=True).sort_values([OBSERVED, ENTITY], kind="stable", ignore_index=True)


def gate(rows: pd.DataFrame, champion: TwinModel, challenger: TwinModel, trigger: str = ALL_ROWS) -> Comparison:
    """Judge two models on the same rows; ``trigger`` is the segment that has to become better."""
    return compare_models(
        rows[champion.card.target].to_numpy(dtype=float),
        champion=_asked(champion, rows),
        challenger=_asked(challenger, rows),
        entities=rows[ENTITY].to_numpy() if ENTITY in rows else None,
        segments=_segments(rows, champion),
        trigger=trigger,
    )


def _asked(model: TwinModel, rows: pd.DataFrame) -> Predictions:
    change = rows[CHANGE].to_numpy(dtype=float) if CHANGE in rows else 0.0
    return Predictions(*(said + change for said in model.predict_all(rows)))


def _segments(rows: pd.DataFrame, model: TwinModel) -> dict[str, npt.NDArray[np.bool_]]:
    """Rows of each level of each declared dimension, by the names that fidelity is followed under."""
    found: dict[str, npt.NDArray[np.bool_]] = {}
    for dimension in TWIN_TYPES[model.card.twin_type].segments:
        if dimension in rows:
            names = rows[dimension].map(partial(segment_name, dimension), na_action="ignore")
            found |= {name: (names == name).to_numpy(dtype=bool) for name in sorted(names.dropna().unique())}
    return found
