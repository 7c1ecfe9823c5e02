"""With what outcomes were predicted from features, counted in a real PostgreSQL, and which features they may carry."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NoReturn
from uuid import UUID

import numpy as np
import pandas as pd
import pytest

from engine.twins import FeatureGaps
from schemas import SourceId
from sql import source_position_store
from sql.database import Pool, open_pool
from sql.feature_count_store import FeatureCount, feature_counts
from sql.ledger import Ledger
from streams.ingestion import ContextLoader, OutcomePipeline
from tests.outcomes import LINE, TOPIC, make_card, make_line, outcome, poll_batches, record

CARD = make_card().model_copy(update={"features": ("decile", "region")})


class Champion:
    """Predicts the decile; it knows the region ``south``."""

    def predict_rows(self, frame: pd.DataFrame) -> tuple[Any, Any, Any, FeatureGaps]:
        features = frame.reindex(columns=["decile", "region"])
        predicted = features["decile"].astype(float).fillna(0.0).to_numpy()
        unseen = np.column_stack([np.zeros(len(features), np.bool_), features["region"].notna() & (features["region"] != "south")])
        return predicted, predicted - 2, predicted + 2, FeatureGaps(("decile", "region"), features.isna().to_numpy(), unseen)


async def load_champion(model_id: UUID) -> Any:
    return Champion()


async def no_simulation(simulation_id: UUID) -> NoReturn:
    raise LookupError(f"{simulation_id} is not needed here")


@pytest.fixture
async def pool(fresh_database: str) -> AsyncIterator[Pool]:
    await make_line(fresh_database, CARD, pane_s=60.0, window_s=300.0)
    opened = await open_pool(dsn=fresh_database)
    for partition in range(2):
        await source_position_store.begin_source(opened, SourceId(topic=TOPIC, partition=partition))
    yield opened
    await opened.close()


def from_features(number: int, **features: Any) -> dict[str, Any]:
    event = outcome(number, entity_id=f"e{number}", features=features, segment={})
    return {name: value for name, value in event.items() if not name.startswith("predicted")}


async def ingest(pipeline: OutcomePipeline, values: list[Any], *, first: int = 0, partition: int = 0) -> Any:
    records = [record(first + number, value, partition=partition) for number, value in enumerate(values)]
    return await pipeline.ingest(next(iter(poll_batches(records, len(records)))))


async def test_missing_unseen_and_unused_features_are_counted_once_whatever_is_replayed(pool: Pool) -> None:
    pipeline = OutcomePipeline(pool, ContextLoader(pool, load_champion, no_simulation), 300.0, 1200.0)
    values = [
        from_features(0, decile=3, region="south"),
        from_features(1, decile=3, region="mars"),
        from_features(2, region="south", practice_size=4),
        from_features(3, Decile=3),
    ]
    expected = [
        FeatureCount(LINE, CARD.model_id, "decile", outcomes=3, missing=1),
        FeatureCount(LINE, CARD.model_id, "practice_size", unused=1),
        FeatureCount(LINE, CARD.model_id, "region", outcomes=3, unseen=1),
    ]
    result = await ingest(pipeline, values)
    assert list(result.feature_counts) == expected
    assert [(row.element, row.kind) for row in result.refused] == [(0, "features")]
    replayed = await ingest(pipeline, values)
    assert (replayed.n_replayed, list(replayed.feature_counts)) == (4, [])
    assert await feature_counts(pool, CARD.model_id) == expected
    await ingest(pipeline, [from_features(9, decile=3)], partition=1)
    decile, practice_size, region = await feature_counts(pool, CARD.model_id)
    assert (decile.outcomes, decile.missing, practice_size, region.outcomes, region.missing) == (4, 1, expected[1], 4, 1)


async def test_a_feature_is_accepted_as_soon_as_a_model_of_the_line_was_trained_with_it(pool: Pool) -> None:
    pipeline = OutcomePipeline(pool, ContextLoader(pool, load_champion, no_simulation), 300.0, 1200.0)
    refused = await ingest(pipeline, [from_features(0, decile=3, trx_growth=0.1), from_features(1, decile=3, npi=7)])
    assert [row.reason.partition(":")[0] for row in refused.refused] == ["unknown features 'trx_growth'", "unknown features 'npi'"]
    metrics = CARD.metrics.model_copy(update={"left_out": ("npi",)})
    challenger = make_card("challenger").model_copy(update={"features": ("decile", "trx_growth"), "metrics": metrics})
    await Ledger(pool).register_model(challenger, "0" * 64, pane_s=60.0, window_s=300.0)
    accepted = await ingest(pipeline, [from_features(0, decile=3, trx_growth=0.1), from_features(1, decile=3, npi=7)], first=2)
    assert not accepted.refused
    assert [(count.feature, count.unused) for count in accepted.feature_counts] == [
        ("decile", 0),
        ("npi", 1),
        ("region", 0),
        ("trx_growth", 1),
    ]
