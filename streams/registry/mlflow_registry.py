"""Stores models in MLflow: one run per trained model, one registered model per line, whose alias ``champion`` copies the ledger.

The ledger in Postgres decides which model is champion; the alias follows it. Models are stored as
:mod:`streams.registry.serialization` writes them, never as pickle. All calls block: run them from an event loop through
``asyncio.to_thread``.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from engine.twins import TwinModel
from schemas import ModelCard, TwinType, line_parts
from sql.model_card_rows import Artifact
from streams.registry.serialization import read_parts, write_parts

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["MlflowRegistry", "prepare_store", "registered_name"]

CHAMPION = "champion"
_MODEL_FOLDER = "model"
_CARD, _PLOT = "card.json", "feature_importance.png"
_TAG = "twin."
_ID_TAG, _DIGEST_TAG, _LINE_TAG = f"{_TAG}model_id", f"{_TAG}sha256", f"{_TAG}line"
_MAX_PARAMETER_CHARACTERS = 6000
_IMPORT_LOCK = threading.Lock()  # two threads that import MLflow at the same time leave it half imported
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def experiment_name(twin_type: TwinType, brand: str) -> str:
    """Name of the MLflow experiment of a model's run.

    >>> experiment_name(TwinType.HCP, "kisqali")
    'digital_twin_hcp_kisqali'
    """
    return f"digital_twin_{twin_type.value}_{brand!s}"


def registered_name(line: str) -> str:
    """Name of a line's registered model; MLflow allows no colon in it.

    >>> registered_name("hcp:kisqali:prescribing_change")
    'digital_twin_hcp_kisqali_prescribing_change'
    """
    return f"digital_twin_{line.replace(':', '_')}"


def prepare_store(uri: str) -> None:
    """Create the tables of an MLflow store and check that it answers.

    Call it once before workers start: processes that create the tables at the same time fail.
    """
    for name in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    MlflowRegistry(uri).client.search_experiments(max_results=1)


@dataclass(frozen=True)
class MlflowRegistry:
    """Models in the MLflow store at ``uri``, for example ``sqlite:////path/mlflow.db`` or ``http://mlflow:5000``."""

    uri: str

    @cached_property
    def client(self) -> MlflowClient:
        """The MLflow client, imported and connected on first use."""
        with _IMPORT_LOCK:
            os.environ.update(_ENVIRONMENT)
            import mlflow.artifacts  # noqa: PLC0415  # 60 MB and 1.5 s, only for processes that use models
            import mlflow.entities  # noqa: PLC0415
            import mlflow.exceptions  # noqa: PLC0415

        return mlflow.MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def save(self, model: TwinModel) -> Artifact:
        """Register a trained model unless it is registered; returns where it is stored."""
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / _MODEL_FOLDER
            return self.save_folder(model.card, folder, write_parts(model.to_parts(), folder))

    def save_folder(self, card: ModelCard, folder: Path, sha256: str, labels: Mapping[str, str] = MappingProxyType({})) -> Artifact:
        """Register a model whose parts are in a folder; ``labels`` become tags of its run."""
        registered = self.find(card)
        if registered is not None:
            self._set_labels(registered.mlflow_run_id, labels)
            return registered
        with self._run(card, sha256) as run_id:
            self._log_card(run_id, card)
            self._set_labels(run_id, labels)
            self.client.log_artifacts(run_id, str(folder), _MODEL_FOLDER)
        self._model_version(card.line, run_id)
        return Artifact(run_id, sha256)

    def find(self, card: ModelCard) -> Artifact | None:
        """The stored files of a registered model; None when it is not registered, or its registration was not finished."""
        return self._find_run(experiment_name(card.twin_type, card.brand), _ID_TAG, str(card.model_id))

    def find_by_label(self, line: str, label: str, value: str) -> Artifact | None:
        """The stored files of the registered model of a line with this label; None when there is none."""
        twin_type, brand, _ = line_parts(line)
        return self._find_run(experiment_name(twin_type, brand), _TAG + label, value)

    def labels(self, run_id: str) -> dict[str, str]:
        """The labels that a model was registered with."""
        tags = self.client.get_run(run_id).data.tags
        return {name.removeprefix(_TAG): value for name, value in tags.items() if name.startswith(_TAG)}

    def load(self, artifact: Artifact) -> TwinModel:
        """Read a model; it is identical to the saved one.

        Raises:
            UntrustedModel: when its files do not have the stored digest, or must not be read here.
        """
        self.client  # noqa: B018  # sets the environment variables before the import below
        from mlflow.artifacts import download_artifacts  # noqa: PLC0415

        with tempfile.TemporaryDirectory() as scratch:
            folder = download_artifacts(
                run_id=artifact.mlflow_run_id, artifact_path=_MODEL_FOLDER, dst_path=scratch, tracking_uri=self.uri
            )
            return TwinModel.from_parts(read_parts(Path(folder), artifact.sha256))

    def set_champion_alias(self, line: str, run_id: str) -> None:
        """Set the alias ``champion`` of a line to the model of a run."""
        self.client.set_registered_model_alias(registered_name(line), CHAMPION, self._model_version(line, run_id))

    def champion_run(self, line: str) -> str | None:
        """Run of the model with the alias ``champion``; None when no model has it."""
        client = self.client
        from mlflow.exceptions import MlflowException  # noqa: PLC0415  # after the client, whose import is guarded

        try:
            return str(client.get_model_version_by_alias(registered_name(line), CHAMPION).run_id)
        except MlflowException as error:
            if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                return None
            raise

    @contextmanager
    def _run(self, card: ModelCard, sha256: str) -> Iterator[str]:
        """Create a run that is finished only when all of it was stored."""
        experiment = experiment_name(card.twin_type, card.brand)
        for interrupted in self._runs(experiment, _ID_TAG, str(card.model_id), "RUNNING"):
            self.client.set_terminated(interrupted.info.run_id, "KILLED")
        tags = {_ID_TAG: str(card.model_id), _DIGEST_TAG: sha256, _LINE_TAG: card.line}
        run = self.client.create_run(self._experiment_id(experiment), tags=tags, run_name=str(card.model_id))
        run_id = str(run.info.run_id)
        try:
            yield run_id
        except BaseException:
            self.client.set_terminated(run_id, "FAILED")
            raise
        self.client.set_terminated(run_id)

    def _experiment_id(self, name: str) -> str:
        experiment = self.client.get_experiment_by_name(name)
        if experiment is not None:
            return str(experiment.experiment_id)
        return str(self.client.create_experiment(name, artifact_location=_artifact_folder(self.uri, name)))

    def _find_run(self, experiment: str, tag: str, value: str) -> Artifact | None:
        for run in self._runs(experiment, tag, value, "FINISHED"):
            return Artifact(str(run.info.run_id), str(run.data.tags[_DIGEST_TAG]))
        return None

    def _runs(self, name: str, tag: str, value: str, status: str) -> list[Any]:
        """Runs of the experiment ``name`` with this value of a tag and this status."""
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            return []
        query = f"tags.`{tag}` = '{value}' and attributes.status = '{status}'"
        return list(self.client.search_runs([experiment.experiment_id], query))

    def _set_labels(self, run_id: str, labels: Mapping[str, str]) -> None:
        for name, value in labels.items():
            self.client.set_tag(run_id, _TAG + name, value)

    def _log_card(self, run_id: str, card: ModelCard) -> None:
        from mlflow.entities import Metric, Param  # noqa: PLC0415

        from streams.registry.importance_plot import draw_importance  # noqa: PLC0415  # 30 MB, only for processes that register a model

        now_ms = int(time.time() * 1000)
        self.client.log_batch(
            run_id,
            metrics=[Metric(name, value, now_ms, 0) for name, value in _metrics(card).items()],
            params=[Param(name, value) for name, value in _parameters(card).items()],
        )
        with tempfile.TemporaryDirectory() as scratch:
            (Path(scratch) / _CARD).write_text(card.model_dump_json(indent=1), encoding="utf-8")
            draw_importance(card.metrics.feature_importance, f"{card.line}, {card.model_type}", Path(scratch) / _PLOT)
            self.client.log_artifacts(run_id, scratch)

    def _model_version(self, line: str, run_id: str) -> str:
        """Version of a run's model in the line's registered model, created when it is missing."""
        from mlflow.exceptions import MlflowException  # noqa: PLC0415

        name = registered_name(line)
        for version in self.client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'"):
            return str(version.version)
        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"runs:/{run_id}/{_MODEL_FOLDER}"
        return str(self.client.create_model_version(name, source, run_id, await_creation_for=0).version)


def _artifact_folder(uri: str, experiment: str) -> str | None:
    """Folder beside a SQLite store; None lets a server choose it."""
    if not uri.startswith("sqlite:///"):
        return None
    return (Path(uri.removeprefix("sqlite:///")).absolute().parent / "mlflow-artifacts" / experiment).as_uri()


def _metrics(card: ModelCard) -> dict[str, float]:
    names = ("train_r2", "train_mae", "train_rmse", "cv_r2_mean", "cv_r2_std", "fidelity", "no_change_mae")
    metrics = {name: getattr(card.metrics, name) for name in names}
    baseline = {f"baseline_{name}": getattr(card.baseline, name) for name in ("mae", "rmse", "correlation", "coverage_95pct")}
    return {name: value for name, value in {**metrics, **baseline, **_realism(card)}.items() if value is not None}


def _realism(card: ModelCard) -> dict[str, float]:
    report = card.metrics.realism
    names = ("auc", "marginal_score", "association_error", "exact_copies", "near_copies", "closer_to_training")
    return {f"realism_{name}": getattr(report, name) for name in names} if report else {}


def _parameters(card: ModelCard) -> dict[str, str]:
    identity = {"model_type": card.model_type, "target": card.target, "training_samples": card.training_samples}
    parameters = {**card.hyperparameters, **identity, "features": ", ".join(card.features)}
    return {name: str(value)[:_MAX_PARAMETER_CHARACTERS] for name, value in parameters.items()}
