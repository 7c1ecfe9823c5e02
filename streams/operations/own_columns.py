"""Which columns of a table the models of its lines know, and which features their champions will lack."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from engine.twins import gap_sentences
from schemas.levels import KnownLevels, levels_of
from sql.database import Pool
from sql.feature_count_store import LineColumns, line_columns
from sql.ledger import Ledger

__all__ = ["find_own_columns"]


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
