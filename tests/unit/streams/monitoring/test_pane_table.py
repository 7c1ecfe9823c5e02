"""What is written to the changelog of the held panes, by what it holds and what is held."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from schemas import PaneRow
from schemas.events import SUM_FIELDS
from streams.monitoring.pane_table import PaneKey, _apply_record, _differences, partition_of
from streams.monitoring.window_state import SeriesKey, WindowState
from tests.outcomes import LINE

SERIES = SeriesKey(UUID(int=1), "all")
OTHER_LINE = next(f"hcp:kisqali:target_{n}" for n in range(100) if partition_of(f"hcp:kisqali:target_{n}") == partition_of(LINE))


def line_with(*versions: int) -> Any:
    """A line that holds a pane of each version, 60 s after one another."""
    state = WindowState(60.0, 300.0)
    for number, version in enumerate(versions):
        sums = (1, *[0] * (len(SUM_FIELDS) - 1))
        row = PaneRow(
            model_id=SERIES.model_id, segment="all", pane=60.0 * number, width_s=60.0, version=version, last_offset=1, sums=sums
        )
        state.hold_row("outcome-events:0:0", row)
    return SimpleNamespace(name=LINE, window_state=state)


def key(number: int, line: str = LINE) -> str:
    return PaneKey(line, SERIES, 60.0 * number).table_key()


def written(versions: dict[str, int], *lines: Any) -> dict[str, int | None]:
    """Version of what is written by key, None for a tombstone."""
    changes = _differences(versions, lines, partition_of(LINE), [LINE, OTHER_LINE])
    return {name: None if sums is None else sums.version for name, sums in changes.items()}


def test_panes_with_another_version_are_written_and_panes_that_are_not_held_get_a_tombstone():
    assert written({key(0): 3, key(1): 2, key(9): 7}, line_with(3, 4, 5)) == {key(1): 4, key(2): 5, key(9): None}


def test_an_equal_changelog_is_left_alone():
    assert written({key(0): 3, key(1): 4}, line_with(3, 4)) == {}


def test_the_panes_of_a_line_that_is_not_loaded_stay_as_they_are():
    assert written({key(0, OTHER_LINE): 3}, line_with()) == {}
    assert written({key(0): 3}) == {}


def test_the_panes_of_a_line_that_no_longer_exists_get_tombstones():
    assert written({key(0, "hcp:kisqali:gone"): 3}, line_with()) == {key(0, "hcp:kisqali:gone"): None}


def test_a_pane_that_is_held_without_rows_is_not_written():
    line = line_with(3)
    line.window_state.mark_held(SERIES, [600.0])
    assert written({key(0): 3}, line) == {}


def test_the_newest_record_of_a_key_counts():
    versions: dict[str, int] = {}
    for value in (b'{"version": 1, "sums": []}', None, b'{"version": 3, "sums": []}'):
        _apply_record(versions, SimpleNamespace(key=json.dumps(key(0)).encode(), value=value))  # type: ignore[arg-type]  # its key and value
    assert versions == {key(0): 3}


@pytest.mark.parametrize(
    ("record_key", "value"),
    [
        (None, b"1"),
        (b'"a"', b'{"version": Infinity}'),
        (b"\xff", None),
        (b'"a"', b"[1]"),
        (b'"a"', b'{"version": "x"}'),
        (b'"a"', b"{"),
        (b'"a"', b"[" * 100_000),
    ],
)
def test_a_record_that_faust_did_not_write_is_ignored(record_key: bytes | None, value: bytes | None):
    versions = {key(0): 3}
    assert not _apply_record(versions, SimpleNamespace(key=record_key, value=value))  # type: ignore[arg-type]  # its key and value
    assert versions == {key(0): 3}
