"""Steps that several commands share: they prepare the servers, train and load models, and compare tables with them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import pandas as pd

from engine.twins import gap_sentences
from schemas import TwinType
from schemas.levels import KnownLevels, levels_of
from sql.database import Pool, open_pool
from sql.feature_count_store import LineColumns, line_columns
from sql.ledger import Ledger
from sql.ledger_rows import lines_with_champion
from sql.migrate import migrate
from sql.pin_store import NoChampion
from streams.kafka import create_topics
from streams.settings import Settings
from streams.training import checked_outcomes, feature_source

if TYPE_CHECKING:
    from engine.twins import TwinModel
    from streams.training.line_training import TrainedLine

__all__ = ["find_own_columns", "join_features", "load_champion", "prepare", "train_model"]


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
    from streams.registry import ModelLoader  # noqa: PLC0415  # imports MLflow, which most commands do not need

    champion = await Ledger(pool).champion(line)
    if champion is None:
        raise NoChampion(line, await lines_with_champion(pool))
    return await ModelLoader.from_settings(pool, settings).load(champion)


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


async def find_own_columns(pool: Pool, table: pd.DataFrame, notify: Callable[[str], object]) -> LineColumns:
    """Columns that the models of a table's lines know; ``notify`` gets a sentence about each feature that a champion will lack.

    The table has the columns ``twin_type``, ``brand`` and ``metric_type``.
    """
    parts = {":".join(map(str, key)): part for key, part in table.groupby(["twin_type", "brand", "metric_type"], sort=True)}
    for line, part in parts.items():
        for sentence in await _gaps(pool, line, part):
            notify(f"{line}: {sentence}")
    columns = (await line_columns(pool, parts)).values()
    features: frozenset[str] = frozenset().union(*(names.features for names in columns))
    return LineColumns(features, frozenset().union(*(names.left_out for names in columns)) - features)


async def _gaps(pool: Pool, line: str, rows: pd.DataFrame) -> list[str]:
    """What the champion of a line will have to predict these rows without; nothing for rows without features."""
    ledger = Ledger(pool)
    champion = await ledger.champion(line)
    if champion is None:
        return []
    card = await ledger.card(champion)
    names = [name for name in card.outcome_features if name in rows]
    missing = [name for name in card.outcome_features if name not in rows]
    vocabulary = {name: KnownLevels(levels, name) for name, levels in card.baseline.levels.items() if name in names}
    levels = {name: levels_of(rows[name]) for name in vocabulary}
    spelled = {name: column.texts(vocabulary[name].spellings(column.values)) for name, column in levels.items()}
    no_column = [f"no column for {', '.join(missing)}: the champion predicts without"] if names and missing else []
    return [*no_column, *gap_sentences(rows.reset_index(drop=True).assign(**spelled), names, vocabulary)] if names else []
