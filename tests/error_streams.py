"""Streams of errors of a model, many at once, and what the product's own detector and rule make of them.

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
from engine.fidelity.e_detector import AVERAGE_RUN_LENGTH, BETS, log_mean, update_log_stakes
from engine.fidelity.error_sums import QUANTUM, contributions
from schemas import DRIFT_RULES, Baseline
from schemas.events import SUM_FIELDS

__all__ = [
    "CELL",
    "DRAWS",
    "LOOK",
    "Territories",
    "first_looks",
    "known_baseline",
    "log_evidence",
    "looks_of",
    "rule_fired",
    "sampled_baseline",
    "territory_errors",
]

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

CELL, LOOK = 200, 20
"""Outcomes of a cell of the detector, and between two looks at it."""

DRAWS: Mapping[str, Callable[[np.random.Generator, tuple[int, ...]], Array]] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "t3": lambda rng, shape: rng.standard_t(3, shape),
}
_DISTRIBUTIONS: Mapping[str, Any] = {"normal": stats.norm(), "t3": stats.t(3)}
_N, _ABSOLUTE, _BETS = (SUM_FIELDS.index(name) for name in ("n", "absolute_error", "log_bet_0"))


def known_baseline(name: str) -> Baseline:
    """The baseline of errors whose distribution is known: every figure is its expectation, the bound that is bet against too."""
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
    )


def sampled_baseline(errors: Array, levels: npt.ArrayLike = ()) -> Baseline:
    """The baseline that a model with these errors on unseen rows would get; ``levels`` of its region, if there are any."""
    rows = HoldoutRows(errors, np.zeros(len(errors)), np.ones(len(errors)))
    return compute_baseline(rows, pd.DataFrame({"region": levels}) if np.size(levels) else pd.DataFrame(), ["region"])


def looks_of(errors: Array, baselines: Sequence[Baseline]) -> npt.NDArray[np.int64]:
    """What is added to the sums from one look to the next, shape ``(streams, looks, len(SUM_FIELDS))``."""
    nothing, zeros = np.full(errors.shape[1], np.nan), np.zeros(errors.shape[1])
    parts = (contributions(zeros, stream, nothing, nothing, baseline) for stream, baseline in zip(errors, baselines, strict=True))
    return np.stack([part.reshape(-1, LOOK, len(SUM_FIELDS)).sum(axis=1) for part in parts])


def log_evidence(looks: npt.NDArray[np.int64]) -> Array:
    """Log of the evidence over its limit at each look: an alarm from 0 upward; shape ``(streams, looks)``."""
    gains, entry = looks[..., _BETS:], math.log(N_MIN)
    stakes = np.full((len(looks), len(BETS)), -np.inf)
    path = []
    for first in range(0, looks.shape[1], CELL // LOOK):
        inside = update_log_stakes(stakes[:, None], entry, gains[:, first : first + CELL // LOOK].cumsum(axis=1))
        path.append(log_mean(inside))
        stakes, entry = inside[:, -1], math.log(CELL)
    return np.concatenate(path, axis=1) - math.log(AVERAGE_RUN_LENGTH)


def rule_fired(looks: npt.NDArray[np.int64], baselines: Sequence[Baseline]) -> Flags:
    """Whether the rule on the mean absolute error fires at each look, on the fewest latest cells that hold ``N_MIN`` outcomes."""
    cells = looks[..., [_N, _ABSOLUTE]].reshape(len(looks), -1, CELL // LOOK, 2)
    opened = cells.cumsum(axis=2)
    before = np.roll(opened[:, :, -1:], 1, axis=1)
    before[:, 0] = 0
    sums = np.where(opened[..., :1] >= N_MIN, opened, opened + before).reshape(len(looks), -1, 2)
    rise = next(rule.limit for rule in DRIFT_RULES if rule.name == "mae_increase")
    limits = np.array([baseline.mae * (1 + rise) / (QUANTUM * baseline.scale) for baseline in baselines])
    return (sums[..., 0] >= N_MIN) & (sums[..., 1] > limits[:, None] * sums[..., 0])


def first_looks(seen: Flags) -> Array:
    """Outcomes until the first look at which something is seen, infinite where it never is; shape ``(streams,)``."""
    return np.where(seen.any(axis=1), (seen.argmax(axis=1) + 1.0) * LOOK, np.inf)


class Territories(NamedTuple):
    """A world in which outcomes of one territory share their fortune.

    Attributes:
        shared: share of an error's variance that all outcomes of a territory have in common at a time.
        memory: correlation of that common part from one day to the next; a day brings 500 outcomes.
    """

    shared: float
    number: int = 50
    memory: float = 0.9
    day: int = 500


def territory_errors(rng: np.random.Generator, world: Territories, shape: tuple[int, int]) -> tuple[Array, npt.NDArray[np.int64]]:
    """Errors, each standard normal by itself, and the territory of each outcome; both of ``shape`` (streams, outcomes)."""
    days = -(-shape[1] // world.day)
    fortune = rng.standard_normal((shape[0], days, world.number))
    for day in range(1, days):
        fortune[:, day] = world.memory * fortune[:, day - 1] + math.sqrt(1 - world.memory**2) * fortune[:, day]
    territory = rng.integers(0, world.number, shape)
    common = fortune[np.arange(shape[0])[:, None], np.arange(shape[1]) // world.day, territory]
    return math.sqrt(1 - world.shared) * rng.standard_normal(shape) + math.sqrt(world.shared) * common, territory
