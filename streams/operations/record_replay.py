"""Replays simulation requests and experiment results by publishing their records again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias
from uuid import UUID

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from pydantic import ValidationError

from schemas import ExperimentResult, SimulationRequest, SourceId
from sql.database import Pool
from sql.dead_letter_store import refused_in_range
from sql.erasure_store import names_erased
from sql.replay_store import OffsetRange, existing_experiments
from sql.simulation_store import find_runs
from streams.client.twin_client import TwinClient
from streams.kafka import open_admin, reader_group, topic_of
from streams.kafka.dead_letters import foreign_headers
from streams.operations.replay_report import PublishedRecord, ReplayReport
from streams.settings import Settings
from streams.simulation import ImplausibleExperiment, SetAsideExperiment, check_result

__all__ = ["replay_records"]

Record: TypeAlias = "ConsumerRecord[bytes | None, bytes | None]"

_REPLAY_HEADER = "twin_replay"
_REQUESTS, _EXPERIMENTS = topic_of(SimulationRequest), topic_of(ExperimentResult)
_READ_TIMEOUT_S = 10.0
_READ_RATE = 1000.0
"""Records a second that the broker delivers at least; longer ranges get more time."""


class _Decision(NamedTuple):
    """What becomes of a record: its category in the report, and whether it is published again."""

    record: Record
    category: str
    is_published: bool


async def replay_records(settings: Settings, pool: Pool, consumer: AIOKafkaConsumer, report: ReplayReport) -> None:
    """Publish records of the report's ranges again that their role has read before, and complete the report."""
    committed = await _committed_offsets(settings, report.topic)
    decide = _decide_requests if report.topic == _REQUESTS else _decide_experiments
    async with TwinClient(settings, name="replay") as client:
        for offsets in report.ranges:
            records = await _read(consumer, offsets)
            read = [record for record in records if record.offset < committed.get(offsets.partition, 0)]
            report.counts["not read yet"] += len(records) - len(read)
            is_erased = await names_erased(pool, [record.value for record in read])
            if any(is_erased):  # published again, the id would be in Kafka for longer
                report.counts["names an erased person"] += sum(is_erased)
            for decision in await decide(
                pool, offsets, [record for record, erased in zip(read, is_erased, strict=True) if not erased]
            ):
                await _carry_out(client, decision, report)


async def _carry_out(client: TwinClient, decision: _Decision, report: ReplayReport) -> None:
    record, category, is_published = decision
    report.counts[category] += 1
    if not is_published:
        return
    report.published.append(PublishedRecord(record.partition, record.offset, category))
    if not report.dry_run:
        headers = [*foreign_headers(record.headers), (_REPLAY_HEADER, b"1")]
        await client.publish_bytes(record.topic, record.key, record.value, headers, partition=record.partition)


async def _decide_requests(pool: Pool, _offsets: OffsetRange, records: Sequence[Record]) -> list[_Decision]:
    """Every request with a readable id is answered again, from what is stored for it."""
    ids = [_simulation_id(record.value) for record in records]
    stored = await find_runs(pool, {simulation_id for simulation_id in ids if simulation_id is not None})
    decisions = []
    for record, simulation_id in zip(records, ids, strict=True):
        if simulation_id is None:
            decisions.append(_Decision(record, "unreadable", is_published=False))
        elif (run := stored.get(simulation_id)) is None:
            decisions.append(_Decision(record, "left no trace, asked again", is_published=True))
        else:
            category = "pinned, and not answered yet" if run.answer is None else f"{run.answer.status.value}, answered again"
            decisions.append(_Decision(record, category, is_published=True))
    return decisions


async def _decide_experiments(pool: Pool, offsets: OffsetRange, records: Sequence[Record]) -> list[_Decision]:
    """Experiments that are valid and not stored are published again."""
    experiments = [_experiment(record.value) for record in records]
    stored = await existing_experiments(pool, {experiment.experiment_id for experiment in experiments if experiment is not None})
    source = str(SourceId(topic=offsets.topic, partition=offsets.partition))
    refused = {record.offset for record in await refused_in_range(pool, source, offsets.first, offsets.end)}
    decisions = []
    for record, experiment in zip(records, experiments, strict=True):
        if experiment is None:
            decisions.append(_Decision(record, "refused, still: invalid", is_published=False))
        elif experiment.experiment_id in stored:
            decisions.append(_Decision(record, "in already", is_published=False))
        else:
            category = "refused, and accepted now" if record.offset in refused else "left no trace, told again"
            decisions.append(_Decision(record, category, is_published=True))
    return decisions


def _simulation_id(value: bytes | None) -> UUID | None:
    try:
        return UUID(json.loads(value or b"")["simulation_id"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _experiment(value: bytes | None) -> ExperimentResult | None:
    """The result of a record; None where it would be refused or set aside again."""
    try:
        experiment = ExperimentResult.model_validate_json(value or b"")
        check_result(experiment)
    except (ValidationError, ImplausibleExperiment, SetAsideExperiment):
        return None
    return experiment


async def _committed_offsets(settings: Settings, topic: str) -> dict[int, int]:
    """Offsets that the consumer group of the topic's role has committed, by partition."""
    async with open_admin(settings) as admin:
        offsets = await admin.list_consumer_group_offsets(reader_group(topic))
    return {tp.partition: committed.offset for tp, committed in offsets.items() if tp.topic == topic}


async def _read(consumer: AIOKafkaConsumer, offsets: OffsetRange) -> list[Record]:
    """All records of a range.

    The loop ends by the consumer's position, as the last offsets of a range need not hold a record (compaction, transactions).
    """
    tp = TopicPartition(offsets.topic, offsets.partition)
    consumer.assign([tp])
    consumer.seek(tp, offsets.first)
    records: list[Record] = []
    async with asyncio.timeout(_READ_TIMEOUT_S + (offsets.end - offsets.first) / _READ_RATE):
        while await consumer.position(tp) < offsets.end:
            for polled in (await consumer.getmany(timeout_ms=500)).values():
                records += [record for record in polled if record.offset < offsets.end]
    return records
