"""Stores twins and populations in Postgres: saves and loads them, finds twins by filters, deletes expired populations."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self
from uuid import UUID, uuid5

import asyncpg

from schemas.catalogue_in_effect import catalogue_in_effect
from schemas.filters import PopulationFilter
from schemas.realism import RealismReport
from schemas.tracking import close_store, open_store
from schemas.twin_models import DigitalTwin, ModelCard, OutcomeSpread, TwinPopulation
from schemas.twin_types import TwinType, brand_name
from sql.database import Connection, Pool, open_pool, transaction
from sql.erasure_store import require_not_erased
from sql.frame_codec import columns_of, frame_from, own_columns
from sql.model_card_rows import CARD_COLUMNS, UnknownModel, card_from, insert_model, load_card
from sql.population_expiry import expire_populations
from sql.tracking_store import TrackingQueue
from sql.twin_query import own_features, twin_query
from sql.twin_rows import insert_twins

__all__ = [
    "PopulationRecord",
    "TwinRecord",
    "TwinRepository",
    "UnknownModel",
    "UnknownPopulation",
    "UnknownTwin",
]

ROWS_A_STATEMENT = 20_000

SAVE_TWIN = """
INSERT INTO digital_twins (twin_id, model_id, twin_type, features, baseline_behavior, outcome, metadata)
VALUES ($1, $2, $3::text::twin_type, $4, $5, $6, $7)
ON CONFLICT (twin_id) DO UPDATE SET features = EXCLUDED.features, baseline_behavior = EXCLUDED.baseline_behavior,
                                    outcome = EXCLUDED.outcome, metadata = EXCLUDED.metadata"""

_TWIN_COLUMNS = "t.twin_id, t.model_id, t.twin_type::text AS twin_type, t.features, t.baseline_behavior, t.outcome, t.metadata"

TWINS = f"SELECT {_TWIN_COLUMNS} FROM digital_twins t JOIN digital_twin_models m USING (model_id)"  # noqa: S608  # names of columns

SAVE_POPULATION = """
INSERT INTO twin_populations AS p (population_id, model_id, name, description, twin_count, filters_applied, created_at, expires_at,
                                   seed, real_rows, realism, unassessed, spread, columns, catalogue_version)
VALUES ($1, $2, $3, $4, $5, $6, coalesce($7, now()), $8, $9, $10, $11, $12, $13, $14, $15)
ON CONFLICT (population_id) DO UPDATE
SET name = EXCLUDED.name, description = EXCLUDED.description, expires_at = EXCLUDED.expires_at, real_rows = EXCLUDED.real_rows,
    realism = coalesce(EXCLUDED.realism, p.realism), unassessed = coalesce(EXCLUDED.unassessed, p.unassessed),
    spread = EXCLUDED.spread, columns = EXCLUDED.columns
WHERE p.columns IS NULL
RETURNING population_id"""

SAVE_MEMBERS = """
INSERT INTO twin_population_members (population_id, twin_id, row_number)
SELECT $1, twin_id, $2 + row_number - 1 FROM unnest($3::uuid[]) WITH ORDINALITY AS x (twin_id, row_number)"""

POPULATION = f"""
SELECT p.population_id, p.name, p.description, p.twin_count, p.filters_applied, p.seed, p.real_rows, p.realism,
       p.unassessed, p.spread, p.created_at, p.expires_at, p.columns, p.expires_at <= now() AS expired, {CARD_COLUMNS}
FROM twin_populations p JOIN digital_twin_models m USING (model_id)
WHERE p.population_id = $1"""  # noqa: S608  # our own constant

MEMBERS = """
INSERT INTO twin_population_members (population_id, twin_id, row_number)
SELECT $1, twin_id, $2 + row_number - 1 FROM unnest($3::uuid[]) WITH ORDINALITY AS x (twin_id, row_number)"""

POPULATION = f"""
SELECT p.population_id, p.name, p.description, p.twin_count, p.filters_applied, p.seed, p.real_rows, p.realism,
       p.unassessed, p.spread, p.created_at, p.expires_at, p.columns, p.expires_at <= now() AS expired, {CARD_COLUMNS}
FROM twin_populations p JOIN digital_twin_models m USING (model_id)
WHERE p.population_id = $1"""  # noqa: S608  # our own constant

MEMBERS = """
SELECT t.twin_id, t.features::text AS features, t.baseline_behavior, t.baseline_lower, t.baseline_upper, t.outcome
FROM twin_population_members JOIN digital_twins t USING (twin_id)
WHERE population_id = $1
ORDER BY row_number"""

MEMBER_TWINS = f"""
SELECT {_TWIN_COLUMNS}
FROM twin_population_members JOIN digital_twins t USING (twin_id)
WHERE population_id = $1
ORDER BY row_number"""  # noqa: S608  # names of columns

POPULATIONS = """
SELECT p.population_id, p.model_id, m.twin_type::text AS twin_type, m.brand::text AS brand, p.name, p.description, p.twin_count,
       p.filters_applied, p.created_at, p.expires_at, p.columns IS NOT NULL AS stored
FROM twin_populations p JOIN digital_twin_models m USING (model_id)
WHERE ($1::uuid IS NULL OR p.model_id = $1) AND (p.expires_at IS NULL OR p.expires_at > now())
ORDER BY p.created_at DESC, p.population_id"""

RECORD = """
SELECT t.twin_id, t.model_id, m.model_type, m.trained_at, m.deprecated_at, t.created_at,
       (m.metrics ->> 'fidelity')::float8 AS model_fidelity, s.window_end AS fidelity_at,
       s.mae, s.rmse, s.correlation, s.coverage_95pct
FROM digital_twins t JOIN digital_twin_models m USING (model_id)
LEFT JOIN LATERAL (
    SELECT * FROM fidelity_snapshots f
    WHERE f.model_id = t.model_id AND f.segment = 'all' ORDER BY f.window_start DESC LIMIT 1
) s ON true
WHERE t.twin_id = $1"""


class UnknownTwin(LookupError):
    """No twin with this id is stored."""


class UnknownPopulation(LookupError):
    """No population with this id is stored with its twins, or it has expired."""


@dataclass(frozen=True)
class PopulationRecord:
    """A population without its twins; ``stored`` is whether they are stored, or only the recipe to generate them."""

    population_id: UUID
    model_id: UUID
    twin_type: TwinType
    brand: str
    name: str
    description: str
    twin_count: int
    filters_applied: dict[str, Any]
    created_at: datetime
    expires_at: datetime | None
    stored: bool


@dataclass(frozen=True)
class TwinRecord:
    """The model of a twin, and the fidelity of that model in training and in its latest window."""

    twin_id: UUID
    model_id: UUID
    model_type: str
    trained_at: datetime
    deprecated_at: datetime | None
    created_at: datetime
    model_fidelity: float | None
    fidelity_at: datetime | None
    mae: float | None
    rmse: float | None
    correlation: float | None
    coverage_95pct: float | None


class TwinRepository:
    """Twins in Postgres. The pool is opened at the first await, on ``dsn`` or on ``TWIN_POSTGRES_DSN``.

    A pool passed as argument is used, and stays open. While a repository has a pool of its own open, every FidelityTracker of the
    process stores its pairs about stored twins with it, or with the one that was opened last.
    """

    def __init__(self, dsn: str | None = None, *, pool: Pool | None = None) -> None:
        self._dsn = dsn
        self._pool = pool
        self._owned = pool is None
        self._opening = asyncio.Lock()
        self._tracking = TrackingQueue(self._pool_of_its_own)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Store what is tracked, and close the pool if this repository has opened it; the next await opens it again."""
        if self._owned and self._pool is not None:
            close_store(self._tracking)
            try:
                await self._tracking.store()
            finally:
                pool, self._pool = self._pool, None
                await pool.close()

    async def save_twin(self, twin: DigitalTwin) -> UUID:
        """Store one twin, or replace the one stored under its id.

        Raises:
            NamesErased: when its features or metadata name a person who was erased.
            UnknownModel: when its model is not stored.
        """
        outcome, metadata = _outcome_apart(twin.metadata)
        features = json.loads(twin.model_dump_json(include={"features"}))["features"]  # a missing number becomes null
        fields = (twin.twin_id, twin.model_id, twin.twin_type.value, features, twin.baseline_behavior, outcome, metadata)
        try:
            async with transaction(await self._open()) as connection:
                await require_not_erased(connection, "twin", {"features": features, "metadata": metadata}, twin.twin_type.value)
                await connection.execute(SAVE_TWIN, *fields)
        except asyncpg.ForeignKeyViolationError:
            raise UnknownModel(twin.model_id) from None
        return twin.twin_id

    async def load_twin(self, twin_id: UUID) -> DigitalTwin:
        """Load one twin.

        Raises:
            UnknownTwin: when it is not stored.
        """
        pool = await self._open()
        row = await pool.fetchrow(f"{TWINS} WHERE t.twin_id = $1", twin_id)
        if row is None:
            raise UnknownTwin(f"no twin {twin_id} is stored")
        return _twin(row)

    async def query_twins(self, filters: Mapping[str, Any] | PopulationFilter) -> list[DigitalTwin]:
        """Twins that satisfy all filters.

        These are the filters of populations, and ``brand``, ``model_id``, ``population_id``, ``twin_type`` and ``limit``.

        Raises:
            ValueError: for an unknown filter or value; it names the allowed ones.
        """
        limit, pool = _limit(filters), await self._open()
        query = twin_query(filters, await own_features(pool, filters))
        statement = f"{TWINS} WHERE {query.where()} ORDER BY t.created_at, t.twin_id LIMIT {query.value(limit)}"
        return [_twin(row) for row in await pool.fetch(statement, *query.values)]

    async def save_population(self, population: TwinPopulation) -> UUID:
        """Store a population with its twins, and its model unless it is stored; saving is idempotent.

        Raises:
            NamesErased: when its name, description or filters name a person who was erased.
        """
        columns = columns_of(population)
        named = population.model_dump(mode="json", include={"name", "description", "filters_applied"})
        async with transaction(await self._open()) as connection:
            if population.model is not None:
                await insert_model(connection, population.model)
            stored = await load_card(connection, population.model_id)
            await require_not_erased(connection, "population", named, stored.line)
            if await _insert_population(connection, population, columns):
                await _insert_members(connection, population.model_copy(update={"model": stored}))
        return population.population_id

    async def load_population(self, population_id: UUID) -> TwinPopulation:
        """Load a population with all its twins; values, dtypes and order of its frame are the same again.

        Raises:
            UnknownPopulation: when it is not stored, is stored as a recipe only, or has expired.
        """
        pool = await self._open()
        row = await pool.fetchrow(POPULATION, population_id)
        if row is None:
            raise UnknownPopulation(f"no population {population_id} is stored")
        if row["expired"]:
            raise UnknownPopulation(f"population {population_id} expired at {row['expires_at'].isoformat()}")
        if row["columns"] is None:
            raise UnknownPopulation(f"population {population_id} is stored as a recipe only: generate it from its model again")
        members = await pool.fetch(MEMBERS, population_id)
        if members and members[0]["twin_id"] != uuid5(population_id, "0"):
            return TwinPopulation(**_fields(row), twins=[_twin(twin) for twin in await pool.fetch(MEMBER_TWINS, population_id)])
        return TwinPopulation(**_fields(row), frame=_frame(row, members))

    async def populations(self, model_id: UUID | None = None) -> list[PopulationRecord]:
        """Populations that have not expired, of all models or of one, newest first."""
        pool = await self._open()
        return [
            PopulationRecord(**{**row, "twin_type": TwinType(row["twin_type"]), "brand": brand_name(row["brand"])})
            for row in await pool.fetch(POPULATIONS, model_id)
        ]

    async def expire_populations(self, at: datetime) -> int:
        """Delete the twins of populations that expired by ``at``; see :func:`expire_populations`."""
        return await expire_populations(await self._open(), at)

    async def load_model(self, model_id: UUID) -> ModelCard:
        """The card of a stored model.

        Raises:
            UnknownModel: when there is none.
        """
        return await load_card(await self._open(), model_id)

    async def twin_record(self, twin_id: UUID) -> TwinRecord:
        """Load model version, creation date and fidelity of a twin.

        Raises:
            UnknownTwin: when it is not stored.
        """
        pool = await self._open()
        row = await pool.fetchrow(RECORD, twin_id)
        if row is None:
            raise UnknownTwin(f"no twin {twin_id} is stored")
        return TwinRecord(**row)

    async def _open(self) -> Pool:
        pool = await self._pool_of_its_own()
        if self._owned:
            await self._tracking.store()
        return pool

    async def _pool_of_its_own(self) -> Pool:
        async with self._opening:
            if self._pool is None:
                self._pool = await open_pool(dsn=self._dsn)
                open_store(self._tracking)
            return self._pool


async def _insert_population(connection: Connection, population: TwinPopulation, columns: list[dict[str, Any]]) -> bool:
    """Store a population without its twins; returns whether its twins have to be stored too."""
    json_fields = population.model_dump(mode="json", include={"filters_applied", "realism", "spread"})
    saved = await connection.fetchval(
        SAVE_POPULATION,
        population.population_id,
        population.model_id,
        population.name,
        population.description,
        population.twin_count,
        json_fields["filters_applied"],
        population.created_at,
        population.expires_at,
        population.seed,
        population.real_rows,
        json_fields["realism"],
        population.unassessed,
        json_fields["spread"],
        columns,
        catalogue_in_effect().version,
    )
    return saved is not None


async def _insert_members(connection: Connection, population: TwinPopulation) -> None:
    for start in range(0, population.twin_count, ROWS_A_STATEMENT):
        rows = range(start, min(start + ROWS_A_STATEMENT, population.twin_count))
        await insert_twins(connection, population, rows)
        await connection.execute(SAVE_MEMBERS, population.population_id, start, population.twin_ids[rows.start : rows.stop])


def _fields(row: asyncpg.Record) -> dict[str, Any]:
    plain = ("population_id", "model_id", "name", "description", "twin_count", "filters_applied", "seed", "real_rows", "created_at")
    return {
        **{name: row[name] for name in plain},
        "expires_at": row["expires_at"],
        "realism": RealismReport(**row["realism"]) if row["realism"] else None,
        "unassessed": row["unassessed"],
        "spread": OutcomeSpread(**row["spread"]) if row["spread"] else None,
        "model": card_from(row),
    }


def _frame(row: asyncpg.Record, members: list[asyncpg.Record]) -> Any:
    columns = {name: [member[column] for member in members] for name, column in own_columns(row["target_variable"]).items()}
    return frame_from(row["columns"], (member["features"] for member in members), columns)


def _twin(row: asyncpg.Record) -> DigitalTwin:
    outcome = {} if row["outcome"] is None else {"outcome": row["outcome"]}
    return DigitalTwin(
        twin_id=row["twin_id"],
        model_id=row["model_id"],
        twin_type=row["twin_type"],
        features=row["features"],
        baseline_behavior=row["baseline_behavior"],
        metadata=row["metadata"] | outcome,
    )


def _outcome_apart(metadata: dict[str, Any]) -> tuple[float | None, dict[str, Any]]:
    """The twin's drawn outcome, which has a column of its own, and the rest of its metadata."""
    outcome = metadata.get("outcome")
    if isinstance(outcome, float):
        return outcome, {name: value for name, value in metadata.items() if name != "outcome"}
    return None, metadata


def _limit(filters: Mapping[str, Any] | PopulationFilter) -> int | None:
    limit = filters.get("limit") if isinstance(filters, Mapping) else None
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ValueError(f"limit {limit!r} is not a whole number of at least 1")
    return limit
