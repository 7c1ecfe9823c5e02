"""The outcome path without Postgres: outcomes are added up in memory, and the changed rows are published to Kafka."""

from __future__ import annotations

import asyncio
import multiprocessing as mp
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from aiokafka import TopicPartition
from faust.types import TP

from schemas import PaneRow
from sql.line_lock import LineGrid
from sql.outcome_store import StoredEvents
from sql.pane_store import LinePaneRow, PaneChange
from streams.ingestion import IngestResult, OutcomePipeline, revisions, rows
from streams.ingestion.outcome_batch import DecodedBatch
from streams.ingestion.scoring import ScoredBatch
from streams.kafka.batch_consumer import PollBatch, StartOffset
from streams.settings import Settings
from streams.worker.bootstrap import build_app
from streams.worker.role_process import collect_garbage_rarely

__all__ = ["without_transaction"]


def without_transaction(settings: Settings, begin: Mapping[TopicPartition, int], count: int) -> tuple[float, float]:
    """Outcomes a second, and processor seconds for a million of them, of a process of its own that reads from these offsets."""
    context = mp.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_serve, args=(settings, {tuple(tp): offset for tp, offset in begin.items()}, count, sender))
    child.start()
    sender.close()
    try:
        rate, cpu_s = receiver.recv()
    finally:
        child.join()
    return rate, cpu_s


def _serve(settings: Settings, begin: Mapping[tuple[str, int], int], count: int, sender: Any) -> None:
    collect_garbage_rarely()
    sender.send(asyncio.run(_run(settings, begin, count)))


async def _run(settings: Settings, begin: Mapping[tuple[str, int], int], count: int) -> tuple[float, float]:
    began: list[tuple[float, float]] = []  # before the first batch is decoded: several are, before the first is added
    n_added = 0
    done = asyncio.Event()
    windows = _Windows(settings.pane_s, settings.restatement_s)

    decode = OutcomePipeline.decode

    async def timed_decode(pipeline: OutcomePipeline, batch: PollBatch) -> DecodedBatch:
        if not began:
            began.append((time.perf_counter(), time.process_time()))
        return await decode(pipeline, batch)

    async def add_in_memory(_: OutcomePipeline, scored: ScoredBatch) -> IngestResult:
        nonlocal n_added
        result = windows.add(scored)
        n_added += scored.decoded.n_elements
        if n_added >= count:
            done.set()
        return result

    OutcomePipeline.decode = timed_decode  # type: ignore[method-assign]  # this process does nothing else
    OutcomePipeline.store = add_in_memory  # type: ignore[method-assign]
    async with _running_role(settings, begin) as app:
        await app.wait(done.wait())
        ended, cpu_ended = time.perf_counter(), time.process_time()
    ((start, cpu_start),) = began
    return n_added / (ended - start), 1e6 * (cpu_ended - cpu_start) / n_added


class _Windows:
    """The rows of all panes. Events that come again in a later batch would count again: only the database knows all events."""

    def __init__(self, pane_s: float, restatement_s: float) -> None:
        self._pane_s, self._restatement_s = pane_s, restatement_s
        self._rows: dict[tuple[Any, ...], PaneRow] = {}

    def add(self, scored: ScoredBatch) -> IngestResult:
        batch = scored.decoded.batch
        lines = {line: LineGrid(line, 1, None, self._pane_s, 1) for line in scored.decoded.lines}
        revised = revisions.batch_revisions(scored, np.flatnonzero(scored.is_accepted), lines, None)
        new = revisions.resolve_new_events(revised, StoredEvents([], []), lines, self._restatement_s)
        nothing = revisions.resolve_revisions([], {}, lines, self._restatement_s)
        resolved = revisions.resolved_batch(revised, new, nothing, [])
        changed = [
            LinePaneRow(change.line, self._add(change, str(scored.source), batch.last_offset)) for change in resolved.changes
        ]
        watermark = rows.watermark_of(scored.outcomes, resolved.rows)
        fates = rows.count_fates(scored, resolved)
        return IngestResult(scored.source, batch.first_offset, batch.last_offset, changed, watermark, fates)

    def _add(self, change: PaneChange, source: str, last_offset: int) -> PaneRow:
        key = (*change[:-1], source)
        before = self._rows.get(key)
        sums = tuple(change.sums) if before is None else tuple(map(sum, zip(before.sums, change.sums, strict=True)))
        row = PaneRow.model_construct(
            model_id=change.model_id,
            segment=change.segment,
            pane=change.pane,
            width_s=change.width_s,
            version=1 if before is None else before.version + 1,
            last_offset=last_offset,
            sums=sums,
        )
        self._rows[key] = row
        return row


@asynccontextmanager
async def _running_role(settings: Settings, begin: Mapping[tuple[str, int], int]) -> AsyncIterator[Any]:
    """The role's app, reading from these offsets."""
    app = build_app("outcomes", settings)

    async def starts(committed: Mapping[TP, int | None]) -> Mapping[TP, StartOffset]:
        return {tp: StartOffset(begin[tp.topic, tp.partition]) for tp in committed}

    app.find_start_offsets = starts
    await app.start()
    try:
        yield app
    finally:
        await app.stop()
