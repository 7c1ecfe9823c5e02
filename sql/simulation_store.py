"""Stores simulation runs: their pinned inputs (:mod:`sql.pin_store`), and their answers, of which the first stored one is final."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from schemas.catalogue import BUILT_IN, Catalogue
from schemas.catalogue_in_effect import in_effect
from schemas.events import AnswerStatus, SimulationAnswer, SimulationRequest
from schemas.redaction import replace_entity, texts_in
from schemas.simulation_models import SimulationResult
from schemas.thresholds import DEFAULT_THRESHOLDS, LineThresholds
from sql.catalogue_store import catalogues_at
from sql.database import Connection, Database, transaction
from sql.erasure_store import ErasedEntities, erased_entities, has_erasures
from sql.threshold_store import thresholds_from

__all__ = [
    "DifferentBody",
    "NewAnswer",
    "Pins",
    "Recipe",
    "UnknownSimulation",
    "answer_values",
    "find_bodies",
    "find_runs",
    "finish",
    "finish_all",
    "read_answers",
    "without_erased",
]

PINS = """
SELECT r.simulation_id, r.line, r.model_id, r.effects_version, r.effects_method, r.request, r.body_hash, r.status::text AS status,
       r.results, r.error_message, r.population_id, p.twin_count, p.filters_applied, p.seed, p.columns IS NOT NULL AS stored,
       r.compared_simulations, r.catalogue_version, to_jsonb(t) AS thresholds
FROM simulation_runs r LEFT JOIN twin_populations p USING (population_id)
LEFT JOIN line_thresholds t ON t.line = r.line AND t.version = r.thresholds_version
WHERE r.simulation_id = ANY($1::uuid[])"""

FINISH = """
INSERT INTO simulation_runs AS r (simulation_id, status, results, recommendation, recommendation_reason, error_message,
                                  completed_at, model_id, effects_version, body_hash, request)
VALUES ($1, $2::text::simulation_status, $3, $4::text::simulation_recommendation, $5, $6, clock_timestamp(), $7, $8, $9, $10)
ON CONFLICT (simulation_id) DO UPDATE
SET status = EXCLUDED.status, results = EXCLUDED.results, recommendation = EXCLUDED.recommendation,
    recommendation_reason = EXCLUDED.recommendation_reason, error_message = EXCLUDED.error_message,
    completed_at = EXCLUDED.completed_at
WHERE r.status IN ('pending', 'running') AND r.body_hash = EXCLUDED.body_hash"""


class DifferentBody(ValueError):
    """The id of a request was used again with other content."""

    def __init__(self, simulation_id: UUID) -> None:
        super().__init__(f"simulation {simulation_id} was requested with other content before: give a new request a new id")


class UnknownSimulation(LookupError):
    """There is no simulation with this id."""

    def __init__(self, simulation_id: UUID) -> None:
        super().__init__(f"there is no simulation {simulation_id}")


@dataclass(frozen=True)
class Recipe:
    """The arguments with which a model generates a population again."""

    population_id: UUID
    twin_count: int
    seed: int
    filters: dict[str, Any] = field(default_factory=dict)
    name: str = ""


@dataclass(frozen=True)
class Pins:
    """The inputs of a run, and its answer when there is one.

    ``recipe`` generates the population, unless its twins are ``stored``. ``compared`` is what :func:`answered_simulations`
    returned, None where that was not stored. ``effects_method`` is that of the catalogue's priors; stored priors tell their own. A
    record that was rejected because it is no valid request has an answer and no inputs.
    """

    simulation_id: UUID
    line: str | None
    model_id: UUID | None
    effects_version: int | None
    recipe: Recipe | None
    stored: bool
    request: SimulationRequest | None
    answer: SimulationAnswer | None
    thresholds: LineThresholds = DEFAULT_THRESHOLDS
    compared: tuple[tuple[float, ...], ...] | None = None
    catalogue: Catalogue = BUILT_IN
    effects_method: int = 1


class NewAnswer(NamedTuple):
    """An answer to store.

    Attributes:
        body_hash: digest of the request's bytes or content.
        request: stored with the answer when the run was not pinned before, unless it names a person who was erased.
    """

    answer: SimulationAnswer
    body_hash: bytes
    request: SimulationRequest | None = None


async def finish(
    database: Database, answer: SimulationAnswer, body_hash: bytes, request: SimulationRequest | None = None
) -> SimulationAnswer:
    """Store an answer as :func:`finish_all` does.

    Raises:
        DifferentBody: when the id was used for another body.
    """
    (stored,) = await finish_all(database, [NewAnswer(answer, body_hash, request)])
    if isinstance(stored, DifferentBody):
        raise stored
    return stored


async def finish_all(database: Database, new: Sequence[NewAnswer]) -> list[SimulationAnswer | DifferentBody]:
    """Store answers in one transaction, each unless there is one; of several with one id the first is stored.

    A reason that quotes the id of a person who was erased has ``[erased]`` in its place.

    Returns:
        For each the stored answer, which is the one to publish; :class:`DifferentBody` when the id was used for another body.
    """
    async with transaction(database) as connection:
        clean = await without_erased(connection, new)
        rows = sorted(map(_finish_row, clean), key=itemgetter(0))  # in one order, so that two transactions cannot deadlock
        await connection.executemany(FINISH, rows)
        stored = {row["simulation_id"]: row for row in await connection.fetch(PINS, [row[0] for row in rows])}
        own = {item.answer.simulation_id for item in clean if stored[item.answer.simulation_id]["body_hash"] == item.body_hash}
        answers = await read_answers(connection, [stored[simulation_id] for simulation_id in own])
    return [
        answers[answer.simulation_id]
        if stored[answer.simulation_id]["body_hash"] == body_hash
        else DifferentBody(answer.simulation_id)
        for answer, body_hash, _ in clean
    ]


async def read_answers(database: Database, rows: Sequence[asyncpg.Record]) -> dict[UUID, SimulationAnswer]:
    """The answers in rows of answered runs, by id."""
    catalogues = await catalogues_at(database, {row["catalogue_version"] for row in rows})
    answers = {}
    for row in rows:
        with in_effect(catalogues[row["catalogue_version"]]):
            answer = _answer(row)
        assert answer is not None  # by this transaction, or by an earlier one
        answers[answer.simulation_id] = answer
    return answers


def _finish_row(new: NewAnswer) -> tuple[Any, ...]:
    answer, body_hash, request = new
    return (
        answer.simulation_id,
        *answer_values(answer),
        answer.model_id,
        answer.effects_version,
        body_hash,
        request.model_dump(mode="json", exclude_none=True) if request else None,
    )


def answer_values(answer: SimulationAnswer) -> tuple[Any, ...]:
    """What of an answer is stored: its status, result, recommendation with its reason, and the reason of one without a result."""
    result = answer.result
    return (
        answer.status.value,
        result.model_dump(mode="json") if result else None,
        result.recommendation.value if result else None,
        result.recommendation_reason if result else None,
        answer.reason,
    )


async def without_erased(connection: Connection, new: Sequence[NewAnswer]) -> list[NewAnswer]:
    """Answers without the ids of persons who were erased, in a reason or in a request; valid until the transaction ends."""
    if not await has_erasures(connection):
        return list(new)
    named = [texts_in(item.request.model_dump_json().encode()) if item.request else set() for item in new]
    quoted = [texts_in(item.answer.reason.encode()) if item.answer.reason else set() for item in new]
    erased = await erased_entities(connection, set().union(*named, *quoted))
    return [_redacted(*item, erased) for item in zip(new, named, quoted, strict=True)] if erased else list(new)


def _redacted(new: NewAnswer, named: AbstractSet[str], quoted: AbstractSet[str], erased: ErasedEntities) -> NewAnswer:
    answer = new.answer
    for entity in sorted(word for word in quoted if word in erased):
        answer = answer.model_copy(update={"reason": replace_entity(answer.reason, entity)})
    return NewAnswer(answer, new.body_hash, None if any(word in erased for word in named) else new.request)


async def find_runs(database: Database, simulation_ids: Iterable[UUID]) -> dict[UUID, Pins]:
    """The runs that are stored, by id."""
    return {simulation_id: pins for simulation_id, (pins, _) in (await find_bodies(database, simulation_ids)).items()}


async def find_bodies(database: Database, simulation_ids: Iterable[UUID]) -> dict[UUID, tuple[Pins, bytes]]:
    """The runs that are stored, by id, each with the digest of its request."""
    rows = await database.fetch(PINS, list(simulation_ids))
    catalogues = await catalogues_at(database, {row["catalogue_version"] for row in rows})
    return {row["simulation_id"]: (_pins(row, catalogues[row["catalogue_version"]]), row["body_hash"]) for row in rows}


def _pins(row: asyncpg.Record, catalogue: Catalogue) -> Pins:
    with in_effect(catalogue):  # the request was valid under it
        return _read_pins(row, catalogue)


def _read_pins(row: asyncpg.Record, catalogue: Catalogue) -> Pins:
    return Pins(
        simulation_id=row["simulation_id"],
        line=row["line"],
        model_id=row["model_id"],
        effects_version=row["effects_version"],
        recipe=_recipe(row),
        stored=bool(row["stored"]),
        request=SimulationRequest.model_validate(row["request"]) if row["request"] else None,
        answer=_answer(row),
        thresholds=thresholds_from(row["thresholds"], row["line"]),
        catalogue=catalogue,
        compared=None if row["compared_simulations"] is None else tuple(map(tuple, row["compared_simulations"])),
        effects_method=row["effects_method"] or 1,
    )


def _recipe(row: asyncpg.Record) -> Recipe | None:
    if row["population_id"] is None:
        return None
    return Recipe(row["population_id"], row["twin_count"], row["seed"], row["filters_applied"])


def _answer(row: asyncpg.Record) -> SimulationAnswer | None:
    if row["status"] not in set(AnswerStatus):
        return None
    return SimulationAnswer(
        simulation_id=row["simulation_id"],
        status=AnswerStatus(row["status"]),
        result=SimulationResult.model_validate(row["results"]) if row["results"] else None,
        reason=row["error_message"],
        model_id=row["model_id"],
        effects_version=row["effects_version"],
        catalogue_version=row["catalogue_version"] if row["line"] else None,
    )
