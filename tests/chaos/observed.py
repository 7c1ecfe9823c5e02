"""Reads what the service stored in Postgres and published on Kafka."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

import asyncpg
from aiokafka import TopicPartition

from streams.kafka import PARTITIONS, open_consumer
from streams.settings import Settings
from tests.chaos.expected import FIELDS, ElementPosition, PublishedRecord, Sums, WindowFigures
from tests.chaos.plan import PlannedRecord
from tests.hostile.line_watch import OTHER_LINE
from tests.hostile.traces import Position

__all__ = [
    "INDEX_HEADER",
    "DeadLetterCopy",
    "ObservedState",
    "TopicReader",
    "answers_by_request",
    "dead_letter_copies",
    "foreign_positions",
    "is_read_to_end",
    "match_published",
    "newest_windows",
    "read_tables",
]

INDEX_HEADER = "chaos_index"
"""Header with the index of a record in the plan."""

_FIGURES = ("n", "mae", "rmse", "bias", "coverage_95pct")


@dataclass(frozen=True)
class DeadLetterCopy:
    """A record on ``dead-letters``: the id of the refusal, and the position of the record that was refused.

    Attributes:
        is_cut: whether its value was left out because it is too large for the topic.
    """

    refusal: str
    topic: str
    partition: int
    offset: int
    value: bytes | None
    is_cut: bool = False


@dataclass
class ObservedState:
    """What the invariants compare with the expected state.

    Attributes:
        fates: of each position, the fates of all rows stored for it.
        refusals: position of each refused element, by the id of the refusal.
        values: stored bytes of each refused element.
        panes: sums by series and start of the pane, over all sources.
        windows: figures of each window, from its newest message alone.
        answers: the different bytes with which each request was answered.
        copies: records on ``dead-letters``.
        missing: indexes of records that the broker acknowledged and that are not on their topic.
        mismatches: mismatches that ``twinstream verify`` reports.
        start_s: how long the workers needed to start before the stream.
        downtimes: longest time in seconds during which no process of a role was alive.
        standstill_s: longest time without a stored outcome of another line while everything that it needs ran.
        unstored: events of the other line that are not stored.
        traceless: hostile records and batches that are neither stored, answered nor refused.
    """

    fates: dict[ElementPosition, list[str]] = field(default_factory=dict)
    refusals: dict[str, ElementPosition] = field(default_factory=dict)
    values: dict[ElementPosition, bytes | None] = field(default_factory=dict)
    panes: dict[tuple[str, float], Sums] = field(default_factory=dict)
    windows: dict[tuple[str, float], WindowFigures] = field(default_factory=dict)
    answers: dict[str, set[bytes]] = field(default_factory=dict)
    copies: list[DeadLetterCopy] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    mismatches: list[str] = field(default_factory=list)
    start_s: float = 0.0
    downtimes: Mapping[str, float] = field(default_factory=dict)
    standstill_s: float = 0.0
    unstored: frozenset[str] = frozenset()
    traceless: Sequence[str] = ()

    @property
    def size(self) -> int:
        """Grows as long as something is stored or published that was not before."""
        rows = sum(map(len, self.fates.values())) + sum(figures.n for figures in self.windows.values())
        return rows + len(self.answers) + len(self.copies)


class TopicReader:
    """Reads a topic from its beginning; each call of :meth:`read` continues where the last one ended."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self._settings = settings
        self._partitions = [TopicPartition(topic, number) for number in range(PARTITIONS[topic])]
        self._stack = AsyncExitStack()
        self.records: list[Any] = []

    async def __aenter__(self) -> Self:
        self._consumer = await self._stack.enter_async_context(open_consumer(self._settings))
        self._consumer.assign(self._partitions)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def read(self) -> Sequence[Any]:
        """All records up to the present end of the topic."""
        ends = await self.ends()
        while any([await self._consumer.position(tp) < end for tp, end in ends.items()]):
            for records in (await self._consumer.getmany(timeout_ms=200, max_records=5000)).values():
                self.records.extend(records)
        return self.records

    async def ends(self) -> Mapping[TopicPartition, int]:
        """The present end offset of each partition."""
        ends: Mapping[TopicPartition, int] = await self._consumer.end_offsets(self._partitions)
        return ends


def match_published(plan: Sequence[PlannedRecord], records: Iterable[Any]) -> list[PublishedRecord]:
    """Match records with the plan by their index; those without one are the service's own.

    Raises:
        ValueError: for a record whose key or value differs from the plan.
    """
    published = []
    for record in records:
        index = _index(record)
        if index is None:
            continue
        planned = plan[index]
        if (planned.key, planned.value) != (record.key, record.value):
            raise ValueError(f"{record.topic}:{record.partition}:{record.offset} differs from the record that was published")
        published.append(PublishedRecord(index, planned, record.partition, record.offset))
    return published


def foreign_positions(plan: Sequence[PlannedRecord], records: Iterable[Any]) -> dict[Position, Any]:
    """Records of the topics that the service reads which are neither planned with a result nor the service's own."""
    foreign = {}
    for record in records:
        index = _index(record)
        if not _is_own(record) if index is None else plan[index].is_hostile:
            foreign[record.topic, record.partition, record.offset] = record
    return foreign


def answers_by_request(records: Iterable[Any]) -> dict[str, set[bytes]]:
    """The different answers to each request."""
    answers: defaultdict[str, set[bytes]] = defaultdict(set)
    for record in filter(_is_own, records):
        answers[record.key.decode()].add(record.value)
    return answers


def dead_letter_copies(records: Iterable[Any]) -> list[DeadLetterCopy]:
    """Records of ``dead-letters``, decoded from their headers."""
    copies = (_dead_letter_copy(dict(record.headers), record.value) for record in records)
    return [copy for copy in copies if copy is not None]


def _dead_letter_copy(headers: Mapping[str, bytes], value: bytes | None) -> DeadLetterCopy | None:
    """A copy; None for a hostile record that somebody else has written to the topic."""
    names = [f"twin_{name}" for name in ("refusal_id", "topic", "partition", "offset")]
    if not headers.keys() >= set(names):
        return None
    refusal, topic, partition, offset = (headers[name].decode() for name in names)
    return DeadLetterCopy(refusal, topic, int(partition), int(offset), value, "twin_omitted" in headers)


def _index(record: Any) -> int | None:
    """Index of a record in the plan, None for one that is not planned."""
    index = dict(record.headers).get(INDEX_HEADER)
    return None if index is None else int(index)


def _is_own(record: Any) -> bool:
    """Whether the service has published a record: all of its events have CloudEvents headers, and none has an index of the plan."""
    headers = dict(record.headers)
    return "ce_type" in headers and INDEX_HEADER not in headers


def newest_windows(records: Iterable[Any]) -> dict[tuple[str, float], WindowFigures]:
    """Figures of each window, from its message of the highest version."""
    newest: dict[tuple[str, float], Mapping[str, Any]] = {}
    for record in filter(_is_own, records):
        message = json.loads(record.value)
        if message["line"] == OTHER_LINE:
            continue
        key = message["segment"], datetime.fromisoformat(message["window_start"]).timestamp()
        if key not in newest or message["version"] >= newest[key]["version"]:
            newest[key] = message
    return {key: WindowFigures(*(message["metrics"][name] for name in _FIGURES)) for key, message in newest.items()}


async def read_tables(dsn: str, pane_s: float) -> ObservedState:
    """Outcomes, refused records and panes in Postgres."""
    state = ObservedState()
    connection = await asyncpg.connect(dsn)
    try:
        await _read_outcomes(connection, state)
        await _read_refused(connection, state)
        state.panes = await _panes(connection, pane_s)
    finally:
        await connection.close()
    return state


async def is_read_to_end(dsn: str, ends: Mapping[TopicPartition, int]) -> bool:
    """Whether the stored position of every partition is that of its last record."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch("SELECT topic, partition, last_offset FROM source_positions")
    finally:
        await connection.close()
    next_offsets = {(row["topic"], row["partition"]): row["last_offset"] + 1 for row in rows}
    return all(next_offsets.get((tp.topic, tp.partition), 0) >= end for tp, end in ends.items())


async def _read_outcomes(connection: asyncpg.Connection, state: ObservedState) -> None:
    for row in await connection.fetch("SELECT source, source_offset, element, fate::text FROM fidelity_tracking"):
        topic, partition, _ = row["source"].rsplit(":", 2)
        position = ElementPosition(topic, int(partition), row["source_offset"], row["element"])
        state.fates.setdefault(position, []).append(row["fate"])


async def _read_refused(connection: asyncpg.Connection, state: ObservedState) -> None:
    for row in await connection.fetch("SELECT refusal_id, topic, partition, source_offset, element, value FROM refused_records"):
        position = ElementPosition(row["topic"], row["partition"], row["source_offset"], row["element"])
        state.fates.setdefault(position, []).append("refused")
        state.refusals[str(row["refusal_id"])] = position
        state.values[position] = row["value"]


async def _panes(connection: asyncpg.Connection, pane_s: float) -> dict[tuple[str, float], Sums]:
    sums = ", ".join(f"sum({name})" for name in FIELDS)
    statement = f"SELECT segment, floor(pane / $1) * $1, {sums} FROM fidelity_panes WHERE line <> $2 GROUP BY 1, 2"
    rows = await connection.fetch(statement, pane_s, OTHER_LINE)
    return {(row[0], float(row[1])): tuple(map(int, row[2:])) for row in map(tuple, rows)}
