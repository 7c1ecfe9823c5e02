"""Replays a range of a topic: refused outcomes that are valid by now, and requests or experiments that need another answer.

Whatever is stored already stays as it is, as ids make a second delivery harmless. Replayed outcomes enter the windows of their own
time. While they are replayed, drift events and automatic retraining of their lines are suppressed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TypeAlias

from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas import ExperimentResult, OutcomeEvent, SimulationRequest
from schemas.base import require_one_of
from sql.database import Pool
from sql.replay_store import OffsetRange
from streams.kafka import DEAD_LETTERS, PARTITIONS, count_partitions, open_consumer, topic_of
from streams.operations.outcome_replay import replay_outcomes
from streams.operations.record_replay import replay_records
from streams.operations.replay_report import ReplayReport
from streams.settings import Settings

__all__ = ["RangeBound", "parse_bound", "replay_topic"]

RangeBound: TypeAlias = int | datetime | None
"""An offset, a time, or None for the beginning or end of the log."""

_OUTCOMES = topic_of(OutcomeEvent)
_REPLAYABLE = (_OUTCOMES, topic_of(SimulationRequest), topic_of(ExperimentResult))


def parse_bound(text: str) -> int | datetime:
    """Parse an offset, or a time with its zone.

    Raises:
        ValueError: for anything else.

    Example:
        >>> parse_bound("1200"), parse_bound("2026-03-01T08:00:00Z")
        (1200, datetime.datetime(2026, 3, 1, 8, 0, tzinfo=datetime.timezone.utc))
    """
    if text.isdigit():
        return int(text)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither an offset nor a time such as 2026-03-01T08:00:00Z") from None
    if at.tzinfo is None:
        raise ValueError(f"the time {text!r} has no zone: write {text}Z for UTC")
    return at


async def replay_topic(
    settings: Settings,
    pool: Pool,
    topic: str,
    begin: RangeBound,
    end: RangeBound,
    partitions: Sequence[int] = (),
    *,
    dry_run: bool = False,
) -> ReplayReport:
    """Replay a range of a topic.

    - ``outcome-events``: refused outcomes are validated against the present state, and those that would be accepted now are
      published again, once; stored outcomes stay as they are.
    - ``simulation-requests``: requests are published again, and so answered again from what was stored or pinned for them.
    - ``experiment-results``: experiments that were refused and would be accepted now, or left no trace, are published again.

    Args:
        settings: where Kafka, Postgres and MLflow are.
        pool: connections to Postgres.
        topic: one of the three topics above.
        begin: where the range begins, itself included.
        end: where the range ends, itself left out.
        partitions: partitions to replay; empty for all.
        dry_run: only count what would be done.

    Raises:
        ValueError: for a topic whose messages only copy what Postgres holds, or start a training.
    """
    _check(topic)
    all_partitions = range(await count_partitions(settings, topic))
    for number in partitions:
        require_one_of("partition", str(number), map(str, all_partitions))
    report = ReplayReport(topic, dry_run)
    async with open_consumer(settings) as consumer:
        report.ranges = await _offset_ranges(consumer, topic, begin, end, partitions or all_partitions)
        if topic == _OUTCOMES:
            await replay_outcomes(settings, pool, report)
        else:
            await replay_records(settings, pool, consumer, report)
    return report


def _check(topic: str) -> None:
    require_one_of("topic", topic, [*PARTITIONS])
    if topic == DEAD_LETTERS:
        raise ValueError("dead letters are replayed to the topic that they came from: use twinstream dlq replay")
    if topic in {"retrain-events", "training-requests"}:
        raise ValueError("a replay trains nothing: use twinstream retrain approve, or twinstream train")
    if topic not in _REPLAYABLE:
        raise ValueError(
            f"messages on {topic} are copies of rows in Postgres, which twinstream verify --repair publishes again;"
            f" topics that can be replayed are {', '.join(_REPLAYABLE)}"
        )


async def _offset_ranges(
    consumer: AIOKafkaConsumer, topic: str, begin: RangeBound, end: RangeBound, partitions: Iterable[int]
) -> list[OffsetRange]:
    """The offsets between both bounds, of each partition that has any."""
    tps = [TopicPartition(topic, number) for number in partitions]
    earliest, latest = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
    firsts = await _resolve(consumer, begin, earliest, latest)
    ends = await _resolve(consumer, end, latest, latest)
    ranges = [OffsetRange(topic, tp.partition, max(firsts[tp], earliest[tp]), min(ends[tp], latest[tp])) for tp in tps]
    return [offsets for offsets in ranges if offsets.first < offsets.end]


async def _resolve(
    consumer: AIOKafkaConsumer, bound: RangeBound, default: Mapping[TopicPartition, int], latest: Mapping[TopicPartition, int]
) -> dict[TopicPartition, int]:
    """The offset of a bound in each partition; a time after the last record is the end of the log."""
    if bound is None:
        return dict(default)
    if isinstance(bound, int):
        return dict.fromkeys(default, bound)
    offsets = await consumer.offsets_for_times(dict.fromkeys(default, round(bound.timestamp() * 1000)))
    return {tp: latest[tp] if position is None else position.offset for tp, position in offsets.items()}
