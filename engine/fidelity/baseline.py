"""Computes the baseline of a model: its errors on held-out rows, over all rows and by segment. Monitoring compares with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from engine.fidelity.effective_sample_size import effective_rows
from engine.fidelity.expected_errors import fit_expected_errors, loss_moments, outcome_losses
from engine.fidelity.input_drift import PREDICTED, histogram
from schemas.arrays import Flags, Floats, Integers
from schemas.levels import level_text, levels_of
from schemas.twin_models import Baseline, Errors, ExpectedErrors, LossMoments
from schemas.twin_types import segment_name

__all__ = ["CLIP_FACTOR", "FEWEST_ROWS", "HoldoutRows", "compute_baseline", "compute_errors", "segment_errors"]


FEWEST_ROWS = 100
"""Rows that a segment needs for a baseline of its own; drift of smaller segments is not evaluated."""

CLIP_FACTOR = 1.5
"""Errors are clipped at this multiple of the 99 % quantile of the held-out errors."""


@dataclass(frozen=True)
class HoldoutRows:
    """Rows that the model was not trained on: arrays of shape ``(n,)`` in units of the target.

    ``lower`` and ``upper`` are the ends of 95 % prediction intervals; ``entities`` has the entity of each row, None where each is
    one of its own.
    """

    actual: Floats
    predicted: Floats
    lower: Floats
    upper: Floats
    entities: Integers | None = None

    @property
    def error(self) -> Floats:
        """Predicted - actual."""
        return self.predicted - self.actual

    @property
    def loss(self) -> Floats:
        """Absolute errors."""
        return np.abs(self.actual - self.predicted)

    @property
    def half_width(self) -> Floats:
        """Half widths of the intervals."""
        return (self.upper - self.lower) / 2

    @property
    def inside(self) -> Flags:
        """Whether each outcome is inside its interval."""
        return (self.lower <= self.actual) & (self.actual <= self.upper)

    def take(self, positions: Integers) -> HoldoutRows:
        """Some of the rows."""
        return HoldoutRows(
            self.actual[positions],
            self.predicted[positions],
            self.lower[positions],
            self.upper[positions],
            None if self.entities is None else self.entities[positions],
        )


def compute_baseline(rows: HoldoutRows, features: pd.DataFrame, dimensions: Iterable[str]) -> Baseline:
    """Compute the baseline of a model from held-out rows with their features; levels of ``dimensions`` are its segments."""
    clip = max(CLIP_FACTOR * float(np.quantile(rows.loss, 0.99)), np.finfo(float).tiny)
    expected = fit_expected_errors(rows.error, rows.predicted, rows.half_width, ~rows.inside, CLIP_FACTOR)
    whole = compute_errors(rows, clip, expected)
    return Baseline(
        **whole.model_dump(),
        center=float(rows.actual.mean()),
        scale=float(rows.actual.std()),
        clip=clip,
        segments=segment_errors(rows, features, dimensions, clip, expected),
        half_width=float(rows.half_width.mean()),
        inputs={str(name): histogram(features[name]) for name in features} | {PREDICTED: histogram(pd.Series(rows.predicted))},
        levels={
            str(name): tuple(sorted(levels_of(features[name]).values))
            for name in features
            if not pd.api.types.is_numeric_dtype(features[name])
        },
        expected=expected,
    )


def compute_errors(rows: HoldoutRows, clip: float, expected: ExpectedErrors | None = None) -> Errors:
    """Compute the error metrics of rows, with ``clip`` in units of the target, and the losses beyond what is ``expected``."""
    loss = rows.loss
    clipped = np.minimum(loss / clip, 1.0)
    varied = np.ptp(rows.predicted) > 0 and np.ptp(rows.actual) > 0
    return Errors(
        n=len(loss),
        mae=float(loss.mean()),
        rmse=float(np.sqrt((loss**2).mean())),
        correlation=float(np.corrcoef(rows.predicted, rows.actual)[0, 1]) if varied else None,
        coverage_95pct=float(rows.inside.mean()),
        clipped_mean=float(clipped.mean()),
        clipped_sd=float(clipped.std(ddof=1)),
        n_effective=None if rows.entities is None else effective_rows(loss, rows.entities),
        losses={} if expected is None else _moments(rows, expected),
    )


def segment_errors(
    rows: HoldoutRows, features: pd.DataFrame, dimensions: Iterable[str], clip: float, expected: ExpectedErrors
) -> dict[str, Errors]:
    """Compute the error metrics of each level of each dimension that has ``FEWEST_ROWS`` rows, by the name of its series."""
    errors: dict[str, Errors] = {}
    for dimension in (name for name in dimensions if name in features):
        for level, positions in features.groupby(dimension, sort=True).indices.items():
            if len(positions) >= FEWEST_ROWS and level_text(level) is not None:
                errors[segment_name(dimension, level)] = compute_errors(rows.take(np.asarray(positions)), clip, expected)
    return errors


def _moments(rows: HoldoutRows, expected: ExpectedErrors) -> dict[str, LossMoments]:
    typical_width = float(rows.half_width.mean())  # not used: each of these rows has an interval
    return loss_moments(outcome_losses(rows.error, rows.predicted, rows.half_width, rows.inside, expected, typical_width))
