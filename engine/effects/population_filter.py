"""Select the twins of a simulation by filters, and explain a filter that leaves none."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from schemas.arrays import Flags
from schemas.filters import Condition, Filters, conditions, rows_matching
from schemas.twin_models import TwinPopulation

__all__ = ["EmptyPopulation", "select_twins"]

_SHOWN = 8


class EmptyPopulation(ValueError):
    """No twin satisfies the filters; the message names the values that the twins have."""


def select_twins(population: TwinPopulation, filters: Filters) -> Flags:
    """Twins that satisfy the filters, shape ``(n,)``.

    Raises:
        EmptyPopulation: when there are none.
        ValueError: for a filter that does not exist for this twin type.

    Example:
        ``select_twins(population, {"specialty": ["oncology"], "min_decile": 8}).sum()`` is the number of such twins.
    """
    required = conditions(population.twin_type, filters, population.own_features)
    mask = rows_matching(population.frame, required)
    if not mask.any():
        raise EmptyPopulation(_empty_text(population.frame, required))
    return mask


def _empty_text(frame: pd.DataFrame, required: Sequence[Condition]) -> str:
    advice = "; ".join(_advice_text(frame, required, condition) for condition in required)
    return f"none of {len(frame)} twins matches {', '.join(map(_condition_text, required))}. {advice}"


def _advice_text(frame: pd.DataFrame, required: Sequence[Condition], condition: Condition) -> str:
    """The values of one condition's column among the twins that satisfy all other conditions."""
    mask = rows_matching(frame, [candidate for candidate in required if candidate is not condition])
    left = frame.loc[mask, condition.column].dropna()
    if left.empty:
        return f"without {_condition_text(condition)} no twin matches either"
    if condition.operator == "in":
        counts = left.value_counts()
        shown = ", ".join(f"{value} ({count})" for value, count in counts.head(_SHOWN).items())
        return f"{condition.column} has {shown}{' and others' if len(counts) > _SHOWN else ''}"
    return f"{condition.column} ranges from {left.min():g} to {left.max():g}"


def _condition_text(condition: Condition) -> str:
    if condition.operator == "in":
        return f"{condition.column} in [{', '.join(map(str, condition.values))}]"
    sign = ">=" if condition.operator == "min" else "<="
    return f"{condition.column} {sign} {condition.values[0]}"
