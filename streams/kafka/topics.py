"""Every topic, declared once: what it carries, how it is partitioned and kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError, for_code

from schemas import EVENTS, Event

__all__ = ["CHANGELOGS", "DEAD_LETTERS", "MAX_RECORD_BYTES", "PARTITIONS", "TOPICS", "Topic", "create_topics", "topic_of"]

_DAY_MS = 86_400_000
DEAD_LETTERS = "dead-letters"
MAX_RECORD_BYTES = 8 * 1024 * 1024
"""Bytes of a batch of records, as it travels, that a topic takes at most."""


@dataclass(frozen=True)
class Topic:
    """A topic's name, partitions and lifetime.

    Attributes:
        by_broker_time: stamp records with the broker's clock (LogAppendTime), the clock of the skew test.
        compacted: keep the newest record of each key for ever instead of everything for ``retention_days``.
    """

    name: str
    partitions: int = 4
    retention_days: int = 30
    compacted: bool = False
    by_broker_time: bool = True

    def configuration(self) -> dict[str, str]:
        """The broker's settings for this topic."""
        kept = (
            {"cleanup.policy": "compact"}
            if self.compacted
            else {"cleanup.policy": "delete", "retention.ms": str(self.retention_days * _DAY_MS)}
        )
        stamped = "LogAppendTime" if self.by_broker_time else "CreateTime"
        return {**kept, "message.timestamp.type": stamped, "max.message.bytes": str(MAX_RECORD_BYTES)}


TOPICS: tuple[Topic, ...] = (
    Topic("simulation-requests"),
    Topic("simulation-results"),
    Topic("experiment-results"),
    Topic("outcome-events"),
    Topic("fidelity-errors", retention_days=3),
    Topic("fidelity-windows"),
    Topic("drift-events"),
    Topic("retrain-events"),
    Topic("model-events", compacted=True),
    Topic("effect-priors", compacted=True),
    Topic(DEAD_LETTERS),
)

PARTITIONS: Mapping[str, int] = MappingProxyType({topic.name: topic.partitions for topic in TOPICS})
"""How many each topic has."""

CHANGELOGS: tuple[Topic, ...] = (Topic("twinstream-fidelity-fidelity-panes-changelog", compacted=True, by_broker_time=False),)
"""Topics of Faust's tables. Faust would create them while it starts, and a message that comes before its client has heard of a new
topic ends the worker."""


def topic_of(event: type[Event]) -> str:
    """The topic that carries an event."""
    return next(topic for topic, carried in EVENTS.items() if carried is event)


async def create_topics(bootstrap: str, *, replication: int = 1, **security: Any) -> list[str]:
    """Create the topics that are not there yet, and return their names.

    ``security`` is what ``streams.kafka.security.kafka_security`` gives.

    Raises:
        aiokafka.errors.KafkaError: when the broker refuses one.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, **security)
    await admin.start()
    try:
        reply = await admin.create_topics(
            [
                NewTopic(topic.name, topic.partitions, replication, topic_configs=topic.configuration())
                for topic in (*TOPICS, *CHANGELOGS)
            ]
        )
    finally:
        await admin.close()
    made = []
    for name, code, *_ in reply.topic_errors:
        error = for_code(code)
        if code == 0:
            made.append(name)
        elif error is not TopicAlreadyExistsError:
            raise error(f"topic {name} cannot be created")
    return made
