"""What becomes of each outcome, and what a slice therefore adds to which cell of which series.

Outcomes are judged one after another as if each came alone, so that fates and heads do not depend on how a stream was cut into
slices; only what changed between the first and the last head of an event is added up. Events do not touch one another: those that
are said once, and were not known before, are judged and added up by columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import NamedTuple
from uuid import UUID

import numpy as np
import numpy.typing as npt

from engine.fidelity.error_sums import sum_groups
from engine.fidelity.windows import is_too_late, pane_start
from schemas.twin_types import ALL_ROWS
from sql.line_lock import LineGrid
from sql.outcome_store import Head, OutcomeGroup
from sql.pane_store import PaneChange
from streams.ingestion.outcome_batch import Floats, Integers

__all__ = [
    "PaneGrid",
    "ResolvedRevisions",
    "Revision",
    "cell_of",
    "changes_between",
    "changes_of_new_heads",
    "merge_changes",
    "resolve_revisions",
]


class Revision(NamedTuple):
    """What one outcome says of its event: the head that it would be, the event time it speaks of, and how far its source was.

    ``at`` and ``watermark`` (just before it, null before the first outcome of the source) are seconds since the epoch.
    """

    head: Head
    at: float
    watermark: float | None


class ResolvedRevisions(NamedTuple):
    """The fate of each claim, whether it contradicts another of its revision, and the last head of each event that has one."""

    fates: list[str]
    conflicts: list[bool]
    heads: dict[UUID, Head]


def resolve_revisions(
    claims: Iterable[Revision], known: Mapping[UUID, Head], lines: Mapping[str, LineGrid], restatement_s: float
) -> ResolvedRevisions:
    """Judge the claims in their order, beginning with the heads that are ``known``."""
    fates, conflicts, heads = [], [], dict(known)
    for claim in claims:
        head = heads.get(claim.head.event_id)
        fate = _fate(claim, head, lines, restatement_s)
        if fate == "counted":
            heads[claim.head.event_id] = claim.head
        fates.append(fate)
        conflicts.append(head is not None and claim.head.revision == head.revision and claim.head.digest != head.digest)
    return ResolvedRevisions(fates, conflicts, heads)


def _fate(claim: Revision, head: Head | None, lines: Mapping[str, LineGrid], restatement_s: float) -> str:
    said = claim.head
    if _is_settled(claim.at, lines[said.line], claim.watermark, restatement_s):
        return "too_late"
    if head is None:
        return "counted"
    if head.pane is not None and _is_settled(head.pane, lines[head.line], claim.watermark, restatement_s):
        return "too_late"
    if (said.revision, said.digest) == (head.revision, head.digest):
        return "duplicate"
    return "counted" if (said.revision, said.digest) > (head.revision, head.digest) else "superseded"


def _is_settled(at: float, line: LineGrid, watermark: float | None, restatement_s: float) -> bool:
    """Whether the pane of ``at`` may not change any more: by its source's watermark, or by the floor of its line."""
    pane = pane_start(at, line.pane_s)
    return is_too_late(pane, watermark, line.pane_s, restatement_s) or (line.floor is not None and pane < line.floor)


def changes_between(before: Mapping[UUID, Head], after: Mapping[UUID, Head], lines: Mapping[str, LineGrid]) -> list[PaneChange]:
    """What has to be added to the cells so that they hold ``after`` instead of ``before``.

    A head names the cell of the series ``all``, which the detector reads; other series are kept by whole panes.
    """
    cells: dict[tuple[str, UUID | None, str, float, float], int] = {}
    rows: list[Sequence[int]] = []
    picked: list[int] = []
    groups: list[int] = []
    for sign, head in _moved(before, after):
        if head.contribution is not None:
            for segment in head.segments:
                picked.append(len(rows))
                groups.append(
                    cells.setdefault(
                        (head.line, head.model_id, segment, *cell_of(head, segment, lines[head.line].pane_s)), len(cells)
                    )
                )
            rows.append(head.contribution if sign > 0 else [-number for number in head.contribution])
    if not cells:
        return []
    sums = sum_groups(np.array(rows, dtype=np.int64)[picked], np.array(groups), len(cells))
    return [PaneChange(*cell, total) for cell, total in zip(cells, sums, strict=True)]  # type: ignore[arg-type]  # what contributes has them


def cell_of(head: Head, segment: str, pane_s: float) -> tuple[float, float]:
    """Start and width of the cell that a head adds to in a series: its own for ``all``, the whole pane for the others."""
    if head.pane is None or head.width_s is None:
        raise ValueError(f"event {head.event_id} adds to a sum, but in no pane")
    return (head.pane, head.width_s) if segment == ALL_ROWS else (pane_start(head.pane, pane_s), pane_s)


def _moved(before: Mapping[UUID, Head], after: Mapping[UUID, Head]) -> Iterable[tuple[int, Head]]:
    for event, head in after.items():
        old = before.get(event)
        if old is not head:
            if old is not None:
                yield -1, old
            yield 1, head


class PaneGrid(NamedTuple):
    """What the lines of some outcomes say of their panes, one row an outcome: width of pane and cell, and floor (-inf for none)."""

    pane_s: Floats
    width_s: Floats
    floor: Floats

    @classmethod
    def of(cls, kinds: Sequence[OutcomeGroup], of: Integers, lines: Mapping[str, LineGrid]) -> PaneGrid:
        """Of outcomes of these kinds, ``of`` telling which an outcome is."""
        said = [lines[kind.line] for kind in kinds]
        rows = [(line.pane_s, line.pane_s / line.splits, -np.inf if line.floor is None else line.floor) for line in said]
        return cls(*np.array(rows, dtype=np.float64).reshape(-1, 3)[of].T)

    def settled(self, at: Floats, watermark: Floats, restatement_s: float) -> npt.NDArray[np.bool_]:
        """Whether the pane of each ``at`` may not change any more; a watermark is NaN before the first outcome of its source."""
        pane = pane_start(at, self.pane_s)
        return (pane < pane_start(watermark - restatement_s, self.pane_s)) | (pane < self.floor)


def changes_of_new_heads(
    kinds: Sequence[OutcomeGroup], of: Integers, cells: Floats, grid: PaneGrid, contributions: Integers
) -> list[PaneChange]:
    """What new heads add to the cells, as :func:`changes_between` would say of them.

    Args:
        kinds: ``of`` tells which a head is.
        of: shape ``(n,)``.
        cells: start of the cell of each head in the series ``all``.
        grid: of each head.
        contributions: shape ``(n, len(SUM_FIELDS))``.
    """
    series: dict[tuple[str, UUID, str], int] = {}
    numbers = [
        [series.setdefault((kind.line, kind.model_id, segment), len(series)) for segment in kind.segments if kind.model_id]
        for kind in kinds
    ]
    counts = np.array([len(each) for each in numbers], dtype=np.int64)[of]
    head = np.repeat(np.arange(len(of)), counts)
    if not len(head):
        return []
    number = np.array(list(chain.from_iterable(numbers[kind] for kind in of.tolist())), dtype=np.int64)
    names = list(series)
    whole = np.array([segment != ALL_ROWS for _, _, segment in names], dtype=np.bool_)[number]
    pane = np.where(whole, pane_start(cells, grid.pane_s)[head], cells[head])
    width = np.where(whole, grid.pane_s[head], grid.width_s[head])
    starts, start = np.unique(pane, return_inverse=True)
    codes, first, group = np.unique(number * len(starts) + start, return_index=True, return_inverse=True)
    sums = sum_groups(contributions[head], group, len(codes))
    places = zip(number[first].tolist(), pane[first].tolist(), width[first].tolist(), sums, strict=True)
    return [
        PaneChange(line, model_id, segment, at, length, total)
        for (each, at, length, total) in places
        for line, model_id, segment in (names[each],)
    ]


def merge_changes(some: Iterable[PaneChange], others: Iterable[PaneChange]) -> list[PaneChange]:
    """One change a cell."""
    cells = {change[:-1]: change for change in some}
    for change in others:
        before = cells.get(change[:-1])
        sums = change.sums if before is None else [one + other for one, other in zip(before.sums, change.sums, strict=True)]
        cells[change[:-1]] = change._replace(sums=sums)
    return list(cells.values())
