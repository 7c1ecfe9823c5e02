"""Records that nobody can answer: kept in Postgres, and copied to the topic of dead letters with the reason in headers."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Protocol

from schemas import SourceId
from sql.refused_store import Refused, keep_refused, mark_refused_sent
from streams.app import TwinApp
from streams.kafka import Headers
from streams.metrics import REFUSED
from streams.topics import DEAD_LETTERS

__all__ = ["ContainsNul", "KafkaRecord", "bury", "reason_headers", "without_nul"]

ATTEMPT = "twin_attempt"


class KafkaRecord(Protocol):
    """What Kafka tells of a record; the time in seconds since the epoch."""

    topic: str
    partition: int
    offset: int
    timestamp: float
    key: bytes | None
    value: bytes | None
    headers: Iterable[tuple[str, bytes | None]] | None


class ContainsNul(ValueError):
    """The text holds the one character that Postgres cannot keep."""


def without_nul(value: bytes | None) -> bytes:
    """The value of a record as it is, nothing as no bytes.

    Raises:
        ContainsNul: when there is a NUL in its JSON, spelled as it may be.
    """
    if value is not None and (b"\0" in value or b"\\u0000" in value):
        raise ContainsNul("the text contains NUL, which no database keeps")
    return value or b""


async def bury(app: TwinApp, record: KafkaRecord, kind: str, reason: str) -> None:
    """Refuse a record for good: the same one refused again is one row, and at most another copy on the topic.

    ``kind`` is a word for the metric, ``reason`` a sentence for people.
    """
    source = SourceId(topic=record.topic, partition=record.partition)
    given = [(name.replace("\0", ""), value or b"") for name, value in _pairs(record.headers)]
    text = [(name, base64.b64encode(value).decode()) for name, value in given]
    at = datetime.fromtimestamp(record.timestamp, UTC)
    refused = Refused(source, record.offset, at, record.key, record.value, text, kind, reason)
    await keep_refused(app.pool, refused)
    await (await app.send_raw(DEAD_LETTERS, record.key, record.value, [*_kept(given), *reason_headers(refused, _attempt(given))]))
    await mark_refused_sent(app.pool, refused.refusal_id)
    REFUSED.labels(topic=record.topic, reason=kind).inc()


def reason_headers(refused: Refused, attempt: int) -> Headers:
    """What a dead letter tells beside the headers it came with; ``attempt`` counts how often it was refused."""
    told = {
        "twin_refusal_id": refused.refusal_id,
        "twin_kind": refused.kind,
        "twin_reason": refused.reason,
        "twin_topic": refused.source.topic,
        "twin_partition": refused.source.partition,
        "twin_offset": refused.offset,
        ATTEMPT: attempt,
    }
    return [(name, str(value).encode()) for name, value in told.items()]


def _pairs(headers: Iterable[tuple[str, bytes | None]] | None) -> Iterable[tuple[str, bytes | None]]:
    return headers.items() if isinstance(headers, dict) else headers or ()


def _kept(headers: Headers) -> Headers:
    return [(name, value) for name, value in headers if not name.startswith("twin_")]


def _attempt(headers: Headers) -> int:
    """A replayed record brings the number of its last attempt along."""
    before = dict(headers).get(ATTEMPT, b"")
    return int(before) + 1 if before.isdigit() else 1
