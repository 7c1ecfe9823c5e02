"""Builds rows and messages of a batch from its columns: outcomes, heads, refused records, gaps, splits of cells."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

import numpy as np

from schemas import FidelityErrors, PaneRow, SourceId, TwinPopulation
from schemas.arrays import Flags, Floats, Integers, Octets
from schemas.base import utc_time
from schemas.events import MAX_MESSAGE_ROWS, SUM_FIELDS
from schemas.twin_types import ALL_ROWS
from sql.dead_letter_store import RefusedRecord
from sql.feature_count_store import FeatureCount
from sql.line_lock import LineGrid
from sql.outcome_store import NewHeads, NewOutcomes, StoredElements
from sql.pane_store import LinePaneRow
from sql.segment_store import Dimension, SegmentValue
from sql.source_position_store import UNREADABLE_DIGEST, Position, PositionUpdate, record_digest
from streams.errors import limit_text
from streams.ingestion.decoding import raw_elements
from streams.ingestion.outcome_batch import DecodedBatch, OutcomeBatch, RefusedElement, from_microseconds
from streams.ingestion.revisions import BatchRevisions, ResolvedBatch
from streams.ingestion.scoring import ScoredBatch
from streams.kafka.dead_letters import is_replay
from streams.kafka.parking import UnreadableBytes, first_offset_of

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord

    from streams.kafka.batch_consumer import PollBatch

__all__ = [
    "IngestResult",
    "NewElements",
    "PossibleReplays",
    "cell_splits",
    "count_fates",
    "has_replay",
    "latest",
    "missing_offsets",
    "new_elements",
    "new_heads",
    "outcome_rows",
    "outlying_events",
    "pane_messages",
    "position_after",
    "position_update",
    "possible_replays",
    "referenced_twins",
    "refused_rows",
    "watermark_of",
]

_CELL_OUTCOMES = 200  # a cell of the detector should hold no more (rule 17)
_MAX_SPLITS = 64
_N, _OUTLIERS = SUM_FIELDS.index("n"), SUM_FIELDS.index("n_outliers")


@dataclass(frozen=True)
class IngestResult:
    """A stored batch, and what has to be published of it.

    Attributes:
        rows: rows of ``fidelity_panes`` to publish.
        watermark: of the source, after the batch.
        fates: number of its new outcomes by line and fate.
        refused: its elements that were refused now, not those of a replay.
        n_replayed: number of its elements that were stored before.
        splits: number of cells that panes are split into from now on, by line.
        admitted: segment values that have series of their own from now on.
        in_other: number of its new outcomes that are counted in the series ``other`` of a dimension.
        feature_counts: features that models had to predict its new outcomes without, or did not use.
        outliers: events of its new outcomes whose error is an outlier, by line.
    """

    source: SourceId
    first_offset: int
    last_offset: int
    rows: Sequence[LinePaneRow]
    watermark: datetime | None
    fates: Mapping[tuple[str, str], int] = field(default_factory=dict)
    refused: Sequence[RefusedRecord] = ()
    n_replayed: int = 0
    splits: Mapping[str, int] = field(default_factory=dict)
    admitted: Sequence[SegmentValue] = ()
    in_other: Mapping[Dimension, int] = field(default_factory=dict)
    feature_counts: Sequence[FeatureCount] = ()
    outliers: Mapping[str, Sequence[UUID]] = field(default_factory=dict)


# -- which elements are new


def has_replay(batch: PollBatch) -> bool:
    """Whether an operator has replayed a record of a batch, who may have repaired before what it needs."""
    return any(is_replay(record.headers) for record in batch.records)


class PossibleReplays(NamedTuple):
    """Elements at or below the position of their source: their ids, and the span of Kafka's time of their records."""

    ids: Octets
    first: datetime
    last: datetime


class NewElements(NamedTuple):
    """Which outcomes and which refused elements of a batch have no row yet."""

    outcomes: Flags
    refused: Flags

    @property
    def n_elements(self) -> int:
        """Number of elements without a row."""
        return int(self.outcomes.sum() + self.refused.sum())


def possible_replays(decoded: DecodedBatch, position: Position) -> PossibleReplays | None:
    """The elements that may have been stored before, None when all lie above the position."""
    records = _element_records(decoded)
    below = decoded.offsets[records] <= position.last_offset
    if not below.any():
        return None
    arrived = decoded.arrived_us[records][below]
    ids = np.concatenate([decoded.ids, decoded.refused_ids])[below]
    return PossibleReplays(ids, from_microseconds(int(arrived.min())), from_microseconds(int(arrived.max())))


def new_elements(decoded: DecodedBatch, position: Position, stored: StoredElements) -> NewElements:
    """The elements that were never stored: those above the position, and those without a row where none has aged out (rule 2)."""
    offsets = decoded.offsets[_element_records(decoded)]
    is_new = offsets > position.last_offset
    doubtful = ~is_new & (offsets > stored.aged_offset)
    if doubtful.any():
        ids = np.concatenate([decoded.ids, decoded.refused_ids])[doubtful]
        is_new[doubtful] = [octets.tobytes() not in stored.ids for octets in ids]
        is_new &= ~np.isin(offsets, list(stored.parked_offsets))
    return NewElements(is_new[: len(decoded.outcomes)], is_new[len(decoded.outcomes) :])


def _element_records(decoded: DecodedBatch) -> Integers:
    """Index of the record of each outcome, then of each refused element."""
    return np.concatenate(
        [decoded.outcomes.record_index, np.array([item.record_index for item in decoded.refused], dtype=np.int64)]
    )


# -- rows of heads and outcomes


def new_heads(revisions: BatchRevisions, heads: Integers) -> NewHeads:
    """Columns of new heads, given by the indices of their revisions."""
    outcomes, scores = revisions.scored.outcomes, revisions.scored.scores
    rows = revisions.rows[heads]
    return NewHeads(
        event_id=outcomes.event_id[rows],
        revision=outcomes.revision[rows],
        digest=revisions.scored.decoded.digests[rows],
        groups=scores.groups,
        group_index=scores.group_index[rows],
        pane=revisions.pane[heads],
        width_s=revisions.width_s[heads],
        contribution=scores.contributions[rows],
    )


def outcome_rows(scored: ScoredBatch, resolved: ResolvedBatch) -> NewOutcomes:
    """Columns of the outcomes that are stored."""
    decoded, outcomes, scores, rows = scored.decoded, scored.outcomes, scored.scores, resolved.rows
    records = outcomes.record_index[rows]
    return NewOutcomes(
        tracking_id=decoded.ids[rows],
        tracked_us=decoded.arrived_us[records],
        source_offset=decoded.offsets[records],
        element_index=outcomes.element_index[rows],
        event_id=outcomes.event_id[rows],
        revision=outcomes.revision[rows],
        digest=decoded.digests[rows],
        observed_us=outcomes.observed_us[rows],
        pane=resolved.pane,
        width_s=resolved.width_s,
        predicted_value=_finite(scores.predicted[rows]),
        actual_value=outcomes.actual[rows],
        predicted_lower=_finite(scores.lower[rows]),
        predicted_upper=_finite(scores.upper[rows]),
        treated=outcomes.treated[rows],
        fates=resolved.fates,
        conflict=resolved.conflict,
        groups=scores.groups,
        group_index=scores.group_index[rows],
        own=_own_fields(outcomes, rows),
    )


def _own_fields(outcomes: OutcomeBatch, rows: Integers) -> dict[int, tuple[UUID | None, str | None, str | None]]:
    """Twin, entity and features as JSON, by the index of an outcome in ``rows`` that has any."""
    own = {}
    for index, row in enumerate(rows.tolist() if outcomes.twins or outcomes.entities else ()):
        twin_id = outcomes.twins[row][1] if row in outcomes.twins else None
        entity = outcomes.entities.get(row)
        if twin_id is not None or entity is not None:
            features = json.dumps(entity.features) if entity and entity.features is not None else None
            own[index] = (twin_id, entity.entity_id if entity else None, features)
    return own


def _finite(column: Floats) -> Floats:
    return np.where(np.isfinite(column), column, np.nan)


def referenced_twins(scored: ScoredBatch, rows: Integers) -> list[tuple[TwinPopulation, list[int]]]:
    """Populations of the twins that these outcomes name, with the rows of the twins, in the order of the simulations."""
    twins = scored.outcomes.twins
    twin_rows: defaultdict[UUID, list[int]] = defaultdict(list)
    for row in rows.tolist() if twins else ():
        if row in twins:
            simulation_id, twin_id = twins[row]
            twin_rows[simulation_id].append(scored.simulations[simulation_id].rows[twin_id])
    return [(scored.simulations[simulation_id].population, numbers) for simulation_id, numbers in sorted(twin_rows.items())]


def count_fates(scored: ScoredBatch, resolved: ResolvedBatch) -> dict[tuple[str, str], int]:
    """Number of outcomes by line and fate."""
    lines = [group.line for group in scored.scores.groups]
    pairs = zip(scored.scores.group_index[resolved.rows].tolist(), resolved.fates, strict=True)
    counts: Counter[tuple[str, str]] = Counter()
    for (index, fate), count in Counter(pairs).items():
        counts[lines[index], fate] += count
    return dict(counts)


def outlying_events(scored: ScoredBatch, resolved: ResolvedBatch) -> dict[str, list[UUID]]:
    """Events of counted outcomes whose error is beyond three standard deviations, by line."""
    is_counted = np.array([fate == "counted" for fate in resolved.fates], dtype=np.bool_)
    rows = resolved.rows[is_counted]
    events: defaultdict[str, list[UUID]] = defaultdict(list)
    for row in rows[scored.scores.contributions[rows, _OUTLIERS] == 1].tolist():
        line = scored.scores.groups[int(scored.scores.group_index[row])].line
        events[line].append(scored.outcomes.event_id_of(row))
    return dict(events)


# -- rows of refused records


def refused_rows(scored: ScoredBatch, new: NewElements) -> list[RefusedRecord]:
    """Rows of the new elements that could not be decoded or scored, with their bytes as they came (rule 3)."""
    decoded, outcomes = scored.decoded, scored.outcomes
    by_record: defaultdict[int, list[tuple[RefusedElement, Octets]]] = defaultdict(list)
    for row in np.flatnonzero(new.outcomes & ~scored.is_accepted).tolist():
        element = RefusedElement(int(outcomes.record_index[row]), int(outcomes.element_index[row]), scored.scores.refused[row])
        by_record[element.record_index].append((element, decoded.ids[row]))
    for element, octets, is_new in zip(decoded.refused, decoded.refused_ids, new.refused.tolist(), strict=True):
        if is_new:
            by_record[element.record_index].append((element, octets))
    return [row for index, elements in sorted(by_record.items()) for row in _refused_rows_of_record(decoded, index, elements)]


def _refused_rows_of_record(
    decoded: DecodedBatch, record_index: int, elements: Sequence[tuple[RefusedElement, Octets]]
) -> Iterator[RefusedRecord]:
    record = decoded.batch.records[record_index]
    is_whole = any(element.refusal.whole_record for element, _ in elements)
    raw = [record.value] if is_whole else raw_elements(record.value)
    for element, octets in elements:
        yield RefusedRecord(
            refusal_id=UUID(bytes=octets.tobytes()),
            source=decoded.source,
            offset=record.offset,
            element=element.element_index,
            at=utc_time(record.timestamp / 1000),
            key=record.key,
            value=raw[element.element_index] if element.element_index < len(raw) else record.value,
            headers=record.headers,
            kind=element.refusal.kind,
            reason=limit_text(element.refusal.reason),
            exception=element.refusal.exception,
            traceback=element.refusal.traceback,
            first_offset=first_offset_of(record.value),
        )


# -- position, gaps, splits


def watermark_of(outcomes: OutcomeBatch, rows: Integers) -> datetime | None:
    """The highest event time of these outcomes, None without any."""
    return from_microseconds(int(outcomes.observed_us[rows].max())) if len(rows) else None


def latest(*times: datetime | None) -> datetime | None:
    """The latest of these times, None without any."""
    return max((at for at in times if at is not None), default=None)


def position_update(decoded: DecodedBatch, n_new: int, watermark: datetime | None) -> PositionUpdate:
    """The position after a batch that added ``n_new`` rows."""
    return position_after(decoded.batch.records[-1], n_new, watermark)


def position_after(record: ConsumerRecord[bytes | None, bytes | None], n_new: int, watermark: datetime | None) -> PositionUpdate:
    """The position after a record, which with those before it added ``n_new`` rows."""
    at = utc_time(record.timestamp / 1000)
    digest = UNREADABLE_DIGEST if isinstance(record.value, UnreadableBytes) else record_digest(record.key, record.value)
    return PositionUpdate(record.offset, n_new, watermark, at, digest)


def missing_offsets(offsets: Iterable[int], last_offset: int) -> list[tuple[int, int]]:
    """Ranges of offsets above ``last_offset``, first to last inclusive, that were not delivered."""
    above = [last_offset, *(offset for offset in offsets if offset > last_offset)]
    return [(before + 1, after - 1) for before, after in pairwise(above) if after > before + 1]


def cell_splits(rows: Iterable[LinePaneRow], lines: Mapping[str, LineGrid]) -> dict[str, int]:
    """Lines with a cell that holds too many outcomes, and the number of cells that their panes are split into from now on."""
    return {
        line.line: 2 * line.splits
        for name, row in rows
        for line in (lines[name],)
        if row.segment == ALL_ROWS
        and row.sums[_N] > _CELL_OUTCOMES
        and line.splits < _MAX_SPLITS
        and row.width_s == line.pane_s / line.splits
    }


# -- messages


def pane_messages(result: IngestResult) -> list[FidelityErrors]:
    """Messages with the rows of a batch: by line, so that a consumer sees all series of a line at once (rule 12)."""
    by_line: defaultdict[str, list[PaneRow]] = defaultdict(list)
    for line, row in result.rows:
        by_line[line].append(row)
    return [
        FidelityErrors(line=line, source=result.source, watermark=result.watermark, rows=tuple(part))
        for line, line_rows in by_line.items()
        for part in _parts(line_rows, MAX_MESSAGE_ROWS)
    ]


def _parts(rows: Sequence[PaneRow], size: int) -> Iterator[Sequence[PaneRow]]:
    for first in range(0, len(rows), size):
        yield rows[first : first + size]
