"""Replays refused outcomes that would be accepted by now, for example because their line has a champion since."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from schemas import OutcomeEvent, SourceId
from sql.database import Pool
from sql.dead_letter_store import RefusedRecord, refused_in_range
from sql.park_store import PARKED
from sql.replay_store import OffsetRange, begin_suppression, count_stored_outcomes, extend_suppression
from sql.source_position_store import newest_position
from streams.kafka import topic_of
from streams.operations.corrections import Correction
from streams.operations.dead_letter_replay import replay_dead_letters
from streams.operations.dead_letter_view import DeadLetter, await_replay_results, load_dead_letters
from streams.operations.operator import operator_name
from streams.operations.outcome_check import OutcomeCheck
from streams.operations.replay_report import PublishedRecord, ReplayReport
from streams.settings import Settings

__all__ = ["replay_outcomes"]

_OUTCOMES = topic_of(OutcomeEvent)
_BATCH = 500
_SUPPRESSION_S = 300.0
"""How long a suppression holds unless the next batch extends it."""
_SUPPRESSION_AFTER_S = 30.0
"""How long it holds after the last batch, until the fidelity agent has read the changed sums."""


class _Recheck(NamedTuple):
    """A refused outcome, its line, and why it would be refused again; null when it would be accepted."""

    refused: RefusedRecord
    line: str
    reason: str | None


async def replay_outcomes(settings: Settings, pool: Pool, report: ReplayReport) -> None:
    """Publish refused outcomes of the report's ranges that would be accepted now, and complete the report."""
    pending = [record for offsets in report.ranges for record in await _pending_refused(pool, offsets, report.counts)]
    rechecks = await _recheck(settings, pool, pending)
    accepted = [recheck for recheck in rechecks if recheck.reason is None]
    report.counts.update(
        "refused, and accepted now" if recheck.reason is None else f"refused, still: {recheck.refused.kind}" for recheck in rechecks
    )
    report.published = [
        PublishedRecord(refused.source.partition, refused.offset, refused.kind) for refused, _line, _reason in accepted
    ]
    if accepted and not report.dry_run:
        report.dead_letters = await _publish_suppressed(settings, pool, accepted)


async def _pending_refused(pool: Pool, offsets: OffsetRange, counts: Counter[str]) -> list[RefusedRecord]:
    """Refused elements of the range that were not accepted since by a replay; all others are only counted."""
    newest = await newest_position(pool, offsets.topic, offsets.partition)
    next_offset = 0 if newest is None else newest.last_offset + 1
    counts["not read yet"] += max(offsets.end - max(offsets.first, next_offset), 0)
    if newest is None:
        return []
    source = str(SourceId(topic=offsets.topic, partition=offsets.partition, incarnation=newest.incarnation))
    counts["in already"] += await count_stored_outcomes(pool, source, offsets)
    dead_letters = await load_dead_letters(pool, await refused_in_range(pool, source, offsets.first, offsets.end))
    pending = [dead_letter.refused for dead_letter in dead_letters if not _is_accepted(dead_letter)]
    counts["refused, and in since a replay"] += len(dead_letters) - len(pending)
    judged = [refused for refused in pending if refused.kind != PARKED]  # a parked one is whole, and may fail here too
    counts.update({"parked: see twinstream dlq replay": n} if (n := len(pending) - len(judged)) else {})
    return judged


def _is_accepted(dead_letter: DeadLetter) -> bool:
    """Whether the last replay was not refused; one whose result is pending counts as accepted."""
    return bool(dead_letter.replays) and not dead_letter.state.startswith("refused")


async def _recheck(settings: Settings, pool: Pool, refused: Sequence[RefusedRecord]) -> list[_Recheck]:
    """Decode and score refused outcomes against the present state, without storing anything."""
    check = OutcomeCheck(settings, pool)
    rechecks: list[_Recheck] = []
    for first in range(0, len(refused), _BATCH):
        batch = refused[first : first + _BATCH]
        checked = await check.check([(record.key, record.value) for record in batch])
        rechecks += [_Recheck(record, *result) for record, result in zip(batch, checked, strict=True)]
    return rechecks


async def _publish_suppressed(settings: Settings, pool: Pool, accepted: Sequence[_Recheck]) -> list[DeadLetter]:
    """Publish outcomes while drift events of their lines are suppressed, and wait for the results."""
    lines = {recheck.line for recheck in accepted}
    suppression = await begin_suppression(pool, _OUTCOMES, lines, operator_name(), _SUPPRESSION_S)
    dead_letters: list[DeadLetter] = []
    for first in range(0, len(accepted), _BATCH):
        batch = [recheck.refused for recheck in accepted[first : first + _BATCH]]
        await replay_dead_letters(settings, pool, batch, Correction(), by=operator_name())
        dead_letters += await await_replay_results(pool, batch)
        is_last = first + _BATCH >= len(accepted)
        await extend_suppression(pool, suppression, _SUPPRESSION_AFTER_S if is_last else _SUPPRESSION_S)
    return dead_letters
