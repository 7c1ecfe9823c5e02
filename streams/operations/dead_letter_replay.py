"""Publishes refused records again, corrected or unchanged, and stores each replay with who made it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from aiokafka import TopicPartition

from sql.database import Pool
from sql.dead_letter_store import NewReplay, RefusedRecord, add_replays
from streams.bounds import BoundSettings
from streams.client.twin_client import TwinClient
from streams.errors import describe_error
from streams.kafka import MAX_RECORD_BYTES, RawRecord
from streams.kafka.dead_letters import ATTEMPT_HEADER, REPLAY_OF_HEADER, foreign_headers, refusal_attempt
from streams.kafka.parking import FIRST_OFFSET_HEADER, UnreadableBatch
from streams.kafka.record_batches import read_parked_batch
from streams.operations.corrections import Correction, corrected_value
from streams.settings import Settings

__all__ = ["SentReplay", "SkippedReplay", "replay_dead_letters"]

_BATCH = 500


class SentReplay(NamedTuple):
    """A refused record with the value that is published for it.

    Attributes:
        position: partition and offset of the new record; null in a dry run.
    """

    refused: RefusedRecord
    value: bytes
    position: tuple[int, int] | None


class SkippedReplay(NamedTuple):
    """A refused record that is not published, with the reason."""

    refused: RefusedRecord
    reason: str


async def replay_dead_letters(
    settings: Settings, pool: Pool, refused: Sequence[RefusedRecord], correction: Correction, *, by: str, dry_run: bool = False
) -> tuple[list[SentReplay], list[SkippedReplay]]:
    """Publish refused records again on their topic and partition, with their key and headers, and store the replays.

    Each record keeps its id, so that it counts once however often it is replayed. ``by`` is who replays them.
    """
    ready, skipped = _prepare(refused, correction, settings)
    if dry_run or not ready:
        return ready, skipped
    sent: list[SentReplay] = []
    async with TwinClient(settings, name="dlq replay") as client:
        for first in range(0, len(ready), _BATCH):
            batch = ready[first : first + _BATCH]
            positions = await asyncio.gather(*(_publish(client, replay) for replay in batch))
            sent += [replay._replace(position=position) for replay, position in zip(batch, positions, strict=True)]
            # Stored batch by batch, so that an interruption leaves at most one batch without its mark.
            await add_replays(pool, [_new_replay(replay, correction, by) for replay in sent[first:]])
    return sent, skipped


def _prepare(
    refused: Iterable[RefusedRecord], correction: Correction, bounds: BoundSettings
) -> tuple[list[SentReplay], list[SkippedReplay]]:
    """Separate the records that can be published from those that would be refused again."""
    ready, skipped = [], []
    for record in refused:
        try:
            replays = [
                SentReplay(part, corrected_value(part, correction), None) for part in _records_of(record, correction, bounds)
            ]
            for replay in replays:
                _check_size(replay)
            ready += replays
        except ValueError as error:
            skipped.append(SkippedReplay(record, describe_error(error)))
    return ready, skipped


def _records_of(refused: RefusedRecord, correction: Correction, bounds: BoundSettings) -> list[RefusedRecord]:
    """The record itself; of a batch that could not be read, the records that can be read by now, each with its own key and headers.

    Raises:
        ValueError: when there are none, or a batch is to be corrected.
    """
    if refused.exception != UnreadableBatch.__name__:
        return [refused]
    if correction != Correction():
        raise ValueError("it is a batch, not a record: it can be published only as it is")
    source = TopicPartition(refused.source.topic, refused.source.partition)
    first = dict(refused.headers).get(FIRST_OFFSET_HEADER) or b"0"
    records = [record for record in read_parked_batch(source, refused.value or b"", int(first), bounds) if record.value is not None]
    if not records:
        raise ValueError(
            "nothing in it can be read: ask its producer to send the records again, or raise the bound that its reason names"
            f" ({refused.reason})"
        )
    return [refused._replace(key=record.key, value=record.value, headers=record.headers) for record in records]


def _check_size(replay: SentReplay) -> None:
    if (size := _record(replay).size) > MAX_RECORD_BYTES:
        raise ValueError(
            f"the record has {size} bytes, and a topic takes {MAX_RECORD_BYTES}: ask the producer to send it in several records"
        )


async def _publish(client: TwinClient, replay: SentReplay) -> tuple[int, int]:
    source = replay.refused.source
    return await client.publish_bytes(source.topic, *_record(replay), partition=source.partition)


def _record(replay: SentReplay) -> RawRecord:
    refused = replay.refused
    own = {ATTEMPT_HEADER: refusal_attempt(refused.headers), REPLAY_OF_HEADER: refused.refusal_id}
    headers = [*foreign_headers(refused.headers), *((name, str(value).encode()) for name, value in own.items())]
    return RawRecord(refused.key, replay.value, headers)


def _new_replay(replay: SentReplay, correction: Correction, by: str) -> NewReplay:
    partition, offset = replay.position or (-1, -1)
    refused = replay.refused
    return NewReplay(refused.refusal_id, refused.source.topic, partition, offset, by, correction.format_text())
