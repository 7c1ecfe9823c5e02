"""Finds the records that keep a poll batch from being stored, parks them, and stores the others.

A batch that fails for a reason that no rule foresees is tried once more, and then halved until the records that fail stand alone.
Each part is a transaction like any batch (rule 1), so the cut changes no count and a kill between two parts loses nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise, takewhile
from typing import Protocol

from streams.errors import PartitionError, describe_error
from streams.ingestion.rows import IngestResult, has_replay
from streams.kafka.batch_consumer import PollBatch
from streams.kafka.parking import EndedRole, Parking, ParkRequested
from streams.retries import LONGEST_WAIT_S, pause_s, retry_transient

__all__ = ["RecordIsolation", "Steps"]

LOG = logging.getLogger(__name__)

_WHOLE_BATCH_ATTEMPTS = 2
_REHEARSED_RECORDS = 3


class Steps(Protocol):
    """What is done to a part of a batch, in one transaction."""

    async def ingest(self, batch: PollBatch) -> IngestResult:
        """Take a part through the pipeline."""

    async def rehearse(self, batch: PollBatch) -> None:
        """Take a part through the pipeline and store nothing."""

    async def park(self, batch: PollBatch, error: Exception) -> IngestResult:
        """Park the single record of a part."""


@dataclass
class _Part:
    """Consecutive records of a batch, and how often they have failed together or in a larger part."""

    batch: PollBatch
    failures: int = 0

    def __len__(self) -> int:
        return len(self.batch.records)

    def cut(self, *ends: int) -> list[_Part]:
        """The part in pieces that end before these indices and at its end, without empty ones."""
        bounds = [0, *ends, len(self)]
        pieces = [self.batch.records[first:end] for first, end in pairwise(bounds)]
        return [_Part(replace(self.batch, records=records), self.failures) for records in pieces if records]


class RecordIsolation:
    """Stores the records of failing batches but for those that fail alone, which it parks.

    The same failure of many records in a row, without any success of this process between them, is no fault of the records: then
    the partition waits instead, unless a record behind them passes. So an error in the code or in a table parks no topic.

    Args:
        steps: what is done to a part.
        parking: requests of operators, the number of attempts, and the partitions that wait.
        in_a_row: most records that are parked in a row for one class of exceptions.
    """

    def __init__(self, steps: Steps, parking: Parking, in_a_row: int) -> None:
        self._steps = steps
        self._parking = parking
        self._in_a_row = in_a_row
        self._n_parked = 0
        self._exception: type[Exception] | None = None

    def on_success(self) -> None:
        """End the row of failures, because records were stored."""
        self._n_parked = 0

    async def ingest(self, batch: PollBatch) -> AsyncIterator[IngestResult]:
        """Store or park every record of a batch, in their order, and yield the result of each part that was stored."""
        if has_replay(batch):
            self._parking.on_replay()
        parts = self._without_suspects_together(batch)
        while parts:
            part = parts.pop(0)
            try:
                yield await self._ingest_or_park(part, [waiting.batch for waiting in parts])
            except _Divided as divided:
                parts[:0] = divided.pieces
        self._parking.unblock(batch.partition)

    def _without_suspects_together(self, batch: PollBatch) -> list[_Part]:
        """The batch in parts in which the records that may be why the role ends stand apart, few together or each alone."""
        offsets = [record.offset for record in batch.records]
        suspects = set(self._parking.suspected(batch.partition, offsets))
        ends: list[int] = []
        first = 0
        while first < len(offsets):
            size = self._size_of_part(batch.partition, offsets[first:], suspects)
            first += size
            ends.append(first)
        return _Part(batch).cut(*ends[:-1])

    def _size_of_part(self, partition: int, offsets: Sequence[int], suspects: set[int]) -> int:
        """Number of the next records that are alike, suspected or not, and may be processed together."""
        if offsets[0] not in suspects:
            return next((number for number, offset in enumerate(offsets) if offset in suspects), len(offsets))
        most = self._parking.suspects_together(partition, offsets[0])
        alike = takewhile(
            lambda offset: offset in suspects and self._parking.suspects_together(partition, offset) == most, offsets[:most]
        )
        return len([*alike])

    async def _ingest_or_park(self, part: _Part, behind: Sequence[PollBatch]) -> IngestResult:
        """Try a part until it is stored, or parked if it is a single record that failed often enough.

        Raises:
            _Divided: when it has several records, and failed or has one that an operator wants to be parked.
        """
        while True:
            try:
                result = await retry_transient(partial(self._attempt, part), part="postgres")
            except _Divided:
                raise
            except (ParkRequested, EndedRole) as decision:
                return await self._park(part, decision)
            except Exception as error:  # noqa: BLE001  # any failure that is not waited for is about these records
                part.failures += 1
                if await self._is_to_be_parked(part, error, behind):
                    return await self._park(part, error)
            else:
                self.on_success()
                self._parking.unblock(part.batch.partition)
                return result

    async def _attempt(self, part: _Part) -> IngestResult:
        batch = part.batch
        if len(part) == 1:
            self._parking.check(batch.partition, batch.first_offset)
        offsets = [record.offset for record in batch.records]
        if requested := self._parking.requested_offsets(batch.partition, offsets):
            index = offsets.index(requested[0])
            raise _Divided(part.cut(index, index + 1))
        async with self._parking.in_work(batch.partition, offsets):
            return await self._steps.ingest(batch)

    async def _is_to_be_parked(self, part: _Part, error: Exception, behind: Sequence[PollBatch]) -> bool:
        """Whether a part that failed is to be parked; else it was waited for its next attempt.

        Raises:
            _Divided: when it has several records.
        """
        batch, reason = part.batch, f"{type(error).__name__}: {describe_error(error)}"
        name = f"{batch.topic}:{batch.partition}"
        LOG.warning("offsets %d to %d of %s failed: %s", batch.first_offset, batch.last_offset, name, reason)
        attempts = self._parking.attempts_for(error)
        if part.failures < attempts:
            await asyncio.sleep(pause_s(part.failures))
        if len(part) > 1:
            if part.failures >= _WHOLE_BATCH_ATTEMPTS:
                raise _Divided(part.cut(len(part) // 2))
            return False
        if part.failures < attempts:
            return False
        if not self._is_row_too_long(error) or await self._passes_behind(behind):
            return True
        await self._wait(part, error, reason)
        return False

    def _is_row_too_long(self, error: Exception) -> bool:
        return self._n_parked >= self._in_a_row and self._exception is type(error)

    async def _passes_behind(self, behind: Sequence[PollBatch]) -> bool:
        """Whether a record behind the failing ones passes, so that the code and the tables are in order."""
        records = [record for batch in behind for record in batch.records]
        step = max(len(records) // _REHEARSED_RECORDS, 1)
        for record in records[::-step][:_REHEARSED_RECORDS]:
            rehearse = partial(self._steps.rehearse, replace(behind[0], records=[record]))
            if await _succeeds(rehearse):
                self.on_success()
                return True
        return False

    async def _wait(self, part: _Part, error: Exception, reason: str) -> None:
        batch = part.batch
        blocked = f"{batch.topic}:{batch.partition} waits at offset {batch.first_offset}: every record fails alike, by {reason}"
        if self._parking.blocked.get(batch.partition) != blocked:
            failure = PartitionError(f"{blocked}; only TWIN_PARK_IN_A_ROW, {self._in_a_row}, such records are parked in a row")
            failure.__cause__ = error
            LOG.error("%s", failure, exc_info=failure)
            self._parking.block(batch.partition, blocked)
        await asyncio.sleep(LONGEST_WAIT_S)

    async def _park(self, part: _Part, error: Exception) -> IngestResult:
        result = await retry_transient(partial(self._steps.park, part.batch, error), part="postgres")
        self._parking.on_failed(error)
        if not isinstance(error, ParkRequested | EndedRole):
            self._n_parked = self._n_parked + 1 if self._exception is type(error) else 1
            self._exception = type(error)
        return result


class _Divided(Exception):
    """A part with several records is not stored as a whole: its pieces are tried one after another."""

    def __init__(self, pieces: list[_Part]) -> None:
        super().__init__(f"{len(pieces)} pieces")
        self.pieces = pieces


async def _succeeds(action: Callable[[], Awaitable[None]]) -> bool:
    try:
        await retry_transient(action, part="postgres")
    except Exception:  # noqa: BLE001  # that it fails is the answer
        return False
    return True
