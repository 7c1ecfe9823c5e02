"""The steps of a retrain: selects rows, trains a challenger, and compares it with the incumbent on later rows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd

from engine.promotion import (
    ENOUGH_NEW_ROWS,
    GATE_ROWS,
    MIN_NEW_ROWS,
    Comparison,
    adjust_history,
    estimate_onset,
    estimate_onset_of_bias,
    estimate_onset_of_misses,
    split_rows,
)
from engine.twins import TwinModel
from schemas import ModelEvent
from schemas.twin_types import ALL_ROWS
from sql.database import Database
from sql.ledger import Ledger
from sql.model_card_rows import Artifact
from sql.model_row_store import model_row_keys, record_model_rows
from sql.retrain_store import TrainingJob, record_training_rows
from sql.training_data_store import ENTITY, OBSERVED, training_rows
from streams.registry import MlflowRegistry
from streams.settings import Settings
from streams.training.judging import TableRows, are_enough
from streams.training.line_training import TRAINED_UNTIL_LABEL, TrainingCutoff, register_model, save_model, training_spec
from streams.training.shadow_evaluation import gate, later_rows
from streams.training.training_process import TrainingRefused, train_in_subprocess

__all__ = ["Challenger", "Retraining", "latest_observable"]

LOG = logging.getLogger(__name__)

RETRAIN_LABEL = "retrain_id"
"""Label of a registered model: the retrain that it was trained for."""

BEFORE_CHANGE_LABEL = "before_the_change"
"""Label of a registered model: the last row from before the change that it was trained for. Rows up to it are not carried over
into a later retrain: since then more has changed than this model's own errors show."""

_MAX_POLLS = 40  # of the rows since a change, within the patience


@dataclass(frozen=True)
class Challenger:
    """A model that was trained to replace the incumbent.

    Attributes:
        until: the last row that it was trained on.
        event: of the ledger, about its training.
    """

    model: TwinModel
    artifact: Artifact
    until: TrainingCutoff
    event: ModelEvent


@dataclass(frozen=True)
class Retraining:
    """The steps of a retrain. Each can be repeated: results that are stored already are used again.

    Attributes:
        load_model: loads a registered model by its id.
    """

    database: Database
    registry: MlflowRegistry
    load_model: Callable[[UUID], Awaitable[TwinModel]]
    settings: Settings

    async def train_challenger(self, job: TrainingJob) -> Challenger:
        """The model trained for this retrain: the registered one if there is one, else a new one.

        Raises:
            TrainingRefused: when there are too few rows to train on.
            TrainingFailed: when training took too much time or memory.
        """
        stored = await asyncio.to_thread(self.registry.find_by_label, job.line, RETRAIN_LABEL, str(job.retrain_id))
        artifact = stored if stored is not None else await self._train(job)
        model = await asyncio.to_thread(self.registry.load, artifact)
        card, event = await register_model(Ledger(self.database), model.card, artifact, self.settings, job.retrain_id)
        labels = await asyncio.to_thread(self.registry.labels, artifact.mlflow_run_id)
        return Challenger(model.with_card(card), artifact, await self._trained_until(job.line, labels), event)

    async def compare(self, job: TrainingJob, challenger: Challenger) -> Comparison:
        """Pass incumbent and challenger through the gate, on rows observed after the challenger's training rows.

        They are the rows of entities that neither model has learned, where there are enough; else all, also those of entities whose
        earlier rows a model has learned.
        """
        rows = await later_rows(self.database, job.line, latest_observable(self.settings), challenger.until.observed_at)
        incumbent = await self.load_model(job.model_id)
        later = await TableRows.read(self.database, challenger.until.rows_after(rows))
        keys = [await model_row_keys(self.database, model.card.model_id) for model in (incumbent, challenger.model)]
        stored = [of_model for of_model in keys if of_model is not None]
        learned = np.concatenate(stored) if len(stored) == len(keys) else later.keys
        unseen, trigger = later.without(learned), job.evidence.get("segment", ALL_ROWS)
        if are_enough(unseen) and len(unseen) < len(later):
            comparison = await asyncio.to_thread(gate, unseen.frame, incumbent, challenger.model, trigger, "unseen")
            if trigger == ALL_ROWS or trigger in comparison.segments:
                return comparison
        return await asyncio.to_thread(gate, later.frame, incumbent, challenger.model, trigger)

    async def _train(self, job: TrainingJob) -> Artifact:
        incumbent = await self.load_model(job.model_id)
        since, history = await self._select_rows(job, incumbent)
        labels = {RETRAIN_LABEL: str(job.retrain_id), TRAINED_UNTIL_LABEL: str(TrainingCutoff.last_of(since))}
        if not history.empty:
            labels[BEFORE_CHANGE_LABEL] = str(TrainingCutoff.last_of(history))
            history = await asyncio.to_thread(adjust_history, history, since, incumbent)
        table = pd.concat([history, since], ignore_index=True)
        await record_training_rows(self.database, job.retrain_id, _summary(since, history))
        spec = training_spec(job.line, self.settings, job.retrain_id.int % 2**32)
        async with train_in_subprocess(spec.model_copy(update={"n_carried_rows": len(history)}), table) as result:
            await record_model_rows(self.database, result.model.card.model_id, table[ENTITY].tolist())
            return await save_model(self.registry, result, labels)

    async def _select_rows(self, job: TrainingJob, incumbent: TwinModel) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Training rows since the change, and rows from before it; waits for enough new rows within the patience."""
        labels = await self._labels(job.model_id)
        until = await self._trained_until(job.line, labels)
        patience_s = min(self.settings.cooldown_s, self.settings.training_timeout_s / 2)
        while True:
            since = await self._rows_since_change(job.line, incumbent, until, _leading_loss(job.evidence))
            waited_s = (datetime.now(UTC) - job.requested_at).total_seconds()
            if len(since) >= ENOUGH_NEW_ROWS + GATE_ROWS or waited_s >= patience_s:
                return await self._split(job.line, since, labels)
            LOG.info("%s: %d rows since the change, waiting for %d", job.line, len(since), ENOUGH_NEW_ROWS + GATE_ROWS)
            await asyncio.sleep(max(0.2, min(patience_s / _MAX_POLLS, patience_s - waited_s)))

    async def _rows_since_change(self, line: str, incumbent: TwinModel, until: TrainingCutoff, leading: str) -> pd.DataFrame:
        rows = await training_rows(self.database, line, latest_observable(self.settings), until.observed_at)
        return await asyncio.to_thread(_after_onset, until.rows_after(rows), incumbent, leading)

    async def _split(self, line: str, since: pd.DataFrame, labels: Mapping[str, str]) -> tuple[pd.DataFrame, pd.DataFrame]:
        rows = await training_rows(self.database, line, latest_observable(self.settings))
        before = rows.iloc[: len(rows) - len(since)]
        if BEFORE_CHANGE_LABEL in labels:
            before = TrainingCutoff.parse(labels[BEFORE_CHANGE_LABEL]).rows_after(before)
        split = split_rows(len(since), len(before))
        if split is None:
            raise TrainingRefused(
                f"{len(since)} outcomes with features since the change are too few: {MIN_NEW_ROWS} to train on "
                f"and {GATE_ROWS} later ones for the gate are needed"
            )
        return since.iloc[: split.n_training], before.iloc[len(before) - split.n_carried :]

    async def _labels(self, model_id: UUID) -> Mapping[str, str]:
        artifact = await Ledger(self.database).artifact(model_id)
        return await asyncio.to_thread(self.registry.labels, artifact.mlflow_run_id)

    async def _trained_until(self, line: str, labels: Mapping[str, str]) -> TrainingCutoff:
        """The last row that a model was trained on; without that label, the time at which the present champion took effect."""
        if TRAINED_UNTIL_LABEL in labels:
            return TrainingCutoff.parse(labels[TRAINED_UNTIL_LABEL])
        state = await Ledger(self.database).state(line)
        return TrainingCutoff(state.effective_from or state.at, "")


def _summary(since: pd.DataFrame, history: pd.DataFrame) -> dict[str, Any]:
    """The training rows of a challenger, as stored with its retrain request."""
    times = since[OBSERVED]
    return {
        "rows": len(since),
        "history_rows": len(history),
        "as_of": datetime.now(UTC).isoformat(),
        "since": times.iloc[0].isoformat(),
        "until": times.iloc[-1].isoformat(),
    }


def _leading_loss(evidence: Mapping[str, Any]) -> str:
    """The change that carries the evidence of a retrain; the size of errors where it does not say."""
    return next(iter(evidence.get("carriers") or ()), "size")


def _after_onset(rows: pd.DataFrame, incumbent: TwinModel, leading: str) -> pd.DataFrame:
    """Rows after the estimated onset of the change in the incumbent's errors; ``leading`` is the change."""
    if rows.empty:
        return rows
    predicted, lower, upper, _ = incumbent.predict_rows(rows)
    error, half_width = predicted - rows[incumbent.card.target].to_numpy(dtype=float), (upper - lower) / 2
    baseline = incumbent.card.baseline
    if leading in _SIGNS:
        return rows.iloc[estimate_onset_of_bias(_SIGNS[leading] * error / half_width) :]
    if leading == "misses" and baseline.coverage_95pct is not None:
        return rows.iloc[estimate_onset_of_misses(np.abs(error) > half_width, baseline.coverage_95pct) :]
    return rows.iloc[estimate_onset(np.abs(error), baseline) :]


_SIGNS = {"over": 1.0, "under": -1.0}


def latest_observable(settings: Settings) -> datetime:
    """The latest time of observation that is accepted: now, plus the clock skew that the settings allow."""
    return datetime.now(UTC) + timedelta(seconds=settings.skew_s)
