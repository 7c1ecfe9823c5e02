"""Declares every topic once: its partitions, its retention and its event."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from aiokafka.admin import NewTopic
from aiokafka.errors import NoError, TopicAlreadyExistsError, UnknownTopicOrPartitionError, for_code

from schemas import EVENTS, Event
from streams.kafka.clients import open_admin
from streams.kafka.records import MAX_RECORD_BYTES
from streams.settings import Role, Settings

__all__ = [
    "CHANGELOGS",
    "DEAD_LETTERS",
    "PARTITIONS",
    "READ_TOPICS",
    "SIDE_TOPICS",
    "TOPICS",
    "Topic",
    "count_partitions",
    "create_topics",
    "needed_topics",
    "reader_group",
    "topic_of",
]

_DAY_MS = 86_400_000
_COMPACTED_WITHIN_DAYS = 7  # a record that was replaced is gone by then, as one that is deleted is by its retention
DEAD_LETTERS = "dead-letters"


@dataclass(frozen=True)
class Topic:
    """Name and configuration of a topic.

    Attributes:
        compacted: retain the newest record of each key without a time limit, instead of all records for ``retention_days``.
        by_broker_time: use the broker's clock (LogAppendTime) for timestamps, against which outcomes from the future are detected.
    """

    name: str
    partitions: int = 4
    retention_days: int = 30
    compacted: bool = False
    by_broker_time: bool = True

    def configuration(self) -> dict[str, str]:
        """Return the broker's settings for this topic."""
        cleanup = (
            {"cleanup.policy": "compact", "max.compaction.lag.ms": str(_COMPACTED_WITHIN_DAYS * _DAY_MS)}
            if self.compacted
            else {"cleanup.policy": "delete", "retention.ms": str(self.retention_days * _DAY_MS)}
        )
        timestamp_type = "LogAppendTime" if self.by_broker_time else "CreateTime"
        return {**cleanup, "message.timestamp.type": timestamp_type, "max.message.bytes": str(MAX_RECORD_BYTES)}


TOPICS: tuple[Topic, ...] = (
    Topic("simulation-requests"),
    Topic("simulation-results"),
    Topic("simulation-progress", retention_days=3),
    Topic("experiment-results"),
    Topic("outcome-events"),
    Topic("fidelity-errors", retention_days=3),
    Topic("fidelity-windows"),
    Topic("drift-events"),
    Topic("retrain-events"),
    Topic("training-requests", partitions=1),
    Topic("model-events", compacted=True),
    Topic("effect-priors", compacted=True),
    Topic("catalogue-versions", partitions=1, compacted=True),
    Topic(DEAD_LETTERS),
)

PARTITIONS: Mapping[str, int] = MappingProxyType({topic.name: topic.partitions for topic in TOPICS})
"""Number of partitions that each topic is created with. A topic that exists may have any other number: ask the broker."""

READ_TOPICS: Mapping[Role, str] = MappingProxyType(
    {
        "simulation": "simulation-requests",
        "outcomes": "outcome-events",
        "fidelity": "fidelity-errors",
        "experiments": "experiment-results",
        "trainer": "retrain-events",
    }
)
"""Topic that each role reads, as the group ``twinstream-ROLE``; the role web reads none."""

SIDE_TOPICS: Mapping[Role, str] = MappingProxyType({"trainer": "training-requests"})
"""Topic with few records that a role reads beside its own, as the group ``twinstream-ROLE-TOPIC``."""

_ANY_ROLE_WRITES = (DEAD_LETTERS,)
_WRITTEN_TOPICS: Mapping[Role, tuple[str, ...]] = MappingProxyType(
    {
        "simulation": ("simulation-results", "simulation-progress"),
        "outcomes": ("fidelity-errors",),
        "fidelity": ("fidelity-windows", "drift-events", "retrain-events"),
        "experiments": ("effect-priors",),
        "trainer": ("model-events",),
        "web": ("simulation-requests", "outcome-events", "experiment-results", "training-requests"),
    }
)

CHANGELOGS: tuple[Topic, ...] = (Topic("twinstream-fidelity-fidelity-panes-changelog", compacted=True, by_broker_time=False),)
"""Changelog topics of Faust's tables. Faust would create them while it starts, and a message sent before its producer has the
metadata of the new topic would end the worker."""


def topic_of(event: type[Event]) -> str:
    """Return the topic of an event class."""
    return next(topic for topic, event_class in EVENTS.items() if event_class is event)


def needed_topics(role: Role) -> tuple[str, ...]:
    """The topics that a role reads or writes."""
    changelogs = [topic.name for topic in CHANGELOGS if topic.name.startswith(f"twinstream-{role}-")]
    read = [topics[role] for topics in (READ_TOPICS, SIDE_TOPICS) if role in topics]
    return (*read, *_WRITTEN_TOPICS[role], *_ANY_ROLE_WRITES, *changelogs)


def reader_group(topic: str) -> str:
    """The consumer group that reads a topic.

    Raises:
        ValueError: when no role reads it; it names those that are read.
    """
    groups = {name: f"twinstream-{role}" for role, name in READ_TOPICS.items()}
    groups |= {name: f"twinstream-{role}-{name}" for role, name in SIDE_TOPICS.items()}
    if topic not in groups:
        raise ValueError(f"no role reads the topic {topic!r}: choose one of {', '.join(groups)}")
    return groups[topic]


async def count_partitions(settings: Settings, topic: str) -> int:
    """Number of partitions that a topic has on the broker, 0 for one that does not exist.

    Raises:
        aiokafka.errors.KafkaError: when the broker does not answer, or does not describe the topic.
    """
    async with open_admin(settings) as admin:
        (description,) = await admin.describe_topics([topic])
    error = for_code(description["error_code"])
    if error not in (NoError, UnknownTopicOrPartitionError):
        raise error(f"topic {topic} cannot be described")
    return len(description["partitions"])


async def create_topics(settings: Settings) -> list[str]:
    """Create the topics that are missing, and return their names.

    Raises:
        aiokafka.errors.KafkaError: when the broker refuses one.
    """
    new_topics = [
        NewTopic(topic.name, topic.partitions, settings.kafka_replication, topic_configs=topic.configuration())
        for topic in (*TOPICS, *CHANGELOGS)
    ]
    async with open_admin(settings) as admin:
        reply = await admin.create_topics(new_topics)
    created = []
    for name, code, *_ in reply.topic_errors:
        error = for_code(code)
        if code == 0:
            created.append(name)
        elif error is not TopicAlreadyExistsError:
            raise error(f"topic {name} cannot be created")
    return created
