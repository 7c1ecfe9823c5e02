"""Dead letters at the hands of an operator: looked at, corrected, and published again as what they were meant to be."""

from __future__ import annotations

import asyncio
import base64
import getpass
import json
import os
import socket
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

from schemas import EVENTS, OutcomeEvent
from sql.database import Pool
from sql.dead_letter_store import NewReplay, PastReplay, RefusedRecord, add_replays, replay_history
from streams.client.twin_client import TwinClient
from streams.errors import describe_error
from streams.kafka.dead_letters import ATTEMPT_HEADER, REPLAY_OF_HEADER, foreign_headers, refusal_attempt
from streams.kafka.records import RawRecord
from streams.kafka.topics import MAX_RECORD_BYTES, topic_of
from streams.settings import Settings

__all__ = [
    "Correction",
    "DeadLetter",
    "SentReplay",
    "SkippedReplay",
    "corrected_value",
    "dead_letter_dict",
    "dead_letter_text",
    "dead_letters_table",
    "operator_name",
    "parse_assignment",
    "replay_dead_letters",
    "with_replay_history",
]

_OUTCOMES = topic_of(OutcomeEvent)
_OUTCOME_ARRAY = TypeAdapter(list[OutcomeEvent])
_IDENTITY = {
    "outcome-events": "event_id",
    "simulation-requests": "simulation_id",
    "experiment-results": "experiment_id",
    "retrain-events": "retrain_id",
}
_AT_ONCE = 500
_PATIENCE_S, _GLANCE_S = 10.0, 0.2


# -- what is changed


@dataclass(frozen=True)
class Correction:
    """What to change of a refused record before it is published again; nothing by default.

    Attributes:
        sets: values of fields, by their path: ``actual_value`` or ``intervention.channel``.
        drops: fields to leave out.
        value: another body instead of the one that was refused.
    """

    sets: Mapping[str, Any] = field(default_factory=dict)
    drops: Sequence[str] = ()
    value: bytes | None = None

    def format_text(self) -> str:
        """What was changed, on one line."""
        said = [f"{name} = {json.dumps(value)}" for name, value in self.sets.items()]
        return ", ".join([*["another value"] * (self.value is not None), *said, *(f"without {name}" for name in self.drops)])


def parse_assignment(said: str) -> tuple[str, Any]:
    """``FIELD=VALUE`` of the command line: JSON where it is JSON, else text.

    Raises:
        ValueError: when there is no ``=``.

    Example:
        >>> assignment("actual_value=0.1"), assignment("brand=kisqali"), assignment("segment.region=null")
        (('actual_value', 0.1), ('brand', 'kisqali'), ('segment.region', None))
    """
    name, sign, text = said.partition("=")
    if not sign or not name:
        raise ValueError(f"{said!r} is not FIELD=VALUE, for example actual_value=0.1")
    try:
        return name, json.loads(text)
    except ValueError:
        return name, text


def corrected_value(refused: RefusedRecord, fix: Correction) -> bytes:
    """The bytes to publish: those that were refused, or with the fix, once they would pass.

    Raises:
        ValueError: when they would be refused again, with what is wrong; and for another identity than the refused one's.
    """
    value = refused.value if fix.value is None else fix.value
    if value is None:
        raise ValueError("there is no value to publish: give one with --value FILE")
    if fix.sets or fix.drops:
        value = _with_fields(value, fix)
    _check_passes(refused.source.topic, value)
    _check_identity(refused, value)
    return value


def _with_fields(value: bytes, fix: Correction) -> bytes:
    body = _object(value)
    if body is None:
        raise ValueError("the value is no JSON object whose fields could be set: give the whole with --value FILE")
    for path, said in fix.sets.items():
        inner, name = _place(body, path)
        inner[name] = said
    for path in fix.drops:
        inner, name = _place(body, path)
        if name not in inner:
            raise ValueError(f"there is no field {path!r} to drop: it has {', '.join(map(str, inner))}")
        del inner[name]
    return json.dumps(body).encode()


def _place(body: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    *outer, name = path.split(".")
    for step in outer:
        body = body.setdefault(step, {})
        if not isinstance(body, dict):
            raise ValueError(f"{step!r} of {path!r} has no fields: it is {body!r}")  # noqa: TRY004  # said by the operator
    return body, name


def _check_passes(topic: str, value: bytes) -> None:
    try:
        if topic == _OUTCOMES and value.lstrip()[:1] == b"[":
            _OUTCOME_ARRAY.validate_json(value)
        else:
            EVENTS[topic].model_validate_json(value)
    except ValidationError as error:
        raise ValueError(f"would be refused again: {describe_error(error)}") from error


def _check_identity(refused: RefusedRecord, value: bytes) -> None:
    name = _IDENTITY.get(refused.source.topic)
    before, after = _object(refused.value or b""), _object(value)
    if name is None or before is None or after is None or not _is_identity(name, before.get(name)):
        return
    if str(before[name]).lower() != str(after[name]).lower():
        raise ValueError(f"{name} is {before[name]} and stays so: with another one it could count twice, not {after[name]}")


def _is_identity(name: str, said: Any) -> bool:
    if name == "experiment_id":
        return isinstance(said, str) and bool(said)
    try:
        return bool(UUID(said))
    except (ValueError, TypeError, AttributeError):
        return False


def _object(value: bytes) -> dict[str, Any] | None:
    try:
        body = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


# -- publishing again


class SentReplay(NamedTuple):
    """A refused record that was published again, and as which record; null where that was only tried."""

    refused: RefusedRecord
    value: bytes
    where: tuple[int, int] | None


class SkippedReplay(NamedTuple):
    """A refused record that stays where it is, and why."""

    refused: RefusedRecord
    reason: str


async def replay_dead_letters(
    settings: Settings, pool: Pool, chosen: Sequence[RefusedRecord], fix: Correction, *, dry_run: bool = False
) -> tuple[list[SentReplay], list[SkippedReplay]]:
    """Publish refused records again on their topic and partition, key and headers as they were, and mark them as replayed.

    Each keeps its identity, so that nothing counts twice, however often this is done.
    """
    ready, skipped = _sorted_out(chosen, fix)
    if dry_run or not ready:
        return ready, skipped
    sent = []
    async with TwinClient(settings, name="dlq replay") as client:
        for first in range(0, len(ready), _AT_ONCE):
            batch = ready[first : first + _AT_ONCE]
            places = await asyncio.gather(*(_publish(client, each) for each in batch))
            sent += [each._replace(where=place) for each, place in zip(batch, places, strict=True)]
            await add_replays(pool, [_mark(each, fix) for each in sent[first:]])
    return sent, skipped


def _sorted_out(chosen: Iterable[RefusedRecord], fix: Correction) -> tuple[list[SentReplay], list[SkippedReplay]]:
    ready, skipped = [], []
    for refused in chosen:
        try:
            ready.append(_small_enough(SentReplay(refused, corrected_value(refused, fix), None)))
        except ValueError as error:
            skipped.append(SkippedReplay(refused, describe_error(error)))
    return ready, skipped


def _small_enough(sent: SentReplay) -> SentReplay:
    if (size := _record(sent).size) > MAX_RECORD_BYTES:
        raise ValueError(
            f"it takes {size} bytes on its way, and a topic takes {MAX_RECORD_BYTES}: let the producer send it in parts"
        )
    return sent


async def _publish(client: TwinClient, sent: SentReplay) -> tuple[int, int]:
    source = sent.refused.source
    return await client.publish_bytes(source.topic, *_record(sent), partition=source.partition)


def _record(sent: SentReplay) -> RawRecord:
    refused = sent.refused
    ours = {ATTEMPT_HEADER: refusal_attempt(refused.headers), REPLAY_OF_HEADER: refused.refusal_id}
    headers = [*foreign_headers(refused.headers), *((name, str(value).encode()) for name, value in ours.items())]
    return RawRecord(refused.key, sent.value, headers)


def _mark(sent: SentReplay, fix: Correction) -> NewReplay:
    partition, offset = sent.where or (-1, -1)
    return NewReplay(sent.refused.refusal_id, sent.refused.source.topic, partition, offset, operator_name(), fix.format_text())


def operator_name() -> str:
    """Who sits at this terminal."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container without a name for its user
        name = f"uid {os.getuid()}"
    return f"{name}@{socket.gethostname()}"


# -- looking


class DeadLetter(NamedTuple):
    """A refused record and its replays, the oldest first."""

    refused: RefusedRecord
    past: tuple[PastReplay, ...]

    @property
    def state(self) -> str:
        """What came of it last."""
        return self.past[-1].came_of_it or "replayed" if self.past else ""


async def with_replay_history(pool: Pool, refused: Sequence[RefusedRecord], *, wait: bool = False) -> list[DeadLetter]:
    """Refused records with their replays; with ``wait``, a little longer until outcomes that were replayed have their fate."""
    ends = time.monotonic() + _PATIENCE_S
    while True:
        found: defaultdict[UUID, list[PastReplay]] = defaultdict(list)
        for past in await replay_history(pool, [each.refusal_id for each in refused]):
            found[past.refusal_id].append(past)
        waiting = any(past.topic == _OUTCOMES and past.came_of_it is None for each in found.values() for past in each[-1:])
        if not wait or not waiting or time.monotonic() > ends:
            return [DeadLetter(each, tuple(found[each.refusal_id])) for each in refused]
        await asyncio.sleep(_GLANCE_S)


def dead_letter_dict(letter: DeadLetter) -> dict[str, Any]:
    """A letter for a program; bytes as text where they are text, and always in base64."""
    refused = letter.refused
    return {
        "refusal_id": str(refused.refusal_id),
        "topic": refused.source.topic,
        "partition": refused.source.partition,
        "offset": refused.offset,
        "element": refused.element,
        "arrived_at": refused.at,
        "refused_at": refused.refused_at,
        "kind": refused.kind,
        "reason": refused.reason,
        "exception": refused.exception,
        "attempt": refusal_attempt(refused.headers),
        "key": _bytes(refused.key),
        "value": _bytes(refused.value),
        "headers": [{"name": name, **(_bytes(value) or {})} for name, value in refused.headers],
        "replays": [
            {
                "as": f"{past.topic}:{past.partition}:{past.offset}",
                "at": past.replayed_at,
                "by": past.by,
                "change": past.change,
                "came_of_it": past.came_of_it,
            }
            for past in letter.past
        ],
    }


def _bytes(value: bytes | None) -> dict[str, Any] | None:
    if value is None:
        return None
    return {"text": _text(value), "base64": base64.b64encode(value).decode()}


def _text(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def dead_letters_table(letters: Sequence[DeadLetter]) -> str:
    """A line a letter."""
    rows = [("ID", "REFUSED AT", "WHERE", "KIND", "REPLAYED", "REASON")]
    for letter in letters:
        refused = letter.refused
        at = f"{refused.refused_at:%Y-%m-%d %H:%M:%S}" if refused.refused_at else ""
        where = f"{refused.source.topic}:{refused.source.partition}:{refused.offset}"
        rows.append((str(refused.refusal_id)[:8], at, where, refused.kind, letter.state, _cut(refused.reason, 80)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def dead_letter_text(letter: DeadLetter) -> str:
    """All of a letter."""
    refused = letter.refused
    source = refused.source
    place = f", element {refused.element} of its array" if refused.element else ""
    facts = [
        ("refusal", str(refused.refusal_id)),
        ("came as", f"{source.topic}, partition {source.partition}, offset {refused.offset}{place}, at {refused.at.isoformat()}"),
        ("refused", f"{refused.kind} ({refused.exception}), attempt {refusal_attempt(refused.headers)}"),
        ("reason", refused.reason),
        ("key", _readable(refused.key)),
        *(("header", f"{name}: {_readable(value)}") for name, value in refused.headers),
        *(("replayed", _replay_history_text(past)) for past in letter.past),
        ("value", _pretty(refused.value)),
    ]
    return "\n".join(f"{name:<9} {said}" for name, said in facts)


def _replay_history_text(past: PastReplay) -> str:
    change = f" with {past.change}" if past.change else ""
    came = past.came_of_it or "not taken in yet, as far as this tells"
    return f"{past.replayed_at.isoformat()} by {past.by} as {past.topic}:{past.partition}:{past.offset}{change}: {came}"


def _readable(value: bytes | None) -> str:
    return "none" if value is None else _text(value) or repr(value)[2:-1]


def _pretty(value: bytes | None) -> str:
    body = _object(value or b"")
    return _readable(value) if body is None else json.dumps(body, indent=2, ensure_ascii=False)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."
