"""Counterfactual outcomes of real entities with and without an intervention, before an experiment and after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid5

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import stdtrit

from engine.effects import change_per_effect
from engine.experiments.arms import parse_arms
from engine.experiments.experiment_analysis import RegressionLine, assignment_units, clustered_mean, robust_fit
from engine.simulation_engine import SimulationEngine
from engine.twins import TwinModel, conformal_quantile
from schemas.arrays import Flags, Floats, Integers
from schemas.simulation_models import EffectPrior, InterventionConfig
from schemas.twin_models import BEHAVIOUR, TwinPopulation
from schemas.twin_types import TWIN_TYPES

__all__ = ["Counterfactuals", "entities_as_population", "predict_counterfactuals", "treated_counterfactuals"]

Estimate = tuple[Floats, Floats, Floats]  # of each entity: estimate, lower and upper end of its interval

SUFFIXES = ("", "_lower", "_upper")


@dataclass(frozen=True)
class Counterfactuals:
    """Both potential outcomes of each entity, in units of the target, and their difference; also on average.

    Attributes:
        entities: one row per entity, in the order and with the index of the input: ``without``, ``with`` and ``difference``, each
            with ``_lower`` and ``_upper``. The intervals of the two outcomes are prediction intervals of one outcome.
        average: the same columns for the average of these entities; its intervals are confidence intervals.
        warnings: features that no entity has a value of, and levels that the model never saw.
    """

    entities: pd.DataFrame
    average: Mapping[str, float]
    warnings: tuple[str, ...] = ()


def predict_counterfactuals(
    model: TwinModel,
    entities: pd.DataFrame,
    intervention: InterventionConfig,
    *,
    priors: Mapping[str, EffectPrior] | None = None,
    confidence_level: float = 0.95,
    seed: int = 0,
) -> Counterfactuals:
    """Expected outcome of each real entity with and without an intervention.

    The interval of a difference covers the effect on entities with the same features: it contains the uncertainty of the effect
    and of its moderators. Variation between entities with the same features is in the intervals of the outcomes.

    Args:
        model: predicts their outcomes.
        entities: one row per entity, with the features of the model.
        intervention: the intervention on all of them.
        priors: prior effect of interventions by type; for the others the catalogue's prior is used.
        confidence_level: of all intervals.
        seed: of the draws.

    Raises:
        ValueError: without any entity, for a value that a feature cannot have, or without the column that effects are a share of.

    References:
        Rubin (1974), Estimating causal effects of treatments in randomized and nonrandomized studies. Journal of Educational
        Psychology 66 (the two outcomes of one unit).

    Example:
        >>> from engine.sample_tables import sample_hcps
        >>> from engine.twin_generator import TwinGenerator
        >>> generator = TwinGenerator("hcp", "kisqali", model_type="RandomForest", n_jobs=1)
        >>> _ = generator.train(sample_hcps(1000, np.random.default_rng(0)), "prescribing_change")
        >>> visits = InterventionConfig(
        ...     intervention_type="call_frequency_increase", channel="in_person", frequency="weekly", duration_weeks=12
        ... )
        >>> result = predict_counterfactuals(generator.model, sample_hcps(50, np.random.default_rng(1)), visits)
        >>> list(result.entities)[6:], len(result.entities)
        (['difference', 'difference_lower', 'difference_upper'], 50)
    """
    if entities.empty:
        raise ValueError("the table has no entities: it needs one row per entity")
    expected, lower, upper = model.predict_all(entities, confidence_level)
    warnings = tuple(model.gap_sentences(entities))
    engine = SimulationEngine(
        entities_as_population(model, entities, expected), priors=priors, confidence_level=confidence_level, seed=seed
    )
    target = TWIN_TYPES[model.card.twin_type].target(model.card.target)
    per_effect = change_per_effect(target, entities.assign(**{BEHAVIOUR: expected}))
    effects = np.array([engine.twin_effects(intervention), *engine.twin_effect_intervals(intervention)]) * per_effect
    difference, *ends = effects
    low, high = np.sort(ends, axis=0)
    estimates = {
        "without": (expected, lower, upper),
        "with": _independent_sum((expected, lower, upper), (difference, low, high)),
        "difference": (difference, low, high),
    }
    return Counterfactuals(_columns(estimates, entities.index), _average(engine, intervention, expected, per_effect), warnings)


def entities_as_population(model: TwinModel, entities: pd.DataFrame, expected: Floats) -> TwinPopulation:
    """Real entities as a population that can be simulated like twins; ``expected`` are their expected outcomes ``(n,)``."""
    frame = model.features(entities)
    digest = int(pd.util.hash_pandas_object(frame, index=False).sum())
    return TwinPopulation(
        population_id=uuid5(model.card.model_id, f"entities {digest}"),
        model_id=model.card.model_id,
        name="real entities",
        twin_count=len(frame),
        model=model.card,
        frame=frame.assign(**{BEHAVIOUR: expected}),
    )


def treated_counterfactuals(
    expected: Sequence[float] | Floats,
    outcome: Sequence[float] | Floats,
    treated: Sequence[Any] | Flags,
    *,
    clusters: npt.ArrayLike | None = None,
    confidence_level: float = 0.95,
) -> Counterfactuals:
    """Outcomes of the treated entities of a finished experiment without treatment, estimated from the controls.

    A straight line of outcomes on expected outcomes is fitted to the controls and evaluated for the treated. It is unbiased on
    average for any expectation, because the arms were assigned at random; a more accurate one gives a narrower interval.

    Args:
        expected: expected outcome of each entity by the twin model before the experiment, shape ``(n,)``.
        outcome: observed outcome of each entity, shape ``(n,)``.
        treated: arm of each entity, shape ``(n,)``: flags, or values that ``parse_arms`` reads.
        clusters: the unit of assignment of each entity, shape ``(n,)``; errors are then robust to it. By default each entity is
            a unit.
        confidence_level: of all intervals.

    Returns:
        The treated: ``with`` is their observed outcome (no interval), ``without`` the estimated one without treatment.

    Raises:
        ValueError: for different lengths, fewer than three units of assignment in an arm, values that are not finite, or an arm
            or a cluster that is not named.

    References:
        Lin (2013), Agnostic notes on regression adjustments to experimental data. Annals of Applied Statistics 7.
        Schuler et al. (2022), Increasing the efficiency of randomized trial estimates via linear adjustment for a prognostic
        score. International Journal of Biostatistics 18.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> expected = rng.normal(0, 1, 2000)
        >>> treated = rng.random(2000) < 0.5
        >>> outcome = expected + 0.3 * treated + rng.normal(0, 0.5, 2000)
        >>> result = treated_counterfactuals(expected, outcome, treated)
        >>> bool(result.average["difference_lower"] < 0.3 < result.average["difference_upper"])
        True
    """
    x, y, is_treated = np.asarray(expected, dtype=float), np.asarray(outcome, dtype=float), parse_arms(treated)
    units = assignment_units(clusters, len(y))
    _check_arms(x, y, is_treated, units)
    line = robust_fit(x[~is_treated], y[~is_treated], units[~is_treated])
    without, observed = line.predict(x[is_treated]), y[is_treated]
    sizes = np.abs(line.left_out_residuals)
    half = min(conformal_quantile(sizes, confidence_level), float(sizes.max()))
    difference = observed - without
    error, n_units = _standard_error(line, x[is_treated], observed, units[is_treated])
    freedom = min(n_units, line.n_clusters) - 1
    half_of_mean = float(stdtrit(freedom, (1.0 + confidence_level) / 2.0)) * error
    estimates = {
        "without": (without, without - half, without + half),
        "with": (observed, observed, observed),
        "difference": (difference, difference - half, difference + half),
    }
    mean, mean_difference = float(observed.mean()), float(difference.mean())
    average = {
        **_with_interval("without", mean - mean_difference, half_of_mean),
        **_with_interval("with", mean, 0.0),
        **_with_interval("difference", mean_difference, half_of_mean),
        "standard_error": error,
    }
    return Counterfactuals(_columns(estimates, pd.Index(np.flatnonzero(is_treated), name="entity")), average)


def _standard_error(line: RegressionLine, x: Floats, observed: Floats, units: Integers) -> tuple[float, int]:
    """Standard error of the mean difference of the treated from the line, and their number of units of assignment."""
    residual = clustered_mean(observed - line.slope * x, units)
    return float(np.sqrt(residual.variance + line.prediction_variance(float(x.mean())))), residual.n_clusters


def _independent_sum(a: Estimate, b: Estimate) -> Estimate:
    """Estimate and interval of the sum of two independent quantities: the squared distances to the ends add up."""
    center = a[0] + b[0]
    below, above = np.hypot(a[0] - a[1], b[0] - b[1]), np.hypot(a[2] - a[0], b[2] - b[0])
    return center, center - below, center + above


def _columns(estimates: Mapping[str, Estimate], index: pd.Index) -> pd.DataFrame:
    columns = {
        f"{name}{suffix}": values for name, estimate in estimates.items() for suffix, values in zip(SUFFIXES, estimate, strict=True)
    }
    return pd.DataFrame(columns, index)


def _with_interval(name: str, center: float, half_width: float) -> dict[str, float]:
    return {name: center, f"{name}_lower": center - half_width, f"{name}_upper": center + half_width}


def _average(engine: SimulationEngine, intervention: InterventionConfig, expected: Floats, per_effect: Floats) -> dict[str, float]:
    """Averages over all entities: only the effect is uncertain, their expected outcomes are taken as given."""
    change = engine.average_change(intervention, per_effect)
    without = float(expected.mean())
    estimates = {"difference": change, "with": tuple(without + end for end in change), "without": (without, without, without)}
    return {f"{name}{suffix}": ends[k] for name, ends in estimates.items() for k, suffix in enumerate(SUFFIXES)}


def _check_arms(x: Floats, y: Floats, treated: Flags, units: Integers) -> None:
    if not len(x) == len(y) == len(treated) == len(units):
        raise ValueError(
            f"{len(x)} expectations, {len(y)} outcomes, {len(treated)} arms and {len(units)} clusters: equal numbers are needed"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("expectations and outcomes must be numbers: leave out entities whose outcome is missing")
    for name, arm in (("treated", treated), ("control", ~treated)):
        if (n_units := len(np.unique(units[arm]))) < 3:
            raise ValueError(f"the {name} arm has {n_units} units of assignment: at least 3 are needed for a standard error")
