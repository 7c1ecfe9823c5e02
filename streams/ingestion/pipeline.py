"""The way of an outcome: decode -> score -> resolve revisions -> store -> publish, each step with a typed input and output.

    PollBatch -decode-> DecodedBatch -score-> ScoredBatch -resolve-> ResolvedBatch -store-> IngestResult -publish-> messages

Decoding and scoring depend on nothing that is stored of the source, so they run ahead of the batch that is being stored. Resolving
and storing are one transaction for each batch (rule 1). The rules are those of ``docs/exactness.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy, deepcopy
from typing import Self

import asyncpg
import numpy as np

from schemas.arrays import Integers
from sql import outcome_store
from sql.database import Connection, Database, transaction
from sql.dead_letter_store import add_refused
from sql.feature_count_store import add_feature_counts
from sql.line_lock import LineGrid
from sql.pane_store import add_pane_changes, pane_rows_since, split_cells
from sql.segment_store import DEFAULT_SEGMENT_LIMITS, SegmentLimits
from sql.source_position_store import Position, add_gaps, advance_position, lock_position
from streams.bounds import DEFAULT_BOUNDS, BoundSettings
from streams.ingestion import decoding, revisions, rows, scoring
from streams.ingestion.batch_threads import BatchThreads
from streams.ingestion.feature_names import count_features
from streams.ingestion.line_locks import LinesChanged, LinesMissing, lock_lines
from streams.ingestion.outcome_batch import DecodedBatch
from streams.ingestion.revisions import ResolvedBatch
from streams.ingestion.rows import IngestResult
from streams.ingestion.scoring import ScoredBatch
from streams.ingestion.scoring_context import ContextLoader
from streams.ingestion.segment_bound import BoundedBatch, SegmentBound, count_in_other
from streams.kafka.batch_consumer import PollBatch

__all__ = ["OutcomePipeline"]

_MAX_HEAD_RACES = 100


class OutcomePipeline:
    """Brings poll batches of outcomes into Postgres, each element exactly once.

    Args:
        pool: of the database, or the connection whose transaction holds everything.
        contexts: loads what scoring needs.
        skew_s: how far outcomes may lie ahead of Kafka's time.
        restatement_s: how far below the watermark of its source a pane may still change.
        limits: on the segments of outcomes.
        bounds: of what comes in.
    """

    def __init__(
        self,
        pool: Database,
        contexts: ContextLoader,
        skew_s: float,
        restatement_s: float,
        limits: SegmentLimits = DEFAULT_SEGMENT_LIMITS,
        bounds: BoundSettings = DEFAULT_BOUNDS,
    ) -> None:
        self._pool = pool
        self._contexts = contexts
        self._skew_s, self._bounds = skew_s, bounds
        self._restatement_s = restatement_s
        self._max_characters = limits.characters
        self._segment_bound = SegmentBound(limits.values)
        self._threads = BatchThreads()

    def inside(self, connection: Connection) -> Self:
        """The same pipeline inside of a transaction, which decides whether anything is stored."""
        pipeline = copy(self)
        vars(pipeline).update(_pool=connection, _segment_bound=deepcopy(self._segment_bound))  # its values may be rolled back
        return pipeline

    async def ingest(self, batch: PollBatch) -> IngestResult:
        """Take a batch through all steps but publishing; a repetition changes nothing and returns the same rows or newer ones."""
        return await self.store(await self.score(await self.decode(batch)))

    async def decode(self, batch: PollBatch) -> DecodedBatch:
        """Decode a batch, outside of the event loop."""
        return await self._threads.compute(batch, lambda: decoding.decode(batch, self._skew_s, self._bounds))

    async def score(self, decoded: DecodedBatch) -> ScoredBatch:
        """Score a batch by the champions of now, outside of the event loop."""
        context = await self._contexts.load(decoded.outcomes, retries_failed=rows.has_replay(decoded.batch))
        return await self._threads.compute(decoded.batch, lambda: scoring.score(decoded, context, self._max_characters))

    async def store(self, scored: ScoredBatch) -> IngestResult:
        """Resolve and store the batch that is next in its source, in one transaction (rule 1).

        Raises:
            asyncpg.PostgresError: when the transaction failed: then nothing of the batch is stored.
        """
        other_lines: set[str] = set()
        races = 0
        while True:
            try:
                async with transaction(self._pool) as connection:
                    result = await self._store(connection, scored, other_lines)
            except LinesChanged as change:
                self._contexts.invalidate(change.lines)
                scored = await self.score(scored.decoded)
            except LinesMissing as missing:
                other_lines |= missing.lines
            except asyncpg.UniqueViolationError as violation:
                # Another source has just inserted a head: a new transaction resolves the event against it. Others are no race.
                races += 1
                if violation.table_name != "event_heads" or races > _MAX_HEAD_RACES:
                    raise
            else:
                self._segment_bound.remember(result.admitted)
                for line, splits in result.splits.items():  # rule 17; only later batches read them
                    await split_cells(self._pool, line, splits)
                return result

    async def _store(self, connection: Connection, scored: ScoredBatch, other_lines: set[str]) -> IngestResult:
        decoded = scored.decoded
        # Rule 9: all transactions lock in this order, or they would wait for each other: position, lines, segments, heads, panes.
        position = await lock_position(connection, scored.source)
        lines = await lock_lines(connection, scored, other_lines)
        # Rule 2: an element is found again by its id, not by its offset, so that a record that comes into a gap later still counts.
        stored = await outcome_store.stored_elements(connection, scored.source, rows.possible_replays(decoded, position))
        new = rows.new_elements(decoded, position, stored)
        accepted = np.flatnonzero(new.outcomes & scored.is_accepted)
        bounded = await self._segment_bound.apply(connection, scored, accepted)
        resolved = await self._resolve(connection, bounded.scored, accepted, lines, position)
        return await self._write(connection, bounded, new, resolved, lines, position)

    async def _resolve(
        self, connection: Connection, scored: ScoredBatch, new: Integers, lines: Mapping[str, LineGrid], position: Position
    ) -> ResolvedBatch:
        """Resolve new outcomes by rows and bring the heads of their events up to date (rule 5)."""
        batch = revisions.batch_revisions(scored, new, lines, position.watermark)
        # Rule 9: new heads are inserted in the order of their ids and before stored ones are locked. An insert then waits only for
        # another insert, and no transaction that holds the lock of a stored head waits for an insert.
        stored = await outcome_store.stored_events(connection, batch.events)
        first = revisions.resolve_new_events(batch, stored, lines, self._restatement_s)
        await outcome_store.add_heads(connection, rows.new_heads(batch, first.heads))
        # Events with a head are few, and each revision depends on the one before it: one by one, in the order of the source.
        corrections = batch.select(first.corrections)
        events = {revision.head.event_id for revision in corrections}
        before = await outcome_store.lock_heads(connection, events) if corrections else {}
        if missing := {head.line for head in before.values()} - lines.keys():
            raise LinesMissing(missing)  # lines come before heads in the order of locks: start again with these lines too
        corrected = revisions.resolve_revisions(corrections, before, lines, self._restatement_s)
        await outcome_store.update_heads(connection, revisions.changed_heads(before, corrected.heads))
        changes = revisions.changes_between(before, corrected.heads, lines)
        return revisions.resolved_batch(batch, first, corrected, changes)

    async def _write(
        self,
        connection: Connection,
        bounded: BoundedBatch,
        new: rows.NewElements,
        resolved: ResolvedBatch,
        lines: Mapping[str, LineGrid],
        position: Position,
    ) -> IngestResult:
        """Store outcomes and refused records, add to the panes, and advance the position."""
        scored, decoded, source = bounded.scored, bounded.scored.decoded, bounded.scored.source
        refused = rows.refused_rows(scored, new)
        for population, twin_rows in rows.referenced_twins(scored, resolved.rows):
            await outcome_store.store_and_lock_twins(connection, population, twin_rows)
        await outcome_store.add_outcomes(connection, source, rows.outcome_rows(scored, resolved))
        await add_refused(connection, source, refused)
        counts = count_features(scored.scores.feature_uses, resolved.rows)
        await add_feature_counts(connection, source, counts)
        changed = pane_rows = await add_pane_changes(connection, source, decoded.batch.last_offset, resolved.changes)
        if new.n_elements < decoded.n_elements:
            # Rule 4: the worker that stored these elements may have ended before it published, so all later changes are published.
            pane_rows = await pane_rows_since(connection, source, decoded.batch.first_offset)
        watermark = rows.watermark_of(scored.outcomes, resolved.rows)
        await add_gaps(connection, source, rows.missing_offsets(decoded.offsets.tolist(), position.last_offset))
        await advance_position(connection, source, rows.position_update(decoded, new.n_elements, watermark))
        return IngestResult(
            source=source,
            first_offset=decoded.batch.first_offset,
            last_offset=decoded.batch.last_offset,
            rows=pane_rows,
            watermark=rows.latest(position.watermark, watermark),
            fates=rows.count_fates(scored, resolved),
            refused=refused,
            n_replayed=decoded.n_elements - new.n_elements,
            splits=rows.cell_splits(changed, lines),
            admitted=bounded.admitted,
            in_other=count_in_other(scored, resolved),
            feature_counts=counts,
            outliers=rows.outlying_events(scored, resolved),
        )
