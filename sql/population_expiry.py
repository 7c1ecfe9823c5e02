"""Deletes the twins of saved populations that have expired."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import TypeVar
from uuid import UUID

import asyncpg

from sql.database import Database, transaction

__all__ = ["count_expired", "expire_populations"]

T = TypeVar("T")

TWINS_A_STATEMENT = 2000
_ATTEMPTS = 5

_UNUSED = """NOT EXISTS (SELECT FROM simulation_runs r WHERE r.population_id = p.population_id)
  AND NOT EXISTS (SELECT FROM fidelity_tracking f WHERE f.population_id = p.population_id)
  AND NOT EXISTS (SELECT FROM fidelity_snapshots s WHERE s.population_id = p.population_id)"""

_EXPIRED = f"""
FROM twin_populations p
WHERE p.expires_at <= $1
  AND (p.columns IS NOT NULL OR EXISTS (SELECT FROM twin_population_members m WHERE m.population_id = p.population_id)
       OR {_UNUSED})"""

EXPIRED = f"SELECT p.population_id {_EXPIRED} ORDER BY p.population_id"

COUNT_EXPIRED = f"SELECT count(*) {_EXPIRED}"

DELETE_MEMBERS = """
DELETE FROM twin_population_members WHERE population_id = $1 AND twin_id = ANY(ARRAY(
    SELECT m.twin_id FROM twin_population_members m JOIN twin_populations p USING (population_id)
    WHERE population_id = $1 AND p.expires_at <= $2 LIMIT $3))
RETURNING twin_id"""

DELETE_TWINS = """
DELETE FROM digital_twins t
WHERE t.twin_id = ANY($1::uuid[])
  AND NOT EXISTS (SELECT FROM twin_population_members o WHERE o.twin_id = t.twin_id)
  AND NOT EXISTS (SELECT FROM fidelity_tracking f WHERE f.twin_id = t.twin_id)"""

MARK_RECIPE = "UPDATE twin_populations SET columns = NULL WHERE population_id = $1 AND expires_at <= $2 AND columns IS NOT NULL"

DELETE_POPULATION = f"""
DELETE FROM twin_populations p WHERE p.population_id = $1 AND p.expires_at <= $2 AND {_UNUSED}"""  # noqa: S608  # our own constant


async def expire_populations(database: Database, at: datetime) -> int:
    """Delete the twins of populations that expired by ``at``; returns the number of these populations.

    Twins that an outcome or another population refers to stay, and so does the recipe of a population that a run or an outcome
    refers to. Twins are deleted by some thousands, each part in a transaction of its own, as outcomes may wait for their rows.
    """
    expired = [row[0] for row in await database.fetch(EXPIRED, at)]
    for population_id in expired:
        await database.execute(MARK_RECIPE, population_id, at)
        while await _retry_named(partial(_delete_members, database, population_id, at)) == TWINS_A_STATEMENT:
            pass
        await _retry_named(partial(database.execute, DELETE_POPULATION, population_id, at))
    return len(expired)


async def count_expired(database: Database, at: datetime) -> int:
    """Number of populations that :func:`expire_populations` would look at."""
    return int(await database.fetchval(COUNT_EXPIRED, at))


async def _delete_members(database: Database, population_id: UUID, at: datetime) -> int:
    async with transaction(database) as connection:
        members = [row[0] for row in await connection.fetch(DELETE_MEMBERS, population_id, at, TWINS_A_STATEMENT)]
        await connection.execute(DELETE_TWINS, members)
    return len(members)


async def _retry_named(action: Callable[[], Awaitable[T]]) -> T:
    """Await ``action``, and again where an outcome or a run has named a row between the look at it and its deletion."""
    for _ in range(_ATTEMPTS - 1):
        with suppress(asyncpg.ForeignKeyViolationError):
            return await action()
    return await action()
