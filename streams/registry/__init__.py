"""Trained models in MLflow: saves, registers and loads them, and copies the ledger to the alias, the topic and the metrics.

It imports ``streams.kafka`` (for types only) and what lies below it, ``engine``, ``sql`` and ``schemas``. MLflow and matplotlib are
imported by the functions that use them.
"""

from streams.registry.ledger_projection import LedgerProjection
from streams.registry.mlflow_registry import MlflowRegistry, prepare_store
from streams.registry.model_loader import ModelLoader, champion_of
from streams.registry.serialization import UntrustedModel, read_parts, write_parts

__all__ = [
    "LedgerProjection",
    "MlflowRegistry",
    "ModelLoader",
    "UntrustedModel",
    "champion_of",
    "prepare_store",
    "read_parts",
    "write_parts",
]
