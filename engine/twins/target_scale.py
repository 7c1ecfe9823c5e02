"""Find a target that is in another unit than declared, such as percent, or that is a level where a change is declared.

A model of such a target is as accurate as any other, so nothing later shows the mistake.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from schemas.arrays import Floats
from schemas.twin_types import Target

__all__ = ["few_implausible", "scale_problem"]

_MAX_IMPLAUSIBLE_LEVELS = 0.01  # share of implausible values above which the scale of the column is wrong
_MAX_IMPLAUSIBLE_CHANGES = 0.20  # of those that changed: in percent nearly all are implausible, and real changes have long tails

_ENOUGH = 100  # fewest values that tell a level from a change, and whose implausible ones are counted by the limits above
_MAX_IMPLAUSIBLE_FEW = 0.20  # of fewer values: one outlier is no scale
_RATIOS = (0.5, 2.0)  # median of ratios of this year to last year
_SAME_AS_LEVEL = 0.9  # correlation of a "change" with the level that it would be a change of


def scale_problem(values: Floats, target: Target, level: pd.Series[Any] | None = None) -> str | None:
    """What is wrong with the scale of a target's values, with the conversion that would fit; None for a plausible scale.

    Args:
        values: finite values of the target, ``(n,)``.
        target: its declaration.
        level: the feature ``target.share_of`` in the same rows, where the table has it.

    Example:
        >>> from schemas.twin_types import TWIN_TYPES, TwinType
        >>> percent = np.linspace(-20.0, 30.0, 101)
        >>> scale_problem(percent, TWIN_TYPES[TwinType.HCP].target()).partition(":")[0]
        "'prescribing_change' looks like percent"
    """
    if len(values) >= _ENOUGH and target.is_change and (reason := _level_not_change(values, target, level)):
        return f"{target.name!r} {reason}"
    beyond = _beyond(values, target)
    if beyond.sum() <= _max_implausible(values, target):
        return None
    where = (
        f"{int(beyond.sum()):,} of {len(values):,} values are beyond {target.plausible.low:g} to {target.plausible.high:g}"
        f" ({target.unit}), such as {values[beyond][0]:g}"
    )
    is_difference = target.is_change and not target.share_of and not (values % 1).any()
    hint = "; a difference of whole numbers is divided by the value before" if is_difference else ""
    if target.share_of:
        hint = f"; a percent change of {target.share_of} is multiplied by {target.share_of} as well"
    unit = _likely_unit(values, target)
    if unit is None:
        return f"{target.name!r} is on no scale that is known: {where}{hint}"
    return f"{target.name!r} looks like {unit}: {where}: divide it by {1 / target.plausible.other_units[unit]:.6g}{hint}"


def few_implausible(values: Floats, target: Target) -> Iterator[str]:
    """A warning about single implausible values in a column whose scale is plausible."""
    beyond = values[_beyond(values, target)]
    if 0 < len(beyond) <= _max_implausible(values, target):
        yield (
            f"{len(beyond):,} values of {target.name} are beyond the plausible {target.plausible.low:g} to"
            f" {target.plausible.high:g} ({target.unit}), such as {beyond[0]:g}: check these rows"
        )


def _max_implausible(values: Floats, target: Target) -> float:
    """Number of implausible values that a column of the declared scale may have."""
    if len(values) < _ENOUGH and not target.is_change:
        return _MAX_IMPLAUSIBLE_FEW * len(values)
    if target.is_change:
        return _MAX_IMPLAUSIBLE_CHANGES * float(np.count_nonzero(values))
    return _MAX_IMPLAUSIBLE_LEVELS * len(values)


def _beyond(values: Floats, target: Target) -> Any:
    return (values < target.plausible.low) | (values > target.plausible.high)


def _likely_unit(values: Floats, target: Target) -> str | None:
    """The unit in which nearly all values are plausible, of several the one that most implausible values have by themselves."""
    fitting = [
        unit
        for unit, factor in target.plausible.other_units.items()
        if _beyond(values * factor, target).mean() <= _MAX_IMPLAUSIBLE_LEVELS
    ]
    votes = Counter(unit for value in values[_beyond(values, target)].tolist() if (unit := target.plausible.likely_unit(value)))
    return max(fitting, key=lambda unit: votes[unit]) if fitting else None


def _level_not_change(values: Floats, target: Target, level: pd.Series[Any] | None) -> str | None:
    """Why values are no changes: none is negative, and they lie about 1 like ratios, beyond all changes, or go with the level."""
    if (values < 0).any():
        return None
    median = float(np.median(values))
    facts = f"no value is negative, the median is {median:g}"
    formula = "the value after less the value before" if target.share_of else "this year's value over last year's, less 1"
    if np.isin(values, (0, 1)).all():
        return f"looks like a flag, not a change: it is 0 or 1 in every row: give {formula}"
    if target.share_of is None and _RATIOS[0] <= median <= _RATIOS[1]:
        return f"looks like a ratio to the year before, not a change: {facts}: subtract 1"
    if median > target.plausible.high:
        return f"looks like a level, not a change: {facts}: give {formula}"
    if level is not None and _correlation(values, level) > _SAME_AS_LEVEL:
        return f"looks like {target.share_of} itself, not its change: {facts}, and it goes with {target.share_of}: give {formula}"
    return None


def _correlation(values: Floats, level: pd.Series[Any]) -> float:
    numbers = pd.to_numeric(level, errors="coerce").to_numpy(dtype=np.float64)
    is_number = np.isfinite(numbers)
    if is_number.sum() < _ENOUGH or not np.ptp(numbers[is_number]) or not np.ptp(values[is_number]):
        return 0.0
    return float(np.corrcoef(values[is_number], numbers[is_number])[0, 1])
