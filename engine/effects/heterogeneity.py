"""Effects by dimension: the groups of all dimensions are drawn and summarised in one step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice

import numpy as np

from engine.effects.effect_draws import AverageDraws
from engine.effects.normal_draws import normal_draws
from engine.effects.subgroups import LevelSums, subgroup_effects
from schemas.simulation_models import EffectHeterogeneity

__all__ = ["effects_by_dimension"]


def effects_by_dimension(
    groups: Mapping[str, LevelSums],
    draws: AverageDraws,
    confidence_level: float,
    seed: int,
    moderated: Callable[[str, str], bool],
    spread: Callable[[str, str], float] = lambda _dimension, _level: 0.0,
) -> EffectHeterogeneity:
    """Effects in the groups of each dimension.

    Args:
        groups: sums of moments by dimension.
        draws: of the effect on all twins.
        confidence_level: of the intervals.
        seed: of the uncertainty that is drawn for groups.
        moderated: whether a moderator is about a level of a dimension.
        spread: standard deviation of a group's effect beyond the parameters that are drawn, as a share of the average effect.
    """
    nonempty = {name: of_name for name, of_name in groups.items() if of_name.labels}
    if not nonempty:
        return EffectHeterogeneity(by_dimension=dict.fromkeys(groups, ()))
    n, group_draws = draws.by_group([of_name.sums for of_name in nonempty.values()], seed)
    labels = [(name, label) for name, of_name in nonempty.items() for label in of_name.labels]
    if (spreads := np.array([spread(*label) for label in labels])).any():
        own = normal_draws(1, len(draws.scale), seed, "levels in one campaign") * draws.average.mean()
        group_draws += spreads[:, None] * own
    flags = [moderated(name, label) for name, label in labels]
    effects = subgroup_effects([label for _, label in labels], flags, n, group_draws, confidence_level)
    remaining = iter(effects)
    by_dimension = {name: tuple(islice(remaining, len(of_name.labels))) for name, of_name in groups.items()}
    warning = _multiplicity_warning(sum(flags), confidence_level) if any(flags) else ""
    return EffectHeterogeneity(by_dimension=by_dimension, n_groups=len(effects), warning=warning)


def _multiplicity_warning(n_groups: int, confidence_level: float) -> str:
    missed = n_groups * (1.0 - confidence_level)
    return (
        f"{n_groups} subgroups were compared: about {missed:.1g} of their {confidence_level:.0%} intervals miss by chance,"
        " and the largest difference is probably overstated"
    )
