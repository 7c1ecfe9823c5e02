"""The way of an outcome as a state machine: whatever is said, repeated, lost, reordered and forgotten, windows hold the truth.

Slices change rows, rows travel as messages, and a view folds them into windows and evidence. The model beside it is a dictionary of
events, from which everything is added up anew.
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
FIRST = DetectorState(last_count=20)
SOURCES = ("outcomes:0:0", "outcomes:1:0")
Sums = tuple[int, ...]


class Word(NamedTuple):
    """What an outcome says: of which event, when it was observed, and a value, null for a retraction."""

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
        return (1, *[value] * (len(SUM_FIELDS) - 6), *[value * 100_000] * 5)


words = st.builds(
    Word,
    event=st.integers(1, 4),
    revision=st.integers(0, 5),
    content=st.integers(0, 3),
    at=st.sampled_from([0.0, 40.0, 59.0, 130.0, 290.0, 420.0, 1190.0]),
    value=st.none() | st.integers(-50, 50),
)


@dataclass
class Truth:
    """The model: the word that counts of each event, and how far each source was."""

    words: dict[int, Word]
    reached: dict[str, float]

    def hear(self, source: str, word: Word) -> None:
        """Keep the highest word of an event, unless it, or the word that it would replace, lies too far back."""
        lowest = (self.reached.get(source, -1e9) - RESTATEMENT_S) // PANE_S * PANE_S
        self.reached[source] = max(self.reached.get(source, -1e9), word.at)
        before = self.words.get(word.event)
        kept = [word.at] if before is None or before.value is None else [word.at, before.at]
        if min(kept) // PANE_S * PANE_S >= lowest and (before is None or word.rank > before.rank):
            self.words[word.event] = word

    def cells(self, segment: str, width: float) -> dict[float, Sums]:
        """What the cells of a series add up to."""
        found: defaultdict[float, list[Sums]] = defaultdict(list)
        for word in self.words.values():
            if segment in word.series:
                found[word.at // width * width].append(word.sums)
        return {cell: add_sums(sums) for cell, sums in found.items()}


class OutcomesOnTheirWay(RuleBasedStateMachine):
    """Two sources, the rows that they change, messages on their way, and a view that may forget, miss and begin anew."""

    def __init__(self) -> None:
        super().__init__()
        self.truth = Truth({}, {})
        self.heads: dict[UUID, Head] = {}
        self.reached: dict[str, float] = {}
        self.rows: dict[tuple[str, str, float, float], PaneRow] = {}
        self.said: Counter[str] = Counter()
        self.fates: Counter[str] = Counter()
        self.messages: list[tuple[str, PaneRow]] = []
        self.view = WindowState(PANE_S, WINDOW_S)

    # -- what happens

    @rule(source=st.sampled_from(SOURCES), said=st.lists(words, min_size=2, max_size=8))
    def take_a_slice_in(self, source: str, said: list[Word]) -> None:
        offset, claims = self.said[source] + len(said) - 1, []
        for word in said:
            claims.append(Revision(head_of(word), word.at, self.reached.get(source)))
            self.reached[source] = max(self.reached.get(source, word.at), word.at)
            self.truth.hear(source, word)
        judged = resolve_revisions(claims, self.heads, {LINE.line: LINE}, RESTATEMENT_S)
        self.said[source] += len(said)
        self.fates.update(judged.fates)
        for change in changes_between(self.heads, judged.heads, {LINE.line: LINE}):
            key = source, change.segment, change.pane, change.width_s
            self.rows[key] = changed(self.rows.get(key), change, offset)
            self.messages.append((source, self.rows[key]))
        self.heads = judged.heads

    @rule(source=st.sampled_from(SOURCES), offset=st.integers(0, 20))
    def find_a_slice_already_in(self, source: str, offset: int) -> None:
        told = [row for (owner, *_), row in self.rows.items() if owner == source and row.last_offset >= offset]
        self.messages += [(source, row) for row in told]

    @precondition(lambda self: self.messages)
    @rule(places=st.lists(st.integers(0, 30), min_size=4, max_size=20), again=st.booleans())
    def deliver_messages_in_any_order(self, places: list[int], again: bool) -> None:
        for place in places[: len(self.messages)]:
            number = place % len(self.messages)
            source, row = self.messages[number] if again else self.messages.pop(number)
            self._apply(source, row)

    @precondition(lambda self: self.messages)
    @rule(place=st.integers(0, 1000))
    def lose_a_message(self, place: int) -> None:
        del self.messages[place % len(self.messages)]

    @rule(pane=st.integers(0, 20), n=st.integers(0, 5))
    def forget(self, pane: int, n: int) -> None:
        self.view.forget(pane * PANE_S, [], n, lambda _: FIRST)

    @rule()
    def begin_anew(self) -> None:
        self.view = WindowState(PANE_S, WINDOW_S)
        for (source, *_), row in self.rows.items():
            self.view.hold(source, row)

    @rule()
    def sweep(self) -> None:
        """Find what no message told of: everything has to be right then."""
        for (source, *_), row in self.rows.items():
            if not self.view.holds(source, row):
                self._apply(source, row)
        for series in list(self.view.stale):
            self._refold(series)
        for window in self.view.windows():
            if self._is_whole(window):
                assert self.view.window(window) == (self._version(window), self._sums(window))
        cells = self.truth.cells("all", CELL_S)
        assert self.view.evidence(ALL, FIRST) == accumulate([cells[cell] for cell in sorted(cells)], FIRST)

    # -- what always holds

    @invariant()
    def every_word_has_one_fate(self) -> None:
        assert self.fates.total() == self.said.total()

    @invariant()
    def a_window_of_the_newest_version_says_what_its_events_add_up_to(self) -> None:
        for window in self.view.windows():
            version, sums = self.view.window(window)
            assert version <= self._version(window)
            if version == self._version(window):
                assert sums == self._sums(window)

    # -- how

    def _apply(self, source: str, row: PaneRow) -> None:
        """As the agent does: what is not held around a row is read before."""
        missing = self.view.unread(row)
        self.view.admit(SeriesKey(row.model_id, row.segment), missing)
        for (owner, segment, pane, _), stored in self.rows.items():
            if segment == row.segment and pane // PANE_S * PANE_S in missing:
                self.view.hold(owner, stored)
        before = {window: self.view.version(window) for window in self.view.windows()}
        self.view.apply(source, row)
        assert all(self.view.version(window) >= version for window, version in before.items())  # never back

    def _refold(self, series: SeriesKey) -> None:
        below: defaultdict[tuple[float, float], list[Sums]] = defaultdict(list)
        for (_, segment, pane, width), row in self.rows.items():
            if segment == series.segment and pane < self.view.held_from:
                below[pane, width].append(row.sums)
        self.view.begin(series, accumulate([add_sums(below[cell]) for cell in sorted(below)], FIRST), self.view.held_from)

    def _is_whole(self, window: WindowKey) -> bool:
        return window.start >= self.view.held_from

    def _version(self, window: WindowKey) -> int:
        return sum(row.version for key, row in self.rows.items() if lies_in(key, window))

    def _sums(self, window: WindowKey) -> Sums:
        panes = self.truth.cells(window.series.segment, PANE_S)
        return add_sums([(0,) * len(SUM_FIELDS), *(sums for at, sums in panes.items() if 0 <= at - window.start < WINDOW_S)])


def lies_in(key: tuple[str, str, float, float], window: WindowKey) -> bool:
    _, segment, pane, _ = key
    return segment == window.series.segment and window.start <= pane < window.start + WINDOW_S


def head_of(word: Word) -> Head:
    counts = word.value is not None
    return Head(
        event_id=UUID(int=word.event),
        revision=word.revision,
        digest=bytes([word.content]),
        line=LINE.line,
        model_id=MODEL,
        segments=word.series,
        pane=word.at // CELL_S * CELL_S if counts else None,
        width_s=CELL_S if counts else None,
        contribution=word.sums if counts else None,
    )


def changed(row: PaneRow | None, change: Any, offset: int) -> PaneRow:
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


TestOutcomesOnTheirWay = OutcomesOnTheirWay.TestCase
TestOutcomesOnTheirWay.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
