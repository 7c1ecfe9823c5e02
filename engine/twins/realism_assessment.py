"""Fit the joint distribution of a twin type's table, and assess the realism of its twins on held-out rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from engine.twins.detection import FOLDS
from engine.twins.entities import cut, shuffle
from engine.twins.joint_fit import fit_joint
from engine.twins.joint_model import Constraints, JointModel
from engine.twins.marginal import Predicate, rows_satisfying
from engine.twins.realism import measure_realism
from schemas.arrays import Integers
from schemas.realism import RealismReport
from schemas.relations import Relation
from schemas.twin_types import TWIN_TYPES, TwinType

__all__ = ["Allowed", "TooFewRows", "assess", "learn_joint"]

Allowed = Mapping[str, Predicate] | None
Make = Callable[[Integers, Sequence[int], np.random.Generator], Sequence[pd.DataFrame]]

MAX_HELD_OUT = 2000
MIN_HELD_OUT = 50


class TooFewRows(ValueError):
    """Too few real rows satisfy the filters for an assessment."""

    def __init__(self, real: int, held_out: int) -> None:
        super().__init__(
            f"only {real:,} real rows satisfy the filters, {held_out} of them held out: at least {MIN_HELD_OUT} held-out rows are"
            " needed for an assessment"
        )


def learn_joint(
    frame: pd.DataFrame,
    twin_type: TwinType,
    categorical: Sequence[str],
    target: str,
    seed: int,
    n_jobs: int = 1,
    entities: Integers | None = None,
    relations: Sequence[Relation] = (),
) -> JointModel:
    """Fit the joint distribution of features and target under the constraints of the twin type.

    Args:
        frame: features in the form of ``feature_frame``, and the target.
        twin_type: its catalogue entry has the constraints and the filterable columns.
        categorical: columns whose values are levels.
        target: name of the outcome, drawn last.
        seed: of the fit.
        n_jobs: threads, -1 for all processors; the model does not depend on it.
        entities: the entity of each row, ``(n,)``; by default every row is an entity of its own.
        relations: declared ones, beside those of the twin type's entry.
    """
    entry = TWIN_TYPES[twin_type]
    filterable = dict.fromkeys([*entry.filters.values(), *entry.dimensions])
    return fit_joint(
        frame,
        categorical=categorical,
        first=[name for name in filterable if name in frame],
        last=target,
        constraints=Constraints(dict(entry.not_above), {r.name: (r.numerator, r.denominator) for r in entry.ratios}),
        relations=list(dict.fromkeys([*entry.relations, *relations])),
        rng=np.random.default_rng(seed),
        n_jobs=n_jobs,
        entities=entities,
    )


def assess(
    frame: pd.DataFrame,
    make: Make,
    categorical: Sequence[str],
    seed: int,
    allowed: Allowed = None,
    entities: Integers | None = None,
    outcome: str | None = None,
) -> RealismReport:
    """Hold out a fifth of the rows (at most 2,000), train again on the others, and compare twins of that model with them.

    The held-out rows are of other entities than the training rows.

    Args:
        frame: features in the form of ``feature_frame``, and the outcome.
        make: called with the positions of training rows, a list of sizes, and a random generator; trains on these rows and
            returns one table of twins per size, which satisfy the conditions.
        categorical: columns whose values are levels.
        seed: of the split and the draws.
        allowed: conditions; only twins and rows that satisfy them are compared, and the limit of 2,000 rows does not apply.
        entities: the entity of each row, ``(n,)``; by default every row is an entity of its own.
        outcome: the column whose means are compared; by default none is.

    Raises:
        TooFewRows: when fewer than 50 held-out rows satisfy the conditions.
    """
    rng = np.random.default_rng(seed)
    groups = np.arange(len(frame)) if entities is None else entities
    order = shuffle(groups, rng)
    held_out = cut(groups[order], len(frame) // 5 if allowed else min(len(frame) // 5, MAX_HELD_OUT))
    unseen_rows, training_rows = _matching_rows(frame, order[:held_out], allowed), order[held_out:]
    unseen = frame.iloc[unseen_rows]
    if len(unseen) < MIN_HELD_OUT:
        raise TooFewRows(len(_matching_rows(frame, order, allowed)), len(unseen))
    draws = make(training_rows, [len(part) for part in np.array_split(np.arange(len(unseen)), FOLDS)], rng)
    return measure_realism(
        draws,
        held_out=unseen,
        training=frame.iloc[_matching_rows(frame, training_rows, allowed)],
        categorical=categorical,
        rng=rng,
        entities=None if entities is None else entities[unseen_rows],
        outcome=outcome,
    )


def _matching_rows(frame: pd.DataFrame, rows: Integers, allowed: Allowed) -> Integers:
    return rows[rows_satisfying(frame.iloc[rows], allowed or {})]
