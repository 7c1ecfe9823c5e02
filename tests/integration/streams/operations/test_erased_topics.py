"""An erasure with a real Kafka: compacted topics hold no id afterwards, and the limit of each topic is reported."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from aiokafka import TopicPartition

from schemas import EffectsEvent, ExperimentResult, InterventionConfig
from sql.database import Pool
from sql.experiment_store import add_experiment
from streams.kafka import PARTITIONS, create_topics, event_headers, event_value, open_consumer, open_producer
from streams.operations.erased_topics import NAMING_TOPICS
from streams.operations.forgetting import forget
from streams.settings import Settings
from streams.simulation.effect_updates import calibrated_prior

PERSON = "npi 7/ü"
TOPIC = "effect-priors"
KEY = b"hcp:kisqali:prescribing_change:email_campaign"
EXPERIMENT = ExperimentResult(
    experiment_id=PERSON,
    observed_at=datetime(2026, 3, 1, tzinfo=UTC),
    twin_type="hcp",
    brand="kisqali",
    intervention=InterventionConfig(intervention_type="email_campaign", channel="email", frequency="monthly", duration_weeks=12),
    effect=0.05,
    standard_error=0.01,
    n_treated=100,
    n_control=100,
)


async def records_of_key(settings: Settings) -> list[EffectsEvent]:
    partitions = [TopicPartition(TOPIC, number) for number in range(PARTITIONS[TOPIC])]
    found = []
    async with open_consumer(settings) as consumer:
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        await consumer.seek_to_beginning(*partitions)
        while any([await consumer.position(partition) < ends[partition] for partition in partitions]):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                found += [EffectsEvent.model_validate_json(record.value) for record in records if record.key == KEY]
    return found


async def test_what_a_compacted_topic_holds_of_a_person_is_published_again_without_the_id(
    kafka_bootstrap: str, fresh_database: str, pool: Pool
):
    settings = Settings(kafka_bootstrap=kafka_bootstrap, postgres_dsn=fresh_database)
    await create_topics(settings)
    before = await add_experiment(pool, EXPERIMENT, calibrated_prior)
    async with open_producer(settings) as producer:
        await producer.send_and_wait(TOPIC, event_value(before), key=KEY, headers=event_headers(before, "experiments"))

    counted = await forget(settings, PERSON, None, "a test", dry_run=True)
    assert (await records_of_key(settings))[-1] == before
    report = await forget(settings, PERSON, None, "a test", dry_run=False)

    newest = (await records_of_key(settings))[-1]
    assert newest.prior == before.prior
    (name,) = newest.experiments
    assert name.startswith("[erased ")
    assert (counted.republished, report.republished) == ([], [f"{TOPIC} {KEY.decode()}"])
    assert tuple(report.kafka) == NAMING_TOPICS
    assert report.kafka["outcome-events"].setting == f"retention.ms={30 * 86_400_000}"
    expected = datetime.now(UTC) + timedelta(days=37)  # and the rest of a segment
    until = report.kafka["outcome-events"].until
    assert until is not None
    assert abs(until - expected) < timedelta(hours=1)
    assert report.kafka[TOPIC].compacted
    assert report.kafka[TOPIC].setting == f"max.compaction.lag.ms={7 * 86_400_000}"
