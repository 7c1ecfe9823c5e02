"""Stores how closely the twins of populations resemble real entities: once for each model and filters.

Equal filters have equal figures, so what was measured for one population is that of every other one.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from schemas.realism import RealismReport, RealismVerdict, not_assessed
from sql.database import Database

__all__ = ["FilterRealism", "FilteredModel", "known_realism", "newest_realism", "next_to_assess", "save_realism"]


class FilteredModel(NamedTuple):
    """A model, and filters of populations of it, as they are stored."""

    model_id: UUID
    filters: dict[str, Any]


class FilterRealism(NamedTuple):
    """The realism of twins with these filters, or why it could not be measured; both are null before anybody tried."""

    filters: dict[str, Any]
    realism: RealismReport | None = None
    unassessed: str | None = None

    @property
    def is_known(self) -> bool:
        """Whether it was measured, or could not be."""
        return self.realism is not None or self.unassessed is not None

    @property
    def verdict(self) -> RealismVerdict:
        """What the figures mean."""
        return self.realism.verdict if self.realism else not_assessed(self.unassessed or "not measured yet")


_NEXT = """
SELECT model_id, filters_applied FROM twin_populations p
WHERE realism IS NULL AND unassessed IS NULL AND (expires_at IS NULL OR expires_at > now())
  AND NOT (
      EXISTS (SELECT FROM simulation_runs r WHERE r.population_id = p.population_id)
      AND NOT EXISTS (SELECT FROM simulation_runs r WHERE r.population_id = p.population_id AND r.status <> 'rejected')
  )
ORDER BY created_at DESC LIMIT 1"""

_EQUAL = "model_id = $1 AND md5(filters_applied::text) = md5(($2::jsonb)::text)"

_KNOWN = f"""
SELECT filters_applied, realism, unassessed FROM twin_populations
WHERE {_EQUAL} AND (realism IS NOT NULL OR unassessed IS NOT NULL) LIMIT 1"""  # noqa: S608  # our own constant

_SAVE = f"UPDATE twin_populations SET realism = $3, unassessed = $4 WHERE {_EQUAL}"  # noqa: S608  # our own constant

_NEWEST = """
SELECT filters_applied, realism, unassessed FROM (
    SELECT DISTINCT ON (md5(filters_applied::text)) * FROM (
        SELECT filters_applied, realism, unassessed, created_at FROM twin_populations
        WHERE model_id = $1 AND filters_applied <> '{}' ORDER BY created_at DESC LIMIT 200) newest
    ORDER BY md5(filters_applied::text), created_at DESC) by_filters
ORDER BY created_at DESC LIMIT $2"""


async def next_to_assess(database: Database) -> FilteredModel | None:
    """Model and filters of the newest population whose realism is not known; None when there is none.

    Populations that only rejected simulations made, as versions before this one stored them, are left out.
    """
    row = await database.fetchrow(_NEXT)
    return None if row is None else FilteredModel(row["model_id"], row["filters_applied"])


async def known_realism(database: Database, filtered: FilteredModel) -> FilterRealism | None:
    """What is stored with a population of this model with equal filters; None where nothing is."""
    row = await database.fetchrow(_KNOWN, *filtered)
    return None if row is None else _realism(row)


async def save_realism(database: Database, model_id: UUID, realism: FilterRealism) -> int:
    """Store it with all populations of a model that have these filters, in canonical form; returns their number."""
    report = realism.realism.model_dump(mode="json") if realism.realism else None
    status = await database.execute(_SAVE, model_id, realism.filters, report, realism.unassessed)
    return int(str(status).rpartition(" ")[2])


async def newest_realism(database: Database, model_id: UUID, n: int) -> list[FilterRealism]:
    """The realism of the ``n`` filters that populations of a model were last made with; that of no filters is in its card."""
    return [_realism(row) for row in await database.fetch(_NEWEST, model_id, n)]


def _realism(row: asyncpg.Record) -> FilterRealism:
    report = RealismReport(**row["realism"]) if row["realism"] else None
    return FilterRealism(row["filters_applied"], report, row["unassessed"])
