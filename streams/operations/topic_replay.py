"""A stretch of a topic, worked through again: what was refused then and is fine now, and requests that want their answer again.

Whatever is in already stays as it is: ids make a second time harmless. What comes of a replay enters the windows of its own time,
and nothing else: while it runs, drift of its lines is told to nobody and trains nothing by itself.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from pydantic import ValidationError

from schemas import ExperimentResult, OutcomeEvent, SimulationRequest
from schemas.base import one_of
from sql.database import Pool
from sql.dead_letter_store import RefusedRecord, refused_in_range
from sql.outcome_store import newest_position
from sql.replay_store import OffsetRange, begin_suppression, count_stored_outcomes, existing_experiments, extend_suppression
from sql.simulation_store import find_runs
from streams.client.twin_client import TwinClient
from streams.ingestion.pipeline import OutcomePipeline
from streams.ingestion.scoring_context import ContextLoader
from streams.kafka.batch_consumer import PollBatch
from streams.kafka.dead_letters import foreign_headers
from streams.kafka.security import kafka_security
from streams.kafka.topics import DEAD_LETTERS, PARTITIONS, topic_of
from streams.operations.dead_letter_replay import Correction, DeadLetter, operator_name, replay_dead_letters, with_replay_history
from streams.registry.mlflow_registry import MlflowRegistry
from streams.registry.model_loader import ModelLoader
from streams.settings import Settings
from streams.simulation.simulator import Simulator

__all__ = ["RangeBound", "ReplayReport", "parse_bound", "replay_topic"]

Record: TypeAlias = "ConsumerRecord[bytes | None, bytes | None]"
RangeBound: TypeAlias = int | datetime | None
"""An offset, a time, or the beginning or end that there is."""

REPLAY = "twin_replay"
_OUTCOMES, _REQUESTS, _EXPERIMENTS = (topic_of(event) for event in (OutcomeEvent, SimulationRequest, ExperimentResult))
_REPLAYABLE = (_OUTCOMES, _REQUESTS, _EXPERIMENTS)
_GROUPS = {_REQUESTS: "twinstream-simulation", _EXPERIMENTS: "twinstream-experiments"}
_AT_ONCE = 500
_QUIET_S, _ECHO_S = 300.0, 30.0
_READ_S = 10.0


def parse_bound(said: str) -> int | datetime:
    """An offset, or a time with its zone.

    Raises:
        ValueError: for anything else.

    Example:
        >>> bound("1200"), bound("2026-03-01T08:00:00Z")
        (1200, datetime.datetime(2026, 3, 1, 8, 0, tzinfo=datetime.timezone.utc))
    """
    if said.isdigit():
        return int(said)
    try:
        at = datetime.fromisoformat(said)
    except ValueError:
        raise ValueError(f"{said!r} is neither an offset nor a time such as 2026-03-01T08:00:00Z") from None
    if at.tzinfo is None:
        raise ValueError(f"the time {said!r} has no zone: write {said}Z for UTC")
    return at


@dataclass
class ReplayReport:
    """What a replay did, or would do.

    Attributes:
        stretches: what was looked at.
        found: how many elements there were of each kind.
        again: what was published again, or would be: (partition, offset) there, and why.
        letters: refused outcomes that were replayed, with what came of them.
    """

    topic: str
    dry_run: bool
    stretches: Sequence[OffsetRange] = ()
    found: Counter[str] = field(default_factory=Counter)
    again: list[tuple[int, int, str]] = field(default_factory=list)
    letters: Sequence[DeadLetter] = ()

    def to_dict(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "topic": self.topic,
            "dry_run": self.dry_run,
            "stretches": [each._asdict() for each in self.stretches],
            "found": dict(self.found),
            "published_again": [{"partition": where[0], "offset": where[1], "because": where[2]} for where in self.again],
            "came_of_it": dict(Counter(letter.state for letter in self.letters)),
        }

    def format_text(self) -> str:
        """For people."""
        came = Counter(letter.state or "not taken in yet" for letter in self.letters)
        return "\n".join(
            [
                *map(str, self.stretches),
                *(f"{count:>9,}  {what}" for what, count in self.found.most_common()),
                f"{len(self.again):,} {'would be' if self.dry_run else 'were'} published again",
                *(f"{count:>9,}  {what}" for what, count in came.most_common()),
            ]
        )


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
    """Work a stretch of a topic through again.

    - ``outcome-events``: outcomes that were refused are judged by what is known now, and those that would be accepted are
      published again, once; outcomes that are in stay as they are.
    - ``simulation-requests``: requests are published again, and so answered again from what was stored or pinned for them.
    - ``experiment-results``: experiments that were refused and would be accepted now, or left no trace, are published again.

    Raises:
        ValueError: for a topic whose messages only copy what Postgres holds, or cause something.
    """
    _check(topic, partitions)
    report = ReplayReport(topic, dry_run)
    async with AIOKafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap, enable_auto_commit=False, **kafka_security(settings)
    ) as reader:
        report.stretches = await _stretches(reader, topic, begin, end, partitions or range(PARTITIONS[topic]))
        if topic == _OUTCOMES:
            await _replay_outcomes(settings, pool, report)
        else:
            await _replay_records(settings, pool, reader, report)
    return report


def _check(topic: str, partitions: Iterable[int]) -> None:
    one_of("topic", topic, [*PARTITIONS])
    for number in partitions:
        one_of("partition", str(number), map(str, range(PARTITIONS[topic])))
    if topic == DEAD_LETTERS:
        raise ValueError("dead letters go back to where they came from: twinstream dlq replay")
    if topic == "retrain-events":
        raise ValueError("a replay trains nothing: twinstream retrain approve, or train")
    if topic not in _REPLAYABLE:
        raise ValueError(
            f"what is said on {topic} copies what Postgres holds, and is said again by twinstream verify --repair;"
            f" what can be replayed is {', '.join(_REPLAYABLE)}"
        )


async def _stretches(
    reader: AIOKafkaConsumer, topic: str, begin: RangeBound, end: RangeBound, partitions: Iterable[int]
) -> list[OffsetRange]:
    places = [TopicPartition(topic, number) for number in partitions]
    earliest, latest = await reader.beginning_offsets(places), await reader.end_offsets(places)
    firsts = {place: max(offset, earliest[place]) for place, offset in (await _offsets(reader, begin, earliest, latest)).items()}
    ends = {place: min(offset, latest[place]) for place, offset in (await _offsets(reader, end, latest, latest)).items()}
    return [OffsetRange(topic, place.partition, firsts[place], ends[place]) for place in places if firsts[place] < ends[place]]


async def _offsets(
    reader: AIOKafkaConsumer, given: RangeBound, default: Mapping[TopicPartition, int], latest: Mapping[TopicPartition, int]
) -> dict[TopicPartition, int]:
    if given is None:
        return dict(default)
    if isinstance(given, int):
        return dict.fromkeys(default, given)
    found = await reader.offsets_for_times(dict.fromkeys(default, round(given.timestamp() * 1000)))
    return {place: latest[place] if at is None else at.offset for place, at in found.items()}


# -- outcomes


class _Judged(NamedTuple):
    refused: RefusedRecord
    line: str
    reason: str | None


async def _replay_outcomes(settings: Settings, pool: Pool, report: ReplayReport) -> None:
    waiting = [each for stretch in report.stretches for each in await _look_over(pool, stretch, report.found)]
    judged = await _judge_again(settings, pool, waiting)
    for each in judged:
        report.found["refused, and accepted now" if each.reason is None else f"refused, still: {each.refused.kind}"] += 1
    fine = [each for each in judged if each.reason is None]
    report.again = [(each.refused.source.partition, each.refused.offset, each.refused.kind) for each in fine]
    if fine and not report.dry_run:
        report.letters = await _publish_quietly(settings, pool, fine)


async def _look_over(pool: Pool, stretch: OffsetRange, found: Counter[str]) -> list[RefusedRecord]:
    """Refused elements of the stretch of which nothing came yet; the others are only counted."""
    newest = await newest_position(pool, stretch.topic, stretch.partition)
    read_to = -1 if newest is None else newest.last_offset
    found["not read yet"] += max(stretch.end - max(stretch.first, read_to + 1), 0)
    if newest is None:
        return []
    source = f"{stretch.topic}:{stretch.partition}:{newest.incarnation}"
    found["in already"] += await count_stored_outcomes(pool, source, stretch)
    letters = await with_replay_history(pool, await refused_in_range(pool, source, stretch.first, stretch.end))
    settled = [letter for letter in letters if letter.past and not letter.state.startswith("refused")]
    found["refused, and in since a replay"] += len(settled)
    return [letter.refused for letter in letters if letter not in settled]


async def _judge_again(settings: Settings, pool: Pool, refused: Sequence[RefusedRecord]) -> list[_Judged]:
    """What the path of outcomes would say of them, if they came now."""
    models = ModelLoader(pool, MlflowRegistry(settings.mlflow_uri), settings.model_cache_size)
    library = ContextLoader(pool, models.load, Simulator(pool, models).twins)
    intake = OutcomePipeline(pool, library, settings.skew_s, settings.restatement_s)
    found = []
    for first in range(0, len(refused), _AT_ONCE):
        found += await _judge_slice(intake, refused[first : first + _AT_ONCE])
    return found


async def _judge_slice(intake: OutcomePipeline, refused: Sequence[RefusedRecord]) -> list[_Judged]:
    now = int(time.time() * 1000)
    records = [
        ConsumerRecord(_OUTCOMES, 0, number, now, 1, each.key, each.value, None, len(each.key or b""), len(each.value or b""), ())
        for number, each in enumerate(refused)
    ]
    ready = await intake.prepare(PollBatch(_OUTCOMES, 0, 0, records))
    reasons = {element.record: element.refusal.reason for element in ready.refused}
    numbers = ready.outcomes.record.tolist()
    reasons |= {numbers[row]: reason for row, (_, reason) in ready.scores.refused.items()}
    lines = {number: ready.outcomes.words[of].line for number, of in zip(numbers, ready.outcomes.of.tolist(), strict=True)}
    return [_Judged(each, lines.get(number, ""), reasons.get(number)) for number, each in enumerate(refused)]


async def _publish_quietly(settings: Settings, pool: Pool, fine: Sequence[_Judged]) -> list[DeadLetter]:
    """Publish them again while their lines are quiet, and wait for what comes of it."""
    quiet = await begin_suppression(pool, _OUTCOMES, {each.line for each in fine}, operator_name(), _QUIET_S)
    letters: list[DeadLetter] = []
    for first in range(0, len(fine), _AT_ONCE):
        batch = [each.refused for each in fine[first : first + _AT_ONCE]]
        await replay_dead_letters(settings, pool, batch, Correction())
        letters += await with_replay_history(pool, batch, wait=True)
        await extend_suppression(pool, quiet, _QUIET_S if first + _AT_ONCE < len(fine) else _ECHO_S)
    return letters


# -- requests and experiments


async def _replay_records(settings: Settings, pool: Pool, reader: AIOKafkaConsumer, report: ReplayReport) -> None:
    read_to = await _committed(settings, report.topic)
    weigh = _weigh_requests if report.topic == _REQUESTS else _weigh_experiments
    async with TwinClient(settings, name="replay") as client:
        for stretch in report.stretches:
            records = await _read(reader, stretch)
            report.found["not read yet"] += sum(record.offset >= read_to.get(stretch.partition, 0) for record in records)
            seen = [record for record in records if record.offset < read_to.get(stretch.partition, 0)]
            for record, said, again in await weigh(pool, stretch, seen):
                report.found[said] += 1
                if again:
                    report.again.append((record.partition, record.offset, said))
                if again and not report.dry_run:
                    headers = [*foreign_headers(record.headers), (REPLAY, b"1")]
                    await client.publish_bytes(record.topic, record.key, record.value, headers, partition=record.partition)


_Weighed = tuple[Record, str, bool]


async def _weigh_requests(pool: Pool, _: OffsetRange, records: Sequence[Record]) -> list[_Weighed]:
    """A request with an id is answered again, from what is stored for it."""
    ids = [_simulation_id(record.value) for record in records]
    known = await find_runs(pool, {each for each in ids if each is not None})
    weighed = []
    for record, simulation_id in zip(records, ids, strict=True):
        if simulation_id is None:
            weighed.append((record, "unreadable", False))
        elif (found := known.get(simulation_id)) is None:
            weighed.append((record, "left no trace, asked again", True))
        else:
            said = "pinned, and not answered yet" if found.answer is None else f"{found.answer.status.value}, answered again"
            weighed.append((record, said, True))
    return weighed


async def _weigh_experiments(pool: Pool, stretch: OffsetRange, records: Sequence[Record]) -> list[_Weighed]:
    read = [_experiment(record.value) for record in records]
    known = await existing_experiments(pool, {each.experiment_id for each in read if each is not None})
    source = f"{stretch.topic}:{stretch.partition}:0"
    refused = {each.offset: each for each in await refused_in_range(pool, source, stretch.first, stretch.end)}
    weighed = []
    for record, experiment in zip(records, read, strict=True):
        if experiment is None:
            weighed.append((record, "refused, still: invalid", False))
        elif experiment.experiment_id in known:
            weighed.append((record, "in already", False))
        else:
            said = "refused, and accepted now" if record.offset in refused else "left no trace, told again"
            weighed.append((record, said, True))
    return weighed


def _simulation_id(value: bytes | None) -> UUID | None:
    try:
        return UUID(json.loads(value or b"")["simulation_id"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _experiment(value: bytes | None) -> ExperimentResult | None:
    try:
        return ExperimentResult.model_validate_json(value or b"")
    except ValidationError:
        return None


async def _committed(settings: Settings, topic: str) -> dict[int, int]:
    """How far the role that reads the topic has come, by partition."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap, **kafka_security(settings))
    await admin.start()
    try:
        offsets = await admin.list_consumer_group_offsets(_GROUPS[topic])
    finally:
        await admin.close()
    return {where.partition: found.offset for where, found in offsets.items() if where.topic == topic}


async def _read(reader: AIOKafkaConsumer, stretch: OffsetRange) -> list[Record]:
    """All records of a stretch; offsets that the log skips end it too."""
    where = TopicPartition(stretch.topic, stretch.partition)
    reader.assign([where])
    reader.seek(where, stretch.first)
    found: list[Record] = []
    async with asyncio.timeout(_READ_S + (stretch.end - stretch.first) / 1000):
        while await reader.position(where) < stretch.end:
            for records in (await reader.getmany(timeout_ms=500)).values():
                found += [record for record in records if record.offset < stretch.end]
    return found
