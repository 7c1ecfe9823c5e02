"""Arms and clusters of an experiment, read from a column: every row is treated or control, in words that are known or given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import chi2, fisher_exact

from schemas.arrays import Flags
from schemas.levels import level_key, level_text

__all__ = [
    "ARM_WORDS",
    "MISMATCH_P",
    "attrition_text",
    "parse_arms",
    "require_filled",
    "sample_ratio_p",
    "sample_ratio_warning",
]

ARM_WORDS = (("treated", "control"), ("1", "0"), ("true", "false"), ("yes", "no"))
"""Pairs of values that are plainly treated and control, in any case and with blanks around them."""

MISMATCH_P = 0.001
"""Probability below which the sizes of the arms contradict the planned ratio."""

_SHOWN = 5
_UNEVEN_P = 0.05


def parse_arms(
    column: Sequence[Any] | npt.ArrayLike,
    *,
    treated_value: str | None = None,
    control_value: str | None = None,
    name: str = "treated",
) -> Flags:
    """Whether each row is treated, shape ``(n,)``; no value is taken for an arm that it does not name.

    Args:
        column: the arm of each row.
        treated_value: value of treated rows, where it is none of ``ARM_WORDS``; it comes with ``control_value``.
        control_value: value of control rows.
        name: of the column, for refusals.

    Raises:
        ValueError: for empty rows and for values of no arm, with the rows; for words of several pairs; for the value of one arm
            without that of the other.

    Example:
        >>> parse_arms(["Treated", " control", "TREATED"]).tolist(), parse_arms([1.0, 0.0]).tolist()
        ([True, False, True], [True, False])
        >>> parse_arms(["A", "B"], treated_value="b", control_value="a").tolist()
        [False, True]
    """
    values = pd.Series(column).reset_index(drop=True)
    if values.dtype == np.bool_:
        return values.to_numpy()
    require_filled(values, name)
    keys = values.map(lambda value: level_key(str(level_text(value))))
    treated, control = _arm_keys(keys, treated_value, control_value, name)
    strange = ~keys.isin([treated, control])
    if strange.any():
        raise ValueError(
            f"column {name!r} has neither {treated!r} nor {control!r} in {_rows(strange)}: {_examples(values[strange])};"
            f" name the values of the arms with --treated-value and --control-value, and leave out rows of no arm"
        )
    return (keys == treated).to_numpy(dtype=np.bool_)


def require_filled(column: Sequence[Any] | npt.ArrayLike, name: str) -> None:
    """Refuse missing and blank values of a column.

    Raises:
        ValueError: naming the column and the rows.

    Example:
        >>> require_filled(["clinic a", None, " "], "clinic")
        Traceback (most recent call last):
        ...
        ValueError: column 'clinic' is empty in rows 2, 3 (the first row of values is 1): every row needs a value
    """
    values = pd.Series(column).reset_index(drop=True)
    empty = values.isna() | values.map(lambda value: isinstance(value, str) and not value.strip())
    if empty.any():
        raise ValueError(f"column {name!r} is empty in {_rows(empty)}: every row needs a value")


def sample_ratio_p(n_treated: int, n_control: int, control_ratio: float = 1.0) -> float:
    """Probability of arms at least as uneven as these when each unit is assigned by the planned ratio: a chi-square test.

    Args:
        n_treated: units of assignment in the treated arm.
        n_control: those in the control arm.
        control_ratio: planned units in the control arm for each treated one.

    References:
        Fabijan et al. (2019), Diagnosing sample ratio mismatch in online controlled experiments. KDD.

    Example:
        >>> sample_ratio_p(500, 500), round(sample_ratio_p(821588, 815482), 8)
        (1.0, 1.82e-06)
    """
    n = n_treated + n_control
    expected = n / (1.0 + control_ratio)
    statistic = (n_treated - expected) ** 2 / expected + (n_control - (n - expected)) ** 2 / (n - expected)
    return float(chi2.sf(statistic, df=1))


def sample_ratio_warning(n_treated: int, n_control: int, control_ratio: float = 1.0, units: str = "people") -> str | None:
    """What to doubt where the sizes of the arms contradict the planned ratio (p below ``MISMATCH_P``); None where they do not."""
    p = sample_ratio_p(n_treated, n_control, control_ratio)
    if p >= MISMATCH_P:
        return None
    return (
        f"sample ratio mismatch: {n_treated:,} treated and {n_control:,} control {units} contradict the planned ratio of 1 to"
        f" {control_ratio:g} (chi-square test, p = {p:.1g}, below {MISMATCH_P:g}): look for rows that one arm lost"
    )


def attrition_text(missing: Flags, treated: Flags) -> str:
    """How many people of each arm have no outcome, and what to doubt where the arms lost them unevenly (Fisher's exact test).

    Args:
        missing: who has no outcome, ``(n,)``.
        treated: arm of each person, ``(n,)``.

    References:
        What Works Clearinghouse (2022), Procedures and Standards Handbook, version 5.0 (overall and differential attrition).

    Example:
        >>> attrition_text(np.array([True, False] * 10), np.array([True, False] * 10))[:78]
        '10 of 10 treated (100.0%) and 0 of 10 control (0.0%) people have no outcome, w'
    """
    sizes = int(treated.sum()), int((~treated).sum())
    lost = int(missing[treated].sum()), int(missing[~treated].sum())
    counts = zip(lost, sizes, ("treated", "control"), strict=True)
    shares = [f"{count:,} of {size:,} {name} ({count / max(size, 1):.1%})" for count, size, name in counts]
    text = f"{' and '.join(shares)} people have no outcome"
    p = float(fisher_exact(np.array([lost, np.subtract(sizes, lost)])).pvalue)
    if p >= _UNEVEN_P:
        return text
    return (
        f"{text}, which is uneven (Fisher's exact test, p = {p:.1g}): those who are left need not be alike in both arms, and the"
        " effect may be theirs"
    )


def _arm_keys(keys: pd.Series[str], treated_value: str | None, control_value: str | None, name: str) -> tuple[str, str]:
    """The values of both arms, as they are compared: those given, else the pair of ``ARM_WORDS`` that the column holds."""
    if (treated_value is None) != (control_value is None):
        raise ValueError("--treated-value and --control-value belong together: name the values of both arms")
    if treated_value is not None and control_value is not None:
        treated, control = level_key(treated_value), level_key(control_value)
        if treated == control:
            raise ValueError(f"--treated-value and --control-value are the same value, {treated_value!r}")
        return treated, control
    pairs = [pair for pair in ARM_WORDS if keys.isin(pair).any()]
    if len(pairs) == 1:
        return pairs[0]
    allowed = ", ".join("/".join(pair) for pair in ARM_WORDS)
    distinct = ", ".join(map(repr, sorted(set(keys))[:_SHOWN]))
    raise ValueError(
        f"column {name!r} holds {distinct}, which are {'of several pairs' if pairs else 'none'} of {allowed}: name the values of"
        " the arms with --treated-value and --control-value"
    )


def _rows(flags: pd.Series[bool]) -> str:
    rows = (np.flatnonzero(flags) + 1).tolist()
    more = f" and {len(rows) - _SHOWN:,} more" if len(rows) > _SHOWN else ""
    return f"row{'s' if len(rows) > 1 else ''} {', '.join(map(str, rows[:_SHOWN]))}{more} (the first row of values is 1)"


def _examples(values: pd.Series[Any]) -> str:
    return ", ".join(map(repr, values.unique()[:_SHOWN].tolist()))
