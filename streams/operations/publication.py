"""Publishes the outcomes of a file: all of it is checked before its first row is sent, and publishing it again changes nothing.

Each event is stated in Postgres before it is sent, with its revision and its time. So an attempt that was interrupted is completed
by the next one, a row that is stored already is not sent again, and every row can be asked what became of it (``receipts``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import NamedTuple
from uuid import UUID

import pandas as pd

from engine.fidelity import lowest_pane
from schemas import OutcomeEvent
from sql import publication_store as store
from sql.database import Pool, transaction
from sql.training_data_store import ENTITY, OBSERVED, add_history
from streams.client.twin_client import TwinClient
from streams.kafka import event_value, topic_of
from streams.operations.outcome_check import OutcomeCheck
from streams.operations.publication_rows import FileEvent, FileEvents, OutcomeFile, ResolvedEvent, resolve_revision
from streams.settings import Settings

__all__ = ["BadRow", "LateRows", "PublicationRefused", "Published", "Publisher", "describe_rows", "publish_file"]

_OUTCOMES = topic_of(OutcomeEvent)
_CHUNK = 2000
_SHOWN = 5
_VALUE = ", not "  # after which a reason names the refused value


class BadRow(NamedTuple):
    """A row that cannot be published, by its number in the file, and why."""

    row: int
    reason: str


class LateRows(NamedTuple):
    """Rows that are too old to be counted: their number, and the times of the first and the last."""

    n: int
    first: datetime
    last: datetime

    def __str__(self) -> str:
        span = f"{self.first.isoformat()} to {self.last.isoformat()}"
        return f"{self.n:,} rows ({span}) are older than TWIN_RESTATEMENT_S allows and would be too late to be counted"


class PublicationRefused(ValueError):
    """Nothing of the file was sent; the message says why, and which option would publish it."""


class Publisher(NamedTuple):
    """Who publishes: the name that is stored with a publication, and the program, for the header ``ce_source``."""

    name: str
    program: str


class Published(NamedTuple):
    """A publication, the number of events that were sent now, and the rows that were left out."""

    publication_id: UUID
    sent: int
    bad: Sequence[BadRow]
    late: LateRows | None
    history: int


@dataclass
class _Check:
    """What the check of a file has found.

    Attributes:
        late: indices of rows that are too late by the highest watermark, which is that of ``late_partition``, or by the floor.
        left_out: indices of rows that are bad, too late, or repeat another one.
    """

    events: FileEvents = field(default_factory=FileEvents)
    bad: list[BadRow] = field(default_factory=list)
    late: set[int] = field(default_factory=set)
    late_times: list[datetime] = field(default_factory=list)
    late_partition: int | None = None
    left_out: set[int] = field(default_factory=set)

    def late_rows(self) -> LateRows | None:
        return LateRows(len(self.late), min(self.late_times), max(self.late_times)) if self.late else None


async def publish_file(
    settings: Settings,
    pool: Pool,
    file: OutcomeFile,
    publisher: Publisher,
    *,
    partly: bool = False,
    backfill: bool = False,
    report_progress: Callable[[int], object] = lambda _rows: None,
) -> Published:
    """Publish the outcomes of a file, once, and wait until Kafka has them all.

    Args:
        settings: where Kafka and Postgres are.
        pool: connections to Postgres.
        file: the rows.
        publisher: who publishes them.
        partly: publish the other rows when some are bad or too late.
        backfill: publish rows that are too late to be counted as well, as history.
        report_progress: called with the number of rows that are done, twice for each: checked and sent.

    Raises:
        PublicationRefused: when a row is bad or too late, and the options do not allow it.
    """
    check = await _check(settings, pool, file, report_progress)
    late = check.late_rows()
    _refuse(file, check, late, partly=partly, backfill=backfill)
    if not backfill:
        check.left_out |= check.late
    publication_id, n_rows = check.events.publication_id(), len(file.frame)
    begun_at = await store.begin_publication(pool, publication_id, file.name, publisher.name, n_rows, check.events.n_repeated)
    sender = _Sender(pool, publication_id, file, check, begun_at)
    async with TwinClient(settings, name=publisher.program) as client:
        for first, items in file.chunks(_CHUNK):
            await sender.send(client, first, list(items), backfill=backfill)
            report_progress(n_rows + min(first + _CHUNK, n_rows))
    await store.finish_publication(pool, publication_id)
    return Published(publication_id, sender.sent, check.bad, late, sender.history)


def _refuse(file: OutcomeFile, check: _Check, late: LateRows | None, *, partly: bool, backfill: bool) -> None:
    problems = []
    if check.bad and not partly:
        problems.append(f"{len(check.bad):,} of {len(file.frame):,} rows are bad: {describe_rows(check.bad)}")
    if late is not None and not (partly or backfill):
        problems.append(f"{late}: --backfill stores them as history")
    if problems:
        options = "correct them, or leave them out with --partly"
        raise PublicationRefused(f"{file.name}: nothing is sent, as {'; '.join(problems)}. {options.capitalize()}")


def describe_rows(bad: Sequence[BadRow]) -> str:
    """The first rows of each different reason, in words; reasons that differ in the refused value only are one."""
    rows: defaultdict[str, list[BadRow]] = defaultdict(list)
    for item in sorted(bad):
        rows[item.reason.partition(_VALUE)[0]].append(item)
    shown = [
        f"row {', '.join(str(item.row) for item in alike[:_SHOWN])}{' ...' if len(alike) > _SHOWN else ''}: {alike[0].reason}"
        for alike in list(rows.values())[:_SHOWN]
    ]
    return "; ".join([*shown, *(["..."] if len(rows) > _SHOWN else [])])


# -- the check


async def _check(settings: Settings, pool: Pool, file: OutcomeFile, report: Callable[[int], object]) -> _Check:
    check, arrival = _Check(), OutcomeCheck(settings, pool)
    highest = await store.highest_watermark(pool, _OUTCOMES)
    check.late_partition = highest[0] if highest else None
    limits = partial(_late_limits, settings, pool, highest[1] if highest else None)
    for first, items in file.chunks(_CHUNK):
        accepted = _add_rows(check, file, first, list(items))
        checked = await arrival.check([(str(item.event.event_id).encode(), event_value(item.event)) for _, item in accepted])
        for (index, _), result in zip(accepted, checked, strict=True):
            if result.reason is not None:
                _leave_out(check, file, index, result.reason)
        good = [(index, item) for index, item in accepted if index not in check.left_out]
        await _compare_with_known(pool, check, file, good, await limits({item.event.line for _, item in good}))
        report(min(first + _CHUNK, len(file.frame)))
    return check


def _add_rows(check: _Check, file: OutcomeFile, first: int, items: Sequence[FileEvent | str]) -> list[tuple[int, FileEvent]]:
    """Give the rows of a chunk their ids; returns those that are events of their own, with their index in the file."""
    accepted = []
    for index, item in enumerate(items, first):
        row = int(file.rows[index])
        if isinstance(item, str):
            check.events.skip()
            _leave_out(check, file, index, item)
            continue
        event, contradicted = check.events.add(item, row)
        if event is not None:
            accepted.append((index, event))
        else:
            check.left_out.add(index)
        if contradicted is not None:
            same = "the event_id" if "event_id" in file.frame else "entity and time"
            reason = f"it has {same} of row {contradicted} and other content: give each an event_id, or a revision"
            _leave_out(check, file, index, reason)
    return accepted


def _leave_out(check: _Check, file: OutcomeFile, index: int, reason: str) -> None:
    check.left_out.add(index)
    check.bad.append(BadRow(int(file.rows[index]), reason))


async def _late_limits(settings: Settings, pool: Pool, watermark: float | None, lines: set[str]) -> dict[str, float]:
    """The lowest pane of each line that can still change by a source with this watermark, in seconds since 1970."""
    limits = dict.fromkeys(lines, float("-inf"))
    for line, pane_s, floor in await store.line_floors(pool, lines):
        reached = [lowest_pane(watermark, pane_s, settings.restatement_s)] if watermark is not None else []
        limits[line] = max([*reached, *([floor] if floor is not None else [])], default=float("-inf"))
    return limits


async def _compare_with_known(
    pool: Pool, check: _Check, file: OutcomeFile, items: Sequence[tuple[int, FileEvent]], limits: dict[str, float]
) -> None:
    """Find rows that are too late and not stored yet, and those whose event belongs to another line."""
    has_ids = "event_id" in file.frame
    late = {index for index, item in items if item.event.observed_at.timestamp() < limits[item.event.line]}
    doubtful = [(index, item) for index, item in items if has_ids or index in late]
    earlier = await store.known_revisions(pool, [item.event.event_id for _, item in doubtful])
    for index, item in doubtful:
        revisions = earlier.get(item.event.event_id, [])
        foreign = next((revision.line for revision in revisions if revision.line != item.event.line), None)
        if foreign is not None:
            _leave_out(check, file, index, f"event_id {item.event.event_id} is an outcome of {foreign}: use another event_id")
        elif index in late and not resolve_revision(item, revisions).is_stored:
            check.late.add(index)
            check.late_times.append(item.event.observed_at)


# -- sending


class _Sender:
    """States the events of a publication chunk by chunk, and sends those that are not stored.

    Attributes:
        sent: number of events that were sent.
        history: number of rows that were added to the training history.
    """

    def __init__(self, pool: Pool, publication_id: UUID, file: OutcomeFile, check: _Check, begun_at: datetime) -> None:
        self._pool, self._publication_id, self._file, self._check, self._begun_at = pool, publication_id, file, check, begun_at
        self.sent = 0
        self.history = 0

    async def send(self, client: TwinClient, first: int, items: Sequence[FileEvent | str], *, backfill: bool) -> None:
        """Send a chunk of the file."""
        events = {
            index: self._with_id(item, index)
            for index, item in enumerate(items, first)
            if index not in self._check.left_out and not isinstance(item, str)
        }
        resolved = dict(zip(events, await self._state(list(events.values())), strict=True))
        unsent = {index: item.event for index, item in resolved.items() if not item.is_stored}
        late = [event for index, event in unsent.items() if index in self._check.late]
        self.sent += await client.publish_outcomes(event for index, event in unsent.items() if index not in self._check.late)
        # By another partition, whose watermark is lower, they might be counted and reach the judge.
        self.sent += await client.publish_outcomes(late, partition=self._check.late_partition)
        if backfill:
            self.history += await self._add_history([events[index].event for index in events if index in self._check.late])

    def _with_id(self, item: FileEvent, index: int) -> FileEvent:
        time = {} if item.has_time else {"observed_at": self._begun_at}
        event_id = UUID(bytes=self._check.events.ids[index])
        return item._replace(event=item.event.model_copy(update={"event_id": event_id, **time}))

    async def _state(self, items: Sequence[FileEvent]) -> list[ResolvedEvent]:
        """Store which revision each event is, before anything is sent."""
        async with transaction(self._pool) as connection:
            await store.lock_planning(connection)
            earlier = await store.known_revisions(connection, [item.event.event_id for item in items])
            resolved = [resolve_revision(item, earlier.get(item.event.event_id, [])) for item in items]
            await store.add_events(connection, self._publication_id, [item.stated for item in resolved])
        return resolved

    async def _add_history(self, events: Sequence[OutcomeEvent]) -> int:
        """Store outcomes that are too late to be counted as training rows, where they have features."""
        by_line: defaultdict[str, list[OutcomeEvent]] = defaultdict(list)
        for event in events:
            if event.features is not None and event.actual_value is not None and event.treated is not True:
                by_line[event.line].append(event)
        added = 0
        for line, outcomes in by_line.items():
            frame = pd.DataFrame([_training_row(event) for event in outcomes])
            added += await add_history(self._pool, line, frame, f"backfill of {self._file.name}")
        return added


def _training_row(event: OutcomeEvent) -> dict[str, object]:
    named = {ENTITY: event.entity_id, OBSERVED: event.observed_at, event.metric_type: event.actual_value}
    return {**(event.features or {}), **named}
