"""Processes records one by one: the partitions of a topic side by side, and the refusals of a slice of records together.

A poll batch is one slice. Each of its records is processed, in their order; what is refused is collected, and stored in one
transaction with a row for each record, before the batch is acknowledged. So a flood of records that are refused costs little for
each of them, and holds up no other partition. After a crash the batch is delivered again, and finds the rows that are stored.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from schemas import Catalogue, SourceId, in_effect
from sql.dead_letter_store import RefusedRecord, add_refused_once, in_incarnations
from sql.park_store import PARKED, complete_park_requests
from streams.bounds import check_message, require_bounded
from streams.errors import describe_error, is_waited_for
from streams.kafka.app import TwinApp
from streams.kafka.batch_consumer import PollBatch
from streams.kafka.dead_letters import (
    COMMON_KINDS,
    KafkaRecord,
    add_refused_somehow,
    count_refused_records,
    is_replay,
    publish_dead_letters,
    refused_record,
)
from streams.kafka.parking import EndedRole, ParkRequested, UnreadableBatch
from streams.kafka.partition_lanes import PartitionLanes
from streams.retries import any_error, process_event, retry_transient, track_unfinished

__all__ = [
    "RecordSlice",
    "RefusalSlice",
    "Refusals",
    "expected_errors",
    "in_seconds",
    "process_in_lanes",
    "process_record",
    "process_slices",
]

LOG = logging.getLogger(__name__)

_PARKED_AT_ONCE = (EndedRole, ParkRequested, UnreadableBatch)


class Refusals:
    """Records of one partition that are refused or parked, and not stored yet.

    Args:
        app: app of the role.
        kinds: kinds of the agent's own errors; ``invalid``, ``json`` and ``bound`` are added to them. Any other error parks.
    """

    def __init__(self, app: TwinApp, kinds: Mapping[type[Exception], str]) -> None:
        self._app = app
        self._kinds = kinds
        self._refused: list[RefusedRecord] = []
        self._requested: list[RefusedRecord] = []

    def add(self, record: KafkaRecord, error: Exception) -> None:
        """Add a record with the error that it caused."""
        refused = refused_record(record, error, self._kinds)
        self._refused.append(refused)
        if refused.kind == PARKED:
            self._app.parking.on_failed(error)
        if isinstance(error, ParkRequested):
            self._requested.append(refused)

    async def store(self) -> None:
        """Store the records in one transaction, then publish their dead letters; a repetition stores nothing twice.

        A record that is refused again has one row, and at most one more dead letter.
        """
        if not self._refused:
            return
        self._refused = await in_incarnations(self._app.pool, self._refused)
        is_new = await self._add_rows()
        count_refused_records(record for record in self._refused if record.refusal_id in is_new)
        await publish_dead_letters(self._app, self._refused)
        for record in self._requested:
            await complete_park_requests(self._app.pool, record.source.topic, record.source.partition, [record.offset])
        self._refused, self._requested = [], []

    async def _add_rows(self) -> set[Any]:
        """Store the rows; returns the ids of those that were not stored before."""
        by_source: defaultdict[SourceId, list[RefusedRecord]] = defaultdict(list)
        for record in self._refused:
            by_source[record.source].append(record)
        try:
            added = [await add_refused_once(self._app.pool, records) for records in by_source.values()]
            return set().union(*added)
        except Exception as error:
            if is_waited_for(error):
                raise
        return {record.refusal_id for record in self._refused if await add_refused_somehow(self._app.pool, record)}


class RecordSlice(Protocol):
    """Processes the records of one slice, and stores what it has collected of them at its end."""

    def prepare(self, records: Sequence[KafkaRecord], /) -> Awaitable[None]:
        """Do for all records together what it can, before each of them is processed; when it fails, all are left to that."""

    def process(self, record: KafkaRecord, /) -> Awaitable[None]:
        """Process a record; it must be safe to repeat."""

    def refuse(self, record: KafkaRecord, error: Exception, /) -> None:
        """Collect a record that is refused for the error that its processing raised."""

    def store(self) -> Awaitable[None]:
        """Store and publish what was collected; it must be safe to repeat."""


class RefusalSlice:
    """A slice whose records are processed by a function, and refused with a row and a dead letter.

    Args:
        app: app of the role.
        work: processes a record; it must be safe to repeat.
        kinds: kinds of the errors of ``work``.
    """

    def __init__(self, app: TwinApp, work: Callable[[KafkaRecord], Awaitable[None]], kinds: Mapping[type[Exception], str]) -> None:
        refusals = Refusals(app, kinds)
        self.process, self.refuse, self.store = work, refusals.add, refusals.store

    async def prepare(self, records: Sequence[KafkaRecord]) -> None:
        """Nothing: each record is processed alone."""


def expected_errors(kinds: Iterable[type[Exception]]) -> tuple[type[Exception], ...]:
    """The errors of a record that are not tried again: those of the agent, those of any topic, and those that park it at once."""
    return (*COMMON_KINDS, *kinds, *_PARKED_AT_ONCE)


async def process_slices(
    app: TwinApp,
    batches: Any,
    open_slice: Callable[[], RecordSlice],
    kinds: Iterable[type[Exception]],
    group_of: Callable[[KafkaRecord], object] | None = None,
) -> None:
    """Process the records of a stream of batches, each batch as a slice of its own, for as long as the app runs.

    Args:
        app: app of the role.
        batches: the stream of an agent.
        open_slice: makes the slice of a batch.
        kinds: errors of a record that are not tried again.
        group_of: of a record: those of a group are processed in their order, and several groups side by side, also those of the
            next slices. By default all of a partition are one group.
    """
    expected = expected_errors(kinds)
    turns = _GroupTurns()

    async def process(batch: PollBatch) -> None:
        all_records = list(in_seconds(batch.records))
        with turns.join(all_records, group_of or _one_group) as groups:  # before anything is awaited, in the order of the batches
            await process_slice(batch, all_records, groups)

    async def process_slice(batch: PollBatch, all_records: Sequence[KafkaRecord], groups: Sequence[_Group]) -> None:
        records = open_slice()
        catalogue = await retry_transient(app.newest_catalogue, part="postgres", waits_for=any_error)
        if all(_is_ordinary(app, record) for record in all_records):
            offsets = [record.offset for record in all_records]
            async with app.parking.in_work(batch.partition, offsets):
                with track_unfinished(app), in_effect(catalogue):
                    await _prepare(records, all_records)

        async def process_group(group: _Group) -> None:
            if group.earlier is not None:
                await group.earlier.wait()
            for record in group.records:
                work = partial(_check_and_process, app, records, record)
                await process_record(app, record, work, records.refuse, expected, catalogue)
                await asyncio.sleep(0)  # the other partitions have their turn, also when no record waits for anything
            turns.leave(group)

        async with asyncio.TaskGroup() as tasks:
            for group in groups:
                tasks.create_task(process_group(group))
        with track_unfinished(app):
            await retry_transient(records.store, part="postgres", waits_for=any_error)

    await process_in_lanes(app, batches, process, side_by_side=group_of is not None)


def _one_group(record: KafkaRecord) -> object:
    return record.partition


@dataclass(eq=False)
class _Group:
    """Records that are processed after those of an earlier slice with the same key."""

    key: object
    earlier: asyncio.Event | None
    records: list[KafkaRecord] = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)


class _GroupTurns:
    """The last group of each key that is not processed yet."""

    def __init__(self) -> None:
        self._last: dict[object, _Group] = {}

    @contextmanager
    def join(self, records: Sequence[KafkaRecord], group_of: Callable[[KafkaRecord], object]) -> Iterator[list[_Group]]:
        """The groups of a slice, each behind the one before it; whatever ends the block, those behind them go on."""
        groups: dict[object, _Group] = {}
        for record in records:
            key = record.partition, group_of(record)
            if key not in groups:
                before = self._last.get(key)
                groups[key] = self._last[key] = _Group(key, before.done if before is not None else None)
            groups[key].records.append(record)
        try:
            yield [*groups.values()]
        finally:
            for group in groups.values():
                self.leave(group)

    def leave(self, group: _Group) -> None:
        """Let the group behind this one go on."""
        group.done.set()
        if self._last.get(group.key) is group:
            del self._last[group.key]


async def _prepare(records: RecordSlice, all_records: Sequence[KafkaRecord]) -> None:
    try:
        await records.prepare(all_records)
    except Exception as error:  # noqa: BLE001  # it is met again by the record that it is about, and handled there
        LOG.warning("%d records are processed one by one: %s: %s", len(all_records), type(error).__name__, describe_error(error))


def _is_ordinary(app: TwinApp, record: KafkaRecord) -> bool:
    """Whether nothing speaks against processing a record together with others."""
    try:
        app.parking.check(record.partition, record.offset, record.value)
        check_message(record.key, record.value, app.settings)
        require_bounded(record.headers)
    except Exception:  # noqa: BLE001  # raised again when the record is processed alone
        return False
    return not is_replay(record.headers) and not app.parking.suspected(record.partition, [record.offset])


async def _check_and_process(app: TwinApp, records: RecordSlice, record: KafkaRecord) -> None:
    check_message(record.key, record.value, app.settings)
    require_bounded(record.headers)
    await records.process(record)


async def process_in_lanes(
    app: TwinApp, batches: Any, process: Callable[[PollBatch], Awaitable[None]], *, side_by_side: bool = False
) -> None:
    """Process the batches of each partition one after another and the partitions side by side, and acknowledge each batch.

    Args:
        app: app of the role.
        batches: the stream of an agent.
        process: processes a batch to its end; it raises nothing.
        side_by_side: whether ``process`` takes care of the order itself, so that a few batches of a partition are begun at once.
    """
    stream = batches.noack()

    async def process_in_turn(event: Any, previous: asyncio.Event | None, processed: asyncio.Event) -> None:
        if previous is not None and not side_by_side:
            await previous.wait()
        await process(event.value)
        processed.set()
        await stream.ack(event)

    await PartitionLanes(process_in_turn, app.settings.max_waiting_bytes).run(stream, lambda: app.consumer)


async def process_record(
    app: TwinApp,
    record: KafkaRecord,
    work: Callable[[], Awaitable[None]],
    refuse: Callable[[KafkaRecord, Exception], None],
    expected: tuple[type[Exception], ...],
    catalogue: Catalogue | None = None,
) -> None:
    """Process a record with ``work`` to its end; it is refused for an expected error, and for the last of any other ones.

    It is tried ``TWIN_PARK_ATTEMPTS`` times, and refused at once when an operator wants it to be parked or it cannot be read.

    Args:
        app: app of the role.
        record: the record.
        work: processes the record; it must be safe to repeat.
        refuse: is given the record and the error.
        expected: errors that are not tried again, as :func:`expected_errors` returns them.
        catalogue: under which it is tried first; by default the newest version.
    """
    if is_replay(record.headers):
        app.parking.on_replay()

    async def check_and_work() -> None:
        app.parking.check(record.partition, record.offset, record.value)
        await work()

    async def refuse_record(error: Exception) -> None:
        refuse(record, error)

    attempts = app.parking.attempts_for
    async with app.parking.in_work(record.partition, [record.offset]):
        await process_event(app, check_and_work, refuse_record, attempts=attempts, expected=expected, catalogue=catalogue)
    app.finished[record.partition] += 1


def in_seconds(records: Sequence[Any]) -> Iterable[KafkaRecord]:
    """The records of a batch with their timestamps in seconds, as Faust's messages have them."""
    return (replace(record, timestamp=record.timestamp / 1000) for record in records)
