"""Refused records are counted, and each parking is logged with its place and its reason."""

from __future__ import annotations

import logging
from uuid import UUID

import pytest

from schemas import SourceId
from sql.dead_letter_store import RefusedRecord
from streams.kafka.dead_letters import count_refused_records
from tests.outcomes import START, TOPIC


def refused(offset: int, kind: str, reason: str, partition: int = 2) -> RefusedRecord:
    source = SourceId(topic=TOPIC, partition=partition)
    return RefusedRecord(UUID(int=offset), source, offset, 0, START, None, b"raw", [], kind, reason, "UnreadableBatch")


def test_records_that_are_parked_are_logged_once_for_each_partition_and_reason(caplog: pytest.LogCaptureFixture):
    batch, model = "the batch of offsets 3 to 9 cannot be read: ValueError: the checksum is wrong", "model 7 cannot be loaded"
    with caplog.at_level(logging.INFO):
        count_refused_records(
            [
                refused(9, "parked", batch),
                refused(10, "json", "no JSON"),
                *(refused(offset, "parked", model) for offset in (11, 12, 20)),
                refused(4, "parked", model, partition=3),
            ]
        )

    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", f"{TOPIC}:2:9 is parked: {batch}"),
        ("ERROR", f"{TOPIC}:2:11 is parked, and 2 more up to offset 20: {model}"),
        ("ERROR", f"{TOPIC}:3:4 is parked: {model}"),
    ]
