"""Which twins a simulation looks at, and what to say when there are none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from schemas.filters import Condition, Filters, conditions, rows_matching
from schemas.twin_models import TwinPopulation

__all__ = ["EmptyPopulation", "select_twins"]

_SHOWN = 8


class EmptyPopulation(ValueError):
    """No twin satisfies the filters; the message says what would leave some."""


def select_twins(population: TwinPopulation, filters: Filters) -> npt.NDArray[np.bool_]:
    """Twins that satisfy the filters, shape ``(n,)``.

    Raises:
        EmptyPopulation: when there are none.
        ValueError: for a filter that means nothing for this twin type.

    Example:
        ``select(population, {"specialty": ["oncology"], "min_decile": 8}).sum()`` is the number of such twins.
    """
    wanted = conditions(population.twin_type, filters)
    chosen = rows_matching(population.frame, wanted)
    if not chosen.any():
        raise EmptyPopulation(_without_twins(population.frame, wanted))
    return chosen


def _without_twins(frame: pd.DataFrame, wanted: Sequence[Condition]) -> str:
    advice = "; ".join(_advice(frame, wanted, condition) for condition in wanted)
    return f"none of {len(frame)} twins matches {', '.join(map(_words, wanted))}. {advice}"


def _advice(frame: pd.DataFrame, wanted: Sequence[Condition], condition: Condition) -> str:
    others = rows_matching(frame, [other for other in wanted if other is not condition])
    left = frame.loc[others, condition.column].dropna()
    if left.empty:
        return f"without {_words(condition)} there are none either"
    if condition.operator == "in":
        offered = left.value_counts()
        shown = ", ".join(f"{value} ({count})" for value, count in offered.head(_SHOWN).items())
        return f"{condition.column} has {shown}{' and others' if len(offered) > _SHOWN else ''}"
    return f"{condition.column} goes from {left.min():g} to {left.max():g}"


def _words(condition: Condition) -> str:
    if condition.operator == "in":
        return f"{condition.column} in [{', '.join(map(str, condition.values))}]"
    sign = ">=" if condition.operator == "min" else "<="
    return f"{condition.column} {sign} {condition.values[0]}"
