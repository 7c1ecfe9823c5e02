"""Asks a Kafka broker whether it answers, on a connection of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Any

from aiokafka.conn import AIOKafkaConnection, collect_hosts, create_conn
from aiokafka.errors import KafkaConnectionError, KafkaError

from streams.kafka.security import kafka_security
from streams.kafka.topic_ids import TopicIdsRequest, read_topic_ids
from streams.kafka.topic_watch import WATCHED_TOPICS, TopicWatch
from streams.settings import Settings

__all__ = ["BrokerProbe", "watch_now"]


class BrokerProbe:
    """Requests metadata from the first broker of the settings that answers; consumers and producers are not involved.

    A broker that accepts connections and does not answer, as a frozen process does, is noticed too.

    Args:
        settings: addresses and credentials.
        topics: whose ids are asked for.
        watch: is given these ids.
    """

    def __init__(self, settings: Settings, topics: Sequence[str] = (), watch: TopicWatch | None = None) -> None:
        self._settings, self._topics, self._watch = settings, topics, watch
        self._connection: AIOKafkaConnection | None = None

    async def ask(self) -> None:
        """Return when a broker has answered.

        Raises:
            aiokafka.errors.KafkaError: when none answers, or it refuses the credentials.
            ValueError: when the settings cannot be used.
        """
        if self._connection is None or not self._connection.connected():
            self._connection = await self._connect()
        reply = await self._connection.send(TopicIdsRequest(self._topics))
        if self._watch is not None:
            self._watch.update(read_topic_ids(reply))

    def close(self) -> None:
        """Close the connection; the next question opens another one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @cached_property
    def _security(self) -> dict[str, Any]:
        return kafka_security(self._settings)  # reads the certificates

    async def _connect(self) -> AIOKafkaConnection:
        hosts = collect_hosts(self._settings.kafka_bootstrap)
        timeout_s = self._settings.probe_timeout_s / len(hosts)  # one that hangs leaves time for the others
        failure: Exception = KafkaConnectionError("TWIN_KAFKA_BOOTSTRAP names no broker")
        for host, port, _family in hosts:
            try:
                async with asyncio.timeout(timeout_s):
                    return await create_conn(host, port, client_id="twinstream-probe", **self._security)
            except TimeoutError:
                failure = KafkaConnectionError(f"{host}:{port} gave no answer within {timeout_s:.1f} s")
            except (OSError, KafkaError) as error:
                failure = error
        raise failure


async def watch_now(settings: Settings, topics: Collection[str]) -> None:
    """Let :data:`WATCHED_TOPICS` know these topics as they are now, not as they were at the last probe.

    Raises:
        TimeoutError, aiokafka.errors.KafkaError: when no broker answers.
    """
    probe = BrokerProbe(settings, tuple(topics), WATCHED_TOPICS)
    try:
        async with asyncio.timeout(settings.probe_timeout_s):
            await probe.ask()
    finally:
        probe.close()
