"""Everything on Kafka: topics, records, clients, and the Faust app of a role with its batch consumer.

It imports ``settings``, ``errors``, ``metrics`` and ``retries``, and the packages below ``streams``. Modules that load Faust
(``app``, ``asyncapi``, ``batch_consumer``, ``dead_letters``, ``start_offsets``) are imported by themselves: a program that only
publishes does without it.
"""

from streams.kafka.clients import open_admin, open_consumer, open_producer
from streams.kafka.records import MAX_RECORD_BYTES, Headers, RawRecord, event_headers, event_value
from streams.kafka.topics import (
    DEAD_LETTERS,
    PARTITIONS,
    READ_TOPICS,
    SIDE_TOPICS,
    count_partitions,
    create_topics,
    reader_group,
    topic_of,
)

__all__ = [
    "DEAD_LETTERS",
    "MAX_RECORD_BYTES",
    "PARTITIONS",
    "READ_TOPICS",
    "SIDE_TOPICS",
    "Headers",
    "RawRecord",
    "count_partitions",
    "create_topics",
    "event_headers",
    "event_value",
    "open_admin",
    "open_consumer",
    "open_producer",
    "reader_group",
    "topic_of",
]
