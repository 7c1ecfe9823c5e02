"""Every bound on every topic that a role reads, on a real Kafka: what exceeds it is refused, and the refusal names the setting."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from schemas import SimulationAnswer
from sql.database import Pool
from streams.bounds import BoundSettings
from streams.kafka import open_producer
from streams.kafka.topics import PARTITIONS, READ_TOPICS, SIDE_TOPICS
from streams.settings import ROLES, Settings
from tests.hostile.messages import TEMPLATES
from tests.kafka_batches import ZSTD, Rec, batch, send_raw
from tests.outcomes import TOPIC, make_card, make_line
from tests.polling import until

BOUNDS: Mapping[str, int] = {
    "max_decompressed_bytes": 1024 * 1024,
    "max_batch_records": 20,
    "max_record_bytes": 20_000,
    "max_message_bytes": 10_000,
    "max_key_bytes": 64,
    "max_headers": 60,
    "max_header_bytes": 2000,
    "max_array_elements": 500,
    "max_json_depth": 6,
    "max_string_length": 5000,
    "max_name_length": 30,
    "max_features": 5,
    "max_number_length": 40,
}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update=dict(BOUNDS))


def records(topic: str, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """For each bound of a topic its name and batches that exceed it, one for each way."""
    template = TEMPLATES[topic]
    yield "max_decompressed_bytes", batch([Rec(b" " * 1_100_000)], codec=ZSTD)
    yield "max_batch_records", batch([Rec(b"{}")] * 21)
    yield "max_record_bytes", batch([Rec(encoded(template(rng)) + b" " * 20_000)])
    yield "max_key_bytes", batch([Rec(encoded(template(rng)), key=b"k" * 65)])
    yield "max_headers", batch([Rec(encoded(template(rng)), headers=[(b"x", b"y")] * 61)])
    yield "max_header_bytes", batch([Rec(encoded(template(rng)), headers=[(b"x" * 1000, b"y" * 1001)])])
    if topic not in (TOPIC, "fidelity-errors"):
        yield "max_message_bytes", batch([Rec(encoded(template(rng)) + b" " * 10_000)])
    for setting, value in (
        ("max_array_elements", [1] * 501),
        ("max_array_elements", {str(number): 1 for number in range(501)}),
        ("max_json_depth", nested(7)),
        ("max_string_length", "x" * 5001),
        ("max_string_length", ['a"\\' * 1100]),
        ("max_number_length", 10**40),
    ):
        yield setting, batch([Rec(encoded(template(rng) | {"comment": value}))])
    yield "max_json_depth", batch([Rec(encoded(template(rng))[:-1] + b', "comment": ' + b"[" * 7)])
    if topic == TOPIC:
        by_features = dict.fromkeys(("predicted_value", "predicted_lower", "predicted_upper")) | {"entity_id": "x"}
        for setting, features in (("max_features", dict.fromkeys("abcdef", 1)), ("max_name_length", {"x" * 31: 1})):
            yield setting, batch([Rec(encoded(template(rng) | by_features | {"features": features}))])


def nested(depth: int) -> Any:
    inner: Any = 1
    for _ in range(depth):
        inner = [inner]
    return inner


def encoded(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body).encode()


async def test_a_refusal_names_the_bound_on_every_topic(service: Any, settings: Settings, pool: Pool, listener: Any):
    await make_line(settings.postgres_dsn.get_secret_value(), make_card())
    sent: dict[tuple[str, int], str] = {}
    async with service(ROLES), open_producer(settings) as producer:
        for topic in (*READ_TOPICS.values(), *SIDE_TOPICS.values()):
            sent |= await send(producer, topic)
        n_answers = await until(lambda: listener.count("simulation-results"), lambda n: n >= 10)
        reasons = await until(lambda: refusals(pool), lambda rows: len(rows) + n_answers >= len(sent))
        answers = [answer.reason or "" for answer in await listener.events(SimulationAnswer, n_answers)]

    unnamed = {
        f"{setting} at {topic}:{offset}": reasons.get((topic, offset))
        for (topic, offset), setting in sent.items()
        if not named(setting, reasons.get((topic, offset), "")) and topic != "simulation-requests"
    }
    assert unnamed == {}
    requests = sorted(setting for (topic, _), setting in sent.items() if topic == "simulation-requests")
    of_requests = [*answers, *(reason for (topic, _), reason in reasons.items() if topic == "simulation-requests")]
    assert sorted(setting for reason in of_requests for setting in BOUNDS if named(setting, reason)) == requests
    assert {setting for (topic, _), setting in sent.items() if topic == TOPIC} >= {*BOUNDS} - {"max_message_bytes"}
    assert BOUNDS.keys() == BoundSettings.model_fields.keys()


async def send(producer: AIOKafkaProducer, topic: str) -> dict[tuple[str, int], str]:
    """Send the batches of a topic to its second partition, or its only one; the setting by topic and the last offset of each."""
    sent, rng = {}, random.Random(7)
    for setting, data in records(topic, rng):
        first = await send_raw(producer, topic, min(1, PARTITIONS[topic] - 1), data)
        sent[topic, first + 20 if setting == "max_batch_records" else first] = setting
    return sent


async def refusals(pool: Pool) -> dict[tuple[str, int], str]:
    """Reason of each refused record by topic and offset."""
    return {(row[0], row[1]): row[2] for row in await pool.fetch("SELECT topic, source_offset, reason FROM refused_records")}


def named(setting: str, reason: str) -> bool:
    return f"TWIN_{setting.upper()}" in reason
