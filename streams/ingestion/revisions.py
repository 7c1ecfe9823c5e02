"""Resolves the revisions of a batch: the fate of each outcome, the new head of each event, and what changes in which pane (rule 5).

The result is that of resolving the outcomes one after another, so it does not depend on how a stream is cut into batches. Events do
not influence one another, so those that occur once in a batch and have no head yet, which is nearly all of them, are resolved by
columns; repeated events and corrections are resolved one revision at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, cast
from uuid import UUID

import numpy as np
import numpy.typing as npt

from engine.fidelity import is_too_late, pane_start, sum_groups
from schemas.arrays import Flags, Floats, Integers, Octets
from schemas.twin_types import ALL_ROWS
from sql.line_lock import LineGrid
from sql.outcome_store import Head, OutcomeGroup, StoredEvents
from sql.pane_store import PaneChange
from streams.ingestion.scoring import ScoredBatch

__all__ = [
    "BatchRevisions",
    "NewEvents",
    "PaneGrid",
    "ResolvedBatch",
    "ResolvedRevisions",
    "Revision",
    "batch_revisions",
    "cell_of",
    "changed_heads",
    "changes_between",
    "changes_of_new_heads",
    "merge_changes",
    "resolve_new_events",
    "resolve_revisions",
    "resolved_batch",
]

# -- one revision at a time


class Revision(NamedTuple):
    """One outcome as a revision of its event.

    Attributes:
        head: the head of the event if this revision wins.
        at: event time, seconds since 1970.
        watermark: of the source just before this outcome, seconds since 1970; None before its first outcome.
    """

    head: Head
    at: float
    watermark: float | None


class ResolvedRevisions(NamedTuple):
    """The fate of each revision, whether it conflicts with another of the same number, and the last head of each event."""

    fates: list[str]
    conflicts: list[bool]
    heads: dict[UUID, Head]


def resolve_revisions(
    revisions: Iterable[Revision], heads: Mapping[UUID, Head], lines: Mapping[str, LineGrid], restatement_s: float
) -> ResolvedRevisions:
    """Resolve revisions in their order, starting from the stored heads of their events."""
    fates, conflicts, current = [], [], dict(heads)
    for revision in revisions:
        head = current.get(revision.head.event_id)
        fate = _fate(revision, head, lines, restatement_s)
        if fate == "counted":
            current[revision.head.event_id] = revision.head
        fates.append(fate)
        conflicts.append(head is not None and revision.head.revision == head.revision and revision.head.digest != head.digest)
    return ResolvedRevisions(fates, conflicts, current)


def _fate(revision: Revision, head: Head | None, lines: Mapping[str, LineGrid], restatement_s: float) -> str:
    new = revision.head
    if _is_settled(revision.at, lines[new.line], revision.watermark, restatement_s):
        return "too_late"
    if head is None:
        return "counted"
    # rule 8: the pane that the event would be taken out of must not be settled either
    if head.pane is not None and _is_settled(head.pane, lines[head.line], revision.watermark, restatement_s):
        return "too_late"
    # rule 5: revisions are ordered by number, then by digest, so that all workers agree on a conflict
    if (new.revision, new.digest) == (head.revision, head.digest):
        return "duplicate"
    return "counted" if (new.revision, new.digest) > (head.revision, head.digest) else "superseded"


def _is_settled(at: float, line: LineGrid, watermark: float | None, restatement_s: float) -> bool:
    """Whether the pane of a time may no longer change, by the watermark of the source or by the floor of the line (rule 8)."""
    pane = pane_start(at, line.pane_s)
    return is_too_late(pane, watermark, line.pane_s, restatement_s) or (line.floor is not None and pane < line.floor)


def changed_heads(before: Mapping[UUID, Head], after: Mapping[UUID, Head]) -> list[Head]:
    """The heads of ``after`` that replace a head of ``before``."""
    return [after[event] for event, head in before.items() if after[event] is not head]


def changes_between(before: Mapping[UUID, Head], after: Mapping[UUID, Head], lines: Mapping[str, LineGrid]) -> list[PaneChange]:
    """What has to be added to the cells so that they hold ``after`` instead of ``before``: new contributions minus old ones.

    A head names the cell of the series ``all``, which the detector reads; other series are kept by whole panes.
    """
    cell_index: dict[tuple[str, UUID | None, str, float, float], int] = {}
    contributions: list[Sequence[int]] = []
    row: list[int] = []  # which contribution is added ...
    cell: list[int] = []  # ... to which cell
    for sign, head in _signed_heads(before, after):
        if head.contribution is not None:
            for segment in head.segments:
                key = (head.line, head.model_id, segment, *cell_of(head, segment, lines[head.line].pane_s))
                row.append(len(contributions))
                cell.append(cell_index.setdefault(key, len(cell_index)))
            contributions.append(head.contribution if sign > 0 else [-number for number in head.contribution])
    if not cell_index:
        return []
    sums = sum_groups(np.array(contributions, dtype=np.int64)[row], np.array(cell), len(cell_index))
    return [PaneChange(*key, total) for key, total in zip(cell_index, sums, strict=True)]  # type: ignore[arg-type]  # it has a model


def cell_of(head: Head, segment: str, pane_s: float) -> tuple[float, float]:
    """Start and width of the cell that a head adds to in a series: its own cell for ``all``, the whole pane for the others."""
    if head.pane is None or head.width_s is None:
        raise ValueError(f"event {head.event_id} has a contribution but no pane")
    return (head.pane, head.width_s) if segment == ALL_ROWS else (pane_start(head.pane, pane_s), pane_s)


def _signed_heads(before: Mapping[UUID, Head], after: Mapping[UUID, Head]) -> Iterable[tuple[int, Head]]:
    """Each replaced head with -1 and each new head with +1."""
    for event, head in after.items():
        old = before.get(event)
        if old is not head:
            if old is not None:
                yield -1, old
            yield 1, head


# -- by columns


class PaneGrid(NamedTuple):
    """Panes that outcomes belong to by their lines, one row an outcome: width of pane and cell, and floor (-inf for none)."""

    pane_s: Floats
    width_s: Floats
    floor: Floats

    @classmethod
    def of_groups(cls, groups: Sequence[OutcomeGroup], group_index: Integers, lines: Mapping[str, LineGrid]) -> PaneGrid:
        """The grid of outcomes, outcome ``i`` being in ``groups[group_index[i]]``."""
        grids = [lines[group.line] for group in groups]
        rows = [(line.pane_s, line.pane_s / line.splits, -np.inf if line.floor is None else line.floor) for line in grids]
        return cls(*np.array(rows, dtype=np.float64).reshape(-1, 3)[group_index].T)

    def is_settled(self, at: Floats, watermark: Floats, restatement_s: float) -> Flags:
        """Whether the pane of each time may no longer change; a watermark is NaN before the first outcome of its source."""
        pane = pane_start(at, self.pane_s)
        return (pane < pane_start(watermark - restatement_s, self.pane_s)) | (pane < self.floor)


def changes_of_new_heads(
    groups: Sequence[OutcomeGroup], group_index: Integers, cells: Floats, grid: PaneGrid, contributions: Integers
) -> list[PaneChange]:
    """What new heads add to the cells: by columns the same as :func:`changes_between`.

    Args:
        groups: head ``i`` is in ``groups[group_index[i]]``.
        group_index: shape ``(n,)``.
        cells: start of the cell of each head in the series ``all``.
        grid: of each head.
        contributions: shape ``(n, len(SUM_FIELDS))``.
    """
    counted = np.array([group.model_id is not None for group in groups], dtype=np.bool_)[group_index]
    if not counted.any():
        return []
    # the sums of each pair of group and cell ...
    starts, start_index = np.unique(cells[counted], return_inverse=True)
    codes, first, pair = np.unique(group_index[counted] * len(starts) + start_index, return_index=True, return_inverse=True)
    sums = sum_groups(contributions[counted], pair, len(codes))
    # ... are added to the series of the group: few of them, so one by one
    changes: dict[tuple[str, UUID, str, float, float], Sequence[int]] = {}
    heads = np.flatnonzero(counted)[first]
    rows = zip(
        group_index[heads].tolist(),
        cells[heads].tolist(),
        grid.pane_s[heads].tolist(),
        grid.width_s[heads].tolist(),
        sums,
        strict=True,
    )
    for number, cell, pane_s, width_s, total in rows:
        group = groups[number]
        for segment in group.segments:
            place = (cell, width_s) if segment == ALL_ROWS else (float(pane_start(cell, pane_s)), pane_s)
            key = (group.line, cast("UUID", group.model_id), segment, *place)
            before = changes.get(key)
            changes[key] = total if before is None else [sum(pair) for pair in zip(before, total, strict=True)]
    return [PaneChange(*key, total) for key, total in changes.items()]


def merge_changes(first: Iterable[PaneChange], second: Iterable[PaneChange]) -> list[PaneChange]:
    """Both lists of changes, with one change for each cell."""
    cells = {change[:-1]: change for change in first}
    for change in second:
        before = cells.get(change[:-1])
        sums = change.sums if before is None else [sum(pair) for pair in zip(before.sums, change.sums, strict=True)]
        cells[change[:-1]] = change._replace(sums=sums)
    return list(cells.values())


# -- a batch


@dataclass(frozen=True)
class BatchRevisions:
    """Outcomes of a batch that are new and could be scored, as columns of length n in the order of the source.

    Attributes:
        rows: row of each in the batch.
        observed: event time, seconds since 1970.
        watermark: of the source just before each, NaN before its first outcome.
        grid: panes of each.
        pane, width_s: cell that each is counted in; NaN where it adds to no sum.
        sort_key: the event id, in an order that is that of Postgres.
        order: sorts by event id, equal ones in the order of the source.
    """

    scored: ScoredBatch
    rows: Integers
    observed: Floats
    watermark: Floats
    grid: PaneGrid
    pane: Floats
    width_s: Floats
    sort_key: npt.NDArray[np.bytes_]
    order: Integers

    @property
    def events(self) -> Octets:
        """Event ids in their order, shape ``(n, 16)``."""
        return self.scored.outcomes.event_id[self.rows[self.order]]

    def select(self, indices: Integers) -> list[Revision]:
        """Revisions one by one."""
        return [
            Revision(self._head(index), float(self.observed[index]), _optional(self.watermark[index])) for index in indices.tolist()
        ]

    def _head(self, index: int) -> Head:
        row = int(self.rows[index])
        outcomes, scores = self.scored.outcomes, self.scored.scores
        group = scores.groups[scores.group_index[row]]
        return Head(
            event_id=outcomes.event_id_of(row),
            revision=int(outcomes.revision[row]),
            digest=self.scored.decoded.digests[row].tobytes(),
            line=group.line,
            model_id=group.model_id,
            segments=group.segments,
            pane=_optional(self.pane[index]),
            width_s=_optional(self.width_s[index]),
            contribution=scores.contributions[row].tolist() if scores.in_sums[row] else None,
        )


def batch_revisions(
    scored: ScoredBatch, rows: Integers, lines: Mapping[str, LineGrid], watermark: datetime | None
) -> BatchRevisions:
    """The revisions in these rows of a batch, given the watermark of the source before the batch."""
    scores = scored.scores
    observed = scored.outcomes.observed[rows]
    first = watermark.timestamp() if watermark else np.nan
    grid = PaneGrid.of_groups(scores.groups, scores.group_index[rows], lines)
    sort_key = _sortable(scored.outcomes.event_id[rows])
    return BatchRevisions(
        scored=scored,
        rows=rows,
        observed=observed,
        # rule 8: an outcome is judged by the watermark just before it, so that the cut into batches does not matter
        watermark=np.fmax.accumulate(np.concatenate([[first], observed]))[:-1],
        grid=grid,
        pane=np.where(scores.in_sums[rows], pane_start(observed, grid.width_s), np.nan),
        width_s=np.where(scores.in_sums[rows], grid.width_s, np.nan),
        sort_key=sort_key,
        order=np.argsort(sort_key, kind="stable"),
    )


@dataclass(frozen=True)
class NewEvents:
    """Revisions of events that have no head yet.

    Attributes:
        fates, conflict: of each revision of the batch; those of corrections are not resolved yet.
        heads: indices of the revisions that become heads, in the order of their event ids.
        corrections: indices of the revisions whose event has a head.
    """

    fates: list[str]
    conflict: Flags
    heads: Integers
    corrections: Integers


def resolve_new_events(
    revisions: BatchRevisions, stored: StoredEvents, lines: Mapping[str, LineGrid], restatement_s: float
) -> NewEvents:
    """Resolve revisions of events without a head: single ones by columns, repeated ones one by one.

    An event whose head has aged out was counted below the floor, so all of its later revisions are too late.
    """
    has_head, is_aged = (np.isin(revisions.sort_key, _sort_keys(events)) for events in stored)
    too_late = is_aged | revisions.grid.is_settled(revisions.observed, revisions.watermark, restatement_s)
    fates = np.where(too_late, "too_late", "counted").tolist()
    conflict = np.zeros(len(revisions.rows), dtype=np.bool_)
    single = _is_single(revisions.sort_key, revisions.order)
    is_head = single & ~has_head & ~too_late
    repeated = np.flatnonzero(~single & ~has_head & ~is_aged)
    if len(repeated):
        selected = revisions.select(repeated)
        resolved = resolve_revisions(selected, {}, lines, restatement_s)
        heads = {id(head) for head in resolved.heads.values()}
        for index, revision, fate, is_conflict in zip(repeated.tolist(), selected, resolved.fates, resolved.conflicts, strict=True):
            fates[index], conflict[index], is_head[index] = fate, is_conflict, id(revision.head) in heads
    return NewEvents(fates, conflict, revisions.order[is_head[revisions.order]], np.flatnonzero(has_head))


@dataclass(frozen=True)
class ResolvedBatch:
    """What becomes of the outcomes of a batch that are new and could be scored, as columns in the order of the source.

    Attributes:
        rows: row of each in the batch.
        pane, width_s: cell that each is counted in; NaN where it adds to no sum.
        fates, conflict: of each.
        changes: what the batch adds to the cells.
    """

    rows: Integers
    pane: Floats
    width_s: Floats
    fates: list[str]
    conflict: Flags
    changes: list[PaneChange]


def resolved_batch(
    revisions: BatchRevisions, new: NewEvents, corrected: ResolvedRevisions, changes: list[PaneChange]
) -> ResolvedBatch:
    """Combine what became of new events and of corrections; ``changes`` are those of the corrections.

    A revision that becomes a head without an actual value is ``missing``: it holds its event, and enters no sum.
    """
    fates, conflict = list(new.fates), new.conflict.copy()
    for index, fate, is_conflict in zip(new.corrections.tolist(), corrected.fates, corrected.conflicts, strict=True):
        fates[index], conflict[index] = fate, is_conflict
    no_value = np.isnan(revisions.scored.outcomes.actual[revisions.rows]).tolist()
    fates = ["missing" if fate == "counted" and is_missing else fate for fate, is_missing in zip(fates, no_value, strict=True)]
    scores = revisions.scored.scores
    counted = new.heads[scores.in_sums[revisions.rows[new.heads]]]
    rows = revisions.rows[counted]
    grid = PaneGrid(*(column[counted] for column in revisions.grid))
    added = changes_of_new_heads(scores.groups, scores.group_index[rows], revisions.pane[counted], grid, scores.contributions[rows])
    return ResolvedBatch(revisions.rows, revisions.pane, revisions.width_s, fates, conflict, merge_changes(added, changes))


def _sortable(ids: Octets) -> npt.NDArray[np.bytes_]:
    """Ids as octet strings, which NumPy orders as Postgres does."""
    return np.ascontiguousarray(ids).view("S16").ravel()


def _sort_keys(events: Sequence[bytes]) -> npt.NDArray[np.bytes_]:
    return _sortable(np.frombuffer(b"".join(events), dtype=np.uint8).reshape(-1, 16))


def _is_single(keys: npt.NDArray[np.bytes_], order: Integers) -> Flags:
    """Which keys occur once; ``order`` sorts them."""
    ordered = keys[order]
    equal = ordered[1:] == ordered[:-1]
    repeated = np.zeros(len(order), dtype=np.bool_)
    repeated[order[1:][equal]] = True
    repeated[order[:-1][equal]] = True
    return ~repeated


def _optional(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
