"""Runs a leased training on an uploaded table to its end: promoted, rejected, refused or failed."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

from schemas import TwinType, line_parts
from schemas.events import TrainingRequest
from sql.database import Database
from sql.ledger import Ledger
from sql.retrain_store import LostLease
from sql.training_store import MAX_TRIES, LeasedTraining, Training, TrainingEnd, add_training, finish_training
from sql.upload_store import UnknownTable, copy_table, find_table
from streams.errors import describe_error
from streams.registry import MlflowRegistry
from streams.settings import Settings
from streams.training.imported_table import ImportedTable
from streams.training.line_training import TrainedLine, train_line
from streams.training.training_process import TrainingFailed, TrainingRefused
from streams.training.uploaded_table import file_name, options_from, parse_mapping, read_uploaded

__all__ = ["TableTrainingRunner", "UnfitTraining", "require_fit", "store_request"]

LOG = logging.getLogger(__name__)


class UnfitTraining(ValueError):
    """A requested training does not fit its table."""


def require_fit(request: TrainingRequest) -> None:
    """Refuse a request whose mapping is none, or of another twin type.

    Raises:
        UnfitTraining: with the reason.
    """
    try:
        parse_mapping(request.mapping, request.twin_type)
    except ValueError as error:
        raise UnfitTraining(str(error)) from None


async def store_request(database: Database, request: TrainingRequest) -> Training:
    """Store a requested training, unless it is stored; returns that which is stored.

    Raises:
        UnfitTraining: when its mapping is none, or the table is of another twin type.
        UnknownTable: when its table is not stored.
        NamesErased: when it names a person who was erased.
    """
    require_fit(request)
    training = await add_training(database, request)
    LOG.info("training %s of %s is %s", training.training_id, training.line, training.status)
    return training


@dataclass(frozen=True)
class TableTrainingRunner:
    """Runs leased trainings on uploaded tables."""

    database: Database
    registry: MlflowRegistry
    settings: Settings

    async def run(self, job: LeasedTraining) -> None:
        """Read the table, train a model of the line on it, and store how that ended.

        Raises:
            UnknownTable: when the table was deleted.
            ValueError: when the table cannot be trained on.
            TrainingFailed: when the training took too much time or memory, or too many workers have tried it.
            LostLease: when another worker took the training over.
        """
        if job.tries > MAX_TRIES:
            raise TrainingFailed(f"given up: {MAX_TRIES} workers started this training and none finished it")
        LOG.info("training %s on table %s, training %s, try %d", job.line, job.table_id, job.training_id, job.tries)
        kind, brand, _ = line_parts(job.line)
        twin_type = TwinType(kind)
        imported, name = await self._read(job, twin_type)
        try:
            trained = await train_line(
                self.database, self.registry, imported.frame, twin_type, brand, imported.target, settings=self.settings, source=name
            )
        except TrainingRefused:
            earlier = await self._promoted_before(job)
            if earlier is None:
                raise
            reason = "promoted by a worker that ended before it could store this"
            await self._finish(job, "promoted", reason, earlier, (*imported.remarks, *imported.notes))
        else:
            end: TrainingEnd = "promoted" if trained.promoted else "rejected"
            notes = (*imported.remarks, *imported.notes, *_model_notes(trained))
            await self._finish(job, end, trained.event.reason, trained.card.model_id, notes)

    async def record_failure(self, job: LeasedTraining, error: Exception) -> None:
        """Store why a training has no result, unless another worker has taken it over."""
        is_refused = isinstance(error, ValueError | UnknownTable)
        if not is_refused and not isinstance(error, TrainingFailed):
            LOG.error("training %s of %s failed with an unexpected error", job.training_id, job.line, exc_info=error)
        try:
            await self._finish(job, "refused" if is_refused else "failed", describe_error(error))
        except LostLease as lost:
            LOG.warning("%s", lost)

    async def _read(self, job: LeasedTraining, twin_type: TwinType) -> tuple[ImportedTable, str]:
        """The table as it is trained on, and its name."""
        table = await find_table(self.database, job.table_id)
        mapping, target = parse_mapping(job.mapping, twin_type), line_parts(job.line)[2]
        with TemporaryDirectory(prefix="twinstream-") as folder:
            file = Path(folder) / file_name(table.name, table.ending)
            await copy_table(self.database, table, file)
            imported = await asyncio.to_thread(read_uploaded, file, twin_type, target, options_from(table.options), mapping)
        return imported, table.name

    async def _promoted_before(self, job: LeasedTraining) -> UUID | None:
        """The champion, where an earlier holder of this training has promoted it: the same rows give the same model again."""
        champion = await Ledger(self.database).champion(job.line)
        if champion is None or job.tries < 2:
            return None
        event = await Ledger(self.database).state(job.line)
        return champion if event.effective_from is not None and event.at >= job.started_at else None

    async def _finish(
        self, job: LeasedTraining, end: TrainingEnd, reason: str, model_id: UUID | None = None, notes: Any = ()
    ) -> None:
        await finish_training(self.database, job, end, reason, model_id, notes)
        LOG.info("training %s of %s is %s: %s", job.training_id, job.line, end, reason)


def _model_notes(trained: TrainedLine) -> tuple[str, ...]:
    return (*trained.card.metrics.warnings, *trained.notes)
