"""Records that nobody can answer: kept in Postgres, and copied to the topic of dead letters with the reason in headers."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from datetime import UTC, datetime
from typing import Any, Protocol

from schemas import SourceId
from sql.refused_store import Headers, Refused, keep_refused, mark_refused_sent, refusal_id
from streams.app import TwinApp
from streams.metrics import REFUSED
from streams.topics import DEAD_LETTERS

__all__ = [
    "ATTEMPT",
    "LETTER_HEADERS",
    "REPLAY_OF",
    "ContainsNul",
    "KafkaRecord",
    "attempt",
    "bury",
    "foreign",
    "letter_headers",
    "send_copies",
    "without_nul",
]

ATTEMPT = "twin_attempt"
REPLAY_OF = "twin_replay_of"
LETTER_HEADERS = {
    "twin_refusal_id": "id of the refusal: twinstream dlq show ID",
    "twin_kind": "a word for the kind of refusal",
    "twin_reason": "why, in a sentence",
    "twin_exception": "class of what was raised, Refusal where a rule of the service says no",
    "twin_topic": "where the record came",
    "twin_partition": "where the record came",
    "twin_offset": "where the record came",
    "twin_element": "place in the array that the record carried, else 0",
    ATTEMPT: "how often the record was refused by now, replays included",
}
"""What a dead letter tells beside the headers it came with, and what each means."""

_OURS = LETTER_HEADERS.keys() | {REPLAY_OF}


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


async def bury(app: TwinApp, record: KafkaRecord, kind: str, reason: str, error: Exception) -> None:
    """Refuse a record for good: the same one refused again is one row, and at most another copy on the topic.

    ``kind`` is a word for the metric, ``reason`` a sentence for people, ``error`` what was raised.
    """
    source = SourceId(topic=record.topic, partition=record.partition)
    at = datetime.fromtimestamp(record.timestamp, UTC)
    refused = Refused(
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
    await keep_refused(app.pool, refused)
    await send_copies(app, [refused])
    REFUSED.labels(topic=record.topic, reason=kind).inc()


async def send_copies(app: TwinApp, refused: Iterable[Refused]) -> None:
    """Copy what was refused to the topic of dead letters, and note that it is there."""
    begun = [(await _begin_to_send(app, each), each.refusal_id) for each in refused]
    for sent, _ in begun:
        await sent
    if begun:
        await mark_refused_sent(app.pool, [each for _, each in begun])


async def _begin_to_send(app: TwinApp, refused: Refused) -> Awaitable[Any]:
    key = b"" if refused.key is None and refused.value is None else refused.key  # the client sends no record of nothing at all
    return await app.send_raw(DEAD_LETTERS, key, refused.value, letter_headers(refused))


def letter_headers(refused: Refused) -> list[tuple[str, bytes | None]]:
    """Headers of a dead letter: those that it came with as they were, and then what happened to it."""
    told = (
        refused.refusal_id,
        refused.kind,
        refused.reason,
        refused.exception,
        refused.source.topic,
        refused.source.partition,
        refused.offset,
        refused.element,
        attempt(refused.headers),
    )
    ours = [(name, str(value).encode()) for name, value in zip(LETTER_HEADERS, told, strict=True)]
    return [*foreign(refused.headers), *ours]


def foreign(headers: Headers) -> list[tuple[str, bytes | None]]:
    """The headers that are not ours: a dead letter that is published again brings ours along."""
    return [(name, value) for name, value in headers if name not in _OURS]


def attempt(headers: Headers) -> int:
    """The how manieth time a record with these headers is refused; a replay brings the number of its last attempt along."""
    before = dict(headers).get(ATTEMPT) or b""
    return int(before) + 1 if before.isdigit() and len(before) < 10 else 1
