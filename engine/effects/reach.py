"""The share of the base effect that an experiment reached, and how its people, and parts of them, moderate effects."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from engine.effects.effect_model import Design
from schemas.arrays import Flags, Floats
from schemas.columns import Columns
from schemas.level_meaning import meaning_key
from schemas.simulation_models import GroupReach, Reach

__all__ = ["measure_reach"]


def measure_reach(
    share: Floats, design: Design, channel: str, columns: Columns, mask: Flags, subgroups: Iterable[tuple[str, str]]
) -> Reach:
    """Reach of an experiment on some of the twins.

    Args:
        share: draws of the share of the base effect that it reached, ``(n_draws,)``.
        design: of these twins.
        channel: of the experiment.
        columns: features of all ``n`` twins.
        mask: which of all twins these are, ``(n,)``.
        subgroups: features and levels of which it reported effects; those that no twin has are left out.
    """
    factors = design.factors(channel)
    is_uncertain = design.coefficients_of(channel)[1] > 0
    groups = [(name, level, _rows(columns, name, level)[mask]) for name, level in subgroups if name in columns]
    return Reach(
        mean=float(share.mean()),
        sd=float(share.std()),
        slopes=_slopes(design, factors, is_uncertain),
        groups=tuple(
            GroupReach(
                dimension=name,
                level=level,
                mean=float(factors[rows].mean() / factors.mean()),
                slopes=_slopes(design.select(rows), factors[rows], is_uncertain),
            )
            for name, level, rows in groups
            if rows.any()
        ),
    )


def _rows(columns: Columns, name: str, level: str) -> Flags:
    codes, values = columns.levels(name)
    return np.array([*(meaning_key(name, value) == meaning_key(name, level) for value in values), False])[codes]


def _slopes(design: Design, factors: Floats, is_uncertain: Flags) -> dict[str, float]:
    """Growth of the logarithm of the average factor by each coefficient that is uncertain."""
    slopes = {name: float((term * factors).sum() / factors.sum()) for name, term in zip(design.names, design.terms, strict=True)}
    return {
        name: slope for (name, slope), uncertain in zip(slopes.items(), is_uncertain.tolist(), strict=True) if uncertain and slope
    }
