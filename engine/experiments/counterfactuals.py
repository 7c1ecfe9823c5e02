"""What would have been: outcomes of real entities with and without an intervention, and of the treated had they not been."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import uuid5

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import stdtrit

from engine.experiments.experiment_analysis import cluster_sums, robust_fit
from engine.simulation_engine import SimulationEngine
from engine.twins.twin_model import TwinModel
from schemas.simulation_models import EffectPrior, InterventionConfig
from schemas.twin_models import BEHAVIOUR, TwinPopulation
from schemas.twin_types import TWIN_TYPES

__all__ = ["Counterfactuals", "counterfactuals", "entities_as_population", "treated_counterfactuals"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Counterfactuals:
    """Two outcomes of each entity, in units of the target, and their difference; on average too.

    Attributes:
        entities: one row an entity, in the order and with the index given: ``without``, ``with`` and ``difference``, each with
            ``_lower`` and ``_upper``. Those of the two outcomes are prediction intervals of one outcome.
        average: the same columns for the average of these entities; its intervals are confidence intervals.
    """

    entities: pd.DataFrame
    average: Mapping[str, float]


def counterfactuals(
    model: TwinModel,
    entities: pd.DataFrame,
    intervention: InterventionConfig,
    *,
    priors: Mapping[str, EffectPrior] | None = None,
    confidence_level: float = 0.95,
    seed: int = 0,
) -> Counterfactuals:
    """What each of some real entities is expected to do with and without an intervention.

    Args:
        model: expects their outcomes.
        entities: a row each, with the features that the model knows.
        intervention: what would be done to all of them.
        priors: what is believed of interventions; the catalogue speaks for those left out.
        confidence_level: of all intervals.
        seed: of the draws.

    The interval of a difference is that of the effect on entities like this one: what is unknown of the effect and of its
    moderators. How one of them differs from its like is in the interval of its outcomes.

    Raises:
        ValueError: without any entity, or for a value that a feature cannot have.

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
        >>> told = counterfactuals(generator.model, sample_hcps(50, np.random.default_rng(1)), visits)
        >>> list(told.entities)[6:], len(told.entities)
        (['difference', 'difference_lower', 'difference_upper'], 50)
    """
    if entities.empty:
        raise ValueError("there is no entity: give a table with a row each")
    expected, lower, upper = model.predict_all(entities, confidence_level)
    engine = SimulationEngine(
        entities_as_population(model, entities, expected), priors=priors, confidence_level=confidence_level, seed=seed
    )
    per_effect = TWIN_TYPES[model.card.twin_type].target(model.card.target).desired_change(expected)
    effects = np.array([engine.twin_effects(intervention), *engine.twin_effect_intervals(intervention)]) * per_effect
    difference, *ends = effects
    low, high = np.sort(ends, axis=0)
    told = {
        "without": (expected, lower, upper),
        "with": _sum_of((expected, lower, upper), (difference, low, high)),
        "difference": (difference, low, high),
    }
    return Counterfactuals(_columns(told, entities.index), _average(engine, intervention, expected, per_effect))


def entities_as_population(model: TwinModel, entities: pd.DataFrame, expected: Array) -> TwinPopulation:
    """Real entities in the place of twins, so that whatever is asked of twins can be asked of them."""
    frame = entities[[name for name in model.card.features if name in entities]].reset_index(drop=True)
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
    expected: Sequence[float] | Array,
    outcome: Sequence[float] | Array,
    treated: Sequence[bool] | npt.NDArray[np.bool_],
    *,
    clusters: npt.ArrayLike | None = None,
    confidence_level: float = 0.95,
) -> Counterfactuals:
    """What the treated of a finished experiment would have done untreated, judged by those who were not.

    The controls say how outcomes follow the twin's expectation (a straight line); the treated are put on that line. That is right
    on average whatever the expectation is worth, because the arms were drawn at random; a better one gives a narrower interval.

    Args:
        expected: what the twin model expected of each entity before the experiment, shape ``(n,)``.
        outcome: what each did, shape ``(n,)``.
        treated: who was treated, shape ``(n,)``.
        clusters: the unit that was assigned, where that was not the entity; errors are then robust to it.
        confidence_level: of all intervals.

    Returns:
        The treated, ``with`` being what they did (no interval), ``without`` what they would have done.

    Raises:
        ValueError: for lengths that differ, fewer than three entities (or clusters) in an arm, or values that are no numbers.

    References:
        Lin (2013), Agnostic notes on regression adjustments to experimental data. Annals of Applied Statistics 7.
        Schuler et al. (2022), Increasing the efficiency of randomized trial estimates via linear adjustment for a prognostic
        score. International Journal of Biostatistics 18.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> expected = rng.normal(0, 1, 2000)
        >>> treated = rng.random(2000) < 0.5
        >>> outcome = expected + 0.3 * treated + rng.normal(0, 0.5, 2000)
        >>> told = treated_counterfactuals(expected, outcome, treated)
        >>> bool(told.average["difference_lower"] < 0.3 < told.average["difference_upper"])
        True
    """
    x, y, chosen = np.asarray(expected, dtype=float), np.asarray(outcome, dtype=float), np.asarray(treated, dtype=bool)
    of = np.arange(len(y)) if clusters is None else pd.factorize(np.asarray(clusters))[0]
    _check_arms(x, y, chosen, of)
    line = robust_fit(x[~chosen], y[~chosen], of[~chosen])
    without, did = line.at(x[chosen]), y[chosen]
    half = _conformal(np.abs(line.left_out_residuals), confidence_level)
    difference = did - without
    center = float(difference.mean())
    arm = cluster_sums(did - line.slope * x[chosen] - np.mean(did - line.slope * x[chosen]), of[chosen])
    own = len(arm) / (len(arm) - 1) * float(arm @ arm) / len(did) ** 2
    error = float(np.sqrt(own + line.variance_at(float(x[chosen].mean()))))
    freedom = min(len(arm), line.n_clusters) - 1
    reach = float(stdtrit(freedom, (1.0 + confidence_level) / 2.0)) * error
    told = {
        "without": (without, without - half, without + half),
        "with": (did, did, did),
        "difference": (difference, difference - half, difference + half),
    }
    mean = float(did.mean())
    average = {
        **_named("without", mean - center, reach),
        **_named("with", mean, 0.0),
        **_named("difference", center, reach),
        "standard_error": error,
    }
    return Counterfactuals(_columns(told, pd.Index(np.flatnonzero(chosen), name="entity")), average)


Ends = tuple[Array, Array, Array]


def _sum_of(one: Ends, other: Ends) -> Ends:
    """Estimate and interval of a sum of two that are independent: the distances to the ends add up as squares."""
    center = one[0] + other[0]
    below = np.hypot(one[0] - one[1], other[0] - other[1])
    return center, center - below, center + np.hypot(one[2] - one[0], other[2] - other[0])


def _columns(told: Mapping[str, Ends], index: pd.Index) -> pd.DataFrame:
    parts = ("", "_lower", "_upper")
    return pd.DataFrame({f"{name}{part}": end for name, ends in told.items() for part, end in zip(parts, ends, strict=True)}, index)


def _named(name: str, center: float, reach: float) -> dict[str, float]:
    return {name: center, f"{name}_lower": center - reach, f"{name}_upper": center + reach}


def _average(engine: SimulationEngine, intervention: InterventionConfig, expected: Array, per_effect: Array) -> dict[str, float]:
    """Of all entities: what they are expected to do is taken as known, the effect is not."""
    drawn = engine.average_change(intervention, per_effect)
    without = float(expected.mean())
    told = {"difference": drawn, "with": tuple(without + end for end in drawn), "without": (without, without, without)}
    return {f"{name}{part}": ends[place] for name, ends in told.items() for place, part in enumerate(("", "_lower", "_upper"))}


def _conformal(residuals: Array, level: float) -> float:
    """Half-width within which a share ``level`` of new outcomes lies, by the residuals of left-out ones."""
    rank = min(int(np.ceil(level * (len(residuals) + 1))), len(residuals))
    return float(np.sort(residuals)[rank - 1])


def _check_arms(x: Array, y: Array, treated: npt.NDArray[np.bool_], of: npt.NDArray[np.int64]) -> None:
    if not len(x) == len(y) == len(treated) == len(of):
        raise ValueError(
            f"{len(x)} expectations, {len(y)} outcomes, {len(treated)} arms and {len(of)} clusters: one of each is needed"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("expectations and outcomes must be numbers: leave out entities whose outcome is missing")
    for name, arm in (("treated", treated), ("control", ~treated)):
        if len(np.unique(of[arm])) < 3:
            raise ValueError(
                f"the {name} arm has {len(np.unique(of[arm]))} units of assignment: at least 3 are needed for an error"
            )
