"""How long Kafka holds records that name an erased person, and what is published again without the id.

Kafka deletes no single record. On a topic with a retention all records go with time. On a compacted topic the newest record of a
key stays: where it named the person, it is published again without the id, and the broker deletes the older one when it compacts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import for_code

from schemas import EffectsEvent
from streams.kafka import DEAD_LETTERS, event_headers, event_value, open_admin, open_producer, topic_of
from streams.settings import Settings

__all__ = ["NAMING_TOPICS", "TopicHold", "republish_effects", "topic_holds"]

NAMING_TOPICS = (
    *("outcome-events", "simulation-requests", "simulation-results", "experiment-results", DEAD_LETTERS),
    *("retrain-events", "training-requests", "effect-priors", "model-events"),
)
"""Topics whose records can name a person: what is sent, what is answered and refused, and the reasons that operators give."""

_UNBOUNDED_MS = 100 * 365 * 86_400_000


@dataclass(frozen=True)
class TopicHold:
    """How long a topic holds a record that was published by now.

    Attributes:
        until: when it is gone at the latest; None where nothing bounds that.
        setting: the setting of the topic that decides, and its value.
        compacted: whether a record goes only when a newer one of its key replaces it.
    """

    until: datetime | None
    setting: str
    compacted: bool

    def to_dict(self) -> dict[str, Any]:
        """The hold as JSON."""
        return {**vars(self), "until": self.until.isoformat() if self.until else None}

    def format_text(self) -> str:
        """The hold in words."""
        until = f"until {self.until:%Y-%m-%d}" if self.until else "without a limit"
        replaced = ", once a newer record of its key has replaced it" if self.compacted else ""
        return f"{until} ({self.setting}){replaced}"


async def topic_holds(settings: Settings, now: datetime) -> dict[str, TopicHold]:
    """How long each topic that can name a person holds its records, as the broker is configured now.

    Raises:
        aiokafka.errors.KafkaError: when the broker cannot be reached, or has no such topic.
    """
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in NAMING_TOPICS]
    async with open_admin(settings) as admin:
        replies = await admin.describe_configs(resources)
    configurations = {}
    for code, message, _, name, entries in (resource for reply in replies for resource in reply.resources):
        if code:
            raise for_code(code)(f"topic {name}: {message}")
        configurations[name] = {entry[0]: entry[1] for entry in entries}
    return {name: _hold(configurations[name], now) for name in NAMING_TOPICS}


def _hold(configuration: Mapping[str, str], now: datetime) -> TopicHold:
    """What the settings of a topic mean; the broker deletes closed segments only, and closes one after ``segment.ms``."""
    compacted = "delete" not in configuration["cleanup.policy"]
    setting = "max.compaction.lag.ms" if compacted else "retention.ms"
    milliseconds = int(configuration[setting])
    if not 0 <= milliseconds < _UNBOUNDED_MS:
        return TopicHold(None, f"{setting} is not set", compacted)
    closing = 0 if compacted else int(configuration["segment.ms"])
    return TopicHold(now + timedelta(milliseconds=milliseconds + closing), f"{setting}={milliseconds}", compacted)


async def republish_effects(settings: Settings, effects: Iterable[EffectsEvent]) -> list[str]:
    """Publish these priors again, and return their keys."""
    published: list[str] = []
    events: Sequence[EffectsEvent] = list(effects)
    if not events:
        return published
    topic = topic_of(EffectsEvent)
    async with open_producer(settings) as producer:
        for event in events:
            await producer.send_and_wait(topic, event_value(event), key=event.key.encode(), headers=event_headers(event, "forget"))
            published.append(f"{topic} {event.key}")
    return published
