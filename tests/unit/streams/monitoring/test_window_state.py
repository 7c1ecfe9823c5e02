"""Rows of many sources, in any order and any number of times, make the windows and the evidence of the newest ones."""

from __future__ import annotations

import math
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.fidelity.e_detector import DetectorState, accumulate
from engine.fidelity.error_sums import add_sums
from schemas import PaneRow
from schemas.events import SUM_FIELDS
from streams.monitoring.window_state import SeriesKey, WindowKey, WindowState

MODEL = UUID(int=7)
PANE_S, WINDOW_S = 60.0, 180.0
SERIES = SeriesKey(MODEL, "all")
FIRST = DetectorState(last_count=20)


def make_row(pane: int, version: int, n: int = 1, *, part: int = 0, parts: int = 1, segment: str = "all") -> PaneRow:
    """Row of cell ``part`` of ``parts`` of a pane."""
    width = PANE_S / parts
    sums = (n, 0, 0, *range(n, n + 7), *(1_000_000 * n * (bet + 1) for bet in range(5)))
    assert len(sums) == len(SUM_FIELDS)
    return PaneRow(
        model_id=MODEL, segment=segment, pane=pane * PANE_S + part * width, width_s=width, version=version, last_offset=0, sums=sums
    )


rows = st.builds(
    make_row,
    pane=st.integers(-3, 6),
    version=st.integers(1, 4),
    n=st.integers(-3, 50),
    part=st.integers(0, 1),
    parts=st.sampled_from([2, 4]),
    segment=st.sampled_from(["all", "region=west"]),
)
said = st.lists(st.tuples(st.sampled_from(["a:0:0", "a:1:0"]), rows), max_size=40)


def newest(told: list[tuple[str, PaneRow]]) -> dict[tuple[str, str, float, float], PaneRow]:
    """The last of the highest version of each cell and source."""
    kept: dict[tuple[str, str, float, float], PaneRow] = {}
    for source, row in told:
        key = source, row.segment, row.pane, row.width_s
        if key not in kept or row.version >= kept[key].version:
            kept[key] = row
    return kept


def shown(view: WindowState) -> dict[WindowKey, tuple[int, tuple[int, ...]]]:
    return {window: tuple(view.window(window)) for window in view.windows()}


@given(said)
def test_a_window_is_the_sum_of_the_newest_rows_of_its_panes(told: list[tuple[str, PaneRow]]):
    view = WindowState(PANE_S, WINDOW_S)
    for source, row in told:
        view.apply(source, row)

    for window, (version, sums) in shown(view).items():
        held = [
            row
            for (_, segment, pane, _), row in newest(told).items()
            if segment == window.series.segment and window.start <= pane < window.start + WINDOW_S
        ]
        assert version == sum(row.version for row in held)
        assert sums == add_sums(row.sums for row in held)


@given(st.lists(st.tuples(st.sampled_from(["a:0:0", "a:1:0"]), st.integers(0, 3), st.integers(1, 5)), max_size=30), st.randoms())
def test_order_and_repetition_do_not_matter(told: list[tuple[str, int, int]], rnd: object):
    # one content a version, as a source says it
    made = [(source, make_row(pane, version, n=version * 7)) for source, pane, version in told]
    mixed = [*made, *made[: len(made) // 2]]
    rnd.shuffle(mixed)  # type: ignore[attr-defined]
    one, other = WindowState(PANE_S, WINDOW_S), WindowState(PANE_S, WINDOW_S)
    for source, row in made:
        one.apply(source, row)
    for source, row in mixed:
        other.apply(source, row)

    assert shown(one) == shown(other)
    assert one.evidence(SERIES, FIRST) == other.evidence(SERIES, FIRST) if made else True


@given(said)
def test_evidence_is_that_of_all_cells_in_event_time_whatever_was_looked_at_before(told: list[tuple[str, PaneRow]]):
    view = WindowState(PANE_S, WINDOW_S)
    view.apply("a:0:0", make_row(0, 1, parts=2))
    for source, row in told:
        view.apply(source, row)
        view.evidence(SERIES, FIRST)

    cells: dict[tuple[float, float], list[tuple[int, ...]]] = {}
    for (_, segment, pane, width), row in newest([("a:0:0", make_row(0, 1, parts=2)), *told]).items():
        if segment == "all":
            cells.setdefault((pane, width), []).append(row.sums)
    assert view.evidence(SERIES, FIRST) == accumulate([add_sums(cells[cell]) for cell in sorted(cells)], FIRST)


def read_around(view: WindowState, stored: dict[tuple[str, str, float, float], PaneRow], row: PaneRow) -> None:
    """What an agent does before it applies a row: hold the panes around it that are not held."""
    series, missing = SeriesKey(row.model_id, row.segment), view.unread(row)
    view.admit(series, missing)
    for (source, segment, pane, _), found in stored.items():
        if segment == row.segment and pane // PANE_S * PANE_S in missing:
            view.hold(source, found)


@given(said, st.integers(-2, 6), st.integers(0, 60))
def test_what_is_forgotten_changes_neither_evidence_nor_windows(told: list[tuple[str, PaneRow]], pane: int, n: int):
    view, rows = WindowState(PANE_S, WINDOW_S), [("a:0:0", make_row(6, 1)), *told]
    for source, row in rows:
        view.apply(source, row)
    before, evidence, latest = shown(view), view.evidence(SERIES, FIRST), view.latest(SERIES, n)

    dropped = view.forget(pane * PANE_S, [], n, lambda _: FIRST)

    assert view.evidence(SERIES, FIRST) == evidence
    assert view.latest(SERIES, n) == latest
    assert all(start < pane * PANE_S for _, start in dropped)
    for source, row in rows:
        read_around(view, newest(rows), row)
        view.apply(source, row)
    assert {window: tuple(view.window(window)) for window in before} == before


@given(said, said, st.integers(-2, 6))
def test_rows_that_come_for_forgotten_panes_make_the_windows_of_a_view_that_forgot_nothing(
    told: list[tuple[str, PaneRow]], late: list[tuple[str, PaneRow]], pane: int
):
    view, whole = WindowState(PANE_S, WINDOW_S), WindowState(PANE_S, WINDOW_S)
    stored: list[tuple[str, PaneRow]] = [("a:0:0", make_row(6, 1)), *told]
    for source, row in stored:
        view.apply(source, row)
        whole.apply(source, row)
    view.forget(pane * PANE_S, [], 20, lambda _: FIRST)

    for source, row in late:
        stored.append((source, row))  # what is said was stored before
        read_around(view, newest(stored), row)
        assert {window: tuple(view.window(window)) for window in view.apply(source, row)} == {
            window: tuple(whole.window(window)) for window in whole.apply(source, row)
        }


def test_a_series_whose_forgotten_panes_change_has_to_be_folded_anew():
    view = WindowState(PANE_S, WINDOW_S)
    for pane in range(10):
        view.apply("a:0:0", make_row(pane, 1, n=30))
    view.forget(8 * PANE_S, [], 20, lambda _: FIRST)
    late = make_row(2, 2, n=31)
    read_around(view, {("a:0:0", "all", pane * PANE_S, PANE_S): make_row(pane, 1, n=30) for pane in range(10)}, late)
    view.apply("a:0:0", late)

    assert view.stale == {SERIES}
    below = [make_row(pane, 1, n=31 if pane == 2 else 30).sums for pane in range(8)]
    view.begin(SERIES, accumulate(below, FIRST), 8 * PANE_S)
    assert view.stale == set()
    assert view.evidence(SERIES, FIRST) == accumulate([*below, make_row(8, 1, n=30).sums, make_row(9, 1, n=30).sums], FIRST)


def test_the_panes_of_open_windows_and_the_latest_that_hold_enough_are_kept():
    view = WindowState(PANE_S, WINDOW_S)
    for pane in range(20):
        view.apply("a:0:0", make_row(pane, 1, n=5))

    view.forget(18 * PANE_S, [WindowKey(SERIES, 3 * PANE_S)], 40, lambda _: FIRST)

    held = [pane for pane in range(20) if view.holds("a:0:0", make_row(pane, 1))]
    assert held == [3, 4, 5, *range(12, 20)]


def test_a_strictly_older_row_says_nothing_and_an_equal_one_says_its_windows_again():
    view = WindowState(PANE_S, WINDOW_S)
    assert [window.start for window in view.apply("a:0:0", make_row(5, 3))] == [180.0, 240.0, 300.0]

    assert view.apply("a:0:0", make_row(5, 2, n=9)) == ()
    assert len(view.apply("a:0:0", make_row(5, 3))) == 3
    assert view.window(WindowKey(SERIES, 300.0)).version == 3


def test_the_latest_panes_are_as_few_as_hold_enough():
    view = WindowState(PANE_S, WINDOW_S)
    for pane, n in ((1, 100), (2, 30), (3, 50), (7, 20)):
        view.apply("a:0:0", make_row(pane, 1, n=n))

    start, end, sums = view.latest(SERIES, 60)

    assert (start, end, sums[0]) == (180.0, 480.0, 70)


def test_all_panes_are_taken_where_even_they_hold_too_few():
    view = WindowState(PANE_S, WINDOW_S)
    view.apply("a:0:0", make_row(1, 1, n=5))

    assert view.latest(SERIES, 200)[2][0] == 5


@pytest.mark.parametrize(("version", "holds"), [(2, False), (3, True), (1, True)])
def test_a_row_is_held_when_it_or_a_newer_one_was_applied(version: int, holds: bool):
    view = WindowState(PANE_S, WINDOW_S)
    view.apply("a:0:0", make_row(1, 3 if version != 2 else 1))

    assert view.holds("a:0:0", make_row(1, version)) is holds


def test_a_view_of_nothing_has_no_windows():
    assert list(WindowState(PANE_S, WINDOW_S, -math.inf).windows()) == []
