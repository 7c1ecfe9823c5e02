"""Fates and sums do not depend on how a stream is cut into batches, and sums are those of the heads."""

from __future__ import annotations

from collections import defaultdict
from uuid import UUID

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.fidelity.error_sums import add_sums
from schemas.events import SUM_FIELDS
from sql.line_lock import LineGrid
from sql.outcome_store import Head, OutcomeGroup
from sql.pane_store import PaneChange
from streams.ingestion.revisions import PaneGrid, Revision, changes_between, changes_of_new_heads, merge_changes, resolve_revisions

LINE = LineGrid("hcp:kisqali:prescribing_change", 1, None, 60.0, 2)
SECOND_LINE = LineGrid("hcp:fabhalta:prescribing_change", 1, 300.0, 30.0, 1)
LINES = {line.line: line for line in (LINE, SECOND_LINE)}
MODELS = {LINE.line: UUID(int=1), SECOND_LINE.line: UUID(int=2)}
RESTATEMENT_S = 600.0


def make_head(event: int, revision: int, content: int, at: float, line: LineGrid, value: int | None) -> tuple[Head, float]:
    width = line.pane_s / line.splits
    counts = value is not None
    head = Head(
        event_id=UUID(int=event),
        revision=revision,
        digest=bytes([content]),
        line=line.line,
        model_id=MODELS[line.line],
        segments=("all", f"region={content % 2}") if counts else (),
        pane=at // width * width if counts else None,
        width_s=width if counts else None,
        contribution=[1, *([value or 0] * (len(SUM_FIELDS) - 1))] if counts else None,
    )
    return head, at


def timed_heads(earliest: int, *lines: LineGrid) -> st.SearchStrategy[tuple[Head, float]]:
    return st.builds(
        make_head,
        event=st.integers(1, 5),
        revision=st.integers(0, 2),
        content=st.integers(0, 3),
        at=st.integers(earliest, 3000).map(float),
        line=st.sampled_from(lines),
        value=st.none() | st.integers(-(10**15), 10**15),
    )


any_head = timed_heads(0, LINE, SECOND_LINE)


def resolve_in_batches(
    stream: list[tuple[Head, float]], size: int
) -> tuple[list[str], dict[UUID, Head], dict[tuple[object, ...], tuple[int, ...]]]:
    """Fates, last heads and sums of a stream that is resolved batch by batch."""
    heads: dict[UUID, Head] = {}
    fates: list[str] = []
    sums: defaultdict[tuple[object, ...], tuple[int, ...]] = defaultdict(lambda: (0,) * len(SUM_FIELDS))
    watermark: float | None = None
    for first in range(0, len(stream), size):
        revisions = []
        for head, at in stream[first : first + size]:
            revisions.append(Revision(head, at, watermark))
            watermark = at if watermark is None else max(at, watermark)
        resolved = resolve_revisions(revisions, heads, LINES, RESTATEMENT_S)
        for change in changes_between(heads, resolved.heads, LINES):
            sums[key_of(change)] = add_sums([sums[key_of(change)], change.sums])
        heads = resolved.heads
        fates += resolved.fates
    return fates, heads, {key: value for key, value in sums.items() if any(value)}


def key_of(change: PaneChange) -> tuple[object, ...]:
    return change.line, change.model_id, change.segment, change.pane, change.width_s


@given(st.lists(any_head, max_size=25), st.integers(1, 25))
def test_the_cut_into_batches_does_not_matter(stream: list[tuple[Head, float]], size: int):
    assert resolve_in_batches(stream, size) == resolve_in_batches(stream, 1)


@given(st.lists(any_head, max_size=25), st.integers(1, 25))
def test_sums_are_those_of_the_heads(stream: list[tuple[Head, float]], size: int):
    _, heads, sums = resolve_in_batches(stream, size)
    expected = {key_of(change): tuple(change.sums) for change in changes_between({}, heads, LINES) if any(change.sums)}

    assert sums == expected


@given(st.lists(any_head, max_size=25))
def test_a_head_is_the_highest_revision_that_was_not_too_late(stream: list[tuple[Head, float]]):
    fates, heads, _ = resolve_in_batches(stream, 7)

    for event, head in heads.items():
        ranks = [
            (candidate.revision, candidate.digest)
            for (candidate, _), fate in zip(stream, fates, strict=True)
            if candidate.event_id == event and fate != "too_late"
        ]
        assert (head.revision, head.digest) == max(ranks)


@given(st.lists(timed_heads(2500, LINE), max_size=15), st.randoms())
def test_without_lateness_the_order_does_not_matter(stream: list[tuple[Head, float]], rnd: object):
    mixed = list({(head.event_id, head.revision, head.digest): (head, at) for head, at in stream}.values())
    _, heads, sums = resolve_in_batches(mixed, 4)
    rnd.shuffle(mixed)  # type: ignore[attr-defined]
    _, other_heads, other_sums = resolve_in_batches(mixed, 3)

    assert heads == other_heads
    assert sums == other_sums


def test_what_lies_below_the_floor_is_too_late():
    stream = [make_head(1, 0, 0, at, SECOND_LINE, 1) for at in (299.0, 300.0)]

    fates, _, _ = resolve_in_batches(stream, 2)

    assert fates == ["too_late", "counted"]


def test_the_series_of_a_segment_is_kept_by_whole_panes_and_all_by_cells():
    head, _ = make_head(1, 0, 1, 95.0, LINE, 4)

    changes = changes_between({}, {head.event_id: head}, LINES)

    assert [(change.segment, change.pane, change.width_s) for change in changes] == [("all", 90.0, 30.0), ("region=1", 60.0, 60.0)]


@given(st.lists(timed_heads(0, LINE, SECOND_LINE), max_size=25), st.none() | st.floats(0, 4000))
def test_single_outcomes_are_resolved_and_summed_by_columns_as_one_by_one(stream: list[tuple[Head, float]], initial: float | None):
    alone = list({head.event_id: (head, at) for head, at in stream}.values())
    revisions, watermark = [], initial
    for head, at in alone:
        revisions.append(Revision(head, at, watermark))
        watermark = at if watermark is None else max(at, watermark)
    resolved = resolve_revisions(revisions, {}, LINES, RESTATEMENT_S)

    groups = [OutcomeGroup(head.line, "", head.model_id, head.segments, None, None) for head, _ in alone]
    group_index = np.arange(len(alone))
    grid = PaneGrid.of_groups(groups, group_index, LINES)
    watermark = np.array([np.nan if revision.watermark is None else revision.watermark for revision in revisions])
    late = grid.is_settled(np.array([at for _, at in alone]), watermark, RESTATEMENT_S)
    counted = np.array([not is_late and head.pane is not None for (head, _), is_late in zip(alone, late, strict=True)], dtype=bool)
    cells = np.array([head.pane or 0.0 for head, _ in alone])
    sums = np.array([head.contribution or [0] * len(SUM_FIELDS) for head, _ in alone], dtype=np.int64).reshape(-1, len(SUM_FIELDS))
    changes = changes_of_new_heads(
        groups, group_index[counted], cells[counted], PaneGrid(*(column[counted] for column in grid)), sums[counted]
    )

    assert ["too_late" if is_late else "counted" for is_late in late] == resolved.fates
    assert sums_of(changes) == sums_of(changes_between({}, resolved.heads, LINES))


@given(st.lists(timed_heads(0, LINE), max_size=10), st.lists(timed_heads(0, LINE), max_size=10))
def test_changes_of_one_cell_become_one(first: list[tuple[Head, float]], second: list[tuple[Head, float]]):
    changes, other_changes = (changes_between({}, {head.event_id: head for head, _ in heads}, LINES) for heads in (first, second))

    both = merge_changes(changes, other_changes)

    assert len({key_of(change) for change in both}) == len(both)
    assert sums_of(both) == sums_of([*changes, *other_changes])


def sums_of(changes: list[PaneChange]) -> dict[tuple[object, ...], tuple[int, ...]]:
    sums: dict[tuple[object, ...], tuple[int, ...]] = {}
    for change in changes:
        sums[key_of(change)] = add_sums([sums[key_of(change)], change.sums]) if key_of(change) in sums else tuple(change.sums)
    return sums
