"""What came out: rows of Postgres and records of Kafka, as they are."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition

from tests.chaos.expected import FIELDS, Figures, Place, Published, Sums
from tests.chaos.plan import Said

__all__ = [
    "NUMBER",
    "Copy",
    "Found",
    "TopicReader",
    "answers_of",
    "books",
    "copies_of",
    "is_read_to_end",
    "published_of",
    "view_of",
]

NUMBER = "fire"
"""Header that tells which record of the plan it is."""


@dataclass(frozen=True)
class Copy:
    """A dead letter: the refusal it tells of, and where the record that was refused stood."""

    refusal: str
    topic: str
    partition: int
    offset: int
    value: bytes | None


@dataclass
class Found:
    """What the judge is given.

    Attributes:
        fates: of every row by its place, as often as it is there.
        refusals: place of each refused element, by its id; ``values`` the bytes kept of it.
        panes: sums by series and start of the pane, over all sources.
        view: figures of each window, rebuilt from its newest message alone.
        answers: the different bytes that each request was answered with.
        unsent: records that the broker acknowledged, and that are not on their topic.
        mismatches: what ``twinstream verify`` complains of.
    """

    fates: dict[Place, list[str]] = field(default_factory=dict)
    refusals: dict[str, Place] = field(default_factory=dict)
    values: dict[Place, bytes | None] = field(default_factory=dict)
    panes: dict[tuple[str, float], Sums] = field(default_factory=dict)
    view: dict[tuple[str, float], Figures] = field(default_factory=dict)
    answers: dict[str, set[bytes]] = field(default_factory=dict)
    letters: list[Copy] = field(default_factory=list)
    unsent: list[int] = field(default_factory=list)
    mismatches: list[str] = field(default_factory=list)


class TopicReader:
    """Reads a topic from its beginning, further at every call."""

    def __init__(self, bootstrap: str, topic: str, partitions: int) -> None:
        self._consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False)
        self._where = [TopicPartition(topic, number) for number in range(partitions)]
        self.records: list[Any] = []

    async def __aenter__(self) -> Self:
        await self._consumer.start()
        self._consumer.assign(self._where)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    async def read(self) -> Sequence[Any]:
        """All records up to now."""
        ends = await self.ends()
        while any([await self._consumer.position(where) < end for where, end in ends.items()]):
            for records in (await self._consumer.getmany(timeout_ms=200, max_records=5000)).values():
                self.records.extend(records)
        return self.records

    async def ends(self) -> Mapping[TopicPartition, int]:
        """Where each partition ends now."""
        found: Mapping[TopicPartition, int] = await self._consumer.end_offsets(self._where)
        return found


def published_of(plan: Sequence[Said], records: Iterable[Any]) -> list[Published]:
    """Records beside what was planned of them.

    Raises:
        ValueError: for a record that says anything else than the plan.
    """
    found = []
    for record in records:
        number = int(dict(record.headers)[NUMBER])
        said = plan[number]
        if (said.key, said.value) != (record.key, record.value):
            raise ValueError(f"{record.topic}:{record.partition}:{record.offset} is not what was published")
        found.append(Published(number, said, record.partition, record.offset))
    return found


def answers_of(records: Iterable[Any]) -> dict[str, set[bytes]]:
    """The different answers to each request."""
    found: defaultdict[str, set[bytes]] = defaultdict(set)
    for record in records:
        found[record.key.decode()].add(record.value)
    return found


def copies_of(records: Iterable[Any]) -> list[Copy]:
    """Dead letters."""
    return [_copy(dict(record.headers), record.value) for record in records]


def _copy(headers: Mapping[str, bytes], value: bytes | None) -> Copy:
    refusal, topic, partition, offset = (
        headers[f"twin_{name}"].decode() for name in ("refusal_id", "topic", "partition", "offset")
    )
    return Copy(refusal, topic, int(partition), int(offset), value)


def view_of(records: Iterable[Any]) -> dict[tuple[str, float], Figures]:
    """Windows as their newest messages tell them."""
    newest: dict[tuple[str, float], tuple[int, Mapping[str, Any]]] = {}
    for record in records:
        said = json.loads(record.value)
        key = said["segment"], datetime.fromisoformat(said["window_start"]).timestamp()
        if key not in newest or said["version"] >= newest[key][0]:
            newest[key] = said["version"], said["metrics"]
    return {key: Figures(*(told[name] for name in _FIGURES)) for key, (_, told) in newest.items()}


_FIGURES = ("n", "mae", "rmse", "bias", "coverage_95pct")


async def books(dsn: str, pane_s: float) -> Found:
    """What Postgres holds."""
    connection = await asyncpg.connect(dsn)
    try:
        return Found(*await _rows(connection), panes=await _panes(connection, pane_s))
    finally:
        await connection.close()


async def is_read_to_end(dsn: str, ends: Mapping[TopicPartition, int]) -> bool:
    """Whether every partition's position is that of its last record."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch("SELECT topic, partition, last_offset FROM source_positions")
    finally:
        await connection.close()
    reached = {(row["topic"], row["partition"]): row["last_offset"] + 1 for row in rows}
    return all(reached.get((where.topic, where.partition), 0) >= end for where, end in ends.items())


async def _rows(connection: asyncpg.Connection) -> tuple[dict[Place, list[str]], dict[str, Place], dict[Place, bytes | None]]:
    fates: defaultdict[Place, list[str]] = defaultdict(list)
    refusals, values = {}, {}
    for row in await connection.fetch("SELECT source, source_offset, element, fate::text FROM fidelity_tracking"):
        topic, partition, _ = row["source"].rsplit(":", 2)
        fates[Place(topic, int(partition), row["source_offset"], row["element"])].append(row["fate"])
    for row in await connection.fetch("SELECT refusal_id, topic, partition, source_offset, element, value FROM refused_records"):
        place = Place(row["topic"], row["partition"], row["source_offset"], row["element"])
        fates[place].append("refused")
        refusals[str(row["refusal_id"])], values[place] = place, row["value"]
    return dict(fates), refusals, values


async def _panes(connection: asyncpg.Connection, pane_s: float) -> dict[tuple[str, float], Sums]:
    sums = ", ".join(f"sum({name})" for name in FIELDS)
    rows = await connection.fetch(f"SELECT segment, floor(pane / $1) * $1, {sums} FROM fidelity_panes GROUP BY 1, 2", pane_s)
    return {(row[0], float(row[1])): tuple(map(int, row[2:])) for row in (tuple(row) for row in rows)}
