"""What others write on topics that only the service writes is found by its offset, and changes no count."""

from __future__ import annotations

from typing import Any

from schemas import FidelityWindow
from sql.database import Pool
from sql.dead_letter_store import RefusalQuery, list_refused
from streams.client.twin_client import TwinClient
from streams.kafka import topic_of
from streams.kafka.topics import CHANGELOGS
from streams.operations.foreign_records import OUTPUT_TOPICS
from streams.operations.verify import verify
from streams.settings import Settings
from tests.contracts.test_events import EXAMPLES
from tests.outcomes import make_card, make_line
from tests.polling import until

GARBAGE = (b"\xff\x00no json", b"[" * 50_000, b'{"schema_version": 1, "line": "hcp:kisqali:prescribing_change"}', None)
WINDOWS = topic_of(FidelityWindow)


async def test_garbage_on_topics_that_no_role_reads_is_refused_by_a_scan_once_and_found_by_its_offset(
    settings: Settings, pool: Pool, twinstream: Any
):
    expected = {}
    async with TwinClient(settings, name="test") as client:
        for topic in OUTPUT_TOPICS:
            places = [await client.publish_bytes(topic, b"key", value, partition=0) for value in GARBAGE]
            expected |= {(topic, *place): value for place, value in zip(places, GARBAGE, strict=True)}
            for event in EXAMPLES.get(topic, ()):
                await client.publish(event)
    for n_new in (len(GARBAGE), 0):
        assert await twinstream("dlq", "scan", "--json") == [
            {"topic": topic, "records": len(GARBAGE) + len(EXAMPLES.get(topic, ())), "foreign": len(GARBAGE), "new": n_new}
            for topic in OUTPUT_TOPICS
        ]
    for (topic, partition, offset), value in expected.items():
        query = RefusalQuery(topic=topic, partition=partition, offset=offset)
        (refused,) = await list_refused(pool, query, limit=2)
        assert refused.value == value


async def test_verify_names_foreign_messages_by_their_offset_and_counts_none_of_them(settings: Settings):
    await make_line(settings.postgres_dsn.get_secret_value(), make_card())
    async with TwinClient(settings, name="test") as client:
        places = [await client.publish_bytes(WINDOWS, b"key", value, partition=2) for value in GARBAGE]
    report = await verify(settings, patience_s=1.0)
    assert report.mismatches == ()
    assert report.counts["foreign messages"] == len(GARBAGE)
    assert [text.split(" (")[0] for text in report.foreign] == [f"{WINDOWS}:{partition}:{offset}" for partition, offset in places]
    assert f"no message of the service: {WINDOWS}:2:{places[0][1]} (" in report.format_text()


async def test_garbage_on_the_changelog_is_refused_by_the_role_that_reads_it(settings: Settings, pool: Pool, service: Any):
    await make_line(settings.postgres_dsn.get_secret_value(), make_card())
    topic = CHANGELOGS[0].name
    async with TwinClient(settings, name="test") as client:
        place = await client.publish_bytes(topic, b"key", b'{"version": "none"}', partition=1)

    async def refused() -> list[tuple[str, int, int]]:
        return [tuple(row) for row in await pool.fetch("SELECT topic, partition, source_offset FROM refused_records")]

    async with service(["fidelity"]):
        assert await until(refused) == [(topic, *place)]
