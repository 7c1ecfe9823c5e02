"""Knows which of the topics that a role needs exist, and which were created anew while its process runs.

The probe of Kafka asks for their ids every few seconds. A topic that was deleted and created again begins at offset 0: positions
from before do not apply, and it is read from its start.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime

from streams.kafka.topic_ids import NO_ID
from streams.metrics import TOPIC_MISSING, TOPIC_RESTARTS, start_at_zero

__all__ = ["WATCHED_TOPICS", "TopicWatch"]

LOG = logging.getLogger(__name__)


class TopicWatch:
    """What a broker stated about topics, and since when those that do not exist are missing.

    It is updated by the thread of the probes, and read by the event loop of the role.
    """

    def __init__(self) -> None:
        self._ids: dict[str, bytes] = {}
        self._missing_since: dict[str, datetime] = {}
        self._restarts: dict[str, int] = {}
        self._lock = threading.Lock()

    def update(self, ids: Mapping[str, bytes | None]) -> None:
        """Compare the id of each topic, None for one that does not exist, with what was stated before; changes are logged."""
        with self._lock:
            absent = [topic for topic, topic_id in ids.items() if topic_id is None]
            gone = [topic for topic in absent if topic not in self._missing_since]
            renewed = [topic for topic, topic_id in ids.items() if topic_id is not None and self._is_renewed(topic, topic_id)]
            present = {topic: topic_id for topic, topic_id in ids.items() if topic_id is not None}
            for topic in present:
                self._missing_since.pop(topic, None)
            for topic in gone:
                self._missing_since[topic] = datetime.now(UTC)
            self._ids |= present
            for topic in renewed:
                self._restarts[topic] = self._restarts.get(topic, 0) + 1
        _report(ids, absent, renewed)
        if gone:
            LOG.warning("topics do not exist: %s. What needs them waits; twinstream migrate creates them", ", ".join(gone))
        if renewed:
            LOG.warning("topics were created anew: %s. They are read from offset 0, whatever was read before", ", ".join(renewed))

    def _is_renewed(self, topic: str, topic_id: bytes) -> bool:
        """Whether this is another topic than before; a broker that has just started may know one that it has for a moment not."""
        if topic_id == NO_ID and topic in self._missing_since:
            return topic in self._ids
        return self._ids.get(topic, topic_id) != topic_id

    def restarts(self, topic: str) -> int:
        """How often a topic was created anew since this process saw it first."""
        return self._restarts.get(topic, 0)

    def all_restarts(self) -> dict[str, int]:
        """:meth:`restarts` of each topic that has any."""
        with self._lock:
            return dict(self._restarts)

    def problems(self) -> list[str]:
        """A sentence for each topic that does not exist."""
        with self._lock:
            return [
                f"the topic {topic} does not exist since {since:%Y-%m-%d %H:%M:%S} UTC: twinstream migrate creates it"
                for topic, since in sorted(self._missing_since.items())
            ]


def _report(ids: Iterable[str], absent: Collection[str], renewed: Iterable[str]) -> None:
    start_at_zero(TOPIC_RESTARTS, topic=ids)
    for topic in ids:
        TOPIC_MISSING.labels(topic=topic).set(topic in absent)
    for topic in renewed:
        TOPIC_RESTARTS.labels(topic=topic).inc()


WATCHED_TOPICS = TopicWatch()
"""The topics of this process's role."""
