"""Publishes again what messages have not reached: panes whose windows lag, and refused records without a dead letter.

No stored count is changed. The fidelity agent computes windows and snapshots from the panes again.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from aiokafka import AIOKafkaProducer

from schemas import FidelityErrors, PaneRow, SourceId
from schemas.events import MAX_MESSAGE_ROWS
from sql.database import connect
from sql.dead_letter_store import mark_refused_sent, unsent_refused_before
from streams.kafka import DEAD_LETTERS, RawRecord, event_headers, event_value, open_producer, topic_of
from streams.kafka.dead_letters import dead_letter_record
from streams.operations.recomputation import StoredPane
from streams.settings import Settings

__all__ = ["repair"]

_REFUSED_PER_BATCH = 1000


async def repair(settings: Settings, panes: Iterable[StoredPane]) -> int:
    """Publish these panes again, and the dead letters that are missing.

    Returns:
        The number of messages published.
    """
    async with open_producer(settings) as producer:
        return await _publish_panes(producer, panes) + await _publish_dead_letters(producer, settings)


async def _publish_panes(producer: AIOKafkaProducer, panes: Iterable[StoredPane]) -> int:
    records = [
        RawRecord(event.line.encode(), event_value(event), event_headers(event, "verify")) for event in _fidelity_errors(panes)
    ]
    await _publish(producer, topic_of(FidelityErrors), records)
    return len(records)


def _fidelity_errors(panes: Iterable[StoredPane]) -> Iterator[FidelityErrors]:
    """Messages of at most ``MAX_MESSAGE_ROWS``, each of one line and source."""
    groups: defaultdict[tuple[str, str], list[PaneRow]] = defaultdict(list)
    for line, source, row in panes:
        groups[line, source].append(row)
    for (line, source), rows in groups.items():
        for first in range(0, len(rows), MAX_MESSAGE_ROWS):
            batch = tuple(rows[first : first + MAX_MESSAGE_ROWS])
            yield FidelityErrors(line=line, source=SourceId.parse(source), watermark=None, rows=batch)


async def _publish_dead_letters(producer: AIOKafkaProducer, settings: Settings) -> int:
    connection = await connect(settings.postgres_dsn.get_secret_value())
    published = 0
    try:
        while refused := await unsent_refused_before(connection, datetime.now(UTC), _REFUSED_PER_BATCH):
            await _publish(producer, DEAD_LETTERS, map(dead_letter_record, refused))
            await mark_refused_sent(connection, [record.refusal_id for record in refused])
            published += len(refused)
    finally:
        await connection.close()
    return published


async def _publish(producer: AIOKafkaProducer, topic: str, records: Iterable[RawRecord]) -> None:
    """Publish records to a topic and wait until all are acknowledged."""
    acknowledgements = [await producer.send(topic, record.value, key=record.key, headers=record.headers) for record in records]
    await asyncio.gather(*acknowledgements)
