"""Steps that several commands share: they prepare the servers, train and load models, and compare tables with them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import pandas as pd

from schemas import TwinType
from sql.database import Pool, open_pool
from sql.migrate import migrate
from streams.kafka import create_topics
from streams.settings import Settings
from streams.training import checked_outcomes, feature_source

if TYPE_CHECKING:
    from engine.twins import TwinModel
    from streams.training.line_training import TrainedLine

__all__ = ["join_features", "load_champion", "prepare", "train_model"]


async def prepare(settings: Settings, on_step: Callable[[str], None] = lambda _step: None) -> dict[str, list[str]]:
    """Apply migrations, create topics and prepare the model store, each unless it is done already.

    Args:
        settings: addresses of the servers.
        on_step: called with what is done next.

    Returns:
        Names of the migrations that were applied and of the topics that were created.
    """
    from streams.registry import prepare_store  # noqa: PLC0415  # imports MLflow, which most commands do not need

    on_step("waiting for other migrations")
    applied = await migrate(settings.migrate_dsn, lambda name: on_step(f"applying the migration {name}"))
    on_step("creating topics")
    created = await create_topics(settings)
    on_step("preparing the model store")
    await asyncio.to_thread(prepare_store, settings.mlflow_uri)
    return {"migrations": applied, "topics": created}


async def train_model(
    settings: Settings, table: pd.DataFrame, twin_type: TwinType, brand: str, target: str, source: str
) -> TrainedLine:
    """Train and register a model of a line, and promote it when it is the line's first or passes the promotion gate."""
    from streams.registry import MlflowRegistry  # noqa: PLC0415  # imports MLflow, which most commands do not need
    from streams.training.line_training import train_line  # noqa: PLC0415  # likewise

    registry = MlflowRegistry(settings.mlflow_uri)
    async with await open_pool(settings) as pool:
        return await train_line(pool, registry, table, twin_type, brand, target, settings=settings, source=source)


async def load_champion(settings: Settings, pool: Pool, line: str) -> TwinModel:
    """Load the champion of a line.

    Raises:
        NoChampion: when the line is unknown or has none.
    """
    from streams.registry import ModelLoader, champion_of  # noqa: PLC0415  # imports MLflow, which most commands do not need

    return await champion_of(pool, ModelLoader.from_settings(pool, settings), line)


async def join_features(settings: Settings, outcomes: pd.DataFrame, source: str, line: str) -> tuple[pd.DataFrame, str]:
    """Join outcomes with the features that a source has for the time of each outcome.

    Returns:
        The joined table, and the name of the source.

    Raises:
        ValueError: for an unknown source, or outcomes without entity or time.
    """
    async with await open_pool(settings) as pool:
        features = feature_source(source, pool, line)
        return await features.joined(checked_outcomes(outcomes)), features.name
