"""Where the features of outcomes come from when a table holds only outcomes: as they were known at the time, never later.

Two sources give the same frame: the history of a model line in Postgres, and a feature service of a Feast repository (the extra
``feast``). Neither is asked about single outcomes while they stream in: those carry their features.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from sql.database import Database
from sql.training_data_store import ENTITY, OBSERVED, features_as_of

__all__ = ["FeastFeatures", "FeatureSource", "HistoryFeatures", "checked_outcomes", "feature_source"]

_EVENT_TIME, _ROW = "event_timestamp", "row_of_outcomes"
_FEAST = "feast:"


class FeatureSource(Protocol):
    """Knows features of entities over time.

    Attributes:
        name: as the ledger tells where a model's features came from.
    """

    @property
    def name(self) -> str:
        """What the source is called."""

    async def joined(self, outcomes: pd.DataFrame) -> pd.DataFrame:
        """Outcomes with the newest features of their entities that were known at ``observed_at``.

        Args:
            outcomes: ``entity_id``, ``observed_at`` with its zone, and what else there is; it is not changed.

        Returns:
            The same rows in the same order with a column a feature, by name, empty where nothing was known yet.
        """


@dataclass(frozen=True)
class HistoryFeatures:
    """The history of a model line, as trainings and outcomes with features have left it."""

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
    """A feature service of a Feast repository, whose entity is called ``entity_id``.

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
        asked = pd.DataFrame({ENTITY: outcomes[ENTITY].astype(str), _EVENT_TIME: outcomes[OBSERVED], _ROW: range(len(outcomes))})
        found: pd.DataFrame = store.get_historical_features(asked, store.get_feature_service(self.service)).to_df()
        known = found.set_index(_ROW).drop(columns=[ENTITY, _EVENT_TIME]).sort_index(axis=1)
        features = known.reindex(range(len(outcomes)))  # a file store leaves rows out whose entity was known only later
        return pd.concat([outcomes.reset_index(drop=True), features], axis=1)


def feature_source(said: str, database: Database, line: str) -> FeatureSource:
    """The source that ``history`` or ``feast:REPOSITORY:SERVICE`` names.

    Raises:
        ValueError: for other words, a folder that is no Feast repository, or when the extra is not installed.
    """
    if said == "history":
        return HistoryFeatures(database, line)
    repository, colon, service = said.removeprefix(_FEAST).rpartition(":")
    if not said.startswith(_FEAST) or not colon or not service:
        raise ValueError(f"features from {said!r}: use history, or feast:REPOSITORY:SERVICE")
    if not (Path(repository) / "feature_store.yaml").is_file():
        raise ValueError(f"{repository!r} is no Feast repository: it has no feature_store.yaml")
    if find_spec("feast") is None:
        raise ValueError("Feast is not installed: pip install 'twinstream[feast]', in an environment of its own")
    return FeastFeatures(Path(repository), service)


def checked_outcomes(table: pd.DataFrame) -> pd.DataFrame:
    """A table of outcomes whose ``observed_at`` are times with their zone.

    Raises:
        ValueError: when a column is missing, or a time cannot be read or has no zone.
    """
    lacking = [name for name in (ENTITY, OBSERVED) if name not in table]
    if lacking:
        raise ValueError(f"features are looked up by entity and time: the table lacks {', '.join(lacking)}")
    return table.assign(**{OBSERVED: [_moment(said) for said in table[OBSERVED]]})


def _moment(said: Any) -> pd.Timestamp:
    at = pd.to_datetime(said, errors="coerce")
    if pd.isna(at) or at.tzinfo is None:
        raise ValueError(f"{OBSERVED} holds {said!r}: give times with their zone, such as 2026-01-31T12:00:00Z")
    return pd.Timestamp(at).tz_convert("UTC")
