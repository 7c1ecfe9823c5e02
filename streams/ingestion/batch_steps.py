"""What is done to a poll batch, or to a part of one, in one transaction: ingest it, rehearse it, or park its single record."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from uuid import UUID

from schemas import SourceId
from schemas.base import utc_time
from sql.database import Connection, Pool, transaction
from sql.dead_letter_store import RefusedRecord
from sql.park_store import complete_park_requests, record_state
from sql.source_position_store import Position, add_gaps, advance_position, lock_position
from streams.ingestion.batch_threads import is_small
from streams.ingestion.outcome_batch import tracking_ids
from streams.ingestion.pipeline import OutcomePipeline
from streams.ingestion.rows import IngestResult, missing_offsets, position_after
from streams.kafka.batch_consumer import PollBatch
from streams.kafka.dead_letters import add_refused_somehow, parked_record
from streams.kafka.parking import ParkRequested

__all__ = ["BatchSteps"]


class _Rehearsed(Exception):
    """Ends the transaction of a rehearsal, so that it is rolled back."""


class BatchSteps:
    """The transactions of the outcomes role.

    Args:
        pool: of the database.
        pipeline: the pipeline on this pool.
        connections: how many transactions may run side by side.
    """

    def __init__(self, pool: Pool, pipeline: OutcomePipeline, connections: asyncio.Semaphore) -> None:
        self._pool = pool
        self._pipeline = pipeline
        self._connections = connections
        self._small_parts = asyncio.Semaphore(1)

    async def ingest(self, batch: PollBatch) -> IngestResult:
        """Take a batch through the pipeline; a repetition changes nothing.

        Small parts, of which a batch that is taken apart has many, do not queue behind the large batches of other partitions for
        each: they have a connection and a thread of their own.
        """
        scored = await self._pipeline.score(await self._pipeline.decode(batch))
        async with self._small_parts if is_small(batch) else self._connections:
            return await self._pipeline.store(scored)

    async def rehearse(self, batch: PollBatch) -> None:
        """Take a batch through the pipeline, and store nothing of it."""
        with suppress(_Rehearsed):
            async with self._connections, transaction(self._pool) as connection:
                await self._pipeline.inside(connection).ingest(batch)
                raise _Rehearsed

    async def park(self, batch: PollBatch, error: Exception) -> IngestResult:
        """Park the single record of a batch as a whole, in the transaction that moves the position (rules 1 to 3).

        A record that is stored already, parked or not, stays as it is.
        """
        record, source = batch.records[0], _source_of(batch)
        refused = parked_record(_refused_record(batch), error)
        async with self._connections, transaction(self._pool) as connection:
            position = await lock_position(connection, source)
            is_new = not await _is_stored(connection, source, record.offset, position)
            if is_new:
                await add_refused_somehow(connection, refused)
            await add_gaps(connection, source, missing_offsets([record.offset], position.last_offset))
            await advance_position(connection, source, position_after(record, int(is_new), None))
            if isinstance(error, ParkRequested):
                await complete_park_requests(connection, batch.topic, batch.partition, [record.offset])
        return IngestResult(
            source=source,
            first_offset=record.offset,
            last_offset=record.offset,
            rows=(),
            watermark=position.watermark,
            refused=[refused] if is_new else (),
            n_replayed=int(not is_new),
        )


async def _is_stored(connection: Connection, source: SourceId, offset: int, position: Position) -> bool:
    """Whether elements of a record have rows, because an earlier delivery of it was processed."""
    return offset <= position.last_offset and any(await record_state(connection, source, offset))


def _source_of(batch: PollBatch) -> SourceId:
    return SourceId(topic=batch.topic, partition=batch.partition, incarnation=batch.incarnation)


def _refused_record(batch: PollBatch) -> RefusedRecord:
    """The record as a whole, under the id of its first element, by which a redelivery finds it (rule 2)."""
    record, source = batch.records[0], _source_of(batch)
    (octets,) = tracking_ids(source, [(record.offset, 0)])
    at = utc_time(record.timestamp / 1000)
    ids = UUID(bytes=octets.tobytes()), source, record.offset, 0, at
    return RefusedRecord(*ids, record.key, record.value, list(record.headers), kind="", reason="", exception="")
