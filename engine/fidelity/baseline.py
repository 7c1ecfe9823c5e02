"""What a model is held against for the rest of its life: its errors on rows that it had not seen, as a whole and by segment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from engine.fidelity.input_drift import PREDICTED, histogram
from schemas.twin_models import Baseline, Errors
from schemas.twin_types import segment_name

__all__ = ["FEWEST_ROWS", "HoldoutRows", "compute_baseline", "compute_errors", "segment_errors"]

Array = npt.NDArray[np.float64]

FEWEST_ROWS = 100
"""Rows of a segment below which it has no baseline of its own: nothing is concluded about its errors."""

CLIP_FACTOR = 1.5


@dataclass(frozen=True)
class HoldoutRows:
    """Rows that the model had not seen, each array of shape ``(n,)``, in units of the target."""

    actual: Array
    predicted: Array
    half_width: Array

    @property
    def loss(self) -> Array:
        """Absolute errors."""
        return np.abs(self.actual - self.predicted)


def compute_baseline(rows: HoldoutRows, features: pd.DataFrame, dimensions: Iterable[str]) -> Baseline:
    """The baseline of a model, given its unseen rows with their features, and the dimensions whose levels are followed."""
    clip = max(CLIP_FACTOR * float(np.quantile(rows.loss, 0.99)), np.finfo(float).tiny)
    whole = compute_errors(rows, clip)
    return Baseline(
        **whole.model_dump(),
        center=float(rows.actual.mean()),
        scale=float(rows.actual.std()),
        clip=clip,
        segments=segment_errors(rows, features, dimensions, clip),
        half_width=float(rows.half_width.mean()),
        inputs={str(name): histogram(features[name]) for name in features} | {PREDICTED: histogram(pd.Series(rows.predicted))},
    )


def compute_errors(rows: HoldoutRows, clip: float) -> Errors:
    """Figures of the errors of rows, ``clip`` in units of the target."""
    loss = rows.loss
    clipped = np.minimum(loss / clip, 1.0)
    varied = np.ptp(rows.predicted) > 0 and np.ptp(rows.actual) > 0
    return Errors(
        n=len(loss),
        mae=float(loss.mean()),
        rmse=float(np.sqrt((loss**2).mean())),
        correlation=float(np.corrcoef(rows.predicted, rows.actual)[0, 1]) if varied else None,
        coverage_95pct=float((loss <= rows.half_width).mean()),
        clipped_mean=float(clipped.mean()),
        clipped_sd=float(clipped.std(ddof=1)),
    )


def segment_errors(rows: HoldoutRows, features: pd.DataFrame, dimensions: Iterable[str], clip: float) -> dict[str, Errors]:
    """``errors_of`` each level of each dimension that has ``FEWEST_ROWS`` rows, by the name of its series."""
    found: dict[str, Errors] = {}
    for dimension in (name for name in dimensions if name in features):
        for level, places in features.groupby(dimension, sort=True).indices.items():
            if len(places) >= FEWEST_ROWS:
                part = HoldoutRows(rows.actual[places], rows.predicted[places], rows.half_width[places])
                found[segment_name(dimension, level)] = compute_errors(part, clip)
    return found
