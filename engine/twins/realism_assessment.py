"""The joint distribution of a twin type's table, and how real twins of it look to rows that were held out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from engine.twins.joint_fit import fit_joint
from engine.twins.joint_model import Constraints, JointModel
from engine.twins.marginal import Predicate
from engine.twins.realism import FOLDS, measure_realism
from schemas.twin_models import RealismReport
from schemas.twin_types import TWIN_TYPES, TwinType

__all__ = ["MAX_HELD_OUT", "MIN_HELD_OUT", "assess", "learn_joint"]

Allowed = Mapping[str, Predicate] | None
Make = Callable[[npt.NDArray[np.int64], Sequence[int], np.random.Generator], Sequence[pd.DataFrame]]

MAX_HELD_OUT = 2000
MIN_HELD_OUT = 50


def learn_joint(
    frame: pd.DataFrame, twin_type: TwinType, categorical: Sequence[str], target: str, seed: int, n_jobs: int = 1
) -> JointModel:
    """Learn features and target together, under the constraints of the twin type, from a frame in form (see ``feature_frame``)."""
    entry = TWIN_TYPES[twin_type]
    filterable = dict.fromkeys([*entry.filters.values(), *entry.dimensions])
    return fit_joint(
        frame,
        categorical=categorical,
        first=[name for name in filterable if name in frame],
        last=target,
        constraints=Constraints(dict(entry.not_above), {r.name: (r.numerator, r.denominator) for r in entry.ratios}),
        rng=np.random.default_rng(seed),
        n_jobs=n_jobs,
    )


def assess(
    frame: pd.DataFrame,
    make: Make,
    categorical: Sequence[str],
    seed: int,
    allowed: Allowed = None,
) -> RealismReport:
    """Learn once more without a fifth of the rows (at most 2,000), and hold twins of that against them.

    With conditions, ``allowed``, only twins and rows that satisfy them are compared. ``frame`` holds features and outcome in form;
    ``make`` learns from the rows with the numbers that it gets, and draws tables of so many twins, which satisfy the conditions.

    Raises:
        ValueError: when fewer than 50 held-out rows satisfy the conditions: nothing could be said.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(frame))
    held_out = len(frame) // 5 if allowed else min(len(frame) // 5, MAX_HELD_OUT)
    unseen, known = _satisfying(frame.iloc[order[:held_out]], allowed), order[held_out:]
    if len(unseen) < MIN_HELD_OUT:
        raise ValueError(
            f"{len(unseen)} of {held_out} rows held out satisfy the filters: at least {MIN_HELD_OUT} are needed to judge by"
        )
    draws = make(known, [len(part) for part in np.array_split(np.arange(len(unseen)), FOLDS)], rng)
    training = _satisfying(frame.iloc[known], allowed)
    return measure_realism(draws, held_out=unseen, training=training, categorical=categorical, rng=rng)


def _satisfying(frame: pd.DataFrame, allowed: Allowed) -> pd.DataFrame:
    kept = np.ones(len(frame), dtype=bool)
    for name, predicate in (allowed or {}).items():
        kept &= np.asarray(predicate(frame[name]), dtype=bool)
    return frame[kept]
