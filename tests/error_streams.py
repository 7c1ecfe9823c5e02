"""Many streams of model errors at once, with the results of the detector and the rule of the service on each.

Sums come from :func:`engine.fidelity.error_sums.contributions` and stakes from
:func:`engine.fidelity.e_detector.update_log_stakes`. Only the loop over the cells is written again here, vectorised over streams.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import integrate, stats

from engine.fidelity.baseline import CLIP_FACTOR, HoldoutRows, compute_baseline
from engine.fidelity.drift_rules import N_MIN
from engine.fidelity.e_detector import AVERAGE_RUN_LENGTH, SeriesReference, log_mean, series_reference, update_log_stakes
from engine.fidelity.error_sums import QUANTUM, contributions
from schemas import DRIFT_RULES, Baseline
from schemas.arrays import Flags, Floats
from schemas.events import SUM_FIELDS
from schemas.twin_models import Effects, ExpectedErrors, LossMoments

__all__ = [
    "CELL",
    "DRAWS",
    "STEP",
    "Evidence",
    "Territories",
    "error_contributions",
    "known_baseline",
    "log_evidence",
    "outcomes_until",
    "rule_fired",
    "sampled_baseline",
    "step_sums",
    "territory_errors",
]


CELL, STEP = 200, 20
"""Outcomes of a cell of the detector, and outcomes between two of its evaluations."""

DRAWS: Mapping[str, Callable[[np.random.Generator, tuple[int, ...]], Floats]] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "t3": lambda rng, shape: rng.standard_t(3, shape),
}
_DISTRIBUTIONS: Mapping[str, Any] = {"normal": stats.norm(), "t3": stats.t(3)}
_N, _ABSOLUTE = (SUM_FIELDS.index(name) for name in ("n", "absolute_error"))


def known_baseline(name: str) -> Baseline:
    """Baseline of errors with a known distribution: every metric is its expectation, and so is the mean that is bet against."""
    errors = _DISTRIBUTIONS[name]
    clip = CLIP_FACTOR * errors.ppf(0.995)
    mean, square = (
        2 * (integrate.quad(lambda x, k=k: (x / clip) ** k * errors.pdf(x), 0, clip)[0] + errors.sf(clip)) for k in (1, 2)
    )
    return Baseline(
        n=10**15,
        mae=2 * integrate.quad(lambda x: x * errors.pdf(x), 0, np.inf)[0],
        rmse=errors.std(),
        center=0.0,
        scale=errors.std(),
        clip=clip,
        clipped_mean=mean,
        clipped_sd=math.sqrt(square - mean**2),
        **_known_losses(errors, clip, mean, square),
    )


def _known_losses(errors: Any, clip: float, mean: float, square: float) -> dict[str, Any]:
    """What is expected of errors with this distribution, of predictions that are all 0, with intervals of exact coverage."""
    half_width = float(errors.ppf(0.975))
    moments = [
        2 * (integrate.quad(lambda x, k=k: (x / half_width) ** k * errors.pdf(x), 0, half_width)[0] + errors.sf(half_width))
        for k in (1, 2)
    ]
    sizes = {name: Effects(by_prediction=(value, value), by_width=(1.0, 1.0)) for name, value in zip("ab", moments, strict=True)}
    return {
        "half_width": half_width,
        "expected": ExpectedErrors(
            prediction_edges=(),
            width_edges=(),
            prediction_mean=0.0,
            prediction_sd=1.0,
            clip=clip / half_width / moments[0],
            size=sizes["a"],
            error=Effects(by_prediction=(0.0, 0.0), by_width=(0.0, 0.0)),
            square=sizes["b"],
            misses=Effects(by_prediction=(0.05, 0.05), by_width=(1.0, 1.0)),
        ),
        "losses": {
            "size": LossMoments(mean=mean, sd=math.sqrt(square - mean**2)),
            "error": LossMoments(mean=0.0, sd=math.sqrt(moments[1]), expected_square=moments[1]),
            "slope": LossMoments(mean=0.0, sd=0.0),
            "misses": LossMoments(mean=0.0, sd=math.sqrt(0.05 * 0.95), expected_square=0.05 * 0.95),
        },
    }


def sampled_baseline(errors: Floats, levels: npt.ArrayLike = ()) -> Baseline:
    """Baseline of a model with these errors on held-out rows; ``levels`` of the region of each row make it one with segments."""
    half_width = np.full(len(errors), np.quantile(np.abs(errors), 0.95))
    rows = HoldoutRows(errors, np.zeros(len(errors)), -half_width, half_width)
    return compute_baseline(rows, pd.DataFrame({"region": levels}) if np.size(levels) else pd.DataFrame(), ["region"])


def error_contributions(errors: Floats, baseline: Baseline) -> npt.NDArray[np.int64]:
    """Contributions of outcomes with these errors and without intervals, shape ``(n, len(SUM_FIELDS))``."""
    no_interval = np.full(len(errors), np.nan)
    return contributions(np.zeros(len(errors)), errors, no_interval, no_interval, baseline)


def step_sums(errors: Floats, baselines: Sequence[Baseline]) -> npt.NDArray[np.int64]:
    """Sums of the outcomes of each step, shape ``(streams, steps, len(SUM_FIELDS))``."""
    parts = (error_contributions(stream, baseline) for stream, baseline in zip(errors, baselines, strict=True))
    return np.stack([part.reshape(-1, STEP, len(SUM_FIELDS)).sum(axis=1) for part in parts])


class Evidence(NamedTuple):
    """Log of the evidence over its limit after each step, an alarm from 0 upward: together, and of each loss alone.

    Shapes ``(streams, steps)``.
    """

    total: Floats
    by_loss: dict[str, Floats]


def log_evidence(steps: npt.NDArray[np.int64], baselines: Sequence[Baseline]) -> Evidence:
    """The evidence of the series of all rows of each stream."""
    parts = [_stream_evidence(stream, series_reference(baseline)) for stream, baseline in zip(steps, baselines, strict=True)]
    names = set.intersection(*(set(part.by_loss) for part in parts))
    return Evidence(
        np.stack([part.total for part in parts]), {name: np.stack([part.by_loss[name] for part in parts]) for name in names}
    )


def _stream_evidence(steps: npt.NDArray[np.int64], reference: SeriesReference) -> Evidence:
    log_growth, log_entry = reference.log_growth(steps), math.log(N_MIN)
    log_stakes = np.full(log_growth.shape[-1], -np.inf)
    path = []
    for first in range(0, len(steps), CELL // STEP):
        within = update_log_stakes(log_stakes, log_entry, log_growth[first : first + CELL // STEP].cumsum(axis=0))
        path.append(within)
        log_stakes, log_entry = within[-1], math.log(CELL)
    stakes, limit = np.concatenate(path), math.log(AVERAGE_RUN_LENGTH)
    by_loss = {name: values - limit for name, values in reference.by_loss(stakes).items()}
    return Evidence(log_mean(stakes, reference.log_weights) - limit, by_loss)


def rule_fired(steps: npt.NDArray[np.int64], baselines: Sequence[Baseline]) -> Flags:
    """Whether the rule on the MAE fires after each step, on the fewest latest cells that hold ``N_MIN`` outcomes."""
    cells = steps[..., [_N, _ABSOLUTE]].reshape(len(steps), -1, CELL // STEP, 2)
    current = cells.cumsum(axis=2)
    previous = np.roll(current[:, :, -1:], 1, axis=1)
    previous[:, 0] = 0
    sums = np.where(current[..., :1] >= N_MIN, current, current + previous).reshape(len(steps), -1, 2)
    increase = next(rule.limit for rule in DRIFT_RULES if rule.name == "mae_increase")
    limits = np.array([baseline.mae * (1 + increase) / (QUANTUM * baseline.scale) for baseline in baselines])
    return (sums[..., 0] >= N_MIN) & (sums[..., 1] > limits[:, None] * sums[..., 0])


def outcomes_until(flags: Flags) -> Floats:
    """Outcomes until the first step with a flag, infinite where there is none; shape ``(streams,)``."""
    return np.where(flags.any(axis=1), (flags.argmax(axis=1) + 1.0) * STEP, np.inf)


class Territories(NamedTuple):
    """A simulated world in which the errors of outcomes of the same territory are correlated.

    Attributes:
        shared: share of the variance of an error that all outcomes of a territory have in common at a time.
        memory: correlation of the common part from one day to the next; a day has 500 outcomes.
    """

    shared: float
    number: int = 50
    memory: float = 0.9
    day: int = 500


def territory_errors(rng: np.random.Generator, world: Territories, shape: tuple[int, int]) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Draw errors, each standard normal by itself, and the territory of each outcome; both of ``shape`` (streams, outcomes)."""
    days = -(-shape[1] // world.day)
    effect = rng.standard_normal((shape[0], days, world.number))
    for day in range(1, days):
        effect[:, day] = world.memory * effect[:, day - 1] + math.sqrt(1 - world.memory**2) * effect[:, day]
    territory = rng.integers(0, world.number, shape)
    common = effect[np.arange(shape[0])[:, None], np.arange(shape[1]) // world.day, territory]
    return math.sqrt(1 - world.shared) * rng.standard_normal(shape) + math.sqrt(world.shared) * common, territory
