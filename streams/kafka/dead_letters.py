"""Stores refused records in Postgres, and copies them to the dead-letter topic with the reason in their headers."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from pydantic import ValidationError

from schemas import SourceId
from schemas.base import utc_time
from sql.dead_letter_store import RefusedRecord, add_refused_once, mark_refused_sent, refusal_id
from streams.errors import ContainsNul, describe_error
from streams.kafka.app import TwinApp
from streams.kafka.records import MAX_RECORD_BYTES, Headers, RawRecord
from streams.kafka.topics import DEAD_LETTERS, PARTITIONS
from streams.metrics import REFUSED

__all__ = [
    "ATTEMPT_HEADER",
    "DEAD_LETTER_HEADERS",
    "REPLAY_OF_HEADER",
    "KafkaRecord",
    "dead_letter_record",
    "foreign_headers",
    "publish_dead_letters",
    "refusal_attempt",
    "refuse",
]

LOG = logging.getLogger(__name__)

ATTEMPT_HEADER = "twin_attempt"
REPLAY_OF_HEADER = "twin_replay_of"
DEAD_LETTER_HEADERS = {
    "twin_refusal_id": "id of the refusal, for twinstream dlq show ID",
    "twin_kind": "kind of the refusal, one word",
    "twin_reason": "reason of the refusal, one sentence",
    "twin_exception": "class of the exception, Refusal for a rule of the service",
    "twin_topic": "topic of the refused record",
    "twin_partition": "partition of the refused record",
    "twin_offset": "offset of the refused record",
    "twin_element": "index in the array that the record carried, else 0",
    ATTEMPT_HEADER: "number of times the record has been refused, replays included",
    "twin_omitted": "size of the value in bytes, when the record is too large for this topic; twinstream dlq show has it",
}
"""Headers that a dead letter has in addition to those of its record, with their descriptions."""

_COMMON_KINDS: dict[type[Exception], str] = {ValidationError: "invalid", ContainsNul: "json"}

_OWN_HEADERS = DEAD_LETTER_HEADERS.keys() | {REPLAY_OF_HEADER}


class KafkaRecord(Protocol):
    """A record as Faust's messages have it; the timestamp is in seconds since the epoch."""

    topic: str
    partition: int
    offset: int
    timestamp: float
    key: bytes | None
    value: bytes | None
    headers: Iterable[tuple[str, bytes | None]] | None


async def refuse(app: TwinApp, record: KafkaRecord, error: Exception, kinds: Mapping[type[Exception], str]) -> None:
    """Store a record with the error it caused, and publish its dead letter.

    A record that is refused again has one row, and at most one more dead letter.

    Args:
        app: app of the role.
        record: the refused record.
        error: the exception. One without a kind is unexpected: it is logged, and its kind is ``failed``.
        kinds: kinds of the agent's own errors; ``invalid`` and ``json`` are added to them.
    """
    reason = describe_error(error)
    kind = next((kind for errors, kind in (_COMMON_KINDS | dict(kinds)).items() if isinstance(error, errors)), None)
    if kind is None:
        LOG.error("a record of %s could not be processed", record.topic, exc_info=error)
        kind, reason = "failed", f"{type(error).__name__}: {reason}"
    refused = _refused_record(record, kind, reason, error)
    await add_refused_once(app.pool, refused)
    await publish_dead_letters(app, [refused])
    REFUSED.labels(topic=record.topic, reason=kind).inc()


def _refused_record(record: KafkaRecord, kind: str, reason: str, error: Exception) -> RefusedRecord:
    source = SourceId(topic=record.topic, partition=record.partition)
    at = utc_time(record.timestamp)
    return RefusedRecord(
        refusal_id=refusal_id(source, record.offset, at),
        source=source,
        offset=record.offset,
        element=0,
        at=at,
        key=record.key,
        value=record.value,
        headers=list(record.headers or ()),
        kind=kind,
        reason=reason,
        exception=type(error).__name__,
    )


async def publish_dead_letters(app: TwinApp, refused: Iterable[RefusedRecord]) -> None:
    """Publish the dead letters of stored refused records, and mark these as sent."""
    by_partition: defaultdict[int, list[RefusedRecord]] = defaultdict(list)
    for record in refused:
        by_partition[record.source.partition % PARTITIONS[DEAD_LETTERS]].append(record)
    for partition, records in by_partition.items():
        await app.send_batches(DEAD_LETTERS, partition, map(dead_letter_record, records))
        await mark_refused_sent(app.pool, [record.refusal_id for record in records])


def dead_letter_record(refused: RefusedRecord) -> RawRecord:
    """Build the dead letter of a refused record: its key, value and headers, with the headers of ``DEAD_LETTER_HEADERS``.

    A record can be too large for the topic because of these headers, or because it was compressed when it was sent. Its dead letter
    has the headers only.
    """
    key = b"" if refused.key is None and refused.value is None else refused.key  # aiokafka sends no record without both
    record = RawRecord(key, refused.value, [*foreign_headers(refused.headers), *_own_headers(refused)])
    if record.size > MAX_RECORD_BYTES:
        return RawRecord(b"", None, _own_headers(refused, omitted=len(refused.value or b"")))
    return record


def _own_headers(refused: RefusedRecord, omitted: int | None = None) -> Headers:
    values = (
        refused.refusal_id,
        refused.kind,
        refused.reason,
        refused.exception,
        refused.source.topic,
        refused.source.partition,
        refused.offset,
        refused.element,
        refusal_attempt(refused.headers),
        omitted,
    )
    return [(name, str(value).encode()) for name, value in zip(DEAD_LETTER_HEADERS, values, strict=True) if value is not None]


def foreign_headers(headers: Sequence[tuple[str, bytes | None]]) -> Headers:
    """Return the headers without those that a dead letter adds: a replayed dead letter must not carry them twice."""
    return [(name, value) for name, value in headers if name not in _OWN_HEADERS]


def refusal_attempt(headers: Sequence[tuple[str, bytes | None]]) -> int:
    """Number of times a record with these headers has been refused, this time included; a replay carries the number before."""
    previous = dict(headers).get(ATTEMPT_HEADER) or b""
    return int(previous) + 1 if previous.isdigit() and len(previous) < 10 else 1
