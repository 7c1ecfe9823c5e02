"""The steps of a retrain: which rows, a challenger, and what the gate says of it."""

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

from engine.promotion.carry_over import ENOUGH_NEW_ROWS, MIN_NEW_ROWS, adjust_history, estimate_onset, split_rows
from engine.promotion.promotion_gate import GATE_ROWS, Comparison
from engine.twins.twin_model import TwinModel
from schemas import ModelEvent
from schemas.twin_types import ALL_ROWS
from sql.database import Database
from sql.ledger import Artifact, Ledger
from sql.retrain_store import Job, record_training_rows
from sql.training_data_store import OBSERVED, training_rows
from streams.registry.mlflow_registry import MlflowRegistry
from streams.settings import Settings
from streams.training.line_training import TRAINED_UNTIL_LABEL, TrainingCutoff, register_model, save_model, training_spec
from streams.training.shadow_evaluation import gate, later_rows
from streams.training.training_process import TrainingRefused, train_in_subprocess

__all__ = ["Challenger", "Retraining", "latest_observable"]

LOG = logging.getLogger(__name__)

RETRAIN_LABEL = "retrain_id"
"""Label of a registered model: the retrain that it was trained for."""

BEFORE = "before_the_change"
"""Label of a registered model: the last row from before the change that it was trained for. Rows up to it are no history of its
time: what has changed since them is more than what its own errors tell."""

_MOST_LOOKS = 40


@dataclass(frozen=True)
class Challenger:
    """A model that was trained to succeed the accused one.

    Attributes:
        until: the last row that it learned from.
        event: what the ledger says about its training.
    """

    model: TwinModel
    artifact: Artifact
    until: TrainingCutoff
    event: ModelEvent


@dataclass(frozen=True)
class Retraining:
    """The steps of a retrain. Each can be taken again: what is done already is found.

    Attributes:
        load: gives a registered model by its id.
    """

    database: Database
    registry: MlflowRegistry
    load: Callable[[UUID], Awaitable[TwinModel]]
    settings: Settings

    async def challenger(self, job: Job) -> Challenger:
        """The model trained for this retrain: the one that is registered already, else a new one.

        Raises:
            TrainingRefused: when there is too little to learn from.
            TrainingFailed: when training took too much time or memory.
        """
        found = await asyncio.to_thread(self.registry.find_by_label, job.line, RETRAIN_LABEL, str(job.retrain_id))
        artifact = found if found is not None else await self._train(job)
        model = await asyncio.to_thread(self.registry.load, artifact)
        ledger = Ledger(self.database)
        card, event = await register_model(ledger, model.card, artifact, self.settings, job.retrain_id)
        labels = await asyncio.to_thread(self.registry.labels, artifact.mlflow_run_id)
        return Challenger(model.with_card(card), artifact, await self._learned_until(job.line, labels), event)

    async def judged(self, job: Job, challenger: Challenger) -> Comparison:
        """What the gate says of accused and challenger, on everything observed after what the challenger learned from."""
        rows = await later_rows(self.database, job.line, latest_observable(self.settings), challenger.until.observed_at)
        accused = await self.load(job.model_id)
        later = challenger.until.rows_after(rows)
        return await asyncio.to_thread(gate, later, accused, challenger.model, job.evidence.get("segment", ALL_ROWS))

    async def _train(self, job: Job) -> Artifact:
        accused = await self.load(job.model_id)
        since, history = await self._rows_to_learn(job, accused)
        labels = {RETRAIN_LABEL: str(job.retrain_id), TRAINED_UNTIL_LABEL: str(TrainingCutoff.last_of(since))}
        if not history.empty:
            labels[BEFORE] = str(TrainingCutoff.last_of(history))
            history = await asyncio.to_thread(adjust_history, history, since, accused)
        rows = pd.concat([history, since], ignore_index=True)
        await record_training_rows(self.database, job.retrain_id, _learned(since, history))
        lesson = training_spec(job.line, self.settings, job.retrain_id.int % 2**32)
        async with train_in_subprocess(lesson.model_copy(update={"carried": len(history)}), rows) as found:
            return await save_model(self.registry, found, labels)

    async def _rows_to_learn(self, job: Job, accused: TwinModel) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Rows since the change, a thousand of which are waited for while it makes sense, and rows from before it."""
        labels = await self._labels(job.model_id)
        until = await self._learned_until(job.line, labels)
        patience_s = min(self.settings.cooldown_s, self.settings.training_timeout_s / 2)
        while True:
            since = await self._since_the_change(job.line, accused, until)
            waited_s = (datetime.now(UTC) - job.requested_at).total_seconds()
            if len(since) >= ENOUGH_NEW_ROWS + GATE_ROWS or waited_s >= patience_s:
                return await self._divided(job.line, since, labels)
            LOG.info("%s: %d rows since the change, waiting for %d", job.line, len(since), ENOUGH_NEW_ROWS + GATE_ROWS)
            await asyncio.sleep(max(0.2, min(patience_s / _MOST_LOOKS, patience_s - waited_s)))

    async def _since_the_change(self, line: str, accused: TwinModel, until: TrainingCutoff) -> pd.DataFrame:
        new = until.rows_after(await training_rows(self.database, line, latest_observable(self.settings), until.observed_at))
        return await asyncio.to_thread(_after_onset, new, accused)

    async def _divided(self, line: str, since: pd.DataFrame, labels: Mapping[str, str]) -> tuple[pd.DataFrame, pd.DataFrame]:
        everything = await training_rows(self.database, line, latest_observable(self.settings))
        before = everything.iloc[: len(everything) - len(since)]
        if BEFORE in labels:
            before = TrainingCutoff.read(labels[BEFORE]).rows_after(before)
        division = split_rows(len(since), len(before))
        if division is None:
            raise TrainingRefused(
                f"{len(since)} outcomes with features since the change are too few: {MIN_NEW_ROWS} to learn from "
                f"and {GATE_ROWS} later ones to judge on are needed"
            )
        return since.iloc[: division.learned], before.iloc[len(before) - division.history :]

    async def _labels(self, model_id: UUID) -> Mapping[str, str]:
        artifact = await Ledger(self.database).artifact(model_id)
        return await asyncio.to_thread(self.registry.labels, artifact.mlflow_run_id)

    async def _learned_until(self, line: str, labels: Mapping[str, str]) -> TrainingCutoff:
        """The last row that a model learned from; of one that was registered without it, the beginning of the present reign."""
        if TRAINED_UNTIL_LABEL in labels:
            return TrainingCutoff.read(labels[TRAINED_UNTIL_LABEL])
        state = await Ledger(self.database).state(line)
        return TrainingCutoff(state.effective_from or state.at, "")


def _learned(since: pd.DataFrame, history: pd.DataFrame) -> dict[str, Any]:
    """Which rows a challenger learns from, for people who ask later."""
    times = since[OBSERVED]
    told = {"rows": len(since), "history_rows": len(history), "as_of": datetime.now(UTC).isoformat()}
    return told | {"since": times.iloc[0].isoformat(), "until": times.iloc[-1].isoformat()}


def _after_onset(rows: pd.DataFrame, accused: TwinModel) -> pd.DataFrame:
    if rows.empty:
        return rows
    errors = np.abs(accused.predict(rows) - rows[accused.card.target].to_numpy(dtype=float))
    return rows.iloc[estimate_onset(errors, accused.card.baseline) :]


def latest_observable(settings: Settings) -> datetime:
    """Nothing that was observed can be later than this."""
    return datetime.now(UTC) + timedelta(seconds=settings.skew_s)
