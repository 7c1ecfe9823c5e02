"""Trains a model of a line on a table: the first one becomes champion, every later one has to pass the promotion gate."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, NamedTuple, Self
from uuid import UUID

import numpy as np
import pandas as pd

from engine.promotion import Comparison
from schemas import TWIN_TYPES, ModelCard, ModelEvent, TwinType, line_parts, model_line
from schemas.identifiers import entity_column
from schemas.levels import level_text
from sql.database import Database, clock
from sql.ledger import ChampionChanged, JudgedAgainst, Ledger
from sql.model_card_rows import Artifact
from sql.model_row_store import record_model_rows
from sql.training_data_store import ENTITY, OBSERVED, add_history, training_rows
from streams.registry import MlflowRegistry
from streams.settings import Settings
from streams.tables import read_times
from streams.training.judging import Challenger, TableRows, hold_out, judge, learned_rows
from streams.training.training_process import TrainingRefused, TrainingResult, TrainingSpec, train_in_subprocess

__all__ = [
    "TRAINED_UNTIL_LABEL",
    "TrainedLine",
    "TrainingCutoff",
    "register_model",
    "save_model",
    "train_line",
    "training_spec",
]

LOG = logging.getLogger(__name__)

TRAINED_UNTIL_LABEL = "learned_until"
"""Label of a registered model: the last row that it was trained on."""

_MAX_VERDICTS = 10  # of one challenger, each against another champion
_END_OF_TIME = datetime(9999, 1, 1, tzinfo=UTC)


class TrainingCutoff(NamedTuple):
    """A position in the order of rows: by time, and by entity among rows of the same time."""

    observed_at: datetime
    entity_id: str

    @classmethod
    def last_of(cls, rows: pd.DataFrame) -> Self:
        """Position of the last row."""
        return cls(rows[OBSERVED].iloc[-1].to_pydatetime(), str(rows[ENTITY].iloc[-1]))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Inverse of ``str``."""
        observed_at, entity_id = json.loads(text)
        return cls(datetime.fromisoformat(observed_at), entity_id)

    def __str__(self) -> str:
        return json.dumps([self.observed_at.isoformat(), self.entity_id])

    def rows_after(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Rows beyond this position; none of a table without rows, whose columns have no types to compare."""
        if rows.empty:
            return rows
        same, later = rows[OBSERVED] == self.observed_at, rows[OBSERVED] > self.observed_at
        return rows[later | (same & (rows[ENTITY] > self.entity_id))]


@dataclass(frozen=True)
class TrainedLine:
    """The result of training a line on a table.

    Attributes:
        event: the last event of the line, with its champion.
        comparison: of the gate; None for the first champion of a line.
        notes: features of the new rows that the champion of before had to predict them without.
    """

    card: ModelCard
    artifact: Artifact
    event: ModelEvent
    comparison: Comparison | None
    notes: tuple[str, ...] = ()

    @property
    def promoted(self) -> bool:
        """Whether the new model is champion."""
        return self.event.champion == self.card.model_id


async def train_line(
    database: Database,
    registry: MlflowRegistry,
    frame: pd.DataFrame,
    twin_type: TwinType,
    brand: str,
    target: str | None = None,
    *,
    settings: Settings,
    source: str,
    seed: int = 0,
) -> TrainedLine:
    """Train a model of a line on a table, register it, and promote it when it is the first or passes the gate.

    A later model of a line is compared with the champion on rows that neither has learned (:mod:`streams.training.judging`). A
    champion that was promoted in the meantime is met by the gate, too.

    Args:
        database: a pool or a connection.
        registry: stores the model.
        frame: features, target, and optionally ``observed_at`` and a column that names the entity (several rows may have the same
            one); rows without them are observed now, and numbered.
        twin_type: of the line.
        brand: of the line.
        target: of the line; the twin type's own by default.
        settings: of the service.
        source: where the table comes from, stored with its rows.
        seed: of the training.

    Raises:
        TableRefused: when ``observed_at`` holds a number, or a time without its zone.
        TrainingRefused: when the table cannot be trained on, or no rows can judge the model.
        TrainingFailed: when training took too much time or memory.
    """
    name = TWIN_TYPES[twin_type].target(target).name
    line, ledger = model_line(twin_type, brand, name), Ledger(database)
    rows = await TableRows.read(database, _usable_rows(frame, twin_type, name, await clock(database)))
    history = await training_rows(database, line, _END_OF_TIME)
    champion = await ledger.champion(line)
    nothing = rows.where(np.zeros(len(rows), dtype=bool))
    training, held_out = (rows, nothing) if champion is None else hold_out(rows, await learned_rows(database, champion, history))
    async with train_in_subprocess(training_spec(line, settings, seed), training.frame) as result:
        if result.model.card.model_id == champion:
            raise TrainingRefused(f"these rows give the champion itself, model {champion}: bring new or corrected rows")
        await record_model_rows(database, result.model.card.model_id, training.frame[ENTITY].tolist())
        artifact = await save_model(registry, result, {TRAINED_UNTIL_LABEL: str(TrainingCutoff.last_of(training.frame))})
        await add_history(database, line, _unseen_rows(rows.frame, history, name), source)
        card, _ = await register_model(ledger, result.model.card, artifact, settings)
        verdict = _Verdict(database, registry, history, Challenger(result.model, training, held_out))
        event, comparison, notes = await verdict.conclude(card, source)
    if event.champion == card.model_id:
        await asyncio.to_thread(registry.set_champion_alias, line, artifact.mlflow_run_id)
    return TrainedLine(card, artifact, event, comparison, notes)


@dataclass(frozen=True)
class _Verdict:
    """Judges a trained model against the champion and stores the decision."""

    database: Database
    registry: MlflowRegistry
    history: pd.DataFrame
    challenger: Challenger

    async def conclude(self, card: ModelCard, source: str) -> tuple[ModelEvent, Comparison | None, tuple[str, ...]]:
        """Promote or reject a model; when another model becomes champion in the meantime, it is judged again against that one."""
        ledger = Ledger(self.database)
        for _ in range(_MAX_VERDICTS):
            champion = await ledger.champion(card.line)
            comparison, notes = (None, ()) if champion in (None, card.model_id) else await self._compare(champion)
            reason = f"first champion of the line, trained on {source}" if comparison is None else comparison.reason
            happened: Literal["promoted", "rejected"] = "promoted" if comparison is None or comparison.promote else "rejected"
            numbers = {} if comparison is None else comparison.to_dict()
            judged = JudgedAgainst(champion)
            try:
                event = await ledger.conclude(happened, card.line, card.model_id, reason=reason, comparison=numbers, judged=judged)
            except ChampionChanged as changed:
                LOG.info("%s: %s", card.line, changed)
            else:
                return event, comparison, notes
        raise TrainingRefused(f"the champion of {card.line} changed {_MAX_VERDICTS} times while the model was judged: train again")

    async def _compare(self, champion: UUID) -> tuple[Comparison, tuple[str, ...]]:
        """The comparison, and what the champion had to predict the rows without."""
        incumbent = await asyncio.to_thread(self.registry.load, await Ledger(self.database).artifact(champion))
        learned = await learned_rows(self.database, champion, self.history)
        rows = self.challenger.held_out if len(self.challenger.held_out) else self.challenger.training
        sentences = await asyncio.to_thread(incumbent.gap_sentences, rows.frame)
        notes = tuple(f"to the champion of before, {sentence}" for sentence in sentences)
        return await asyncio.to_thread(judge, self.challenger, incumbent, learned), notes


def training_spec(line: str, settings: Settings, seed: int) -> TrainingSpec:
    """Specification of a training of a line, with the limits of the settings."""
    twin_type, brand, target = line_parts(line)
    return TrainingSpec(
        twin_type=twin_type,
        brand=brand,
        target=target,
        seed=seed,
        seconds=settings.training_timeout_s,
        memory_bytes=settings.training_memory_mb * 2**20,
        model_type=settings.model_type,
        graph=settings.graph_of(twin_type),
    )


def _usable_rows(frame: pd.DataFrame, twin_type: TwinType, target: str, now: datetime) -> pd.DataFrame:
    """The rows with a finite target as the history stores them, oldest first."""
    if target not in frame:
        raise TrainingRefused(f"the table has no column {target!r}, the target: it has {', '.join(map(str, frame))}")
    numbers = pd.to_numeric(frame[target], errors="coerce").astype("float64")
    rows = frame.assign(**{target: numbers})[np.isfinite(numbers)]
    named = entity_column(rows, twin_type)
    numbered = pd.Series([f"row-{row}" for row in range(len(rows))], index=rows.index)
    ids = numbered if named is None else rows[named].map(level_text).fillna(numbered)
    times = read_times(rows[OBSERVED]) if OBSERVED in rows else pd.Series(pd.Timestamp(now), index=rows.index)
    dated = rows.drop(columns=[named or ENTITY, OBSERVED], errors="ignore").assign(entity_id=ids, observed_at=times)
    return dated.sort_values([OBSERVED, ENTITY], kind="stable").reset_index(drop=True)


def _unseen_rows(rows: pd.DataFrame, history: pd.DataFrame, target: str) -> pd.DataFrame:
    """Rows that the history lacks: a row is there when its entity had this outcome as often before."""
    stored = history.groupby([ENTITY, target]).size()
    times = rows.groupby([ENTITY, target], sort=False).cumcount().to_numpy()
    n_stored = stored.reindex(pd.MultiIndex.from_frame(rows[[ENTITY, target]]), fill_value=0).to_numpy()
    return rows[times >= n_stored]


async def save_model(registry: MlflowRegistry, result: TrainingResult, labels: dict[str, str]) -> Artifact:
    """Save a trained model in the registry, on a worker thread."""
    return await asyncio.to_thread(registry.save_folder, result.model.card, result.folder, result.sha256, labels)


async def register_model(
    ledger: Ledger, card: ModelCard, artifact: Artifact, settings: Settings, retrain_id: UUID | None = None
) -> tuple[ModelCard, ModelEvent]:
    """Register a saved model in the ledger; returns its card as stored, and the event."""
    for warning in card.metrics.warnings:
        LOG.warning("%s: model %s: %s", card.line, card.model_id, warning)
    saved = card.model_copy(update={"mlflow_run_id": artifact.mlflow_run_id})
    event = await ledger.register_model(
        saved, artifact.sha256, retrain_id=retrain_id, pane_s=settings.pane_s, window_s=settings.window_s
    )
    return await ledger.card(card.model_id), event
