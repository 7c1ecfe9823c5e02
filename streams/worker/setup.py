"""What commands do with Kafka, Postgres and MLflow; each opens what it needs and closes it again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pandas as pd

from schemas import TWIN_TYPES, Brand, SimulationAnswer, SimulationRequest, TwinType
from sql.database import Pool, open_pool
from sql.ledger import Ledger
from sql.migrate import migrate
from streams.client.outcome_table import outcome_events
from streams.client.twin_client import TwinClient
from streams.kafka.topics import create_topics
from streams.settings import Settings
from streams.training.feature_sources import checked_outcomes, feature_source

if TYPE_CHECKING:
    from engine.twins.twin_model import TwinModel
    from streams.training.line_training import TrainedLine

__all__ = ["ask", "champion_of", "learn", "prepare", "publish_table", "with_features"]


async def prepare(settings: Settings) -> dict[str, list[str]]:
    """Apply migrations, create topics and the model store; returns what was new. Safe to do again, by anyone."""
    from streams.registry.mlflow_registry import prepare_store  # noqa: PLC0415  # it brings MLflow in, which most commands do without

    applied = await migrate(settings.postgres_dsn.get_secret_value())
    topics = await create_topics(settings)
    await asyncio.to_thread(prepare_store, settings.mlflow_uri)
    return {"migrations": applied, "topics": topics}


async def learn(
    settings: Settings, frame: pd.DataFrame, twin_type: TwinType, brand: Brand, target: str, source: str
) -> TrainedLine:
    """Train a model of a line on a table, register it, and make it champion when it is the first or proves better."""
    from streams.registry.mlflow_registry import MlflowRegistry  # noqa: PLC0415  # it brings MLflow in, which most commands do without
    from streams.training.line_training import train_line  # noqa: PLC0415

    registry = MlflowRegistry(settings.mlflow_uri)
    async with await open_pool(settings) as pool:
        return await train_line(pool, registry, frame, twin_type, brand, target, settings=settings, source=source)


async def champion_of(settings: Settings, pool: Pool, line: str) -> TwinModel:
    """The champion of a line, loaded.

    Raises:
        LookupError: when the line is unknown or has no champion.
    """
    from streams.registry.mlflow_registry import MlflowRegistry  # noqa: PLC0415
    from streams.registry.model_loader import ModelLoader  # noqa: PLC0415  # it brings MLflow in, which most commands do without

    champion = await Ledger(pool).champion(line)
    if champion is None:
        raise LookupError(f"{line} has no champion yet: twinstream train FILE")
    return await ModelLoader(pool, MlflowRegistry(settings.mlflow_uri), 1).load(champion)


async def with_features(settings: Settings, outcomes: pd.DataFrame, source: str, line: str) -> tuple[pd.DataFrame, str]:
    """Outcomes with the features that were known at their time, and the name of the source that knew them.

    Raises:
        ValueError: for an unknown source, or outcomes without entity or time.
    """
    async with await open_pool(settings) as pool:
        found = feature_source(source, pool, line)
        return await found.joined(checked_outcomes(outcomes)), found.name


async def ask(settings: Settings, request: SimulationRequest, timeout_s: float) -> SimulationAnswer:
    """Publish a request and wait for its answer.

    Raises:
        NoAnswer: after ``timeout_s``.
    """
    async with TwinClient(settings, name="command line") as client:
        return await client.request(request, timeout_s=timeout_s)


async def publish_table(
    settings: Settings,
    table: pd.DataFrame,
    twin_type: TwinType,
    brand: Brand,
    target: str | None,
    report_progress: Callable[[int], None],
) -> int:
    """Publish the rows of a table as outcomes, with twin type, brand, metric, ID and time filled in where it has no such column.

    Args:
        settings: addresses of the service.
        table: a row for each outcome.
        twin_type: for rows without one.
        brand: for rows without one.
        target: the metric of rows without one; the twin type's own target where it is None.
        report_progress: called with the number of rows published so far.

    Returns:
        Number of outcomes published.

    Raises:
        ValueError: for a column or row that is no outcome; the rows before it are published.
    """
    filled: dict[str, Any] = {
        "twin_type": twin_type.value,
        "brand": brand.value,
        "metric_type": TWIN_TYPES[twin_type].target(target).name,
        "observed_at": datetime.now(UTC),
    }
    constants = {name: value for name, value in filled.items() if name not in table}
    named = table if "event_id" in table else table.assign(event_id=[str(uuid4()) for _ in range(len(table))])
    async with TwinClient(settings, name="command line") as client:
        return await client.publish_outcomes(outcome_events(named, constants), progress=report_progress)
