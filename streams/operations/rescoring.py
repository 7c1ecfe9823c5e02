"""Computes the contributions of stored outcomes again, each from its own row and the baseline of its model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

import asyncpg
import numpy as np

from engine.fidelity import contributions
from schemas.twin_models import Baseline
from sql.database import Connection
from sql.model_card_rows import UnknownModel, load_card
from sql.outcome_store import Head
from streams.operations.findings import Findings

__all__ = ["Rescorer", "ScoredRevision"]

_PREDICTION_COLUMNS = ("predicted_value", "actual_value", "predicted_lower", "predicted_upper")
_HEAD_COLUMNS = ("event_id", "revision", "digest", "line", "model_id", "pane", "width_s")


class ScoredRevision(NamedTuple):
    """A stored outcome as the head that it would be, with its fate and source."""

    head: Head
    fate: str
    source: str


class Rescorer:
    """Scores stored outcomes in batches; baselines of models are read once."""

    def __init__(self, connection: Connection, findings: Findings) -> None:
        self._connection = connection
        self._findings = findings
        self._baselines: dict[UUID, Baseline | None] = {}

    async def score(self, rows: Sequence[asyncpg.Record]) -> list[ScoredRevision]:
        """Score rows of :func:`sql.audit_store.counted_revisions`, in their order."""
        sums = await self._contributions(rows)
        return [ScoredRevision(_head(row, sums.get(index)), row["fate"], row["source"]) for index, row in enumerate(rows)]

    async def baseline(self, model_id: UUID) -> Baseline | None:
        """The baseline of a model; None, with a mismatch added once, when the model is not stored."""
        if model_id not in self._baselines:
            try:
                self._baselines[model_id] = (await load_card(self._connection, model_id)).baseline
            except UnknownModel as error:
                self._baselines[model_id] = None
                self._findings.add("model", str(error))
        return self._baselines[model_id]

    async def _contributions(self, rows: Sequence[asyncpg.Record]) -> dict[int, tuple[int, ...]]:
        """Contributions by the index of their row; retractions, which have no pane, contribute nothing."""
        by_model: defaultdict[UUID, list[int]] = defaultdict(list)
        for index, row in enumerate(rows):
            if row["pane"] is not None:
                by_model[row["model_id"]].append(index)
        scored: dict[int, tuple[int, ...]] = {}
        for model_id, indexes in by_model.items():
            if (baseline := await self.baseline(model_id)) is not None:
                predicted, actual, lower, upper = (
                    np.array([rows[index][name] for index in indexes], dtype=float) for name in _PREDICTION_COLUMNS
                )
                sums = contributions(predicted, actual, lower, upper, baseline).tolist()
                scored.update(zip(indexes, map(tuple, sums), strict=True))
        return scored


def _head(row: asyncpg.Record, contribution: tuple[int, ...] | None) -> Head:
    fields = {name: row[name] for name in _HEAD_COLUMNS}
    return Head(**fields, segments=tuple(row["segments"]), contribution=contribution)
