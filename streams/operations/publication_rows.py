"""The rows of a file as events: their ids, which of them repeat each other, and which revision of an event each one is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import NAMESPACE_URL, UUID, uuid5

import pandas as pd

from schemas import OutcomeEvent
from schemas.arrays import Integers
from schemas.events import canonical_digest
from schemas.levels import level_key
from sql.publication_store import KnownRevision, StatedEvent
from streams.client.outcome_ids import OutcomeIds, content_of
from streams.client.outcome_table import read_rows

__all__ = ["FileEvent", "FileEvents", "OutcomeFile", "ResolvedEvent", "resolve_revision"]

_NAMESPACE = uuid5(NAMESPACE_URL, "twinstream:publications")
_DIGEST_BYTES = 16
_TIME, _REVISION, _ID = "observed_at", "revision", "event_id"


@dataclass(frozen=True)
class OutcomeFile:
    """Rows of a file, oldest first, so that none is late only because a later one came before it.

    Attributes:
        name: of the file.
        frame: one row per outcome, with the index 0, 1, ...
        rows: number of each row in the file.
        constants: fields of all rows for which the file has no column.
        fill_time: the time of rows without one.
        own_features: columns that are features of the lines' models beyond those of their twin types.
    """

    name: str
    frame: pd.DataFrame
    rows: Integers
    constants: Mapping[str, Any]
    fill_time: datetime
    own_features: frozenset[str] = frozenset()

    @classmethod
    def oldest_first(
        cls, name: str, frame: pd.DataFrame, rows: Integers, constants: Mapping[str, Any], fill_time: datetime
    ) -> OutcomeFile:
        """The file with its rows in the order of their times."""
        if _TIME in frame:
            order = frame[_TIME].reset_index(drop=True).sort_values(kind="stable", na_position="last").index.to_numpy()
            frame, rows = frame.iloc[order].reset_index(drop=True), rows[order]
        return cls(name, frame, rows, {name: value for name, value in constants.items() if name not in frame}, fill_time)

    def remarks(self) -> list[str]:
        """What is filled in, and what follows from it."""
        if _TIME in self.frame:
            return []
        filled = (
            f"no column says when the outcomes were observed: {_TIME} of all {len(self.frame):,} rows is the time of their first"
            f" publication, now {self.fill_time:%Y-%m-%d %H:%M:%S} UTC"
        )
        if _ID in self.frame:
            return [filled]
        later = "published with their true times later, they count again as other outcomes"
        return [f"{filled}; {later}: if a column has the time, name it {_TIME}, or map it (import FILE --map COLUMN={_TIME})"]

    def chunks(self, size: int) -> Iterator[tuple[int, Iterator[FileEvent | str]]]:
        """Parts of the file: index of the first row, and each row as an event, or why it is none."""
        for first in range(0, len(self.frame), size):
            yield first, self._events(first, size)

    def _events(self, first: int, size: int) -> Iterator[FileEvent | str]:
        part = self.frame.iloc[first : first + size]
        has_time = _TIME in part
        has_revision = part[_REVISION].notna().tolist() if _REVISION in part else [False] * len(part)
        constants = {**self.constants, **({} if has_time else {_TIME: self.fill_time})}
        for event, has_own in zip(read_rows(part, constants, self.own_features), has_revision, strict=True):
            yield event if isinstance(event, str) else FileEvent(event, has_time, has_own)


class FileEvent(NamedTuple):
    """An event of a file, and whether its time and its revision are of the file too."""

    event: OutcomeEvent
    has_time: bool
    has_revision: bool


class FileEvents:
    """Gives the events of a file their ids, and finds those that repeat or contradict an earlier one.

    Attributes:
        ids: octets of the event id of each row, null for a row that is no event of its own.
        n_repeated: number of rows that repeat another one.
    """

    def __init__(self) -> None:
        self.ids: list[bytes | None] = []
        self.n_repeated = 0
        self._outcome_ids = OutcomeIds()
        self._first: dict[bytes, bytes] = {}  # event id and revision to content and row, as octets: files may have millions of rows

    def skip(self) -> None:
        """Leave out a row that is no outcome."""
        self.ids.append(None)

    def add(self, item: FileEvent, row: int) -> tuple[FileEvent | None, int | None]:
        """Add a row of the file.

        Returns:
            The event with its id, or null for a repeated row, and the row that it contradicts, if any.
        """
        event = item.event.model_copy(update={_ID: self._outcome_ids.id_of(item.event, has_time=item.has_time)})
        content = content_of(event, has_time=item.has_time)
        key = event.event_id.bytes + (event.revision if item.has_revision else -1).to_bytes(8, "big", signed=True)
        value = content + row.to_bytes(8, "big")
        first = self._first.setdefault(key, value)
        if first is value:
            self.ids.append(event.event_id.bytes)
            return item._replace(event=event), None
        self.ids.append(None)
        if first[:_DIGEST_BYTES] != content:
            return None, int.from_bytes(first[_DIGEST_BYTES:], "big")
        self.n_repeated += 1
        return None, None

    def publication_id(self) -> UUID:
        """The id that follows from the events of the file, in any order of its rows."""
        digest = hashlib.sha256()
        for key, value in sorted(self._first.items()):
            digest.update(key + value[:_DIGEST_BYTES])
        return uuid5(_NAMESPACE, digest.hexdigest())


class ResolvedEvent(NamedTuple):
    """An event with its revision and its time, how it relates to what is known, and whether it is stored already."""

    event: OutcomeEvent
    stated: StatedEvent
    is_stored: bool


def resolve_revision(item: FileEvent, earlier: Sequence[KnownRevision]) -> ResolvedEvent:
    """Which revision of its event an outcome of a file is, given all known revisions of that event.

    An outcome with the content of a known revision is that revision, in any spelling of its levels. Any other content corrects the
    event: it is the revision after the highest known one, unless the file has revisions of its own.
    """
    event, newest = item.event, max(earlier, key=lambda revision: revision.revision, default=None)
    for revision in earlier:
        if item.has_revision and revision.revision != event.revision:
            continue
        written = _as_revision(item, revision.revision, revision.observed_at)
        candidate = next((same for same in (written, _as_spelled(written, revision)) if _digest(same) == revision.digest), None)
        if candidate is not None:
            is_stored = any(same.is_stored and same[1:3] == revision[1:3] for same in earlier)
            return _resolved(item, candidate, "known", is_stored=is_stored)
    number = event.revision if item.has_revision or newest is None else newest.revision + 1
    candidate = _as_revision(item, number, newest.observed_at if newest else None)
    return _resolved(item, candidate, "correction" if newest else "new", is_stored=False)


def _as_revision(item: FileEvent, number: int, filled_at: datetime | None) -> OutcomeEvent:
    time = {} if item.has_time or filled_at is None else {_TIME: filled_at}
    return item.event.model_copy(update={_REVISION: number, **time})


def _as_spelled(event: OutcomeEvent, stored: KnownRevision) -> OutcomeEvent:
    """The event with each level in the spelling in which it is stored, if it is stored so."""
    segment = dict(name.partition("=")[::2] for name in stored.segments)
    spelled = {
        name: _spelled(cells, levels)
        for name, cells, levels in (("features", event.features, stored.features), ("segment", event.segment, segment))
        if cells and levels
    }
    return event.model_copy(update=spelled) if spelled else event


def _spelled(cells: Mapping[str, Any], levels: Mapping[str, Any]) -> dict[str, Any]:
    texts = {name: level for name, level in levels.items() if isinstance(level, str)}
    return {
        name: texts[name] if isinstance(cell, str) and level_key(cell) == level_key(texts.get(name, "")) and name in texts else cell
        for name, cell in cells.items()
    }


def _resolved(item: FileEvent, event: OutcomeEvent, origin: str, *, is_stored: bool) -> ResolvedEvent:
    filled_at = None if item.has_time else event.observed_at
    stated = StatedEvent(event.event_id, event.revision, _digest(event), event.line, filled_at, origin)
    return ResolvedEvent(event, stated, is_stored)


def _digest(event: OutcomeEvent) -> bytes:
    return canonical_digest(event)[:_DIGEST_BYTES]
