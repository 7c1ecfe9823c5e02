"""Keeps the changelog of the Faust table ``fidelity-panes`` equal to the held panes, for external readers of that topic.

The service never reads the table: windows are restored from Postgres, and the table is not recovered. So a start does not know what
the changelog holds: panes may have been evicted while no worker ran, and a crash can lose records, because Faust commits offsets
without waiting for the changelog. Therefore the versions in the changelog are read in the background after an assignment, and every
difference is written.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from aiokafka import TopicPartition
from aiokafka.partitioner import DefaultPartitioner

from schemas import FidelityErrors
from streams.kafka import PARTITIONS, open_consumer, topic_of
from streams.kafka.app import TwinApp
from streams.kafka.record_slices import Refusals, in_seconds
from streams.monitoring.line_state import LineState
from streams.monitoring.sums_check import ForgedSums
from streams.monitoring.window_state import SeriesKey, VersionedSums
from streams.retries import retry_transient

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord

__all__ = ["PaneKey", "PaneTable", "partition_of"]

LOG = logging.getLogger(__name__)

_ERRORS = topic_of(FidelityErrors)
_POLLED_RECORDS = 5000
_POLL_S = 10.0
_SENT_RECORDS = 5000

_Versions = dict[str, int]
"""Version of each pane in a changelog partition, by its key."""


class PaneKey(NamedTuple):
    """Key of a pane: line, series, and start in seconds since the epoch."""

    line: str
    series: SeriesKey
    start: float

    def table_key(self) -> str:
        """Key of the pane in the table."""
        return f"{self.line}|{self.series.model_id}|{self.series.segment}|{self.start}"


def partition_of(line: str, n_partitions: int = PARTITIONS[_ERRORS]) -> int:
    """Partition of the messages or the panes of a line, which Kafka's default partitioner chooses by its name."""
    partitions = range(n_partitions)
    return int(DefaultPartitioner()(line.encode(), partitions, partitions))


class PaneTable:
    """Writes panes to the table, and tracks which versions its changelog holds.

    Args:
        app: the app whose assigned partitions are written.
        table: the Faust table.
        lock: held by whoever changes the lines.
    """

    def __init__(self, app: TwinApp, table: Any, lock: asyncio.Lock) -> None:
        self._app, self._table, self._lock = app, table, lock
        self._versions: defaultdict[int, _Versions] = defaultdict(dict)
        self._read_partitions: set[int] = set()

    def reset(self) -> None:
        """Forget what the changelog holds: other workers may have written to it meanwhile."""
        self._versions, self._read_partitions = defaultdict(dict), set()

    def publish(self, pane: PaneKey, sums: VersionedSums) -> None:
        """Write a changed pane."""
        self._send(partition_of(pane.line, self._n_partitions()), pane.table_key(), sums)

    async def sync(self, read_lines: Callable[[], Collection[LineState]], names: Collection[str]) -> None:
        """Write what differs from the held panes: the value of a pane that changed, a tombstone for one that is not held.

        The panes of a line that is not in memory, because it could not be loaded, stay as they are.

        Args:
            read_lines: returns the lines in memory.
            names: of all lines.
        """
        n_partitions = self._n_partitions()
        for partition in self._partitions(read_lines(), n_partitions):
            versions = await self._read_versions(partition)
            sent: list[Awaitable[Any]] = [asyncio.sleep(0)]
            while sent:
                await asyncio.gather(*sent)
                async with self._lock:
                    if versions is not self._versions[partition]:  # it was assigned again meanwhile
                        return
                    differences = _differences(versions, read_lines(), partition, names, n_partitions)
                    sent = [self._send(partition, *change) for change in islice(differences.items(), _SENT_RECORDS)]

    def _send(self, partition: int, key: str, sums: VersionedSums | None) -> Awaitable[Any]:
        """Write the sums of a pane or its tombstone, and return what completes when the record is stored."""
        if sums is None:
            del self._versions[partition][key]
            tombstone: Awaitable[Any] = self._table.send_changelog(partition, key, None, value_serializer="raw")
            return tombstone
        self._versions[partition][key] = sums.version
        sent: Awaitable[Any] = self._table.send_changelog(partition, key, sums._asdict())
        return sent

    async def _read_versions(self, partition: int) -> _Versions:
        """Versions of the panes in the changelog: read once after an assignment, and tracked from then on."""
        versions = self._versions[partition]
        if partition not in self._read_partitions:
            tp = TopicPartition(self._table.changelog_topic_name, partition)
            stored = await _stored_versions(self._app, tp)
            if versions is self._versions[partition]:
                versions.update((key, version) for key, version in stored.items() if key not in versions)
                self._read_partitions.add(partition)
        return versions

    def _n_partitions(self) -> int:
        """Number of partitions of the changelog on the broker."""
        return self._app.known_partitions(self._table.changelog_topic_name, PARTITIONS[_ERRORS])

    def _partitions(self, lines: Iterable[LineState], n_partitions: int) -> list[int]:
        """Partitions of the changelog that this worker writes: those of its lines, and those it reads the sums of."""
        assigned = {tp.partition for tp in self._app.consumer.assignment() if tp.topic == _ERRORS and tp.partition < n_partitions}
        return sorted(assigned | {partition_of(line.name, n_partitions) for line in lines})


async def _stored_versions(app: TwinApp, tp: TopicPartition) -> _Versions:
    """Read a changelog partition to its end; half of the time is left to the processing of events.

    Raises:
        TimeoutError: when Kafka sends no record.
    """
    versions: _Versions = {}
    ignored: list[ConsumerRecord[bytes, bytes]] = []
    async with open_consumer(app.settings) as consumer:
        consumer.assign([tp])
        end = (await consumer.end_offsets([tp]))[tp]
        await consumer.seek_to_beginning(tp)
        while await consumer.position(tp) < end:
            polled = await consumer.getmany(timeout_ms=round(1000 * _POLL_S), max_records=_POLLED_RECORDS)
            if not polled and await consumer.position(tp) < end:
                raise TimeoutError(f"no record of {tp.topic} arrived for {_POLL_S:g} s")
            started = time.perf_counter()
            ignored += [record for record in polled.get(tp, ()) if not _apply_record(versions, record)]
            await asyncio.sleep(time.perf_counter() - started)
    if ignored:
        LOG.warning("%d records of %s:%d were not written by this service: they are refused", len(ignored), tp.topic, tp.partition)
        refusals = Refusals(app, {ForgedSums: "forged"})
        for record in in_seconds(ignored):
            refusals.add(record, ForgedSums("it is no sums of a pane that this service has written"))
        await retry_transient(refusals.store, part="postgres")
    return versions


def _apply_record(versions: _Versions, record: ConsumerRecord[bytes, bytes]) -> bool:
    """Apply a record of the changelog; False for one that Faust did not write, which changes nothing."""
    try:
        key = str(json.loads(record.key or b""))
        if record.value is None:
            versions.pop(key, None)
        else:
            versions[key] = int(json.loads(record.value)["version"])
    except (ValueError, LookupError, TypeError, RecursionError, OverflowError):
        return False
    return True


def _differences(
    versions: Mapping[str, int],
    lines: Collection[LineState],
    partition: int,
    names: Collection[str],
    n_partitions: int = PARTITIONS[_ERRORS],
) -> dict[str, VersionedSums | None]:
    """What has to be written, by key: the sums of held panes with another version, None for panes that are not held."""
    held = _held_panes(lines, partition, n_partitions)
    changes: dict[str, VersionedSums | None] = {key: sums for key, sums in held.items() if versions.get(key) != sums.version}
    unloaded = tuple(f"{name}|" for name in {*names} - {line.name for line in lines})
    gone = (key for key in versions.keys() - held.keys() if not key.startswith(unloaded))
    return changes | dict.fromkeys(gone)


def _held_panes(lines: Iterable[LineState], partition: int, n_partitions: int) -> dict[str, VersionedSums]:
    """Sums of the held panes of one partition, by their key in the table; panes without rows are left out."""
    return {
        PaneKey(line.name, series, start).table_key(): sums
        for line in lines
        if partition_of(line.name, n_partitions) == partition
        for series, start, sums in line.window_state.panes()
        if sums.version
    }
