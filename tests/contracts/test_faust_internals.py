"""The private parts of Faust that the batch consumer depends on: a new release that changes one of them fails these tests."""

from __future__ import annotations

import asyncio
import inspect
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import faust
import pytest
from aiokafka import AIOKafkaProducer, ConsumerRecord
from aiokafka.consumer.subscription_state import TopicPartitionState
from aiokafka.errors import KafkaTimeoutError
from aiokafka.producer.message_accumulator import BatchBuilder
from faust.tables.base import Collection
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from faust.transport import consumer as base
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from streams.kafka.batch_consumer import BatchConsumer, BatchTransport, StartOffset
from streams.kafka.published_table import PublishedTable

SIGNATURES = {
    "getmany": ["self", "timeout"],
    "perform_seek": ["self"],
    "seek_to_committed": ["self"],
    "seek_wait": ["self", "partitions"],
    "on_partitions_revoked": ["self", "revoked"],
    "highwater": ["self", "tp"],
    "assignment": ["self"],
    "_wait_next_records": ["self", "timeout"],
    "wait_empty": ["self"],
    "_getmany": ["self", "active_partitions", "timeout"],
    "_add_gap": ["self", "tp", "offset_from", "offset_to"],
    "_new_offset": ["self", "tp"],
    "_to_message": ["self", "tp", "record"],
    "_drain_messages": ["self", "fetcher"],
    "_filter_committable_offsets": ["self", "tps"],
    "_should_commit": ["self", "tp", "offset"],
    "ack": ["self", "message"],
}

STATE = (
    "_acked",
    "_acked_index",
    "_read_offset",
    "_committed_offset",
    "_unacked_messages",
    "_buffered_partitions",
    "flow_active",
    "scheduler",
)


def test_the_version_is_the_one_whose_private_methods_were_read():
    assert version("faust-streaming") == "0.15.3"


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_method_that_is_overridden_or_called_has_the_expected_arguments(name: str):
    assert list(inspect.signature(getattr(driver.Consumer, name)).parameters) == SIGNATURES[name]


def test_every_override_replaces_a_method_of_faust():
    overridden = {name for name, value in vars(BatchConsumer).items() if inspect.isfunction(value)} & set(SIGNATURES)

    assert overridden == {
        "getmany",
        "_getmany",
        "wait_empty",
        "perform_seek",
        "seek_to_committed",
        "on_partitions_revoked",
        "_add_gap",
        "_new_offset",
    }
    assert all(name in dir(driver.Consumer) for name in overridden)


def test_the_transport_makes_consumers_by_its_class_attribute():
    assert driver.Transport.Consumer is driver.Consumer
    assert type(make_consumer()) is BatchConsumer


@pytest.mark.parametrize("name", STATE)
def test_a_consumer_has_the_state_that_batches_use(name: str):
    assert hasattr(make_consumer(), name)


def test_a_record_at_or_above_the_read_offset_is_delivered_and_its_offset_remembered():
    source = inspect.getsource(base.Consumer._drain_messages)

    assert "if r_offset is None or offset >= r_offset:" in source
    assert "set_read_offset(tp, offset)" in source


def test_an_acknowledgement_below_the_committed_offset_is_ignored():
    assert "if committed is None or offset >= committed:" in inspect.getsource(base.Consumer.ack)


def test_a_table_recovery_ends_with_a_seek():
    for step in (Recovery._resume_streams, Recovery.on_recovery_completed):
        source = inspect.getsource(step)
        assert source.index("perform_seek") < source.index("resume_flow")


TP0 = TP("batched", 0)


async def test_offsets_are_committed_up_to_the_longest_run_of_acknowledged_batches():
    consumer = make_consumer()
    consumer._delivered[TP0].extend([9, 19, 29])

    acknowledge(consumer, 19)
    assert consumer._new_offset(TP0) is None
    acknowledge(consumer, 9)
    assert consumer._new_offset(TP0) == 20
    assert consumer._new_offset(TP0) is None
    acknowledge(consumer, 29)
    assert consumer._new_offset(TP0) == 30


async def test_the_state_of_a_revoked_partition_is_discarded():
    consumer = make_consumer()
    consumer._delivered[TP0].append(9)
    acknowledge(consumer, 9)

    await consumer.on_partitions_revoked({TP0})

    assert consumer._new_offset(TP0) is None
    assert not consumer._starts


async def test_a_gap_in_a_batch_topic_fills_no_interval_tree():
    consumer = make_consumer()

    await consumer._add_gap(TP0, 3, 10_000_000)

    assert not consumer._gap[TP0]


def test_records_are_split_into_batches_that_keep_their_order():
    consumer = make_consumer()
    consumer._starts[TP0] = start_at(0)
    records = [record(offset) for offset in range(25)]

    batches = [message.value for _, message in consumer._messages({TP0: records})]

    assert [len(batch.records) for batch in batches] == [10, 10, 5]
    assert [record.offset for batch in batches for record in batch.records] == list(range(25))
    assert [message.offset for _, message in consumer._messages({TP0: records})] == [9, 19, 24]


def test_records_below_the_read_offset_are_left_out():
    consumer = make_consumer()
    consumer._starts[TP0] = start_at(0)
    consumer._read_offset[TP0] = 7

    (message,) = [message for _, message in consumer._messages({TP0: [record(offset) for offset in range(4, 9)]})]

    assert [record.offset for record in message.value.records] == [7, 8]


async def test_a_partition_that_is_revoked_between_two_of_its_batches_delivers_no_further_one():
    consumer = make_consumer()
    consumer._starts[TP0] = start_at(0)
    messages = consumer._messages({TP0: [record(offset) for offset in range(25)]})
    next(messages)

    await consumer.on_partitions_revoked({TP0})

    assert list(messages) == []


def make_consumer() -> Any:
    app = faust.App("contract", broker="kafka://localhost", web_enabled=False)
    app.batch_topics, app.batch_records = frozenset({TP0.topic}), 10
    app.transport = BatchTransport(app.conf.broker_consumer, app)
    return app.transport.create_consumer(callback=_nothing, on_partitions_revoked=_nothing, on_partitions_assigned=_nothing)


def acknowledge(consumer: Any, offset: int) -> None:
    consumer._acked[TP0].append(offset)
    consumer._acked_index[TP0].add(offset)


def start_at(offset: int) -> Any:
    return StartOffset(offset, 3)


def record(offset: int) -> ConsumerRecord[bytes, bytes]:
    return ConsumerRecord(TP0.topic, TP0.partition, offset, 1_700_000_000_000, 1, b"k", b"v", 0, 1, 1, ())


async def _nothing(*_: Any, **__: Any) -> None:
    return None


def test_a_producer_holds_the_client_that_sends_batches():
    assert driver.Producer._producer is None
    assert "self._producer = self._new_producer()" in inspect.getsource(driver.Producer.on_start)
    assert list(inspect.signature(AIOKafkaProducer.send_batch).parameters) == ["self", "batch", "topic", "partition"]


def test_an_empty_batch_takes_a_record_of_any_size_and_a_full_one_none():
    batch = BatchBuilder(100, 0)

    assert batch.append(timestamp=None, key=None, value=b"x" * 1000) is not None
    assert batch.append(timestamp=None, key=None, value=b"x") is None
    assert batch.record_count() == 1


async def test_a_published_table_has_nothing_to_recover_from_its_changelog():
    app = faust.App("contract", broker="kafka://localhost", web_enabled=False, Table=PublishedTable)
    table = app.Table("panes", partitions=1)
    changelog = TP(table.changelog_topic_name, 0)
    app.assignor.assigned_actives = lambda: {changelog, TP0}
    app.consumer.highwaters = ends = Ends({changelog: 200_000})
    recovery = Recovery(app, app.tables)

    await table.on_rebalance(set(), set(), set())
    recovery.add_active(table, changelog)
    ends.offsets[changelog] = 200_003  # records of the worker that had the partition before
    await recovery._build_highwaters(app.consumer, recovery.active_tps, recovery.active_highwaters, "active")
    app.consumer.earliest_offsets = Ends({changelog: 0})
    await recovery._build_offsets(app.consumer, recovery.active_tps, recovery.active_offsets, "active")

    assert recovery.active_remaining() == {changelog: 3}


async def test_faust_asks_for_persisted_offsets_after_the_store_was_told_of_an_assignment():
    source = inspect.getsource(TableManager.on_rebalance)

    assert source.index("table.on_rebalance") < source.index("self.recovery.on_rebalance")
    assert "persisted_offset = table.persisted_offset(tp)" in inspect.getsource(Recovery._add)
    assert "self._new_store()" in inspect.getsource(Collection.data.fget)


class Ends:
    """Offsets that a consumer returns for partitions."""

    def __init__(self, offsets: dict[TP, int]) -> None:
        self.offsets = offsets

    async def __call__(self, *tps: TP) -> dict[TP, int]:
        return {tp: self.offsets[tp] for tp in tps}


def test_a_consumer_that_is_not_started_has_no_positions_and_no_lag():
    consumer = make_consumer()

    assert consumer.positions() == {}
    assert consumer.lag() == {}
    assert not consumer.ping(lambda: None)


def test_the_client_has_the_position_of_a_partition_before_its_first_record():
    assert make_consumer()._thread._consumer is None
    assert isinstance(TopicPartitionState.position, property)
    assert isinstance(TopicPartitionState.has_valid_position, property)


class Unacknowledged:
    tp = TP0


def test_the_lag_ends_with_the_last_record_and_not_with_the_marker_of_a_transaction_behind_it(monkeypatch: pytest.MonkeyPatch):
    consumer = make_consumer()
    state = SimpleNamespace(position=8, has_valid_position=True)
    assignment = SimpleNamespace(state_value=lambda _tp: state)
    consumer._thread._consumer = SimpleNamespace(_subscription=SimpleNamespace(subscription=SimpleNamespace(assignment=assignment)))
    monkeypatch.setattr(consumer, "assignment", lambda: {TP0})
    monkeypatch.setattr(consumer, "highwater", lambda _tp: 11)
    consumer._committed_offset[TP0] = 5
    assert consumer.lag() == {TP0: 6}
    state.position = 11
    assert consumer.lag() == {TP0: 0}
    consumer._unacked_messages.add(message := Unacknowledged())
    assert consumer.lag() == {TP0: 6}
    consumer._unacked_messages.discard(message)


async def test_the_lag_is_that_to_the_end_which_the_broker_states_while_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch):
    consumer, ends, state = make_consumer(), {TP0: 162}, SimpleNamespace(position=157, has_valid_position=True)

    async def end_offsets(tps: list[TP]) -> dict[TP, int]:
        if not ends:
            raise KafkaTimeoutError
        return {tp: ends[tp] for tp in tps}

    assignment = SimpleNamespace(state_value=lambda _tp: state)
    subscription = SimpleNamespace(subscription=SimpleNamespace(assignment=assignment))
    consumer._thread._consumer = SimpleNamespace(_subscription=subscription, end_offsets=end_offsets)
    monkeypatch.setattr(consumer._thread, "thread_loop", asyncio.get_running_loop(), raising=False)
    monkeypatch.setattr(consumer, "assignment", lambda: {TP0})
    monkeypatch.setattr(consumer, "highwater", lambda _tp: 157)
    consumer._committed_offset[TP0], consumer._starts[TP0] = 157, start_at(150)
    assert consumer.lag() == {TP0: 0}
    await consumer.read_ends()
    assert consumer.lag() == {TP0: 5}
    ends.clear()
    await consumer.read_ends()
    assert consumer.lag() == {TP0: 5}
