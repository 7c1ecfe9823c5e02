"""The private parts of aiokafka that the reader of batches replaces: a release that changes them fails these tests."""

from __future__ import annotations

import inspect

from aiokafka.consumer import fetcher
from aiokafka.consumer.fetcher import Fetcher, FetchResult
from aiokafka.consumer.group_coordinator import GroupCoordinator

from streams.bounds import BoundSettings
from streams.kafka.record_batches import BatchReader, FetchedBatches, bound_fetches


def test_every_fetched_response_goes_through_the_two_names_that_are_replaced():
    source = inspect.getsource(Fetcher._proc_fetch_request)

    assert source.count("records = MemoryRecords(part_data[-1])") == 1
    assert source.count("partition_records = PartitionRecords(") == 1
    for use in ("records.has_next()", "records.size_in_bytes()"):
        assert use in source


def test_the_reader_takes_the_arguments_of_the_class_that_it_replaces():
    original = BatchReader.__mro__[1]

    assert list(inspect.signature(original.__init__).parameters) == [
        "self",
        "tp",
        "records",
        "aborted_transactions",
        "fetch_offset",
        "key_deserializer",
        "value_deserializer",
        "check_crcs",
        "isolation_level",
    ]
    assert "self._records_iterator = self._unpack_records()" in inspect.getsource(original.__init__)
    assert list(inspect.signature(original._consumer_record).parameters) == ["self", "tp", "record"]


def test_a_position_follows_the_offset_that_the_reader_sets():
    assert "state.consumed_to(self._partition_records.next_fetch_offset)" in inspect.getsource(FetchResult._update_position)


def test_a_member_with_a_name_keeps_its_place_and_who_assigns_watches_for_new_partitions():
    leave, watch = (
        inspect.getsource(method) for method in (GroupCoordinator._maybe_leave_group, GroupCoordinator._handle_metadata_update)
    )

    assert "self._group_instance_id is None" in leave
    assert "LeaveGroupRequest(self.group_id, self.member_id)" in leave
    assert "self._group_subscription is not None" in watch
    assert "self._metadata_snapshot != metadata_snapshot" in watch


def test_bounding_replaces_both_names():
    bound_fetches(BoundSettings())

    assert fetcher.MemoryRecords is FetchedBatches
    assert fetcher.PartitionRecords.func is BatchReader
