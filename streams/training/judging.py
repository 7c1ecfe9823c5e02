"""Chooses the rows that a challenger from a table is judged on: rows that neither it nor the champion has learned.

They are rows of entities that neither model was trained on, where there are enough. Else, as after a correction of the champion's
own table, all rows of the table judge, each predicted by both models fitted without its entity
(:mod:`engine.promotion.cross_fitting`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self
from uuid import UUID

import numpy as np
import pandas as pd

from engine.promotion import GATE_ENTITIES, GATE_ROWS, Comparison, cross_fitted_predictions, out_of_fold_predictions
from engine.twins import MIN_SAMPLES, TwinModel
from schemas.arrays import Flags, Integers
from schemas.twin_types import ALL_ROWS
from sql.database import Database
from sql.model_row_store import entity_keys, model_row_keys
from sql.training_data_store import ENTITY
from streams.training.shadow_evaluation import compare_predictions, gate
from streams.training.training_process import TrainingRefused

__all__ = ["Challenger", "LearnedRows", "TableRows", "are_enough", "hold_out", "judge", "learned_rows"]

_GATE_FRACTION = 4  # one in so many unseen rows is held out for the gate, when there are plenty


@dataclass(frozen=True)
class TableRows:
    """Rows of a table, and the key of each row's entity, ``(n,)``."""

    frame: pd.DataFrame
    keys: Integers

    @classmethod
    async def read(cls, database: Database, frame: pd.DataFrame) -> Self:
        """Rows with a column ``entity_id``, and their keys."""
        return cls(frame, await entity_keys(database, frame[ENTITY].astype(str).tolist()))

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.frame)

    def where(self, mask: Flags) -> TableRows:
        """The rows where ``mask`` ``(n,)`` is true."""
        return TableRows(self.frame[mask], self.keys[mask])

    def at(self, positions: Integers) -> TableRows:
        """The rows at these positions."""
        return TableRows(self.frame.iloc[positions], self.keys[positions])

    def without(self, learned: Integers) -> TableRows:
        """The rows of entities that are not among ``learned``."""
        return self.where(~np.isin(self.keys, learned))


@dataclass(frozen=True)
class LearnedRows:
    """What a model was trained on.

    Attributes:
        keys: of entities that it was trained on; of each training row, in their order, when ``complete``.
        complete: whether the rows are known one by one.
    """

    keys: Integers
    complete: bool


@dataclass(frozen=True)
class Challenger:
    """A model that was trained on rows of a table, and the rows that were held out from its training."""

    model: TwinModel
    training: TableRows
    held_out: TableRows


async def learned_rows(database: Database, model_id: UUID, history: pd.DataFrame) -> LearnedRows:
    """What a model was trained on; for one registered before that was stored, all entities of the line's ``history``."""
    keys = await model_row_keys(database, model_id)
    if keys is not None:
        return LearnedRows(keys, complete=True)
    return LearnedRows(await entity_keys(database, history[ENTITY].astype(str).unique().tolist()), complete=False)


def are_enough(rows: TableRows) -> bool:
    """Whether rows are enough for the gate."""
    return len(rows) >= GATE_ROWS and len(np.unique(rows.keys)) >= GATE_ENTITIES


def hold_out(rows: TableRows, learned: LearnedRows) -> tuple[TableRows, TableRows]:
    """Training rows, and rows held out for the gate: those of the latest entities that the champion has not learned.

    No row is held out, so that all are trained on and judge cross-fitted, when too few are new or too few would remain.

    Raises:
        TrainingRefused: when too few are new and the champion's training rows are not known one by one.
    """
    new = rows.without(learned.keys)
    held_out = _latest_entities(new, max(GATE_ROWS, len(new) // _GATE_FRACTION))
    if are_enough(held_out) and len(rows) - len(held_out) >= MIN_SAMPLES:
        is_held_out = np.isin(rows.keys, held_out.keys)
        return rows.where(~is_held_out), rows.where(is_held_out)
    if not learned.complete:
        raise TrainingRefused(
            f"{len(new):,} of {len(rows):,} rows are of entities that the line has never seen, and which rows the champion has"
            f" learned is not stored, as an earlier version registered it: bring {MIN_SAMPLES + GATE_ROWS:,} rows,"
            f" {GATE_ROWS} of them of {GATE_ENTITIES} new entities"
        )
    return rows, rows.where(np.zeros(len(rows), dtype=bool))


def _latest_entities(rows: TableRows, n: int) -> TableRows:
    """All rows of the last entities, at least ``n`` rows where there are as many; an entity is as late as its last row."""
    if len(rows) == 0:
        return rows
    codes = np.unique(rows.keys, return_inverse=True)[1]
    last = np.zeros(codes.max() + 1, dtype=np.int64)
    np.maximum.at(last, codes, np.arange(len(codes)))
    latest_first = np.argsort(-last)
    counts = np.cumsum(np.bincount(codes)[latest_first])
    latest = latest_first[: int(np.searchsorted(counts, n)) + 1]
    return rows.where(np.isin(codes, latest))


def judge(challenger: Challenger, champion: TwinModel, learned: LearnedRows) -> Comparison:
    """Compare a challenger with a champion, that was trained on ``learned``, on rows that neither has learned.

    Raises:
        TrainingRefused: when too few rows remain and the champion's training rows are not known one by one.
    """
    training, unseen = challenger.training, challenger.held_out.without(learned.keys)
    if are_enough(unseen):
        return gate(unseen.frame, champion, challenger.model, basis="unseen")
    if not learned.complete:
        raise TrainingRefused(f"{len(unseen):,} rows are left that neither model has learned: {GATE_ROWS} are needed to judge")
    if challenger.model.sampled is not None:
        training = training.at(challenger.model.sampled)
    return compare_predictions(
        training.frame,
        champion.card,
        cross_fitted_predictions(
            champion, champion.of_table(learned.keys), training.frame, training.keys, seed=challenger.model.seed
        ),
        out_of_fold_predictions(challenger.model, training.frame),
        ALL_ROWS,
        "cross_fitted",
    )
