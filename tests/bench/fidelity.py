"""Time of exact sums and the detector on a stream of outcomes, compared with plain floating-point sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.fidelity.e_detector import DetectorState, accumulate
from engine.fidelity.error_sums import contributions, sum_groups
from schemas import Baseline
from schemas.arrays import Floats
from tests.bench.measure import Figure, interleaved
from tests.bench.tables import SEED, Measured

__all__ = ["sums_figure"]


OUTCOMES, PANES = 100_000, 500
BINCOUNT = "numpy's bincount of counts, errors, squares and products in floating point: order matters, no evidence"


def sums_figure(measured: Measured) -> Figure:
    """Time exact sums of ``OUTCOMES`` outcomes by pane, and the detector over all panes."""
    baseline, rng = measured.model.card.baseline, np.random.default_rng(SEED)
    predicted = rng.normal(baseline.center, baseline.scale, OUTCOMES)
    actual = predicted + rng.normal(0, baseline.rmse, OUTCOMES)
    pane = np.repeat(np.arange(PANES), OUTCOMES // PANES)
    half = 2 * baseline.rmse
    times = interleaved(
        lambda: _exact_sums(predicted, actual, half, pane, baseline),
        lambda: _plain_sums(predicted, actual, half, pane),
        7,
        at_most_s=10.0,
    )
    return times.figure(f"sums and evidence of {OUTCOMES:,} outcomes, {PANES} panes", measured.name, BINCOUNT)


def _exact_sums(predicted: Floats, actual: Floats, half: float, pane: npt.NDArray[Any], baseline: Baseline) -> DetectorState:
    rows = contributions(predicted, actual, predicted - half, predicted + half, baseline)
    return accumulate(sum_groups(rows, pane, PANES), DetectorState())


def _plain_sums(predicted: Floats, actual: Floats, half: float, pane: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
    error = predicted - actual
    inside = np.abs(error) <= half
    columns = (inside, predicted, actual, predicted**2, actual**2, predicted * actual, np.abs(error), error**2)
    return (np.bincount(pane, minlength=PANES), *(np.bincount(pane, column, PANES) for column in columns))
