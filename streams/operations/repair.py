"""Sends again what is only behind: sums whose windows lag, and refused records without a copy. What is stored is never changed.

Windows and snapshots follow from the sums: the fidelity agent says and keeps them again.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from aiokafka import AIOKafkaProducer

from schemas import FidelityErrors, PaneRow, SourceId
from sql.database import connect
from sql.dead_letter_store import mark_refused_sent, unsent_refused_before
from streams.kafka.clients import open_producer
from streams.kafka.dead_letters import dead_letter_record
from streams.kafka.records import RawRecord, event_headers, event_value
from streams.kafka.topics import DEAD_LETTERS, topic_of
from streams.settings import Settings

__all__ = ["repair_windows"]

_ROWS_A_MESSAGE = 500
_LETTERS_AT_ONCE = 1000


async def repair_windows(settings: Settings, rows: Iterable[tuple[str, str, PaneRow]], lags: Callable[[str, PaneRow], bool]) -> int:
    """Send rows of ``fidelity_panes`` that lag, given with line and source, and refusals without a copy; how many messages."""
    async with open_producer(settings) as producer:
        return await _send_rows(producer, [row for row in rows if lags(row[0], row[2])]) + await _send_letters(producer, settings)


async def _send_rows(producer: AIOKafkaProducer, rows: Iterable[tuple[str, str, PaneRow]]) -> int:
    due: defaultdict[tuple[str, str], list[PaneRow]] = defaultdict(list)
    for line, source, row in rows:
        due[line, source].append(row)
    said = [
        FidelityErrors(line=line, source=_source(source), watermark=None, rows=tuple(found[first : first + _ROWS_A_MESSAGE]))
        for (line, source), found in due.items()
        for first in range(0, len(found), _ROWS_A_MESSAGE)
    ]
    records = [RawRecord(event.line.encode(), event_value(event), event_headers(event, "verify")) for event in said]
    await _send(producer, topic_of(FidelityErrors), records)
    return len(said)


async def _send_letters(producer: AIOKafkaProducer, settings: Settings) -> int:
    connection = await connect(settings.postgres_dsn.get_secret_value())
    sent = 0
    try:
        while refused := await unsent_refused_before(connection, datetime.now(UTC), _LETTERS_AT_ONCE):
            await _send(producer, DEAD_LETTERS, map(dead_letter_record, refused))
            await mark_refused_sent(connection, [each.refusal_id for each in refused])
            sent += len(refused)
    finally:
        await connection.close()
    return sent


async def _send(producer: AIOKafkaProducer, topic: str, records: Iterable[RawRecord]) -> None:
    """Send records to a topic and wait until all are acknowledged."""
    sent = [await producer.send(topic, record.value, key=record.key, headers=record.headers) for record in records]
    await asyncio.gather(*sent)


def _source(name: str) -> SourceId:
    topic, partition, incarnation = name.rsplit(":", 2)
    return SourceId(topic=topic, partition=int(partition), incarnation=int(incarnation))
