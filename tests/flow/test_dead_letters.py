"""What is refused is kept byte for byte, and comes right at the hands of an operator."""

from __future__ import annotations

import json
from uuid import UUID

import pytest
from aiokafka import AIOKafkaProducer

from streams.kafka.topics import DEAD_LETTERS
from tests.outcomes import TOPIC, make_card, make_line, outcome

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
    (b"deep", b"[" * 100_000, "json", "ValidationError"),
    (b"spaced", SPACED, "simulation", "Refusal"),
    (b"array", ARRAY, "invalid", "ValidationError"),
]


@pytest.fixture
async def line(settings) -> None:
    await make_line(settings.postgres_dsn.get_secret_value(), make_card())


async def test_a_dead_letter_is_what_came_to_the_last_byte_with_the_reason_beside_it(service, client, listener, pool, line):
    async with service(["outcomes"]):
        places = {value: await client.publish_bytes(TOPIC, key, value, HEADERS) for key, value, *_ in POISON}
        places[b"nothing"] = await publish_nothing(client)
        letters = await listener.records(DEAD_LETTERS, len(POISON) + 1)
    by_place = {(int(told["twin_partition"]), int(told["twin_offset"])): letter for letter in letters for told in (_told(letter),)}
    for key, value, kind, exception in POISON:
        letter = by_place[places[value]]
        assert (letter.key, letter.value) == (key, BAD_ELEMENT if value == ARRAY else value)
        assert list(letter.headers[: len(HEADERS)]) == HEADERS
        told = _told(letter)
        assert (told["twin_kind"], told["twin_exception"]) == (kind, exception)
        assert (told["twin_topic"], told["twin_attempt"]) == (TOPIC, "1")
        assert len(told["twin_reason"]) > 10
    assert (by_place[places[b"nothing"]].key, by_place[places[b"nothing"]].value) == (b"", None)
    assert await pool.fetchval("SELECT count(*) FROM refused_records WHERE key IS NULL AND value IS NULL") == 1
    assert await pool.fetchval("SELECT count(*) FROM fidelity_tracking") == 1


async def test_a_record_that_is_too_large_to_be_copied_holds_nothing_up(
    service, client, listener, pool, line, settings, twinstream
):
    large = {"json": b"%" * (8 * 1024 * 1024 - 200), "simulation": b" " * 16 * 1024 * 1024 + SPACED}
    async with service(["outcomes"]), packing_producer(settings) as producer:
        for value in large.values():
            await producer.send_and_wait(TOPIC, value, key=b"large", headers=HEADERS, partition=0)
        await client.publish_bytes(TOPIC, None, json.dumps(outcome(1)).encode())
        letters = await listener.records(DEAD_LETTERS, 2)
        assert "and a topic takes 8388608" in await twinstream("dlq", "replay", "--kind", "simulation", status=1)
    for letter, (kind, value) in zip(letters, large.items(), strict=True):
        told = _told(letter)
        assert (letter.key, letter.value) == (b"", None)
        assert (told["twin_kind"], told["twin_omitted"]) == (kind, str(len(value)))
        assert len(letter.headers) == len(told)
    kept = await pool.fetch("SELECT value, sent_at FROM refused_records ORDER BY source_offset")
    assert [row["value"] for row in kept] == list(large.values())
    assert None not in [row["sent_at"] for row in kept]
    assert await pool.fetchval("SELECT count(*) FROM fidelity_tracking WHERE fate = 'counted'") == 1


def packing_producer(settings) -> AIOKafkaProducer:
    """A producer whose records are small on the way and large once they are unpacked."""
    return AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap,
        compression_type="gzip",
        max_request_size=32 * 1024 * 1024,
        max_batch_size=32 * 1024 * 1024,
    )


def _told(letter) -> dict[str, str]:
    return {name: value.decode() for name, value in letter.headers if name.startswith("twin_")}


async def publish_nothing(client) -> tuple[int, int]:
    """A record without key and value, as other clients can send it."""
    batch = client._started().create_batch()
    batch.append(key=None, value=None, timestamp=None)
    done = await (await client._started().send_batch(batch, TOPIC, partition=0))
    return done.partition, done.offset


async def test_an_operator_lists_looks_corrects_and_replays_and_nothing_counts_twice(
    service, client, listener, pool, line, twinstream
):
    wrong = outcome(1, actual_value="a tenth", surprise=1)
    async with service(["outcomes"]):
        await client.publish_bytes(TOPIC, b"its key", json.dumps(wrong).encode(), [("trace", b"\xff")])
        await client.publish_bytes(TOPIC, b"other", b"\xff")
        await listener.records(DEAD_LETTERS, 2)

        listed = await twinstream("dlq", "list", "--json")
        assert {(each["kind"], each["count"]) for each in listed["counts"]} == {("invalid", 1), ("json", 1)}
        assert "2 refused" not in await twinstream("dlq", "list", "--kind", "champion")
        (named,) = [each["refusal_id"] for each in listed["letters"] if each["kind"] == "invalid"]
        assert json.loads(await twinstream("dlq", "show", named[:8], "--raw")) == wrong
        assert "actual_value" in await twinstream("dlq", "show", named[:8])

        again = await twinstream("dlq", "replay", named, "--set", "actual_value=0.1", status=1)
        assert "would be refused again: surprise" in again
        other_id = ("--set", f"event_id={UUID(int=9)}", "--set", "actual_value=0.1", "--drop", "surprise")
        assert "event_id is" in await twinstream("dlq", "replay", named, *other_id, status=1)
        fix = ("--set", "actual_value=0.1", "--drop", "surprise")
        tried = await twinstream("dlq", "replay", named, *fix, "--dry-run", "--json")
        assert (tried["dry_run"], tried["replayed"][0]["replays"]) == (True, [])
        assert await listener.count(TOPIC) == 2

        for fate in ("counted", "duplicate"):
            done = await twinstream("dlq", "replay", named, *fix, "--json")
            assert done["replayed"][0]["replays"][-1]["came_of_it"] == fate
        (record,) = [each for each in await listener.records(TOPIC, 3) if b"0.1" in each.value][:1]

    assert (record.key, record.headers[0]) == (b"its key", ("trace", b"\xff"))
    assert dict(record.headers)["twin_replay_of"].decode() == named
    assert await pool.fetchval("SELECT sum(n) FROM fidelity_panes WHERE segment = 'all'") == 1
    assert await pool.fetchval("SELECT actual_value FROM fidelity_tracking WHERE fate = 'counted'") == 0.1
    waiting = (await twinstream("dlq", "list", "--waiting", "--json"))["letters"]
    assert [each["kind"] for each in waiting] == ["json"]
    shown = await twinstream("dlq", "show", named)
    assert "with actual_value = 0.1, without surprise: counted" in shown


async def test_what_is_refused_again_has_one_more_attempt_and_the_mark_says_so(service, client, listener, line, twinstream):
    async with service(["outcomes"]):
        await client.publish_bytes(TOPIC, None, SPACED)
        await listener.records(DEAD_LETTERS, 1)
        done = await twinstream("dlq", "replay", "--kind", "simulation", "--json")
        second = (await listener.records(DEAD_LETTERS, 2))[-1]
        await twinstream("dlq", "replay", "--topic", "simulation-requests", "--json")
    assert done["replayed"][0]["replays"][0]["came_of_it"] == "refused: simulation"
    assert {dict(each.headers)["twin_attempt"] for each in await listener.records(DEAD_LETTERS, 2)} == {b"1", b"2"}
    assert second.value == SPACED


REFUSED = [
    (("dlq", "show", "deadbeef"), 1, "no refused record has an id that begins with 'deadbeef'"),
    (("dlq", "show", "%"), 1, "no refused record has an id that begins with '%'"),
    (("dlq", "replay"), 2, "name refused records by ID, or choose them"),
    (("dlq", "replay", "--kind", "json", "--value", "-"), 2, "name it by its ID"),
]


async def test_what_cannot_be_is_refused_in_a_sentence(twinstream):
    for words, status, said in REFUSED:
        assert said in await twinstream(*words, status=status)
