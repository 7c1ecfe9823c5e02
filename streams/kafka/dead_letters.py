"""Stores refused records in Postgres, and copies them to the dead-letter topic with the reason in their headers."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Protocol

from pydantic import ValidationError

from schemas import SourceId
from schemas.base import utc_time
from sql.database import Database, transaction
from sql.dead_letter_store import RefusedRecord, add_refused_once, mark_refused_sent, refusal_id
from sql.park_store import PARKED as PARKED_KIND
from sql.park_store import complete_park_requests
from streams.bounds import OutOfBounds, check_message
from streams.errors import ContainsNul, describe_error, describe_traceback, is_waited_for, limit_text
from streams.kafka.app import TwinApp
from streams.kafka.memory import release_after
from streams.kafka.parking import ParkRequested, UnreadableBatch
from streams.kafka.records import MAX_RECORD_BYTES, Headers, RawRecord
from streams.kafka.topics import DEAD_LETTERS
from streams.metrics import PARKED, REFUSED, start_at_zero
from streams.retries import process_event, report_failure

__all__ = [
    "ATTEMPT_HEADER",
    "DEAD_LETTER_HEADERS",
    "REPLAY_OF_HEADER",
    "KafkaRecord",
    "add_refused_somehow",
    "count_refused_records",
    "dead_letter_record",
    "foreign_headers",
    "is_replay",
    "park",
    "parked_record",
    "process_record",
    "publish_dead_letters",
    "refusal_attempt",
    "refuse",
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
    "twin_offset": "offset of the refused record",
    "twin_element": "index in the array that the record carried, else 0",
    ATTEMPT_HEADER: "number of times the record has been refused, replays included",
    "twin_omitted": "size of the value in bytes, when the record is too large for this topic; twinstream dlq show has it",
}
"""Headers that a dead letter has in addition to those of its record, with their descriptions."""

_COMMON_KINDS: dict[type[Exception], str] = {ValidationError: "invalid", ContainsNul: "json", OutOfBounds: "bound"}

_NO_KINDS: Mapping[type[Exception], str] = MappingProxyType({})
_RELEASED_AFTER_S = 0.1  # when the agent has let go of the record
_PARKED_AT_ONCE = (ParkRequested, UnreadableBatch)

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


def start_refusal_counters(topic: str, kinds: Iterable[str]) -> None:
    """Let the counters of a topic's refused records exist before their first event; ``kinds`` are the agent's own."""
    start_at_zero(REFUSED, topic=[topic], reason=[*_COMMON_KINDS.values(), *kinds, PARKED_KIND])


async def process_record(
    app: TwinApp,
    record: KafkaRecord,
    work: Callable[[], Awaitable[None]],
    *,
    kinds: Mapping[type[Exception], str] = _NO_KINDS,
    refuse_with: Callable[[Exception], Awaitable[None]] | None = None,
) -> None:
    """Process a record with ``work`` to its end; it is refused for an error that has a kind, and parked for any other one.

    A record is parked after ``TWIN_PARK_ATTEMPTS`` failures, and at once when an operator requests it or when it cannot be read. A
    record that exceeds a bound is refused; those that are read in batches are checked by their own decoding.

    Args:
        app: app of the role.
        record: the record.
        work: processes the record; it must be safe to repeat.
        kinds: kinds of the agent's own errors; ``invalid``, ``json`` and ``bound`` are added to them.
        refuse_with: refuses the record for an error of its processing, by default :func:`refuse` with these kinds.
    """
    refuse_record = refuse_with or partial(refuse, app, record, kinds=kinds)
    if is_replay(record.headers):
        app.parking.on_replay()

    async def check_and_work() -> None:
        app.parking.check(record.partition, record.offset, record.value)
        if record.topic not in app.batch_topics:
            check_message(record.key, record.value, app.settings)
        await work()

    async def refuse_or_park(error: Exception) -> None:
        if isinstance(error, _PARKED_AT_ONCE):
            await park(app, record, error)
        else:
            await refuse_record(error)

    expected = (*_COMMON_KINDS, *kinds, *_PARKED_AT_ONCE)
    await process_event(app, check_and_work, refuse_or_park, attempts=app.parking.attempts_for, expected=expected)
    if record.topic not in app.batch_topics:
        asyncio.get_running_loop().call_later(_RELEASED_AFTER_S, release_after, len(record.value or b""))


async def refuse(app: TwinApp, record: KafkaRecord, error: Exception, kinds: Mapping[type[Exception], str]) -> None:
    """Store a record with the error it caused, and publish its dead letter; one without a kind is unforeseen, and parks the record.

    A record that is refused again has one row, and at most one more dead letter.
    """
    kind = next((kind for errors, kind in (_COMMON_KINDS | dict(kinds)).items() if isinstance(error, errors)), None)
    if kind is None:
        await park(app, record, error)
    else:
        await _store(app, _refused_record(record, error, kind, describe_error(error)))


async def park(app: TwinApp, record: KafkaRecord, error: Exception) -> None:
    """Park a record with the error that it caused: store its bytes and the traceback, and publish its dead letter."""
    refused = parked_record(_refused_record(record, error, PARKED_KIND, ""), error)
    await _store(app, refused)
    app.parking.on_failed(error)
    if isinstance(error, ParkRequested):
        await complete_park_requests(app.pool, record.topic, record.partition, [record.offset])


def parked_record(refused: RefusedRecord, error: Exception) -> RefusedRecord:
    """A refused record as a parked one, with the error that parked it."""
    is_chosen = isinstance(error, ParkRequested)
    reason = describe_error(error) if is_chosen else limit_text(f"{type(error).__name__}: {describe_error(error)}")
    trace = "" if is_chosen else describe_traceback(error)
    return refused._replace(kind=PARKED_KIND, reason=reason, exception=type(error).__name__, traceback=trace)


async def _store(app: TwinApp, refused: RefusedRecord) -> None:
    if await add_refused_somehow(app.pool, refused):
        count_refused_records([refused])
    await publish_dead_letters(app, [refused])


async def add_refused_somehow(database: Database, refused: RefusedRecord) -> bool:
    """Store a refused record unless it is stored already, without its bytes where Postgres does not take them.

    Returns:
        Whether it was not stored before.
    """
    try:
        async with transaction(database) as connection:
            return await add_refused_once(connection, refused)
    except Exception as error:
        if is_waited_for(error):
            raise
        LOG.exception("the bytes of the record at %s, offset %d, cannot be stored", refused.source, refused.offset)
        reason = limit_text(f"its bytes cannot be stored ({describe_error(error)}); {refused.reason}")
        return await add_refused_once(database, refused._replace(key=None, value=None, headers=(), reason=reason))


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


def _refused_record(record: KafkaRecord, error: Exception, kind: str, reason: str) -> RefusedRecord:
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
        if is_waited_for(error):
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
