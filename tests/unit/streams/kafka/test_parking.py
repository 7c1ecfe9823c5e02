"""The parking of an app: attempts, requests of operators, and partitions that wait."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from sql.park_store import ParkRequest
from streams.kafka.parking import Parking, ParkRequested, UnreadableBatch, unreadable_record
from streams.metrics import REGISTRY

TOPIC = "experiment-results"


def here(error: Exception) -> None:
    raise error


def there(error: Exception) -> None:
    raise error


def raised(function: Callable[[Exception], None], error: Exception) -> Exception:
    """The error with the traceback of a function that raises it."""
    with pytest.raises(type(error)) as info:
        function(error)
    return info.value


def test_a_failure_that_parked_a_record_just_now_is_tried_once_and_every_other_one_as_often_as_before():
    parking = Parking(5, TOPIC)
    error = raised(here, KeyError("x"))
    assert parking.attempts_for(error) == 5
    parking.on_failed(error)
    assert parking.attempts_for(raised(here, KeyError("y"))) == 1
    assert parking.attempts_for(raised(there, KeyError("x"))) == 5
    assert parking.attempts_for(raised(here, TypeError("x"))) == 5


def test_a_replay_is_tried_as_often_as_if_nothing_had_failed_and_a_flood_of_replays_is_not():
    parking = Parking(5, TOPIC)
    for _ in range(3):
        parking.on_failed(raised(here, KeyError("x")))
    parking.on_replay()
    assert parking.attempts_for(raised(here, KeyError("x"))) == 5
    parking.on_failed(raised(here, KeyError("x")))
    parking.on_replay()
    assert parking.attempts_for(raised(here, KeyError("x"))) == 1


def test_a_counter_of_parked_records_exists_before_the_first_one():
    Parking(5, "a topic of this test alone")
    assert REGISTRY.get_sample_value("twin_parked_total", {"topic": "a topic of this test alone"}) == 0


def test_a_record_is_not_processed_when_an_operator_wants_it_to_be_parked_or_when_it_cannot_be_read():
    parking = Parking(5, TOPIC)
    parking.check(0, 7, b"{}")
    request = ParkRequest(TOPIC, 0, 7, "asked by its producer", "ops@host", datetime.now(UTC), None)
    parking._requests = {(0, 7): request}
    assert parking.requested_offsets(0, [5, 6, 7, 8]) == [7]
    assert parking.requested_offsets(1, [7]) == []
    with pytest.raises(ParkRequested, match="parked by ops@host: asked by its producer"):
        parking.check(0, 7)
    parking.check(1, 7)
    unreadable = unreadable_record(TOPIC, 0, 3, 9, 1000, b"raw", ValueError("decompression failed"))
    with pytest.raises(UnreadableBatch, match="the batch of offsets 3 to 9 cannot be read: ValueError: decompression failed"):
        parking.check(0, unreadable.offset, unreadable.value)


def test_a_partition_that_waits_has_a_metric_until_it_goes_on():
    parking = Parking(5, TOPIC)
    labels = {"topic": TOPIC, "partition": "2"}
    assert REGISTRY.get_sample_value("twin_partition_blocked", labels) is None
    parking.block(2, "every record fails alike")
    assert REGISTRY.get_sample_value("twin_partition_blocked", labels) == 1
    parking.unblock_all()
    parking.unblock(2)
    assert REGISTRY.get_sample_value("twin_partition_blocked", labels) is None
