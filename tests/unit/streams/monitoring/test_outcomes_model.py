"""State machine of outcomes from ingestion to windows: whatever is repeated, lost, reordered or evicted, the windows are correct.

Batches change rows, rows travel as messages, and a window state turns them into windows and detector states. The model to compare
with is a dictionary of events, whose sums are added up from scratch.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.fidelity.e_detector import DetectorState, accumulate
from engine.fidelity.error_sums import add_sums
from schemas import PaneRow
from schemas.events import SUM_FIELDS
from sql.line_lock import LineGrid
from sql.outcome_store import Head
from streams.ingestion.revisions import Revision, changes_between, resolve_revisions
from streams.monitoring.window_state import SeriesKey, WindowKey, WindowState

MODEL = UUID(int=7)
LINE = LineGrid("hcp:kisqali:prescribing_change", 1, None, 60.0, 2)
PANE_S, WINDOW_S, CELL_S, RESTATEMENT_S = LINE.pane_s, 180.0, LINE.pane_s / LINE.splits, 300.0
ALL = SeriesKey(MODEL, "all")
INITIAL = DetectorState(last_count=20)
SOURCES = ("outcomes:0:0", "outcomes:1:0")
Sums = tuple[int, ...]


class Revised(NamedTuple):
    """A revision of an outcome: its event, when it was observed, and its value, None for a retraction."""

    event: int
    revision: int
    content: int
    at: float
    value: int | None

    @property
    def rank(self) -> tuple[int, bytes]:
        return self.revision, bytes([self.content])

    @property
    def series(self) -> tuple[str, ...]:
        return () if self.value is None else ("all", f"region={self.content % 2}")

    @property
    def sums(self) -> Sums:
        value = self.value or 0
        return (1, *[value] * (len(SUM_FIELDS) - 12), *[value * 100_000] * 5, *[value] * 6)


revisions = st.builds(
    Revised,
    event=st.integers(1, 4),
    revision=st.integers(0, 5),
    content=st.integers(0, 3),
    at=st.sampled_from([0.0, 40.0, 59.0, 130.0, 290.0, 420.0, 1190.0]),
    value=st.none() | st.integers(-50, 50),
)


@dataclass
class Expected:
    """The model: the revision of each event that counts, and the watermark of each source."""

    revisions: dict[int, Revised]
    watermarks: dict[str, float]

    def apply(self, source: str, revised: Revised) -> None:
        """Apply the revision if it is the highest of its event, unless it, or the one it replaces, is too old."""
        lowest = (self.watermarks.get(source, -1e9) - RESTATEMENT_S) // PANE_S * PANE_S
        self.watermarks[source] = max(self.watermarks.get(source, -1e9), revised.at)
        previous = self.revisions.get(revised.event)
        times = [revised.at] if previous is None or previous.value is None else [revised.at, previous.at]
        if min(times) // PANE_S * PANE_S >= lowest and (previous is None or revised.rank > previous.rank):
            self.revisions[revised.event] = revised

    def cells(self, segment: str, width: float) -> dict[float, Sums]:
        """Sums of the cells of a series."""
        cells: defaultdict[float, list[Sums]] = defaultdict(list)
        for revised in self.revisions.values():
            if segment in revised.series:
                cells[revised.at // width * width].append(revised.sums)
        return {cell: add_sums(sums) for cell, sums in cells.items()}


class OutcomePath(RuleBasedStateMachine):
    """Two sources, the rows they change, messages in transit, and a window state that may evict, miss rows and restart."""

    def __init__(self) -> None:
        super().__init__()
        self.expected = Expected({}, {})
        self.heads: dict[UUID, Head] = {}
        self.watermarks: dict[str, float] = {}
        self.rows: dict[tuple[str, str, float, float], PaneRow] = {}
        self.n_ingested: Counter[str] = Counter()
        self.fates: Counter[str] = Counter()
        self.messages: list[tuple[str, PaneRow]] = []
        self.state = WindowState(PANE_S, WINDOW_S)

    # -- events

    @rule(source=st.sampled_from(SOURCES), batch=st.lists(revisions, min_size=2, max_size=8))
    def ingest_a_batch(self, source: str, batch: list[Revised]) -> None:
        offset, submitted = self.n_ingested[source] + len(batch) - 1, []
        for revised in batch:
            submitted.append(Revision(head_of(revised), revised.at, self.watermarks.get(source)))
            self.watermarks[source] = max(self.watermarks.get(source, revised.at), revised.at)
            self.expected.apply(source, revised)
        resolved = resolve_revisions(submitted, self.heads, {LINE.line: LINE}, RESTATEMENT_S)
        self.n_ingested[source] += len(batch)
        self.fates.update(resolved.fates)
        for change in changes_between(self.heads, resolved.heads, {LINE.line: LINE}):
            key = source, change.segment, change.pane, change.width_s
            self.rows[key] = apply_change(self.rows.get(key), change, offset)
            self.messages.append((source, self.rows[key]))
        self.heads = resolved.heads

    @rule(source=st.sampled_from(SOURCES), offset=st.integers(0, 20))
    def ingest_a_batch_again(self, source: str, offset: int) -> None:
        rows = [row for (owner, *_), row in self.rows.items() if owner == source and row.last_offset >= offset]
        self.messages += [(source, row) for row in rows]

    @precondition(lambda self: self.messages)
    @rule(positions=st.lists(st.integers(0, 30), min_size=4, max_size=20), again=st.booleans())
    def deliver_messages_in_any_order(self, positions: list[int], again: bool) -> None:
        for position in positions[: len(self.messages)]:
            number = position % len(self.messages)
            source, row = self.messages[number] if again else self.messages.pop(number)
            self._apply(source, row)

    @precondition(lambda self: self.messages)
    @rule(position=st.integers(0, 1000))
    def lose_a_message(self, position: int) -> None:
        del self.messages[position % len(self.messages)]

    @rule(pane=st.integers(0, 20), n=st.integers(0, 5))
    def evict(self, pane: int, n: int) -> None:
        self.state.evict(pane * PANE_S, [], n, lambda _: INITIAL)

    @rule()
    def restart(self) -> None:
        self.state = WindowState(PANE_S, WINDOW_S)
        for (source, *_), row in self.rows.items():
            self.state.hold_row(source, row)

    @rule()
    def sweep(self) -> None:
        """Apply the rows that no message delivered: everything has to be correct then."""
        for (source, *_), row in self.rows.items():
            if not self.state.is_held(source, row):
                self._apply(source, row)
        for series in list(self.state.stale_detectors):
            self._rebuild(series)
        for window in self.state.windows():
            if self._is_complete(window):
                assert self.state.window_sums(window) == (self._version(window), self._sums(window))
        cells = self.expected.cells("all", CELL_S)
        assert self.state.detector_state(ALL, INITIAL) == accumulate([cells[cell] for cell in sorted(cells)], INITIAL)

    # -- invariants

    @invariant()
    def every_revision_has_one_fate(self) -> None:
        assert self.fates.total() == self.n_ingested.total()

    @invariant()
    def a_window_of_the_newest_version_has_the_sums_of_its_events(self) -> None:
        for window in self.state.windows():
            version, sums = self.state.window_sums(window)
            assert version <= self._version(window)
            if version == self._version(window):
                assert sums == self._sums(window)

    # -- helpers

    def _apply(self, source: str, row: PaneRow) -> None:
        """Load the missing panes around a row, then apply it, as the agent does."""
        missing = self.state.missing_panes(row)
        self.state.mark_held(SeriesKey(row.model_id, row.segment), missing)
        for (owner, segment, pane, _), stored in self.rows.items():
            if segment == row.segment and pane // PANE_S * PANE_S in missing:
                self.state.hold_row(owner, stored)
        before = {window: self.state.window_version(window) for window in self.state.windows()}
        self.state.apply_row(source, row)
        assert all(self.state.window_version(window) >= version for window, version in before.items())  # versions never decrease

    def _rebuild(self, series: SeriesKey) -> None:
        below: defaultdict[tuple[float, float], list[Sums]] = defaultdict(list)
        for (_, segment, pane, width), row in self.rows.items():
            if segment == series.segment and pane < self.state.held_from:
                below[pane, width].append(row.sums)
        self.state.set_detector_start(
            series, accumulate([add_sums(below[cell]) for cell in sorted(below)], INITIAL), self.state.held_from
        )

    def _is_complete(self, window: WindowKey) -> bool:
        return window.start >= self.state.held_from

    def _version(self, window: WindowKey) -> int:
        return sum(row.version for key, row in self.rows.items() if lies_in(key, window))

    def _sums(self, window: WindowKey) -> Sums:
        panes = self.expected.cells(window.series.segment, PANE_S)
        return add_sums([(0,) * len(SUM_FIELDS), *(sums for at, sums in panes.items() if 0 <= at - window.start < WINDOW_S)])


def lies_in(key: tuple[str, str, float, float], window: WindowKey) -> bool:
    _, segment, pane, _ = key
    return segment == window.series.segment and window.start <= pane < window.start + WINDOW_S


def head_of(revised: Revised) -> Head:
    counts = revised.value is not None
    return Head(
        event_id=UUID(int=revised.event),
        revision=revised.revision,
        digest=bytes([revised.content]),
        line=LINE.line,
        model_id=MODEL,
        segments=revised.series,
        pane=revised.at // CELL_S * CELL_S if counts else None,
        width_s=CELL_S if counts else None,
        contribution=revised.sums if counts else None,
    )


def apply_change(row: PaneRow | None, change: Any, offset: int) -> PaneRow:
    """The row after a change, as Postgres counts: its version rises with each."""
    sums = [change.sums] if row is None else [row.sums, change.sums]
    return PaneRow(
        model_id=change.model_id,
        segment=change.segment,
        pane=change.pane,
        width_s=change.width_s,
        version=1 if row is None else row.version + 1,
        last_offset=offset,
        sums=add_sums(sums),
    )


TestOutcomePath = OutcomePath.TestCase
TestOutcomePath.settings = settings(max_examples=80, stateful_step_count=40)
