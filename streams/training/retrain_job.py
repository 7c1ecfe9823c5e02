"""Runs a leased retrain job to the ledger event that ends it: promoted, suggested, rejected or failed."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

from sql.database import Database
from sql.ledger import Ledger
from sql.retrain_store import MAX_TRIES, LostLease, TrainingJob
from streams.errors import describe_error
from streams.metrics import RETRAINS
from streams.registry import MlflowRegistry, ModelLoader
from streams.settings import Settings
from streams.training.retraining import Retraining
from streams.training.training_process import TrainingFailed, TrainingRefused

__all__ = ["RetrainRunner", "count_retrain"]

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class RetrainRunner:
    """Runs leased retrain jobs."""

    database: Database
    registry: MlflowRegistry
    settings: Settings

    async def run(self, job: TrainingJob) -> None:
        """Train a challenger, pass it through the gate, and store the result in the ledger.

        Raises:
            TrainingRefused: when there are too few rows to train on.
            TrainingFailed: when training took too much time or memory, or too many workers have tried it.
            LostLease: when another worker took the job over.
            StaleRetrain: when the incumbent is no longer champion.
        """
        if job.tries > MAX_TRIES:
            raise TrainingFailed(f"given up: {MAX_TRIES} workers started this training and none finished it")
        LOG.info("training a challenger for %s, retrain %s, try %d", job.line, job.retrain_id, job.tries)
        load_model = ModelLoader(self.database, self.registry, size=1).load
        retraining = Retraining(self.database, self.registry, load_model, self.settings)
        challenger = await retraining.train_challenger(job)
        comparison = await retraining.compare(job, challenger)
        event = await Ledger(self.database).conclude(
            await self._decide(job, promote=comparison.promote),
            job.line,
            challenger.model.card.model_id,
            retrain_id=job.retrain_id,
            fence=job.fence,
            reason=comparison.reason,
            comparison=comparison.to_dict(),
        )
        LOG.info("%s: %s %s: %s", job.line, event.model_id, event.happened, event.reason)
        count_retrain(job.line, event.happened)

    async def _decide(self, job: TrainingJob, *, promote: bool) -> Literal["promoted", "suggested", "rejected"]:
        """Whether a challenger is promoted; a line with the policy ``suggest`` leaves that to a person."""
        if not promote:
            return "rejected"
        policy = await Ledger(self.database).policy(job.line)
        return "suggested" if policy == "suggest" and job.cause == "drift" else "promoted"

    async def record_failure(self, job: TrainingJob, error: Exception) -> None:
        """Store in the ledger that a job failed, unless another worker has taken it over."""
        if not isinstance(error, TrainingRefused | TrainingFailed):
            LOG.error("retrain %s of %s failed with an unexpected error", job.retrain_id, job.line, exc_info=error)
        ledger, reason = Ledger(self.database), describe_error(error)
        try:
            await ledger.conclude("failed", job.line, job.model_id, retrain_id=job.retrain_id, fence=job.fence, reason=reason)
        except LostLease as lost:
            LOG.warning("%s", lost)
            return
        LOG.warning("retrain %s of %s failed: %s", job.retrain_id, job.line, reason)
        count_retrain(job.line, "failed")


def count_retrain(line: str, outcome: str) -> None:
    """Count a retrain that ended."""
    RETRAINS.labels(line=line, outcome=outcome).inc()
