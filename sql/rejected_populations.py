"""Removes the populations of rejected simulations: their filters or counts do not exist, and nobody can use them."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sql.database import Connection

__all__ = ["drop_rejected_populations"]

# A request that names a stored population is no reason to remove it.
_REJECTED = "simulation_id = ANY($1::uuid[]) AND status = 'rejected' AND request ->> 'population_id' IS NULL"

_POPULATIONS = f"""
SELECT DISTINCT population_id FROM simulation_runs WHERE {_REJECTED} AND population_id IS NOT NULL"""  # noqa: S608  # above

_FREE = f"UPDATE simulation_runs SET population_id = NULL WHERE {_REJECTED} AND population_id = ANY($2::uuid[])"  # noqa: S608

_DROP = """
DELETE FROM twin_populations p WHERE p.population_id = ANY($1::uuid[]) AND p.columns IS NULL
  AND NOT EXISTS (SELECT FROM simulation_runs r WHERE r.population_id = p.population_id)
  AND NOT EXISTS (SELECT FROM twin_population_members m WHERE m.population_id = p.population_id)
  AND NOT EXISTS (SELECT FROM fidelity_tracking f WHERE f.population_id = p.population_id)
  AND NOT EXISTS (SELECT FROM fidelity_snapshots s WHERE s.population_id = p.population_id)"""


async def drop_rejected_populations(connection: Connection, simulation_ids: Sequence[UUID]) -> None:
    """Remove the populations that only these simulations made, where they are rejected, in the transaction of the answers."""
    rows = await connection.fetch(_POPULATIONS, simulation_ids)
    if populations := sorted(row["population_id"] for row in rows):
        await connection.execute(_FREE, simulation_ids, populations)
        await connection.execute(_DROP, populations)
