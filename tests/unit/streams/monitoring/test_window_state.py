"""Windows and detectors depend on the newest rows only, not on the order or the number of times in which rows arrive."""

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
INITIAL = DetectorState(last_count=20)


def make_row(pane: int, version: int, n: int = 1, *, part: int = 0, parts: int = 1, segment: str = "all") -> PaneRow:
    """Row of cell ``part`` of ``parts`` of a pane."""
    width = PANE_S / parts
    sums = (n, 0, 0, *range(n, n + 7), *(1_000_000 * n * (bet + 1) for bet in range(5)), *range(6))
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
deliveries = st.lists(st.tuples(st.sampled_from(["a:0:0", "a:1:0"]), rows), max_size=40)


def newest(delivered: list[tuple[str, PaneRow]]) -> dict[tuple[str, str, float, float], PaneRow]:
    """The last row of the highest version of each cell and source."""
    rows: dict[tuple[str, str, float, float], PaneRow] = {}
    for source, row in delivered:
        key = source, row.segment, row.pane, row.width_s
        if key not in rows or row.version >= rows[key].version:
            rows[key] = row
    return rows


def all_windows(state: WindowState) -> dict[WindowKey, tuple[int, tuple[int, ...]]]:
    return {window: tuple(state.window_sums(window)) for window in state.windows()}


@given(deliveries)
def test_a_window_is_the_sum_of_the_newest_rows_of_its_panes(delivered: list[tuple[str, PaneRow]]):
    state = WindowState(PANE_S, WINDOW_S)
    for source, row in delivered:
        state.apply_row(source, row)

    for window, (version, sums) in all_windows(state).items():
        held = [
            row
            for (_, segment, pane, _), row in newest(delivered).items()
            if segment == window.series.segment and window.start <= pane < window.start + WINDOW_S
        ]
        assert version == sum(row.version for row in held)
        assert sums == add_sums(row.sums for row in held)


@given(st.lists(st.tuples(st.sampled_from(["a:0:0", "a:1:0"]), st.integers(0, 3), st.integers(1, 5)), max_size=30), st.randoms())
def test_order_and_repetition_do_not_matter(versions: list[tuple[str, int, int]], rnd: object):
    # one content per version, as sources send it
    rows = [(source, make_row(pane, version, n=version * 7)) for source, pane, version in versions]
    shuffled = [*rows, *rows[: len(rows) // 2]]
    rnd.shuffle(shuffled)  # type: ignore[attr-defined]
    in_order, in_disorder = WindowState(PANE_S, WINDOW_S), WindowState(PANE_S, WINDOW_S)
    for source, row in rows:
        in_order.apply_row(source, row)
    for source, row in shuffled:
        in_disorder.apply_row(source, row)

    assert all_windows(in_order) == all_windows(in_disorder)
    assert in_order.detector_state(SERIES, INITIAL) == in_disorder.detector_state(SERIES, INITIAL) if rows else True


@given(deliveries)
def test_the_detector_state_is_that_of_all_cells_in_event_time_whenever_it_was_read_before(delivered: list[tuple[str, PaneRow]]):
    state = WindowState(PANE_S, WINDOW_S)
    state.apply_row("a:0:0", make_row(0, 1, parts=2))
    for source, row in delivered:
        state.apply_row(source, row)
        state.detector_state(SERIES, INITIAL)

    cells: dict[tuple[float, float], list[tuple[int, ...]]] = {}
    for (_, segment, pane, width), row in newest([("a:0:0", make_row(0, 1, parts=2)), *delivered]).items():
        if segment == "all":
            cells.setdefault((pane, width), []).append(row.sums)
    assert state.detector_state(SERIES, INITIAL) == accumulate([add_sums(cells[cell]) for cell in sorted(cells)], INITIAL)


def load_neighbours(state: WindowState, stored: dict[tuple[str, str, float, float], PaneRow], row: PaneRow) -> None:
    """Hold the panes that are missing around a row, as the agent does before it applies the row."""
    series, missing = SeriesKey(row.model_id, row.segment), state.missing_panes(row)
    state.mark_held(series, missing)
    for (source, segment, pane, _), stored_row in stored.items():
        if segment == row.segment and pane // PANE_S * PANE_S in missing:
            state.hold_row(source, stored_row)


@given(deliveries, st.integers(-2, 6), st.integers(0, 60))
def test_evicting_panes_changes_neither_detectors_nor_windows(delivered: list[tuple[str, PaneRow]], pane: int, n: int):
    state, rows = WindowState(PANE_S, WINDOW_S), [("a:0:0", make_row(6, 1)), *delivered]
    for source, row in rows:
        state.apply_row(source, row)
    before, detector, latest = all_windows(state), state.detector_state(SERIES, INITIAL), state.latest_panes(SERIES, n)

    evicted = state.evict(pane * PANE_S, [], n, lambda _: INITIAL)

    assert state.detector_state(SERIES, INITIAL) == detector
    assert state.latest_panes(SERIES, n) == latest
    assert all(start < pane * PANE_S for _, start in evicted)
    for source, row in rows:
        load_neighbours(state, newest(rows), row)
        state.apply_row(source, row)
    assert {window: tuple(state.window_sums(window)) for window in before} == before


@given(deliveries, deliveries, st.integers(-2, 6))
def test_rows_of_evicted_panes_give_the_windows_of_a_state_without_eviction(
    delivered: list[tuple[str, PaneRow]], late: list[tuple[str, PaneRow]], pane: int
):
    state, complete = WindowState(PANE_S, WINDOW_S), WindowState(PANE_S, WINDOW_S)
    stored: list[tuple[str, PaneRow]] = [("a:0:0", make_row(6, 1)), *delivered]
    for source, row in stored:
        state.apply_row(source, row)
        complete.apply_row(source, row)
    state.evict(pane * PANE_S, [], 20, lambda _: INITIAL)

    for source, row in late:
        stored.append((source, row))  # rows are stored before they are sent
        load_neighbours(state, newest(stored), row)
        assert {window: tuple(state.window_sums(window)) for window in state.apply_row(source, row)} == {
            window: tuple(complete.window_sums(window)) for window in complete.apply_row(source, row)
        }


def test_a_change_of_an_evicted_pane_makes_the_detector_stale():
    state = WindowState(PANE_S, WINDOW_S)
    for pane in range(10):
        state.apply_row("a:0:0", make_row(pane, 1, n=30))
    state.evict(8 * PANE_S, [], 20, lambda _: INITIAL)
    late = make_row(2, 2, n=31)
    load_neighbours(state, {("a:0:0", "all", pane * PANE_S, PANE_S): make_row(pane, 1, n=30) for pane in range(10)}, late)
    state.apply_row("a:0:0", late)

    assert state.stale_detectors == {SERIES}
    below = [make_row(pane, 1, n=31 if pane == 2 else 30).sums for pane in range(8)]
    state.set_detector_start(SERIES, accumulate(below, INITIAL), 8 * PANE_S)
    assert state.stale_detectors == set()
    assert state.detector_state(SERIES, INITIAL) == accumulate(
        [*below, make_row(8, 1, n=30).sums, make_row(9, 1, n=30).sums], INITIAL
    )


def test_panes_of_needed_windows_and_the_latest_panes_are_not_evicted():
    state = WindowState(PANE_S, WINDOW_S)
    for pane in range(20):
        state.apply_row("a:0:0", make_row(pane, 1, n=5))

    state.evict(18 * PANE_S, [WindowKey(SERIES, 3 * PANE_S)], 40, lambda _: INITIAL)

    held = [pane for pane in range(20) if state.is_held("a:0:0", make_row(pane, 1))]
    assert held == [3, 4, 5, *range(12, 20)]


def test_an_older_row_changes_no_window_and_an_equal_one_reports_its_windows_again():
    state = WindowState(PANE_S, WINDOW_S)
    assert [window.start for window in state.apply_row("a:0:0", make_row(5, 3))] == [180.0, 240.0, 300.0]

    assert state.apply_row("a:0:0", make_row(5, 2, n=9)) == ()
    assert len(state.apply_row("a:0:0", make_row(5, 3))) == 3
    assert state.window_sums(WindowKey(SERIES, 300.0)).version == 3


def test_the_latest_panes_are_the_fewest_that_hold_enough_outcomes():
    state = WindowState(PANE_S, WINDOW_S)
    for pane, n in ((1, 100), (2, 30), (3, 50), (7, 20)):
        state.apply_row("a:0:0", make_row(pane, 1, n=n))

    start, end, sums = state.latest_panes(SERIES, 60)

    assert (start, end, sums[0]) == (180.0, 480.0, 70)


def test_all_panes_are_latest_panes_when_they_hold_too_few_outcomes():
    state = WindowState(PANE_S, WINDOW_S)
    state.apply_row("a:0:0", make_row(1, 1, n=5))

    assert state.latest_panes(SERIES, 200)[2][0] == 5


@pytest.mark.parametrize(("version", "is_held"), [(2, False), (3, True), (1, True)])
def test_a_row_is_held_when_it_or_a_newer_version_was_applied(version: int, is_held: bool):
    state = WindowState(PANE_S, WINDOW_S)
    state.apply_row("a:0:0", make_row(1, 3 if version != 2 else 1))

    assert state.is_held("a:0:0", make_row(1, version)) is is_held


def test_an_empty_state_has_no_windows():
    assert list(WindowState(PANE_S, WINDOW_S, -math.inf).windows()) == []
