"""Refused records together with their replays, as text and as JSON."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

from schemas import OutcomeEvent
from sql.database import Pool
from sql.dead_letter_store import PastReplay, RefusedRecord, replay_history
from streams.kafka import topic_of
from streams.kafka.dead_letters import refusal_attempt
from streams.operations.corrections import json_object
from streams.printable import escape_line
from streams.reporting import moment

__all__ = ["DeadLetter", "await_replay_results", "load_dead_letters"]

_OUTCOMES = topic_of(OutcomeEvent)
_RESULT_TIMEOUT_S, _POLL_S = 10.0, 0.2


class DeadLetter(NamedTuple):
    """A refused record and its replays, the oldest first."""

    refused: RefusedRecord
    replays: tuple[PastReplay, ...]

    @property
    def state(self) -> str:
        """Result of the last replay; ``replayed`` while it is not stored yet, and empty when there was no replay."""
        return self.replays[-1].result or "replayed" if self.replays else ""

    @property
    def is_pending(self) -> bool:
        """Whether the last replay is an outcome without a stored result; other topics store no result."""
        return any(replay.topic == _OUTCOMES and replay.result is None for replay in self.replays[-1:])

    def to_dict(self) -> dict[str, Any]:
        """The dead letter as JSON; bytes are given as text where they are text, and always as base64."""
        refused = self.refused
        return {
            "refusal_id": str(refused.refusal_id),
            "topic": refused.source.topic,
            "partition": refused.source.partition,
            "offset": refused.offset,
            "first_offset": refused.offset if refused.first_offset is None else refused.first_offset,
            "element": refused.element,
            "arrived_at": refused.at,
            "refused_at": refused.refused_at,
            "kind": refused.kind,
            "reason": refused.reason,
            "exception": refused.exception,
            "traceback": refused.traceback,
            "attempt": refusal_attempt(refused.headers),
            "key": _bytes_dict(refused.key),
            "value": _bytes_dict(refused.value),
            "headers": [{"name": name, **(_bytes_dict(value) or {})} for name, value in refused.headers],
            "replays": [_replay_dict(replay) for replay in self.replays],
        }

    def format_text(self) -> str:
        """All fields of the dead letter, one a line, the value last."""
        refused, source = self.refused, self.refused.source
        element = f", element {refused.element} of its array" if refused.element else ""
        offsets = f"{'offsets' if '-' in refused.offsets else 'offset'} {refused.offsets}"
        position = f"{source.topic}, partition {source.partition}, {offsets}{element}, at {moment(refused.at)} UTC"
        fields = [
            ("refusal", str(refused.refusal_id)),
            ("received", position),
            ("refused", f"{refused.kind} ({refused.exception}), attempt {refusal_attempt(refused.headers)}"),
            ("reason", refused.reason),
            ("key", _printable(refused.key)),
            *(("header", f"{name}: {_printable(value)}") for name, value in refused.headers),
            *(("replayed", _replay_text(replay)) for replay in self.replays),
            *(("traceback", line) for line in refused.traceback.splitlines()),
        ]
        value = _pretty(refused.value)
        return "\n".join([*(f"{name:<9} {escape_line(text)}" for name, text in fields), f"{'value':<9} {value}"])


async def load_dead_letters(pool: Pool, refused: Sequence[RefusedRecord]) -> list[DeadLetter]:
    """The refused records with their replays, in the same order."""
    replays: defaultdict[UUID, list[PastReplay]] = defaultdict(list)
    for replay in await replay_history(pool, [record.refusal_id for record in refused]):
        replays[replay.refusal_id].append(replay)
    return [DeadLetter(record, tuple(replays[record.refusal_id])) for record in refused]


async def await_replay_results(pool: Pool, refused: Sequence[RefusedRecord]) -> list[DeadLetter]:
    """The refused records with their replays, once every replayed outcome has a stored result or 10 seconds have passed."""
    deadline = time.monotonic() + _RESULT_TIMEOUT_S
    while True:
        dead_letters = await load_dead_letters(pool, refused)
        if time.monotonic() > deadline or not any(dead_letter.is_pending for dead_letter in dead_letters):
            return dead_letters
        await asyncio.sleep(_POLL_S)


def _replay_dict(replay: PastReplay) -> dict[str, Any]:
    return {
        "as": f"{replay.topic}:{replay.partition}:{replay.offset}",
        "at": replay.replayed_at,
        "by": replay.by,
        "change": replay.change,
        "came_of_it": replay.result,
    }


def _replay_text(replay: PastReplay) -> str:
    change = f" with {replay.change}" if replay.change else ""
    result = replay.result or "no result stored yet"
    return f"{moment(replay.replayed_at)} UTC by {replay.by} as {replay.topic}:{replay.partition}:{replay.offset}{change}: {result}"


def _bytes_dict(value: bytes | None) -> dict[str, Any] | None:
    if value is None:
        return None
    return {"text": _decoded(value), "base64": base64.b64encode(value).decode()}


def _decoded(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _printable(value: bytes | None) -> str:
    return "none" if value is None else _decoded(value) or repr(value)[2:-1]


def _pretty(value: bytes | None) -> str:
    body = json_object(value or b"")
    return escape_line(_printable(value)) if body is None else json.dumps(body, indent=2, ensure_ascii=False)
