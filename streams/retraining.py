"""The steps of a retrain: which rows, a challenger, and what the gate says of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import numpy as np
import pandas as pd

from engine.gate import GATE_ROWS, Comparison
from engine.retraining import ENOUGH_NEW, FEWEST_NEW, onset, portion
from engine.twin_model import TwinModel
from schemas import ModelEvent, line_parts
from sql.database import Database
from sql.history_store import training_rows
from sql.ledger import Artifact, Ledger
from sql.retrain_store import Job
from streams.learning import Lesson, TrainingRefused, learned_apart
from streams.registry import MlflowRegistry
from streams.settings import Settings
from streams.training import LEARNED_UNTIL, Until, gate, keep, register

__all__ = ["Challenger", "Retraining"]

LOG = logging.getLogger(__name__)

RETRAIN = "retrain_id"
"""Label of a registered model: the retrain that it was trained for."""

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
    until: Until
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
        found = await asyncio.to_thread(self.registry.find_labelled, job.line, RETRAIN, str(job.retrain_id))
        artifact = found if found is not None else await self._train(job)
        model = await asyncio.to_thread(self.registry.load, artifact)
        ledger = Ledger(self.database)
        card, event = await register(ledger, model.card, artifact, self.settings, job.retrain_id)
        return Challenger(model.with_card(card), artifact, await self._learned_until(job.line, artifact), event)

    async def judged(self, job: Job, challenger: Challenger) -> Comparison:
        """What the gate says of accused and challenger, on everything observed after what the challenger learned from."""
        rows = await training_rows(self.database, job.line, _soon(self.settings), challenger.until.observed_at)
        accused = await self.load(job.model_id)
        return await asyncio.to_thread(gate, challenger.until.rows_after(rows), accused, challenger.model)

    async def _train(self, job: Job) -> Artifact:
        rows = await self._rows_to_learn(job)
        twin_type, brand, target = line_parts(job.line)
        seed = job.retrain_id.int % 2**32
        lesson = Lesson(twin_type=twin_type, brand=brand, target=target, seed=seed, seconds=self.settings.training_timeout_s)
        labels = {RETRAIN: str(job.retrain_id), LEARNED_UNTIL: str(Until.last_of(rows))}
        async with learned_apart(lesson, rows) as found:
            return await keep(self.registry, found, labels)

    async def _rows_to_learn(self, job: Job) -> pd.DataFrame:
        """Rows since the change; a thousand are waited for while it makes sense, then history fills up what is missing."""
        accused = await self.load(job.model_id)
        until = await self._learned_until(job.line, await Ledger(self.database).artifact(job.model_id))
        patience_s = min(self.settings.cooldown_s, self.settings.training_timeout_s / 2)
        while True:
            since = await self._since_the_change(job.line, accused, until)
            division = portion(len(since), n_before=0)
            if division is not None:
                return since.iloc[: division.learned]
            waited_s = (datetime.now(UTC) - job.requested_at).total_seconds()
            if waited_s >= patience_s:
                return await self._filled_up(job.line, since)
            LOG.info("%s: %d rows since the change, waiting for %d", job.line, len(since), ENOUGH_NEW + GATE_ROWS)
            await asyncio.sleep(max(0.2, min(patience_s / _MOST_LOOKS, patience_s - waited_s)))

    async def _since_the_change(self, line: str, accused: TwinModel, until: Until) -> pd.DataFrame:
        new = until.rows_after(await training_rows(self.database, line, _soon(self.settings), until.observed_at))
        return await asyncio.to_thread(_after_onset, new, accused)

    async def _filled_up(self, line: str, since: pd.DataFrame) -> pd.DataFrame:
        everything = await training_rows(self.database, line, _soon(self.settings))
        before = everything.iloc[: len(everything) - len(since)]
        division = portion(len(since), len(before))
        if division is None:
            raise TrainingRefused(
                f"{len(since)} outcomes with features since the change are too few: {FEWEST_NEW} to learn from "
                f"and {GATE_ROWS} later ones to judge on are needed"
            )
        history = before.iloc[len(before) - division.history :]
        return pd.concat([history, since.iloc[: division.learned]], ignore_index=True)

    async def _learned_until(self, line: str, artifact: Artifact) -> Until:
        """The last row that a model learned from; of one that was registered without it, the beginning of the present reign."""
        labels = await asyncio.to_thread(self.registry.labels, artifact.mlflow_run_id)
        if LEARNED_UNTIL in labels:
            return Until.read(labels[LEARNED_UNTIL])
        state = await Ledger(self.database).state(line)
        return Until(state.effective_from or state.at, "")


def _after_onset(rows: pd.DataFrame, accused: TwinModel) -> pd.DataFrame:
    if rows.empty:
        return rows
    errors = np.abs(accused.predict(rows) - rows[accused.card.target].to_numpy(dtype=float))
    return rows.iloc[onset(errors, accused.card.baseline) :]


def _soon(settings: Settings) -> datetime:
    """Nothing that was observed can be later than this."""
    return datetime.now(UTC) + timedelta(seconds=settings.skew_s)
