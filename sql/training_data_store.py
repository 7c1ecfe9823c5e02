"""Stores and selects training rows: features of an entity at a time, and the outcome that followed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import asyncpg
import pandas as pd

from schemas.levels import compact_frame, frame_of_records
from schemas.twin_types import line_parts
from sql.database import Connection, Database, transaction
from sql.erasure_store import erased_entities
from sql.frame_codec import features_as_json, floats
from sql.parts import parts

__all__ = ["CHANGE", "ENTITY", "OBSERVED", "add_history", "count_since", "features_as_of", "simulated_rows", "training_rows"]

ENTITY, OBSERVED, CHANGE = "entity_id", "observed_at", "simulated_change"
ROWS_A_STATEMENT = 10_000

ADD = """
INSERT INTO entity_history AS h (line, entity_id, observed_at, ordinal, features, target, source)
SELECT $1, entity_id, observed_at, ordinal, features, target, $2
FROM ROWS FROM (unnest($3::text[], $4::timestamptz[], $5::integer[], $6::float8[]), jsonb_array_elements($7::text::jsonb))
     AS x (entity_id, observed_at, ordinal, target, features)
ON CONFLICT (line, entity_id, observed_at, ordinal) DO UPDATE
SET features = EXCLUDED.features, target = EXCLUDED.target, source = EXCLUDED.source
WHERE (h.features, h.target) IS DISTINCT FROM (EXCLUDED.features, EXCLUDED.target)"""

# The newest revision of each counted outcome as of $2. Revisions that came too late for the windows are not counted, also not here.
_NEWEST = """
SELECT DISTINCT ON (event_id) line, entity_id, twin_id, simulation_id, predicted_value, observed_at, features, actual_value, treated
FROM fidelity_tracking
WHERE fate IN ('counted', 'superseded', 'missing') AND tracked_at <= $2
  AND event_id IN (SELECT event_id FROM fidelity_tracking
                   WHERE line = $1 AND {named} IS NOT NULL AND observed_at <= $2
                     AND ($3::timestamptz IS NULL OR observed_at >= $3))
ORDER BY event_id, revision DESC, digest DESC"""

_IN_RANGE = """
line = $1 AND actual_value IS NOT NULL AND observed_at <= $2 AND ($3::timestamptz IS NULL OR observed_at >= $3)"""

# An outcome with features is a training row too, unless its entity was treated.
ROWS = f"""
SELECT entity_id, observed_at, ordinal, features::text AS features, target
FROM entity_history
WHERE line = $1 AND observed_at <= $2 AND ($3::timestamptz IS NULL OR observed_at >= $3)
UNION ALL
SELECT entity_id, observed_at, 0, features::text, actual_value
FROM ({_NEWEST.format(named="features")}) newest
WHERE {_IN_RANGE} AND features IS NOT NULL AND treated IS NOT TRUE
ORDER BY observed_at, entity_id, ordinal"""  # noqa: S608  # our own constants

# The expected change is the prediction minus the twin's own baseline.
SIMULATED = f"""
SELECT newest.twin_id::text AS entity_id, observed_at, t.features::text AS features, actual_value AS target,
       predicted_value - t.baseline_behavior AS change
FROM ({_NEWEST.format(named="twin_id")}) newest JOIN digital_twins t USING (twin_id)
WHERE {_IN_RANGE} AND simulation_id IS NOT NULL
ORDER BY observed_at, entity_id"""  # noqa: S608  # our own constants

COUNT_SINCE = """
SELECT (SELECT count(*) FROM entity_history WHERE line = $1 AND observed_at >= $2 AND observed_at < $3)
     + (SELECT count(*) FROM fidelity_tracking
        WHERE line = $1 AND observed_at >= $2 AND observed_at < $3 AND fate = 'counted' AND actual_value IS NOT NULL
          AND (features IS NOT NULL AND treated IS NOT TRUE OR twin_id IS NOT NULL))"""


# The features of each entity at the time of its outcome: its newest row until then.
_FEATURES_AS_OF = """
SELECT latest.features::text AS features
FROM unnest($2::text[], $3::timestamptz[]) WITH ORDINALITY AS outcomes (entity_id, observed_at, place)
LEFT JOIN LATERAL (
    SELECT features FROM entity_history h
    WHERE h.line = $1 AND h.entity_id = outcomes.entity_id AND h.observed_at <= outcomes.observed_at
    ORDER BY h.observed_at DESC, h.ordinal DESC LIMIT 1
) latest ON true
ORDER BY place"""


async def add_history(database: Database, line: str, frame: pd.DataFrame, source: str) -> int:
    """Store rows of history, and return how many were new or changed; storing is idempotent.

    Args:
        database: a pool or a connection.
        line: model line that the rows are about.
        frame: columns ``entity_id``, ``observed_at`` (with its zone) and the line's target; every other column is a feature.
            Rows with the same entity and time are numbered in their order, and each replaces the stored one of its number.
        source: where the rows come from.

    Raises:
        ValueError: when a column is missing, a time has no zone, or a target is missing or infinite.
    """
    target = line_parts(line)[2]
    rows = _checked(frame, target)
    features = [str(name) for name in rows if name not in (ENTITY, OBSERVED, target)]
    changed = 0
    async with transaction(database) as connection:
        rows = await _without_erased(connection, line, rows)
        entities, times, targets = rows[ENTITY].tolist(), [time.to_pydatetime() for time in rows[OBSERVED]], floats(rows, target)
        ordinals = rows.groupby([ENTITY, OBSERVED], sort=False).cumcount().tolist()
        for start in range(0, len(rows), ROWS_A_STATEMENT):
            part = slice(start, start + ROWS_A_STATEMENT)
            feature_json = features_as_json(rows.iloc[part], features)
            fields = (entities[part], times[part], ordinals[part], targets[part], feature_json)
            status = await connection.execute(ADD, line, source, *fields)
            changed += int(status.rpartition(" ")[2])
    return changed


async def _without_erased(connection: Connection, line: str, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows without those of persons who were erased."""
    entities = set(rows[ENTITY])
    erased = await erased_entities(connection, entities)
    return rows[~rows[ENTITY].isin([entity for entity in entities if erased.is_erased(entity, line)])] if erased else rows


async def training_rows(database: Database, line: str, as_of: datetime, since: datetime | None = None) -> pd.DataFrame:
    """Training rows observed in ``[since, as_of]`` and stored by ``as_of``, oldest first: history, and outcomes with features.

    Returns:
        Columns ``entity_id``, ``observed_at``, the line's target, and all features that any row has.
    """
    return _as_frame(line, await database.fetch(ROWS, line, as_of, since))


async def features_as_of(database: Database, line: str, outcomes: pd.DataFrame) -> pd.DataFrame:
    """Outcomes with the features that their entities had at the time, from the history of a line.

    Args:
        database: a pool or a connection.
        line: whose history is searched.
        outcomes: columns ``entity_id`` and ``observed_at`` (with its zone), and any others; it is not changed.

    Returns:
        The same rows in the same order, with a column for each feature that any of them had, by name; missing where the entity had
        no row yet.
    """
    entities, times = outcomes[ENTITY].astype(str).tolist(), [time.to_pydatetime() for time in outcomes[OBSERVED]]
    rows = [
        row
        for part in parts(list(zip(entities, times, strict=True)))
        for row in await database.fetch(_FEATURES_AS_OF, line, *map(list, zip(*part, strict=True)))
    ]
    features = json.loads(f"[{','.join(row['features'] or '{}' for row in rows)}]")
    return pd.concat([outcomes.reset_index(drop=True), compact_frame(frame_of_records(features)).sort_index(axis=1)], axis=1)


async def simulated_rows(database: Database, line: str, as_of: datetime, since: datetime | None = None) -> pd.DataFrame:
    """Outcomes that name a twin of a simulation, observed in ``[since, as_of]`` and stored by ``as_of``, oldest first.

    Returns:
        Columns as of ``training_rows``, with the twin as entity, and ``simulated_change``: the change that the stored simulation
        expected for it, in units of the target.
    """
    rows = await database.fetch(SIMULATED, line, as_of, since)
    return _as_frame(line, rows).assign(**{CHANGE: pd.Series([row["change"] for row in rows], dtype="float64")})


async def count_since(database: Database, line: str, since: datetime, until: datetime) -> int:
    """Approximate number of rows that ``training_rows`` and ``simulated_rows`` have in ``[since, until)``."""
    return int(await database.fetchval(COUNT_SINCE, line, since, until))


def _as_frame(line: str, rows: Sequence[asyncpg.Record]) -> pd.DataFrame:
    columns = {
        ENTITY: [row["entity_id"] for row in rows],
        OBSERVED: pd.to_datetime([row["observed_at"] for row in rows], utc=True),
        line_parts(line)[2]: pd.Series([row["target"] for row in rows], dtype="float64"),
    }
    features = json.loads(f"[{','.join(row['features'] for row in rows)}]")
    return pd.concat([pd.DataFrame(columns), compact_frame(frame_of_records(features))], axis=1)


def _checked(frame: pd.DataFrame, target: str) -> pd.DataFrame:
    missing = [name for name in (ENTITY, OBSERVED, target) if name not in frame]
    if missing:
        raise ValueError(f"history needs the columns {', '.join(missing)}: it has {', '.join(map(str, frame))}")
    if not isinstance(frame[OBSERVED].dtype, pd.DatetimeTZDtype):
        raise ValueError(f"column {OBSERVED!r} holds {frame[OBSERVED].dtype}: give times with their zone")  # noqa: TRY004  # the value is wrong, not its type
    _refuse_gaps(frame, target)
    return frame.assign(**{ENTITY: frame[ENTITY].astype(str)})


def _refuse_gaps(frame: pd.DataFrame, target: str) -> None:
    numbers: Any = pd.to_numeric(frame[target], errors="coerce").astype("float64")
    unusable = int((~numbers.between(float("-inf"), float("inf"), inclusive="neither")).sum())
    if unusable:
        raise ValueError(f"{unusable} of {len(frame)} rows have no finite {target!r}: leave them out")
    for name in (ENTITY, OBSERVED):
        if frame[name].isna().any():
            raise ValueError(f"{int(frame[name].isna().sum())} rows have no {name!r}")
