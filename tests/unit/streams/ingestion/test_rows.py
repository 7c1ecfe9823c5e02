"""Rows and messages of a batch are built from its columns."""

from __future__ import annotations

from uuid import UUID

import pytest

from schemas import PaneRow, SourceId
from schemas.events import SUM_FIELDS
from sql.line_lock import LineGrid
from sql.outcome_store import StoredElements
from sql.pane_store import LinePaneRow
from sql.source_position_store import Position
from streams.ingestion import IngestResult
from streams.ingestion.decoding import decode
from streams.ingestion.rows import cell_splits, missing_offsets, new_elements, pane_messages, possible_replays
from streams.kafka.batch_consumer import PollBatch
from tests.outcomes import LINE, TOPIC, outcome, record

SOURCE = SourceId(topic=TOPIC, partition=0)


def pane_row(n: int = 1, *, segment: str = "all", width_s: float = 30.0, pane: float = 0.0) -> PaneRow:
    sums = (n, *(0 for _ in SUM_FIELDS[1:]))
    return PaneRow(model_id=UUID(int=1), segment=segment, pane=pane, width_s=width_s, version=1, last_offset=0, sums=sums)


@pytest.mark.parametrize(
    ("offsets", "last_offset", "expected"),
    [([0, 1, 2], -1, []), ([2, 3, 7], -1, [(0, 1), (4, 6)]), ([0, 1, 5], 1, [(2, 4)]), ([0, 1], 5, [])],
)
def test_offsets_that_were_not_delivered_are_missing_only_above_the_position(
    offsets: list[int], last_offset: int, expected: list[tuple[int, int]]
):
    assert missing_offsets(offsets, last_offset) == expected


def test_an_element_without_a_row_is_a_replay_where_rows_have_aged_out():
    decoded = decode(PollBatch(TOPIC, 0, 0, [record(0, outcome(0)), record(1, b"{"), record(2, outcome(2))]), 300.0)

    new = new_elements(decoded, Position(2, None), StoredElements(aged_offset=1))

    assert (new.outcomes.tolist(), new.refused.tolist()) == ([False, True], [False])


def test_elements_above_the_position_are_new_and_those_below_it_unless_they_are_stored():
    decoded = decode(PollBatch(TOPIC, 0, 0, [record(0, outcome(0)), record(1, b"{"), record(2, outcome(2))]), 300.0)
    position = Position(1, None)

    replays = possible_replays(decoded, position)
    new = new_elements(decoded, position, StoredElements(frozenset({decoded.ids[0].tobytes()})))

    assert replays is not None
    assert len(replays.ids) == 2
    assert new.outcomes.tolist() == [False, True]
    assert new.refused.tolist() == [True]
    assert possible_replays(decoded, Position(-1, None)) is None


@pytest.mark.parametrize(
    ("row", "splits", "expected"),
    [
        (pane_row(201), 2, {LINE: 4}),
        (pane_row(200), 2, {}),
        (pane_row(201, segment="region=west", width_s=60.0), 2, {}),
        (pane_row(201, width_s=60.0), 2, {}),
        (pane_row(201, width_s=60.0 / 64), 64, {}),
    ],
    ids=["too many outcomes", "not too many", "a segment", "a wider cell of before", "as many cells as allowed"],
)
def test_only_full_cells_of_all_outcomes_are_split(row: PaneRow, splits: int, expected: dict[str, int]):
    grid = LineGrid(LINE, 1, None, 60.0, splits)

    assert cell_splits([LinePaneRow(LINE, row)], {LINE: grid}) == expected


def test_a_message_has_rows_of_one_line_and_at_most_500():
    rows = [LinePaneRow(line, pane_row(pane=60.0 * number)) for number in range(600) for line in ("first", "second")]

    messages = pane_messages(IngestResult(SOURCE, 0, 0, rows, None))

    assert [(message.line, len(message.rows)) for message in messages] == [
        ("first", 500),
        ("first", 100),
        ("second", 500),
        ("second", 100),
    ]
