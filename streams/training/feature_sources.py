"""Adds features to a table of outcomes as they were at the time of each outcome (point-in-time join).

There are two sources: the history of a model line in Postgres, and a feature service of a Feast repository (the extra ``feast``).
Outcomes on the stream do not need them: they have their features with them.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import pandas as pd

from sql.database import Database
from sql.training_data_store import ENTITY, OBSERVED, features_as_of
from streams.tables import read_times

__all__ = ["FeastFeatures", "FeatureSource", "HistoryFeatures", "checked_outcomes", "feature_source"]

_EVENT_TIME, _ROW = "event_timestamp", "row_of_outcomes"
_FEAST = "feast:"


class FeatureSource(Protocol):
    """Features of entities over time."""

    @property
    def name(self) -> str:
        """Name of the source, stored in the ledger with the models trained on its features."""

    async def joined(self, outcomes: pd.DataFrame) -> pd.DataFrame:
        """Outcomes with the features of their entities at ``observed_at``.

        Args:
            outcomes: ``entity_id``, ``observed_at`` with its zone, and any other columns; it is not changed.

        Returns:
            The same rows in the same order with a column per feature, by name, missing where the entity had none yet.
        """


@dataclass(frozen=True)
class HistoryFeatures:
    """The history of a model line: training tables, and outcomes with features."""

    database: Database
    line: str

    @property
    def name(self) -> str:
        """The line."""
        return f"history of {self.line}"

    async def joined(self, outcomes: pd.DataFrame) -> pd.DataFrame:
        """See :class:`FeatureSource`."""
        return await features_as_of(self.database, self.line, outcomes)


@dataclass(frozen=True)
class FeastFeatures:
    """A feature service of a Feast repository with the join key ``entity_id``.

    Attributes:
        repository: folder with its ``feature_store.yaml``.
        service: name of the feature service.
    """

    repository: Path
    service: str

    @property
    def name(self) -> str:
        """The service and its repository."""
        return f"feast service {self.service} of {self.repository.name}"

    async def joined(self, outcomes: pd.DataFrame) -> pd.DataFrame:
        """See :class:`FeatureSource`."""
        return await asyncio.to_thread(self._joined, outcomes)

    def _joined(self, outcomes: pd.DataFrame) -> pd.DataFrame:
        store = import_module("feast").FeatureStore(repo_path=str(self.repository))
        entities = pd.DataFrame({ENTITY: outcomes[ENTITY].astype(str), _EVENT_TIME: outcomes[OBSERVED], _ROW: range(len(outcomes))})
        joined: pd.DataFrame = store.get_historical_features(entities, store.get_feature_service(self.service)).to_df()
        features = joined.set_index(_ROW).drop(columns=[ENTITY, _EVENT_TIME]).sort_index(axis=1)
        features = features.reindex(range(len(outcomes)))  # a file store omits rows whose entity has only later features
        return pd.concat([outcomes.reset_index(drop=True), features], axis=1)


def feature_source(text: str, database: Database, line: str) -> FeatureSource:
    """The source that a text names: ``history``, or ``feast:REPOSITORY:SERVICE``.

    Raises:
        ValueError: for another text, a folder that is no Feast repository, or when the extra is not installed.
    """
    if text == "history":
        return HistoryFeatures(database, line)
    repository, colon, service = text.removeprefix(_FEAST).rpartition(":")
    if not text.startswith(_FEAST) or not colon or not service:
        raise ValueError(f"features from {text!r}: use history, or feast:REPOSITORY:SERVICE")
    if not (Path(repository) / "feature_store.yaml").is_file():
        raise ValueError(f"{repository!r} is no Feast repository: it has no feature_store.yaml")
    if find_spec("feast") is None:
        raise ValueError("Feast is not installed: pip install 'twinstream[feast]', in an environment of its own")
    return FeastFeatures(Path(repository), service)


def checked_outcomes(table: pd.DataFrame) -> pd.DataFrame:
    """The table of outcomes with ``observed_at`` converted to times in UTC.

    Raises:
        ValueError: when a column is missing, or a time cannot be read or has no zone.
    """
    missing = [name for name in (ENTITY, OBSERVED) if name not in table]
    if missing:
        raise ValueError(f"features are looked up by entity and time: the table has no {', '.join(missing)}")
    times = read_times(table[OBSERVED])
    if times.isna().any():
        raise ValueError(f"features are looked up by entity and time: {int(times.isna().sum()):,} rows have no {OBSERVED}")
    return table.assign(**{OBSERVED: times})
