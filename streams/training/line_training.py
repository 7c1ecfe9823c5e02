"""Trains a model of a line on a table: the first one becomes champion, every later one has to pass the promotion gate."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple, Self
from uuid import UUID

import numpy as np
import pandas as pd

from engine.promotion import GATE_ROWS, Comparison
from engine.twins import TwinModel
from schemas import TWIN_TYPES, Brand, ModelCard, ModelEvent, TwinType, line_parts, model_line
from sql.database import Database, clock
from sql.ledger import Ledger
from sql.model_card_rows import Artifact
from sql.training_data_store import ENTITY, OBSERVED, add_history, training_rows
from streams.registry import MlflowRegistry
from streams.settings import Settings
from streams.tables import read_times
from streams.training.shadow_evaluation import gate
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

TRAINED_UNTIL_LABEL = "learned_until"
"""Label of a registered model: the last row that it was trained on."""

_GATE_FRACTION = 4  # one in so many unseen rows is held out for the gate, when there are plenty
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
    brand: Brand,
    target: str | None = None,
    *,
    settings: Settings,
    source: str,
    seed: int = 0,
) -> TrainedLine:
    """Train a model of a line on a table, register it, and promote it when it is the first or passes the gate.

    A later model of a line is compared with the champion on rows of the table that are new to the line; they are held out from
    training.

    Args:
        database: a pool or a connection.
        registry: stores the model.
        frame: features, target, and optionally ``entity_id`` and ``observed_at``; rows without them are numbered, and observed now.
        twin_type: of the line.
        brand: of the line.
        target: of the line; the twin type's own by default.
        settings: of the service.
        source: where the table comes from, stored with its rows.
        seed: of the training.

    Raises:
        TableRefused: when ``observed_at`` holds a number, or a time without its zone.
        TrainingRefused: when the table cannot be trained on, or has too few new rows to challenge a champion.
        TrainingFailed: when training took too much time or memory.
    """
    name = TWIN_TYPES[twin_type].target(target).name
    line, ledger = model_line(twin_type, brand, name), Ledger(database)
    champion = await ledger.champion(line)
    rows = _usable_rows(frame, name, await clock(database))
    unseen = await _unseen_rows(database, line, rows)
    training, held_out = (rows, unseen.iloc[:0]) if champion is None else _hold_out(rows, unseen)
    async with train_in_subprocess(training_spec(line, settings, seed), training) as result:
        artifact = await save_model(registry, result, {TRAINED_UNTIL_LABEL: str(TrainingCutoff.last_of(training))})
        await add_history(database, line, unseen, source)
        card, _ = await register_model(ledger, result.model.card, artifact, settings)
        comparison, notes = await _compare_with_champion(ledger, registry, champion, result.model, held_out)
    event = await _conclude(ledger, card, comparison, source)
    if event.champion == card.model_id:
        await asyncio.to_thread(registry.set_champion_alias, line, artifact.mlflow_run_id)
    return TrainedLine(card, artifact, event, comparison, notes)


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


def _usable_rows(frame: pd.DataFrame, target: str, now: datetime) -> pd.DataFrame:
    """The rows with a finite target as the history stores them, oldest first."""
    if target not in frame:
        raise TrainingRefused(f"the table has no column {target!r}, the target: it has {', '.join(map(str, frame))}")
    numbers = pd.to_numeric(frame[target], errors="coerce").astype("float64")
    rows = frame.assign(**{target: numbers})[np.isfinite(numbers)]
    ids = rows[ENTITY].astype(str) if ENTITY in rows else pd.Series([f"row-{row}" for row in range(len(rows))], index=rows.index)
    times = read_times(rows[OBSERVED]) if OBSERVED in rows else pd.Series(pd.Timestamp(now), index=rows.index)
    dated = rows.drop(columns=[ENTITY, OBSERVED], errors="ignore").assign(entity_id=ids, observed_at=times)
    return dated.sort_values([OBSERVED, ENTITY], kind="stable").reset_index(drop=True)


async def _unseen_rows(database: Database, line: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows whose entity never had this outcome before: a table that is read again has none."""
    target = line_parts(line)[2]
    history = await training_rows(database, line, _END_OF_TIME)
    stored = set(zip(history[ENTITY], history[target], strict=True))
    return rows[[row not in stored for row in zip(rows[ENTITY], rows[target], strict=True)]]


def _hold_out(rows: pd.DataFrame, unseen: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training rows, and the latest unseen rows, held out for the gate."""
    if len(unseen) < GATE_ROWS:
        raise TrainingRefused(
            f"{len(unseen)} of {len(rows)} rows are new to the line: the gate compares models on {GATE_ROWS} or more new rows"
        )
    held_out = unseen.iloc[-max(GATE_ROWS, len(unseen) // _GATE_FRACTION) :]
    return rows.drop(index=held_out.index), held_out


async def save_model(registry: MlflowRegistry, result: TrainingResult, labels: dict[str, str]) -> Artifact:
    """Save a trained model in the registry, on a worker thread."""
    return await asyncio.to_thread(registry.save_folder, result.model.card, result.folder, result.sha256, labels)


async def register_model(
    ledger: Ledger, card: ModelCard, artifact: Artifact, settings: Settings, retrain_id: UUID | None = None
) -> tuple[ModelCard, ModelEvent]:
    """Register a saved model in the ledger; returns its card as stored, and the event."""
    saved = card.model_copy(update={"mlflow_run_id": artifact.mlflow_run_id})
    event = await ledger.register_model(
        saved, artifact.sha256, retrain_id=retrain_id, pane_s=settings.pane_s, window_s=settings.window_s
    )
    return await ledger.card(card.model_id), event


async def _compare_with_champion(
    ledger: Ledger, registry: MlflowRegistry, champion: UUID | None, model: TwinModel, held_out: pd.DataFrame
) -> tuple[Comparison | None, tuple[str, ...]]:
    """The comparison on held-out rows, and what the champion had to predict them without."""
    if champion is None:
        return None, ()
    incumbent = await asyncio.to_thread(registry.load, await ledger.artifact(champion))
    sentences = await asyncio.to_thread(incumbent.gap_sentences, held_out)
    notes = tuple(f"to the champion of before, {sentence}" for sentence in sentences)
    return await asyncio.to_thread(gate, held_out, incumbent, model), notes


async def _conclude(ledger: Ledger, card: ModelCard, comparison: Comparison | None, source: str) -> ModelEvent:
    if comparison is None:
        return await ledger.promote(card.line, card.model_id, reason=f"first champion of the line, trained on {source}")
    return await ledger.conclude(
        "promoted" if comparison.promote else "rejected",
        card.line,
        card.model_id,
        reason=comparison.reason,
        comparison=comparison.to_dict(),
    )
