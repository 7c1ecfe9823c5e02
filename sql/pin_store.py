"""Pins simulation requests: the first write of a request stores everything that its result depends on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from schemas.catalogue_in_effect import catalogue_in_effect
from schemas.effect_priors import EFFECTS_METHOD
from schemas.events import SimulationRequest
from sql.database import Connection, Database, transaction
from sql.erasure_store import NamesErased, find_erased_names
from sql.experiment_store import IN_EFFECT, answered_simulations
from sql.ledger_rows import lines_with_champion
from sql.simulation_store import DifferentBody, Pins, Recipe, find_bodies
from sql.threshold_store import thresholds_from
from sql.twin_repository import UnknownPopulation

__all__ = ["NewRequest", "NoChampion", "PinRefusal", "RecipeOf", "WrongLine", "pin", "pin_all"]

LINE_INPUTS = f"""
SELECT l.line, l.champion, {IN_EFFECT.format(line="l.line")} AS effects_version,
       (SELECT to_jsonb(t) FROM line_thresholds t WHERE t.line = l.line ORDER BY version DESC LIMIT 1) AS thresholds,
       EXISTS (SELECT FROM experiments e WHERE e.line = l.line) AS has_experiments
FROM model_lines l WHERE l.line = ANY($1::text[]) ORDER BY l.line FOR SHARE OF l"""  # noqa: S608  # our own constant

STORED_POPULATIONS = """
SELECT p.population_id, p.model_id, m.line, p.expires_at <= now() AS expired, p.twin_count, p.filters_applied, p.seed,
       p.columns IS NOT NULL AS stored
FROM twin_populations p JOIN digital_twin_models m USING (model_id)
WHERE p.population_id = ANY($1::uuid[]) ORDER BY p.population_id FOR KEY SHARE OF p"""

# A population that several requests make stays as long as the one that needs it longest; one that stays anyway is not locked.
PIN = """
WITH new AS (
    SELECT * FROM jsonb_to_recordset($1) AS n (
        simulation_id uuid, population_id uuid, line text, model_id uuid, effects_version integer, effects_method integer,
        thresholds_version integer, compared jsonb, body_hash text, request jsonb, catalogue_version integer,
        is_new boolean, name text, twin_count integer, filters jsonb, seed bigint, expires_at timestamptz)
    WHERE NOT EXISTS (SELECT FROM simulation_runs r WHERE r.simulation_id = n.simulation_id)
), populations AS (
    INSERT INTO twin_populations AS p (population_id, model_id, name, twin_count, filters_applied, seed, expires_at,
                                       catalogue_version)
    SELECT DISTINCT ON (population_id) population_id, model_id, name, twin_count, filters, seed, expires_at, catalogue_version
    FROM new WHERE is_new
      AND NOT EXISTS (SELECT FROM twin_populations t WHERE t.population_id = new.population_id AND t.expires_at IS NULL)
    ORDER BY population_id, expires_at DESC NULLS FIRST
    ON CONFLICT (population_id) DO UPDATE
    SET expires_at = CASE WHEN EXCLUDED.expires_at IS NOT NULL THEN greatest(p.expires_at, EXCLUDED.expires_at) END
    WHERE p.expires_at < EXCLUDED.expires_at OR (p.expires_at IS NOT NULL AND EXCLUDED.expires_at IS NULL)
)
INSERT INTO simulation_runs (simulation_id, population_id, intervention_config, filters, status, line, model_id, effects_version,
                             effects_method, thresholds_version, compared_simulations, body_hash, request, catalogue_version)
SELECT simulation_id, population_id, request -> 'intervention', request -> 'filters', 'running'::simulation_status, line, model_id,
       effects_version, effects_method, thresholds_version, compared, decode(body_hash, 'hex'), request, catalogue_version
FROM new ORDER BY simulation_id
ON CONFLICT (simulation_id) DO NOTHING
RETURNING simulation_id"""


class NoChampion(LookupError):
    """The line has no champion."""

    def __init__(self, line: str, with_champion: Sequence[str]) -> None:
        others = f"; lines with one: {', '.join(with_champion)}" if with_champion else ""
        super().__init__(f"the line {line} has no champion yet: train and promote a model of it first{others}")


class WrongLine(ValueError):
    """The request names a population of another model line."""


PinRefusal = DifferentBody | NamesErased | NoChampion | UnknownPopulation | WrongLine
"""Why a request is not pinned."""

RecipeOf = Callable[[SimulationRequest, UUID], Recipe]
"""Returns the population of a request that names none, given the champion."""


class NewRequest(NamedTuple):
    """A request to pin, and the digest of its bytes or content: requests with equal digests are the same."""

    request: SimulationRequest
    body_hash: bytes


async def pin(database: Database, request: SimulationRequest, body_hash: bytes, recipe: Callable[[UUID], Recipe]) -> Pins:
    """Pin one request, as :func:`pin_all`; ``recipe`` returns its population, given the champion.

    Raises:
        DifferentBody: when the id was used for another body.
        NamesErased: when a new request names a person who was erased.
        NoChampion: when the line has no model.
        UnknownPopulation: when the named population is not stored, or has expired.
        WrongLine: when the named population belongs to another line.
    """
    async with transaction(database) as connection:
        (pinned,) = await pin_all(connection, [NewRequest(request, body_hash)], lambda _, champion: recipe(champion))
    if isinstance(pinned, Pins):
        return pinned
    raise pinned


async def pin_all(connection: Connection, requests: Sequence[NewRequest], recipe: RecipeOf) -> list[Pins | PinRefusal]:
    """Pin champion, population, versions of catalogue, effects and thresholds, and track record of requests with different ids.

    A request without a seed is stored with the one that it is pinned to. More requests take no more statements.

    Args:
        connection: with an open transaction.
        requests: valid under the catalogue in effect.
        recipe: of the population of a request that names none.

    Returns:
        For each its pins, or those that were stored before; or why it is not pinned.
    """
    inputs = await _read_inputs(connection, requests)
    pinned = {item.request.simulation_id: inputs.pins(item.request, recipe) for item in requests}
    rows = [_row(pins, item) for item in requests if isinstance(pins := pinned[item.request.simulation_id], Pins)]
    new = {row["simulation_id"] for row in await connection.fetch(PIN, rows)} if rows else set()
    if len(new) < len(requests):  # what was pinned before holds, whatever has changed since
        pinned |= await _stored(connection, [item for item in requests if item.request.simulation_id not in new])
    return [pinned[item.request.simulation_id] for item in requests]


async def _stored(connection: Connection, requests: Sequence[NewRequest]) -> dict[UUID, Pins | PinRefusal]:
    runs = await find_bodies(connection, [item.request.simulation_id for item in requests])
    bodies = {item.request.simulation_id: item.body_hash for item in requests}
    return {
        simulation_id: pins if body_hash == bodies[simulation_id] else DifferentBody(simulation_id)
        for simulation_id, (pins, body_hash) in runs.items()
    }


@dataclass(frozen=True)
class _Inputs:
    """What new requests are pinned to: rows of their lines and of the populations that they name, and their track records."""

    erased: Mapping[UUID, NamesErased]
    lines: Mapping[str, asyncpg.Record]
    populations: Mapping[UUID, asyncpg.Record]
    compared: Mapping[tuple[str, str], tuple[tuple[float, ...], ...]]
    with_champion: Sequence[str]

    def pins(self, request: SimulationRequest, recipe: RecipeOf) -> Pins | PinRefusal:
        """The pins of a new request, or why it has none."""
        if request.simulation_id in self.erased:
            return self.erased[request.simulation_id]
        line = self.lines.get(request.line)
        if line is None or line["champion"] is None:
            return NoChampion(request.line, self.with_champion)
        if request.population_id is None:
            return self._pins_on(request, line, line["champion"], recipe(request, line["champion"]), stored=False)
        row = self.populations.get(request.population_id)
        refusal = _population_refusal(request.population_id, row, request.line)
        if row is None or refusal is not None:
            return refusal or UnknownPopulation(f"no population {request.population_id} is stored")
        named = Recipe(request.population_id, row["twin_count"], row["seed"], row["filters_applied"])
        return self._pins_on(request, line, row["model_id"], named, stored=row["stored"])

    def _pins_on(
        self, request: SimulationRequest, line: asyncpg.Record, model_id: UUID, population: Recipe, *, stored: bool
    ) -> Pins:
        return Pins(
            simulation_id=request.simulation_id,
            line=request.line,
            model_id=model_id,
            effects_version=line["effects_version"],
            recipe=population,
            stored=stored,
            request=request if request.seed is not None else request.model_copy(update={"seed": population.seed}),
            answer=None,
            thresholds=thresholds_from(line["thresholds"], request.line),
            compared=self.compared.get(_tested(request), ()),
            catalogue=catalogue_in_effect(),
            effects_method=EFFECTS_METHOD,
        )


async def _read_inputs(connection: Connection, new: Sequence[NewRequest]) -> _Inputs:
    requests = [item.request for item in new]
    bodies = [(request.model_dump(mode="json", exclude_none=True), request.line) for request in requests]
    erased = await find_erased_names(connection, "request", bodies)
    rows = await connection.fetch(LINE_INPUTS, sorted({request.line for request in requests}))
    named = sorted({request.population_id for request in requests if request.population_id is not None})
    populations = await connection.fetch(STORED_POPULATIONS, named) if named else []
    lacks_champion = {request.line for request in requests} - {row["line"] for row in rows if row["champion"] is not None}
    with_experiments = {row["line"] for row in rows if row["has_experiments"]}
    tested = sorted({_tested(request) for request in requests if request.line in with_experiments})
    return _Inputs(
        {request.simulation_id: error for request, error in zip(requests, erased, strict=True) if error is not None},
        {row["line"]: row for row in rows},
        {row["population_id"]: row for row in populations},
        {key: tuple(await answered_simulations(connection, *key)) for key in tested},
        await lines_with_champion(connection) if lacks_champion else (),
    )


def _tested(request: SimulationRequest) -> tuple[str, str]:
    return request.line, request.intervention.intervention_type


def _population_refusal(population_id: UUID, row: asyncpg.Record | None, line: str) -> UnknownPopulation | WrongLine | None:
    if row is None:
        return UnknownPopulation(f"no population {population_id} is stored")
    if row["expired"]:
        return UnknownPopulation(f"population {population_id} has expired")
    if row["line"] != line:
        return WrongLine(f"population {population_id} belongs to {row['line']}, the request is about {line}")
    return None


def _row(pins: Pins, item: NewRequest) -> dict[str, Any]:
    """A row of ``new`` in the statement that pins."""
    assert pins.request is not None  # of a new run
    assert pins.recipe is not None
    expires_at = item.request.expires_at
    return {
        "simulation_id": str(pins.simulation_id),
        "population_id": str(pins.recipe.population_id),
        "line": pins.line,
        "model_id": str(pins.model_id),
        "effects_version": pins.effects_version,
        "effects_method": pins.effects_method,
        "thresholds_version": pins.thresholds.version,
        "compared": pins.compared,
        "body_hash": item.body_hash.hex(),
        "request": pins.request.model_dump(mode="json", exclude_none=True),
        "catalogue_version": pins.catalogue.version,
        "is_new": item.request.population_id is None,
        "name": pins.recipe.name or f"twins of {pins.line}",
        "twin_count": pins.recipe.twin_count,
        "filters": pins.recipe.filters,
        "seed": pins.recipe.seed,
        "expires_at": expires_at and expires_at.isoformat(),
    }
