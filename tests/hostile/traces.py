"""Finds the trace that the service has left of a record: stored, answered, or refused under its offset."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from aiokafka import TopicPartition
from pydantic import ValidationError

from schemas import FidelityErrors
from sql.database import Database
from streams.kafka import PARTITIONS, open_consumer
from streams.settings import Role, Settings
from streams.simulation import UnreadableRequest, decode_request

__all__ = ["READERS", "Position", "refused_positions", "requested_simulation", "topic_records", "without_trace"]

READERS: Mapping[str, Role] = {
    "outcome-events": "outcomes",
    "simulation-requests": "simulation",
    "experiment-results": "experiments",
    "fidelity-errors": "fidelity",
    "retrain-events": "trainer",
    "training-requests": "trainer",
}
"""The role that reads each topic."""

Position = tuple[str, int, int]
"""Topic, partition and offset."""


async def refused_positions(database: Database) -> set[Position]:
    """Position of every refused record."""
    rows = await database.fetch("SELECT topic, partition, source_offset FROM refused_records")
    return {(row[0], row[1], row[2]) for row in rows}


async def without_trace(settings: Settings, database: Database, records: Iterable[Any]) -> Sequence[str]:
    """Those of these records that are neither stored, answered nor refused under their offset, as text."""
    refused = await refused_positions(database)
    has_trace = {
        "outcome-events": await _stored_outcomes(database),
        "simulation-requests": await _answered(settings),
        "experiment-results": await _stored_ids(database, "experiment_id", "experiments"),
        "fidelity-errors": _is_valid_sum,
        "retrain-events": await _stored_ids(database, "retrain_id", "retrain_requests"),
        "training-requests": await _stored_ids(database, "training_id", "trainings"),
    }
    return [
        f"{record.topic}:{record.partition}:{record.offset}: {record.value!r:.200}"
        for record in records
        if (record.topic, record.partition, record.offset) not in refused and not has_trace[record.topic](record)
    ]


async def topic_records(settings: Settings, topic: str) -> Sequence[Any]:
    """All records of a topic; what cannot be read is one of them."""
    partitions = [TopicPartition(topic, number) for number in range(PARTITIONS[topic])]
    records: list[Any] = []
    async with open_consumer(settings) as consumer:
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        ends = await consumer.end_offsets(partitions)
        while any([await consumer.position(tp) < end for tp, end in ends.items()]):
            for batch in (await consumer.getmany(timeout_ms=500)).values():
                records += batch
    return records


def requested_simulation(value: bytes | None) -> str:
    """Id of the simulation that a record requests, as its answer has it; empty when it cannot be read."""
    try:
        return str(decode_request(value).simulation_id)
    except UnreadableRequest:
        return ""


async def _stored_outcomes(database: Database) -> Callable[[Any], bool]:
    rows = await database.fetch("SELECT source, source_offset FROM fidelity_tracking")
    stored = {(int(row["source"].split(":")[1]), row["source_offset"]) for row in rows}
    return lambda record: (record.partition, record.offset) in stored


async def _answered(settings: Settings) -> Callable[[Any], bool]:
    answered = {record.key for record in await topic_records(settings, "simulation-results")} - {b""}
    return lambda record: requested_simulation(record.value).encode() in answered


async def _stored_ids(database: Database, column: str, table: str) -> Callable[[Any], bool]:
    """A predicate: whether a row of the table has the id that a record names."""
    stored = {str(row[column]) for row in await database.fetch(f"SELECT {column} FROM {table}")}

    def is_stored(record: Any) -> bool:
        with suppress(ValueError):
            body = json.loads(record.value or b"")
            return isinstance(body, dict) and body.get(column) in stored
        return False

    return is_stored


def _is_valid_sum(record: Any) -> bool:
    try:
        FidelityErrors.model_validate_json(record.value or b"")
    except ValidationError:
        return False
    return True
