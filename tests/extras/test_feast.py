"""Features of a real local Feast store, and of a real PostgreSQL: each outcome gets the features at its time."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource
from feast.types import Float64, Int64, String
from feast.value_type import ValueType

from engine.twins import build_training_table
from schemas import TwinType
from sql.database import Pool
from sql.training_data_store import add_history
from streams.training.feature_sources import FeastFeatures, HistoryFeatures, feature_source

LINE, TARGET = "hcp:kisqali:prescribing_change", "prescribing_change"
START = pd.Timestamp("2026-01-01", tz="UTC")
ENTITIES, VISITS, OUTCOMES = 400, 4, 1200
STORE = """\
project: twins
provider: local
registry: registry.db
offline_store:
  type: file
online_store:
  type: sqlite
  path: online.db
entity_key_serialization_version: 3
"""


@pytest.fixture(scope="module")
def features() -> pd.DataFrame:
    """Features of each entity with their times: some change, and some are missing."""
    rng, n = np.random.default_rng(0), ENTITIES * VISITS
    return pd.DataFrame(
        {
            "entity_id": [f"hcp-{row % ENTITIES}" for row in range(n)],
            "observed_at": START + pd.to_timedelta(np.sort(rng.uniform(0, 100, n)), unit="D").round("s"),
            "specialty": rng.choice(["oncology", "neurology", "dermatology"], n),
            "decile": rng.integers(1, 11, n),
            "digital_engagement_score": np.where(rng.random(n) < 0.1, np.nan, rng.random(n).round(3)),
        }
    )


@pytest.fixture(scope="module")
def outcomes() -> pd.DataFrame:
    """Outcomes between those times, and of entities without features."""
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "entity_id": [f"hcp-{row}" for row in rng.integers(0, ENTITIES + 20, OUTCOMES)],
            "observed_at": START + pd.to_timedelta(rng.uniform(0, 110, OUTCOMES), unit="D").round("s"),
            TARGET: rng.normal(0, 0.1, OUTCOMES).round(4),
        }
    )


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, features: pd.DataFrame) -> Path:
    folder = tmp_path_factory.mktemp("feast")
    (folder / "feature_store.yaml").write_text(STORE, encoding="utf-8")
    features.rename(columns={"observed_at": "event_timestamp"}).to_parquet(folder / "features.parquet")
    entity = Entity(name="entity_id", join_keys=["entity_id"], value_type=ValueType.STRING)
    view = FeatureView(
        name="hcp",
        entities=[entity],
        ttl=timedelta(days=3650),
        schema=[
            Field(name="specialty", dtype=String),
            Field(name="decile", dtype=Int64),
            Field(name="digital_engagement_score", dtype=Float64),
        ],
        source=FileSource(path=str(folder / "features.parquet"), timestamp_field="event_timestamp"),
    )
    FeatureStore(repo_path=str(folder)).apply([entity, view, FeatureService(name="hcp_features", features=[view])])
    return folder


def as_of(outcomes: pd.DataFrame, features: pd.DataFrame) -> pd.DataFrame:
    """The same join by pandas: the newest row of the entity that is not later than the outcome."""
    ordered = outcomes.assign(row=range(len(outcomes))).sort_values("observed_at")
    joined = pd.merge_asof(ordered, features.sort_values("observed_at"), on="observed_at", by="entity_id")
    return joined.sort_values("row").drop(columns="row").reset_index(drop=True)


def plain(frame: pd.DataFrame) -> pd.DataFrame:
    """The values without their types: numbers as floats, missing values as None."""
    numbers = frame.select_dtypes("number").astype(float)
    values = frame.assign(**{str(name): numbers[name] for name in numbers}).astype(object)
    return values.where(frame.notna(), None)


async def test_every_outcome_gets_the_newest_features_of_its_time_and_no_later_ones(
    repository: Path, features: pd.DataFrame, outcomes: pd.DataFrame
) -> None:
    joined = await FeastFeatures(repository, "hcp_features").joined(outcomes)
    expected = as_of(outcomes, features)
    assert 20 < expected["decile"].isna().sum() < OUTCOMES / 2  # some rows have no features
    assert list(joined) == [*outcomes, "decile", "digital_engagement_score", "specialty"]
    pd.testing.assert_frame_equal(plain(joined), plain(expected[list(joined)]))


async def test_features_of_the_time_of_the_outcome_count_and_those_of_a_second_later_do_not(
    repository: Path, features: pd.DataFrame
) -> None:
    first = features[features["entity_id"] == "hcp-7"].sort_values("observed_at").iloc[[0]]
    moments = [first["observed_at"].iloc[0] + timedelta(seconds=shift) for shift in (-1, 0, 1)]
    outcomes = pd.DataFrame({"entity_id": ["hcp-7"] * 3, "observed_at": moments})
    joined = await FeastFeatures(repository, "hcp_features").joined(outcomes)
    assert joined["decile"].isna().tolist() == [True, False, False]
    assert joined["decile"].iloc[1] == first["decile"].iloc[0]


async def test_the_history_in_postgres_gives_the_same_frame_and_so_the_same_training_table(
    pool: Pool, repository: Path, features: pd.DataFrame, outcomes: pd.DataFrame
) -> None:
    await add_history(pool, LINE, features.assign(**{TARGET: 0.0}), "test")
    of_feast = await feature_source(f"feast:{repository}:hcp_features", pool, LINE).joined(outcomes)
    of_history = await feature_source("history", pool, LINE).joined(outcomes)
    pd.testing.assert_frame_equal(plain(of_feast), plain(of_history))
    feast_table, history_table = (build_training_table(frame, TwinType.HCP, TARGET) for frame in (of_feast, of_history))
    assert feast_table.digest() == history_table.digest()


async def test_each_source_has_a_name_and_does_not_change_the_outcomes(
    pool: Pool, repository: Path, outcomes: pd.DataFrame
) -> None:
    before = outcomes.copy()
    source = FeastFeatures(repository, "hcp_features")
    await source.joined(outcomes)
    pd.testing.assert_frame_equal(outcomes, before)
    assert source.name == f"feast service hcp_features of {repository.name}"
    assert HistoryFeatures(pool, LINE).name == f"history of {LINE}"
