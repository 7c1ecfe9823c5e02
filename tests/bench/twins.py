"""Generating twins and simulating on them, against plain array code for the same work."""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri

from engine import SimulationEngine
from engine.effects import build_design
from engine.twins import TwinModel
from schemas import TWIN_TYPES, InterventionConfig, TwinPopulation
from schemas.arrays import Floats
from tests.bench.measure import Aim, Figure, interleaved
from tests.bench.tables import ROWS, SEED, Measured

__all__ = ["generation_figure", "simulation_figure"]


DRAWS = 1000
TAILS = (0.025, 0.975)
INTERVENTION = InterventionConfig(
    intervention_type="speaker_program_invitation", channel="in_person", frequency="monthly", duration_weeks=12
)
COPULA = "correlated normals looked up in the table's columns (joint only by pairs, no filters), the same two forests predict once"
MATRIX = "numpy, the same terms, an array of draws x twins averaged over all and over each group"


def generation_figure(measured: Measured) -> Figure:
    """``ROWS`` twins with drawn and expected outcome and interval."""
    model, seeds = measured.model, count()
    copula = _Copula(measured.table.features.assign(**{model.card.target: measured.table.target}))
    times = interleaved(
        lambda: model.generate(ROWS, seed=next(seeds)),
        lambda: _plain_twins(model, copula, np.random.default_rng(next(seeds))),
        7,
        at_most_s=15.0,
    )
    return times.figure(f"generate {ROWS:,} twins", measured.name, COPULA, aim=Aim("ours", 0.15))


def simulation_figure(measured: Measured) -> Figure:
    """An average effect with interval and all subgroups; the engine is new each time, without any cache."""
    twins = measured.model.generate(ROWS, seed=SEED)
    times = interleaved(
        lambda: SimulationEngine(twins, n_draws=DRAWS).simulate(INTERVENTION),
        lambda: _plain_simulation(twins, np.random.default_rng(SEED)),
        15,
        at_most_s=15.0,
    )
    return times.figure(f"simulate on {ROWS:,} twins, {DRAWS:,} draws", measured.name, MATRIX, aim=Aim("ours", 0.010))


class _Copula:
    """A Gaussian copula over the columns of a frame, categories in the order of their names."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.ordered = {str(name): frame[name].sort_values() for name in frame}
        scores = ndtri((frame.rank().fillna(len(frame)) - 0.5) / len(frame))
        self.root = np.linalg.cholesky(np.corrcoef(scores, rowvar=False) + 1e-6 * np.eye(scores.shape[1]))

    def sample(self, n: int, rng: np.random.Generator) -> pd.DataFrame:
        normal = rng.standard_normal((n, len(self.root))) @ self.root.T
        ranks = np.minimum((ndtr(normal) * len(next(iter(self.ordered.values())))).astype(int), ROWS - 1)
        columns = zip(self.ordered.items(), ranks.T, strict=True)
        return pd.DataFrame({name: column.to_numpy()[rank] for (name, column), rank in columns})


def _plain_twins(model: TwinModel, copula: _Copula, rng: np.random.Generator) -> pd.DataFrame:
    frame = copula.sample(ROWS, rng)
    encoded = model.outcome["encoder"].transform(frame)
    expected, log_size = model.outcome["estimator"].predict(encoded), model.conformal.difficulty.predict(encoded)
    return frame.assign(expected=expected, lower=expected - np.exp(log_size), upper=expected + np.exp(log_size))


def _plain_simulation(twins: TwinPopulation, rng: np.random.Generator) -> list[Any]:
    design = build_design(twins.frame)
    mean, sd = design.coefficients_of(INTERVENTION.channel)
    factors = np.exp(mean @ design.terms)
    deviations = rng.normal(0, sd, (DRAWS, len(sd)))
    effects = rng.normal(0.12, 0.04, (DRAWS, 1)) * factors * (1 + deviations @ design.terms)
    dimensions = [name for name in TWIN_TYPES[twins.twin_type].dimensions if name in twins.frame]
    return [_summary(effects.mean(axis=1)), *(_summary(_by_group(effects, twins.frame[name])) for name in dimensions)]


def _by_group(effects: Floats, labels: pd.Series[Any]) -> Floats:
    member = pd.get_dummies(labels).to_numpy(dtype=float)
    return np.asarray((effects @ member / member.sum(axis=0)).T)


def _summary(draws: Floats) -> tuple[Any, Any]:
    return draws.mean(axis=-1), np.quantile(draws, TAILS, axis=-1)
