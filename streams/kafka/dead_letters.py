"""Stores refused records in Postgres, and copies them to the dead-letter topic with the reason in their headers."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from pydantic import ValidationError

from schemas import SourceId
from schemas.base import utc_time
from sql.database import Database, transaction
from sql.dead_letter_store import RefusedRecord, add_refused_once, mark_refused_sent, refusal_id
from sql.park_store import PARKED as PARKED_KIND
from streams.bounds import UNPARSED_HEADERS, OutOfBounds
from streams.errors import ContainsNul, describe_error, describe_traceback, is_refused_send, is_waited_for, limit_text
from streams.kafka.app import TwinApp
from streams.kafka.parking import FIRST_OFFSET_HEADER, ParkRequested, first_offset_of
from streams.kafka.records import MAX_RECORD_BYTES, Headers, RawRecord
from streams.kafka.topics import DEAD_LETTERS
from streams.metrics import PARKED, REFUSED, start_at_zero
from streams.repeated_keys import RepeatedKey
from streams.retries import report_failure

__all__ = [
    "ATTEMPT_HEADER",
    "COMMON_KINDS",
    "DEAD_LETTER_HEADERS",
    "REPLAY_OF_HEADER",
    "KafkaRecord",
    "add_refused_somehow",
    "count_refused_records",
    "dead_letter_record",
    "foreign_headers",
    "is_replay",
    "parked_record",
    "publish_dead_letters",
    "refusal_attempt",
    "refused_record",
    "start_refusal_counters",
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
    "twin_offset": "offset of the refused record; the last one of a batch that cannot be read, whose reason has the first one too",
    "twin_element": "index in the array that the record carried, else 0",
    ATTEMPT_HEADER: "number of times the record has been refused, replays included",
    "twin_omitted": "size of the value in bytes, when the record is too large for this topic; twinstream dlq show has it",
}
"""Headers that a dead letter has in addition to those of its record, with their descriptions."""

COMMON_KINDS: dict[type[Exception], str] = {
    ValidationError: "invalid",
    ContainsNul: "json",
    RepeatedKey: "json",
    OutOfBounds: "bound",
}
"""Kinds of the errors that a record of any topic can be refused for."""

_OWN_HEADERS = DEAD_LETTER_HEADERS.keys() | {REPLAY_OF_HEADER, UNPARSED_HEADERS, FIRST_OFFSET_HEADER}


class KafkaRecord(Protocol):
    """A record as Faust's messages have it; the timestamp is in seconds since the epoch."""

    topic: str
    partition: int
    offset: int
    timestamp: float
    key: bytes | None
    value: bytes | None
    headers: Iterable[tuple[str, bytes | None]] | None


def start_refusal_counters(topic: str, kinds: Iterable[str]) -> None:
    """Let the counters of a topic's refused records exist before their first event; ``kinds`` are the agent's own."""
    start_at_zero(REFUSED, topic=[topic], reason=[*COMMON_KINDS.values(), *kinds, PARKED_KIND])


def parked_record(refused: RefusedRecord, error: Exception) -> RefusedRecord:
    """A refused record as a parked one, with the error that parked it."""
    is_chosen = isinstance(error, ParkRequested)
    reason = describe_error(error) if is_chosen else limit_text(f"{type(error).__name__}: {describe_error(error)}")
    trace = "" if is_chosen else describe_traceback(error)
    return refused._replace(kind=PARKED_KIND, reason=reason, exception=type(error).__name__, traceback=trace)


async def add_refused_somehow(database: Database, refused: RefusedRecord) -> bool:
    """Store a refused record unless it is stored already, without its bytes where Postgres does not take them.

    Returns:
        Whether it was not stored before.
    """
    try:
        async with transaction(database) as connection:
            return bool(await add_refused_once(connection, [refused]))
    except Exception as error:
        if is_waited_for(error):
            raise
        LOG.exception("the bytes of the record at %s, offset %d, cannot be stored", refused.source, refused.offset)
        reason = limit_text(f"its bytes cannot be stored ({describe_error(error)}); {refused.reason}")
        without_bytes = refused._replace(key=None, value=None, headers=(), reason=reason)
        return bool(await add_refused_once(database, [without_bytes]))


def count_refused_records(refused: Iterable[RefusedRecord]) -> None:
    """Count newly refused records in the metrics, and log those that are parked, all of a partition with one reason together."""
    parked: defaultdict[tuple[SourceId, str], list[RefusedRecord]] = defaultdict(list)
    for record in refused:
        REFUSED.labels(topic=record.source.topic, reason=record.kind).inc()
        if record.kind == PARKED_KIND:
            PARKED.labels(topic=record.source.topic).inc()
            parked[record.source, record.reason].append(record)
    for (_, reason), (first, *others) in parked.items():
        more = f", and {len(others)} more up to offset {others[-1].offset}" if others else ""
        LOG.error("%s is parked%s: %s", first.position, more, reason)


def refused_record(record: KafkaRecord, error: Exception, kinds: Mapping[type[Exception], str]) -> RefusedRecord:
    """The row of a record that is refused for an error; one of an error without a kind is parked.

    Args:
        record: the record, which is refused as a whole.
        error: that its processing raised.
        kinds: kinds of the agent's own errors; ``invalid``, ``json`` and ``bound`` are added to them.
    """
    source = SourceId(topic=record.topic, partition=record.partition)
    at = utc_time(record.timestamp)
    kind = next((kind for errors, kind in (COMMON_KINDS | dict(kinds)).items() if isinstance(error, errors)), None)
    refused = RefusedRecord(
        refusal_id=refusal_id(source, record.offset, at),
        source=source,
        offset=record.offset,
        element=0,
        at=at,
        key=record.key,
        value=record.value,
        headers=list(record.headers or ()),
        kind=kind or PARKED_KIND,
        reason=describe_error(error),
        exception=type(error).__name__,
        first_offset=first_offset_of(record.value),
    )
    return refused if kind else parked_record(refused, error)


async def publish_dead_letters(app: TwinApp, refused: Iterable[RefusedRecord]) -> None:
    """Publish the dead letters of stored refused records, and mark these as sent.

    One that cannot be sent keeps no other from being sent.
    """
    by_partition: defaultdict[int, list[RefusedRecord]] = defaultdict(list)
    for record in refused:
        by_partition[record.source.partition % await app.count_partitions(DEAD_LETTERS)].append(record)
    for partition, records in by_partition.items():
        await _publish_part(app, partition, records)


async def _publish_part(app: TwinApp, partition: int, refused: Sequence[RefusedRecord]) -> None:
    try:
        await app.send_batches(DEAD_LETTERS, partition, map(dead_letter_record, refused))
    except Exception as error:
        if is_waited_for(error) and not is_refused_send(error):  # the topic may take the others
            raise
        if len(refused) == 1:  # it is stored, and tried again once a minute
            report_failure(app.role, "dead letters", error)
            return
        for record in refused:
            await _publish_part(app, partition, [record])
        return
    await mark_refused_sent(app.pool, [record.refusal_id for record in refused])


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


def is_replay(headers: Iterable[tuple[str, bytes | None]] | None) -> bool:
    """Whether a record with these headers is the replay of a refused one."""
    return any(name == REPLAY_OF_HEADER for name, _ in headers or ())


def foreign_headers(headers: Sequence[tuple[str, bytes | None]]) -> Headers:
    """Return the headers without those that a dead letter adds: a replayed dead letter must not carry them twice."""
    return [(name, value) for name, value in headers if name not in _OWN_HEADERS]


def refusal_attempt(headers: Sequence[tuple[str, bytes | None]]) -> int:
    """Number of times a record with these headers has been refused, this time included; a replay carries the number before."""
    previous = dict(headers).get(ATTEMPT_HEADER) or b""
    return int(previous) + 1 if previous.isdigit() and len(previous) < 10 else 1
