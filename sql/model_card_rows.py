"""Stores model cards as rows of ``digital_twin_models`` and loads them; also where the files of a model are."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import asyncpg

from schemas.catalogue_in_effect import catalogue_in_effect
from schemas.twin_models import Baseline, ModelCard, TwinModelMetrics
from sql.database import Connection, Database

__all__ = ["CARD_COLUMNS", "Artifact", "UnknownModel", "card_from", "insert_model", "load_artifact", "load_card"]

CARD_COLUMNS = """m.model_id, m.twin_type::text AS twin_type, m.brand::text AS brand, m.target_variable, m.model_type,
       m.features AS model_features, m.hyperparameters, m.training_samples, m.metrics, m.baseline, m.trained_at, m.mlflow_run_id"""

INSERT = """
INSERT INTO digital_twin_models (model_id, twin_type, brand, model_type, training_samples, target_variable, features,
                                 hyperparameters, metrics, mlflow_run_id, trained_at, line, baseline, artifact_sha256,
                                 catalogue_version)
VALUES ($1, $2::text::twin_type, $3::text::brand, $4, $5, $6, $7, $8, $9, $10, coalesce($11, now()), $12, $13, $14, $15)
ON CONFLICT (model_id) DO UPDATE
SET mlflow_run_id = coalesce(EXCLUDED.mlflow_run_id, digital_twin_models.mlflow_run_id),
    artifact_sha256 = coalesce(EXCLUDED.artifact_sha256, digital_twin_models.artifact_sha256)
WHERE (digital_twin_models.mlflow_run_id, digital_twin_models.artifact_sha256)
      IS DISTINCT FROM (coalesce(EXCLUDED.mlflow_run_id, digital_twin_models.mlflow_run_id),
                        coalesce(EXCLUDED.artifact_sha256, digital_twin_models.artifact_sha256))"""


@dataclass(frozen=True)
class Artifact:
    """The MLflow run with a model's files, and the SHA-256 over them."""

    mlflow_run_id: str
    sha256: str


class UnknownModel(LookupError):
    """No model with this id is stored."""

    def __init__(self, model_id: UUID) -> None:
        super().__init__(f"no model {model_id} is stored: save its population, or register it, first")


async def insert_model(connection: Connection, card: ModelCard, sha256: str | None = None) -> None:
    """Store a card unless it is stored; run and digest are added to a row that lacks them."""
    await connection.execute(
        INSERT,
        card.model_id,
        card.twin_type.value,
        str(card.brand),
        card.model_type,
        card.training_samples,
        card.target,
        list(card.features),
        card.model_dump(mode="json")["hyperparameters"],
        card.metrics.model_dump(mode="json"),
        card.mlflow_run_id,
        card.trained_at,
        card.line,
        card.baseline.model_dump(mode="json"),
        sha256,
        catalogue_in_effect().version,
    )


async def load_artifact(database: Database, model_id: UUID) -> Artifact:
    """The stored files of a model.

    Raises:
        UnknownModel: when there is no such model, or it was stored without files.
    """
    row = await database.fetchrow("SELECT mlflow_run_id, artifact_sha256 FROM digital_twin_models WHERE model_id = $1", model_id)
    if row is None or row["mlflow_run_id"] is None or row["artifact_sha256"] is None:
        raise UnknownModel(model_id)
    return Artifact(row["mlflow_run_id"], row["artifact_sha256"])


async def load_card(database: Database, model_id: UUID) -> ModelCard:
    """Load the card of a model.

    Raises:
        UnknownModel: when there is none.
    """
    row = await database.fetchrow(f"SELECT {CARD_COLUMNS} FROM digital_twin_models m WHERE m.model_id = $1", model_id)  # noqa: S608  # our own constant
    if row is None:
        raise UnknownModel(model_id)
    return card_from(row)


def card_from(row: asyncpg.Record) -> ModelCard:
    """The card in a row that has ``CARD_COLUMNS``."""
    return ModelCard(
        model_id=row["model_id"],
        twin_type=row["twin_type"],
        brand=row["brand"],
        target=row["target_variable"],
        model_type=row["model_type"],
        features=tuple(row["model_features"]),
        hyperparameters=row["hyperparameters"],
        training_samples=row["training_samples"],
        metrics=TwinModelMetrics(**row["metrics"]),
        baseline=Baseline(**row["baseline"]),
        trained_at=row["trained_at"],
        mlflow_run_id=row["mlflow_run_id"],
    )
