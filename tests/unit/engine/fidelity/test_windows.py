from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.fidelity.windows import (
    is_closed,
    is_too_late,
    lowest_pane,
    pane_start,
    panes_of,
    window_starts,
)


def test_a_pane_includes_its_start_and_excludes_its_end():
    # at      0     299.999 300        599.999
    # pane    |=========0=====|========300====|
    assert [pane_start(at, 300) for at in (0.0, 299.999, 300.0, 599.999)] == [0, 0, 300, 300]


def test_panes_of_times_before_the_epoch_start_before_them():
    assert pane_start(-1.0, 300) == -300


def test_arrays_of_times_fall_into_the_same_panes():
    at = np.array([0.0, 299.999, 300.0, 1.7e9 + 0.123])
    assert pane_start(at, 300.0).tolist() == [pane_start(x, 300.0) for x in at.tolist()]


def test_windows_slide_by_one_pane():
    # pane         0   300  600  900 1200
    # window 0     |=========|xxxx|
    # window 300        |====|xxxx|====|
    # window 600             |xxxx|=========|
    assert window_starts(600, 300, 900) == (0, 300, 600)
    assert window_starts(0, 300, 300) == (0,)


def test_a_window_consists_of_its_panes():
    assert panes_of(300, 300, 900) == (300, 600, 900)


@given(
    st.floats(0, 4e9),
    st.sampled_from([0.25, 0.1, 1.0, 5.0, 300.0, 3600.0]),
    st.integers(1, 20),
)
def test_a_pane_lies_in_exactly_the_windows_whose_panes_hold_it(at, width, count):
    window = width * count
    pane = pane_start(at, width)
    starts = window_starts(pane, width, window)
    assert len(starts) == len(set(starts)) == count
    index = round(pane / width)
    for start in starts:
        assert index in [round(member / width) for member in panes_of(start, width, window)]
    after, before = starts[-1] + width, starts[0] - width
    for outside in (after, before):
        assert index not in [round(member / width) for member in panes_of(outside, width, window)]


@pytest.mark.parametrize("window", [0, 100, 450, 301])
def test_a_window_that_is_not_a_whole_number_of_panes_is_refused(window):
    with pytest.raises(ValueError, match="whole number of panes"):
        panes_of(0, 300, window)


def test_a_window_closes_when_the_grace_period_has_passed():
    # window |========3600| grace ....4200
    assert not is_closed(3600, 4199.9, grace=600)
    assert is_closed(3600, 4200, grace=600)
    assert not is_closed(3600, None, grace=600)


def test_a_pane_is_too_late_when_it_ends_more_than_the_span_below_the_watermark():
    # pane |0===300|          span 1000          watermark
    assert not is_too_late(0, 1299.9, width=300, restatement=1000)
    assert is_too_late(0, 1300.0, width=300, restatement=1000)
    assert not is_too_late(0, None, width=300, restatement=1000)


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_the_lowest_pane_is_the_first_that_is_not_too_late(watermark, restatement):
    lowest = lowest_pane(watermark, 300, restatement)
    assert not is_too_late(lowest, watermark, 300, restatement)
    assert is_too_late(lowest - 300, watermark, 300, restatement)
