"""Refuses records on topics that only the service writes and no role reads, where somebody else wrote what is no event of it.

Topics that a role reads are validated by that role. Here a command reads the others; what it refuses is stored with its bytes, as
what a role refuses, and found by its offset.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any
from uuid import UUID

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from schemas import EVENTS, SimulationAnswer
from schemas.simulation_models import ANSWERED
from sql.database import Pool
from sql.dead_letter_store import RefusedRecord, add_refused_once, in_incarnations
from streams.bounds import BoundSettings, check_message, require_bounded
from streams.kafka import DEAD_LETTERS, PARTITIONS, READ_TOPICS, SIDE_TOPICS, count_partitions, open_consumer, topic_of
from streams.kafka.dead_letters import DEAD_LETTER_HEADERS, refused_record
from streams.kafka.parking import UnreadableBytes
from streams.kafka.record_slices import in_seconds
from streams.settings import Settings

__all__ = ["OUTPUT_TOPICS", "check_record", "foreign_record", "scan_topics", "store_foreign"]

OUTPUT_TOPICS = tuple(topic for topic in PARTITIONS if topic not in {*READ_TOPICS.values(), *SIDE_TOPICS.values()})
"""Topics that the service writes and none of its roles reads."""

_ANSWERS = topic_of(SimulationAnswer)
_CHUNK = 500
_POLL_MS = 200


class ForeignRecord(ValueError):
    """No process of the service can have written the record."""


_KINDS: Mapping[type[Exception], str] = {ForeignRecord: "forged"}


def check_record(record: ConsumerRecord[bytes | None, bytes | None], bounds: BoundSettings) -> None:
    """Check that a record is one that the service writes on its topic.

    Raises:
        Exception: why it is none, as a role would refuse it.
    """
    if isinstance(record.value, UnreadableBytes):
        raise record.value.error
    require_bounded(record.headers)
    if record.topic == DEAD_LETTERS:
        _check_dead_letter(dict(record.headers or ()))
        return
    check_message(record.key, record.value, bounds)
    context = {ANSWERED: True} if record.topic == _ANSWERS else None
    EVENTS[record.topic].model_validate_json(record.value or b"", context=context)


def _check_dead_letter(headers: Mapping[str, bytes | None]) -> None:
    """A dead letter carries bytes of any kind; only its headers are of the service."""
    try:
        UUID((headers.get("twin_refusal_id") or b"").decode())
    except ValueError:
        raise ForeignRecord(f"it has none of the headers of a dead letter: {', '.join(DEAD_LETTER_HEADERS)}") from None


def foreign_record(record: ConsumerRecord[bytes | None, bytes | None], bounds: BoundSettings) -> RefusedRecord | None:
    """The refused record of a record that the service cannot have written; None for any other."""
    try:
        check_record(record, bounds)
    except Exception as error:  # noqa: BLE001  # whatever it raises, it is no record of the service
        (with_seconds,) = in_seconds([record])
        return refused_record(with_seconds, error, _KINDS)
    return None


async def store_foreign(pool: Pool, foreign: Sequence[RefusedRecord]) -> int:
    """Store refused records unless they are stored; returns the number of new ones.

    The role outcomes publishes their dead letters.
    """
    n_new = 0
    for partition in _by(foreign, lambda record: (record.source.topic, record.source.partition)):
        for records in _by(await in_incarnations(pool, partition), lambda record: str(record.source)):
            n_new += len(await add_refused_once(pool, records))
    return n_new


def _by(records: Sequence[RefusedRecord], key: Any) -> Iterator[list[RefusedRecord]]:
    for _, alike in groupby(sorted(records, key=key), key=key):
        yield list(alike)


async def scan_topics(settings: Settings, pool: Pool, topics: Sequence[str] = OUTPUT_TOPICS) -> list[dict[str, Any]]:
    """Read topics from their beginning to their present end, and refuse what the service cannot have written.

    Returns:
        For each topic its name, the numbers of its ``records`` and of ``foreign`` ones, and how many of these are ``new``.
    """
    async with open_consumer(settings) as consumer:
        return [await _scan(settings, pool, consumer, topic) for topic in topics]


async def _scan(settings: Settings, pool: Pool, consumer: AIOKafkaConsumer, topic: str) -> dict[str, Any]:
    counts: Counter[str] = Counter(records=0, foreign=0, new=0)
    tps = [TopicPartition(topic, partition) for partition in range(await count_partitions(settings, topic))]
    consumer.assign(tps)
    ends = await consumer.end_offsets(tps) if tps else {}
    await consumer.seek_to_beginning(*tps)
    while any([await consumer.position(tp) < end for tp, end in ends.items()]):
        polled = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_CHUNK)
        records = [record for tp, part in polled.items() for record in part if record.offset < ends[tp]]
        foreign = [refused for record in records if (refused := foreign_record(record, settings)) is not None]
        counts += Counter(records=len(records), foreign=len(foreign), new=await store_foreign(pool, foreign))
    return {"topic": topic, **{name: counts[name] for name in ("records", "foreign", "new")}}
