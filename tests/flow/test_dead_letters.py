"""Refused records are stored byte for byte, and an operator corrects and replays them."""

from __future__ import annotations

import json
from uuid import UUID

import pytest
from aiokafka import AIOKafkaProducer

from streams.kafka import DEAD_LETTERS, open_producer
from tests.outcomes import TOPIC, make_card, make_line, outcome
from tests.polling import until

HEADERS = [("trace", b"\xff\x00"), ("trace", b""), ("nothing", None), ("na\x00me", b"1"), ("twin_of_the_sender", b"stays")]
UNKNOWN = {"predicted_value": None, "predicted_lower": None, "predicted_upper": None} | {
    "simulation_id": str(UUID(int=1)),
    "twin_id": str(UUID(int=2)),
}
SPACED = json.dumps(outcome(1, **UNKNOWN), indent=1).encode()
BAD_ELEMENT = b'{ "event_id" :7, "x":1.50}'
ARRAY = b"[ %b,\n" % json.dumps(outcome(2)).encode() + BAD_ELEMENT + b"\t]"
POISON: list[tuple[bytes | None, bytes | None, str, str]] = [
    (b"\xfe\xff", b'{"event_id": "\xff\xfe"', "json", "ValidationError"),
    (b"null", None, "empty", "Refusal"),
    (None, b"no key", "json", "ValidationError"),
    (b"", b"", "json", "ValidationError"),
    (b"deep", b"[" * 100_000, "bound", "OutOfBounds"),
    (b"spaced", SPACED, "simulation", "Refusal"),
    (b"array", ARRAY, "invalid", "ValidationError"),
    (b"level", json.dumps(outcome(3, segment={"region": "x" * 4_000_000})).encode(), "segment", "Refusal"),
    (b"far", json.dumps(outcome(5, observed_at="9999-12-31T23:59:59.999999Z")).encode(), "future", "Refusal"),
    (b"old", json.dumps(outcome(6, observed_at="0001-01-01T00:00:00Z")).encode(), "past", "Refusal"),
    (b"number", json.dumps(outcome(4) | {"revision": 10**400}).encode(), "bound", "OutOfBounds"),
]


@pytest.fixture
async def line(settings) -> None:
    await make_line(settings.postgres_dsn.get_secret_value(), make_card())


async def test_a_dead_letter_has_every_byte_of_the_refused_record_and_the_reason_in_headers(
    service, client, listener, pool, line, settings
):
    async with service(["outcomes"]):
        positions = {value: await client.publish_bytes(TOPIC, key, value, HEADERS) for key, value, *_ in POISON}
        positions[b"nothing"] = await publish_nothing(settings)
        records = await listener.records(DEAD_LETTERS, len(POISON) + 1)
    by_position = {_original_position(record): record for record in records}
    for key, value, kind, exception in POISON:
        record = by_position[positions[value]]
        assert (record.key, record.value) == (key, BAD_ELEMENT if value == ARRAY else value)
        assert list(record.headers[: len(HEADERS)]) == HEADERS
        headers = _twin_headers(record)
        assert (headers["twin_kind"], headers["twin_exception"]) == (kind, exception)
        assert (headers["twin_topic"], headers["twin_attempt"]) == (TOPIC, "1")
        assert len(headers["twin_reason"]) > 10
    empty = by_position[positions[b"nothing"]]
    assert (empty.key, empty.value) == (b"", None)
    assert await pool.fetchval("SELECT count(*) FROM refused_records WHERE key IS NULL AND value IS NULL") == 1
    assert await pool.fetchval("SELECT count(*) FROM fidelity_tracking") == 1


async def test_a_refused_record_that_is_too_large_for_a_copy_blocks_nothing(
    service, client, listener, pool, line, settings, twinstream
):
    large = {"json": b"%" * (8 * 1024 * 1024 - 200), "simulation": b" " * 12 * 1024 * 1024 + SPACED}
    async with service(["outcomes"]), compressing_producer(settings) as producer:
        for value in large.values():
            await producer.send_and_wait(TOPIC, value, key=b"large", headers=HEADERS, partition=0)
        await client.publish_bytes(TOPIC, None, json.dumps(outcome(1)).encode())
        records = await listener.records(DEAD_LETTERS, 2)
        assert "and a topic takes 8388608" in await twinstream("dlq", "replay", "--kind", "simulation", status=1)
        counted = "SELECT count(*) FROM fidelity_tracking WHERE fate = 'counted'"
        assert await until(lambda: pool.fetchval(counted), within_s=30.0) == 1
    for record, (kind, value) in zip(records, large.items(), strict=True):
        headers = _twin_headers(record)
        assert (record.key, record.value) == (b"", None)
        assert (headers["twin_kind"], headers["twin_omitted"]) == (kind, str(len(value)))
        assert len(record.headers) == len(headers)
    rows = await pool.fetch("SELECT value, sent_at FROM refused_records ORDER BY source_offset")
    assert [row["value"] for row in rows] == list(large.values())
    assert None not in [row["sent_at"] for row in rows]


def compressing_producer(settings) -> AIOKafkaProducer:
    """A producer whose records are small when compressed and large when decompressed."""
    return AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap,
        compression_type="gzip",
        max_request_size=32 * 1024 * 1024,
        max_batch_size=32 * 1024 * 1024,
    )


def _twin_headers(record) -> dict[str, str]:
    return {name: value.decode() for name, value in record.headers if name.startswith("twin_")}


def _original_position(record) -> tuple[int, int]:
    headers = _twin_headers(record)
    return int(headers["twin_partition"]), int(headers["twin_offset"])


async def publish_nothing(settings) -> tuple[int, int]:
    """Publish a record without key and value, as other clients can; aiokafka only sends one in a batch."""
    async with open_producer(settings) as producer:
        batch = producer.create_batch()
        batch.append(key=None, value=None, timestamp=None)
        sent = await (await producer.send_batch(batch, TOPIC, partition=0))
        return sent.partition, sent.offset


async def test_an_operator_lists_shows_corrects_and_replays_and_nothing_counts_twice(
    service, client, listener, pool, line, twinstream
):
    wrong = outcome(1, actual_value="a tenth", surprise=1)
    async with service(["outcomes"]):
        await client.publish_bytes(TOPIC, b"its key", json.dumps(wrong).encode(), [("trace", b"\xff")])
        await client.publish_bytes(TOPIC, b"other", b"\xff")
        await listener.records(DEAD_LETTERS, 2)

        listed = await twinstream("dlq", "list", "--json")
        assert {(row["kind"], row["count"]) for row in listed["counts"]} == {("invalid", 1), ("json", 1)}
        assert "2 refused" not in await twinstream("dlq", "list", "--kind", "champion")
        (refusal_id,) = [row["refusal_id"] for row in listed["letters"] if row["kind"] == "invalid"]
        assert json.loads(await twinstream("dlq", "show", refusal_id[:8], "--raw")) == wrong
        assert "actual_value" in await twinstream("dlq", "show", refusal_id[:8])

        rejected = await twinstream("dlq", "replay", refusal_id, "--set", "actual_value=0.1", status=1)
        assert "would be refused again: surprise" in rejected
        other_id = ("--set", f"event_id={UUID(int=9)}", "--set", "actual_value=0.1", "--drop", "surprise")
        assert "event_id is" in await twinstream("dlq", "replay", refusal_id, *other_id, status=1)
        correction = ("--set", "actual_value=0.1", "--drop", "surprise")
        dry_run = await twinstream("dlq", "replay", refusal_id, *correction, "--dry-run", "--json")
        assert (dry_run["dry_run"], dry_run["replayed"][0]["replays"]) == (True, [])
        assert await listener.count(TOPIC) == 2

        for fate in ("counted", "duplicate"):
            replay = await twinstream("dlq", "replay", refusal_id, *correction, "--json")
            assert replay["replayed"][0]["replays"][-1]["came_of_it"] == fate
        (record,) = [kafka_record for kafka_record in await listener.records(TOPIC, 3) if b"0.1" in kafka_record.value][:1]

    assert (record.key, record.headers[0]) == (b"its key", ("trace", b"\xff"))
    assert dict(record.headers)["twin_replay_of"].decode() == refusal_id
    assert await pool.fetchval("SELECT sum(n) FROM fidelity_panes WHERE segment = 'all'") == 1
    assert await pool.fetchval("SELECT actual_value FROM fidelity_tracking WHERE fate = 'counted'") == 0.1
    waiting = (await twinstream("dlq", "list", "--waiting", "--json"))["letters"]
    assert [row["kind"] for row in waiting] == ["json"]
    shown = await twinstream("dlq", "show", refusal_id)
    assert "with actual_value = 0.1, without surprise: counted" in shown


async def test_a_record_that_is_refused_again_has_the_next_attempt_number(service, client, listener, line, twinstream):
    async with service(["outcomes"]):
        await client.publish_bytes(TOPIC, None, SPACED)
        await listener.records(DEAD_LETTERS, 1)
        replay = await twinstream("dlq", "replay", "--kind", "simulation", "--json")
        second = (await listener.records(DEAD_LETTERS, 2))[-1]
        await twinstream("dlq", "replay", "--topic", "simulation-requests", "--json")
    assert replay["replayed"][0]["replays"][0]["came_of_it"] == "refused: simulation"
    assert {dict(record.headers)["twin_attempt"] for record in await listener.records(DEAD_LETTERS, 2)} == {b"1", b"2"}
    assert second.value == SPACED


REFUSED = [
    (("dlq", "show", "deadbeef"), 1, "no refused record has an id that begins with 'deadbeef'"),
    (("dlq", "show", "%"), 1, "no refused record has an id that begins with '%'"),
    (("dlq", "replay"), 2, "name refused records by ID, or choose them"),
    (("dlq", "replay", "--kind", "json", "--value", "-"), 2, "name it by its ID"),
]


async def test_a_command_that_cannot_be_done_is_refused_with_its_reason(twinstream):
    for arguments, status, reason in REFUSED:
        assert reason in await twinstream(*arguments, status=status)
