"""Records that nobody can answer: kept in Postgres, and copied to the topic of dead letters with the reason in headers."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol

from pydantic import ValidationError

from schemas import SourceId
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
    "send_to_dead_letters",
]

LOG = logging.getLogger(__name__)

ATTEMPT_HEADER = "twin_attempt"
REPLAY_OF_HEADER = "twin_replay_of"
DEAD_LETTER_HEADERS = {
    "twin_refusal_id": "id of the refusal: twinstream dlq show ID",
    "twin_kind": "a word for the kind of refusal",
    "twin_reason": "why, in a sentence",
    "twin_exception": "class of what was raised, Refusal where a rule of the service says no",
    "twin_topic": "where the record came",
    "twin_partition": "where the record came",
    "twin_offset": "where the record came",
    "twin_element": "place in the array that the record carried, else 0",
    ATTEMPT_HEADER: "how often the record was refused by now, replays included",
    "twin_omitted": "bytes of the value, where no letter can hold the record: dlq show has key, value and headers",
}
"""What a dead letter tells beside the headers it came with, and what each means."""

_COMMON_KINDS: dict[type[Exception], str] = {ValidationError: "invalid", ContainsNul: "json"}

_OURS = DEAD_LETTER_HEADERS.keys() | {REPLAY_OF_HEADER}


class KafkaRecord(Protocol):
    """What Kafka tells of a record; the time in seconds since the epoch."""

    topic: str
    partition: int
    offset: int
    timestamp: float
    key: bytes | None
    value: bytes | None
    headers: Iterable[tuple[str, bytes | None]] | None


async def send_to_dead_letters(app: TwinApp, record: KafkaRecord, kind: str, reason: str, error: Exception) -> None:
    """Refuse a record for good: the same one refused again is one row, and at most another copy on the topic.

    ``kind`` is a word for the metric, ``reason`` a sentence for people, ``error`` what was raised.
    """
    source = SourceId(topic=record.topic, partition=record.partition)
    at = datetime.fromtimestamp(record.timestamp, UTC)
    refused = RefusedRecord(
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
    await add_refused_once(app.pool, refused)
    await publish_dead_letters(app, [refused])
    REFUSED.labels(topic=record.topic, reason=kind).inc()


async def refuse(app: TwinApp, record: KafkaRecord, error: Exception, kinds: Mapping[type[Exception], str]) -> None:
    """Send a record to the dead letters by the error it caused.

    Args:
        app: of the agent.
        record: that was refused.
        error: that it caused. An error without a kind is unexpected: it is logged, and its kind is ``failed``.
        kinds: kinds of the agent's own errors; ``invalid`` and ``json`` are added to them.
    """
    reason = describe_error(error)
    kind = next((kind for errors, kind in (_COMMON_KINDS | dict(kinds)).items() if isinstance(error, errors)), None)
    if kind is None:
        LOG.error("a record of %s could not be processed", record.topic, exc_info=error)
        kind, reason = "failed", f"{type(error).__name__}: {reason}"
    await send_to_dead_letters(app, record, kind, reason, error)


async def publish_dead_letters(app: TwinApp, refused: Iterable[RefusedRecord]) -> None:
    """Copy what was refused to the topic of dead letters, and note that it is there."""
    by_partition: defaultdict[int, list[RefusedRecord]] = defaultdict(list)
    for each in refused:
        by_partition[each.source.partition % PARTITIONS[DEAD_LETTERS]].append(each)
    for partition, those in by_partition.items():
        await app.send_batches(DEAD_LETTERS, partition, map(dead_letter_record, those))
        await mark_refused_sent(app.pool, [each.refusal_id for each in those])


def dead_letter_record(refused: RefusedRecord) -> RawRecord:
    """The dead letter of a refused record: as it came, with headers of ours that say what happened to it.

    One that is too large for its topic, with our headers or since it was compressed when it came, tells of the record only.
    """
    key = b"" if refused.key is None and refused.value is None else refused.key  # the client sends no record of nothing at all
    record = RawRecord(key, refused.value, [*foreign_headers(refused.headers), *_told(refused)])
    if record.size > MAX_RECORD_BYTES:
        return RawRecord(b"", None, _told(refused, omitted=len(refused.value or b"")))
    return record


def _told(refused: RefusedRecord, omitted: int | None = None) -> Headers:
    told = (
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
    return [(name, str(value).encode()) for name, value in zip(DEAD_LETTER_HEADERS, told, strict=True) if value is not None]


def foreign_headers(headers: Sequence[tuple[str, bytes | None]]) -> Headers:
    """The headers that are not ours: a dead letter that is published again brings ours along."""
    return [(name, value) for name, value in headers if name not in _OURS]


def refusal_attempt(headers: Sequence[tuple[str, bytes | None]]) -> int:
    """The how manieth time a record with these headers is refused; a replay brings the number of its last attempt along."""
    before = dict(headers).get(ATTEMPT_HEADER) or b""
    return int(before) + 1 if before.isdigit() and len(before) < 10 else 1
