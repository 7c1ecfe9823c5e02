"""A topic that is missing or was created anew is told once, by its id, and expired records by where the log begins."""

from __future__ import annotations

import pytest
from aiokafka.protocol.metadata import MetadataResponse_v5
from faust.types import TP

from streams.kafka.expired_records import ExpiredRecords
from streams.kafka.topic_ids import NO_ID, read_topic_ids
from streams.kafka.topic_watch import TopicWatch
from streams.kafka.topics import CHANGELOGS, TOPICS, needed_topics
from streams.metrics import REGISTRY
from streams.settings import ROLES


def counted(name: str, topic: str) -> float | None:
    return REGISTRY.get_sample_value(name, {"topic": topic})


def test_another_id_is_a_restart_and_the_same_one_is_none(caplog: pytest.LogCaptureFixture):
    watch = TopicWatch()
    for topic_id in (b"a", b"a", b"b", b"b"):
        watch.update({"watched-1": topic_id})
    assert watch.restarts("watched-1") == 1
    assert counted("twin_topic_restarts_total", "watched-1") == 1
    assert caplog.text.count("created anew") == 1


def test_topics_that_are_missing_are_told_in_one_line_and_named_until_they_exist(caplog: pytest.LogCaptureFixture):
    watch = TopicWatch()
    watch.update({"watched-2": b"a", "watched-3": b"b"})
    for _ in range(3):
        watch.update({"watched-2": None, "watched-3": None})
    assert [record.getMessage() for record in caplog.records] == [
        "topics do not exist: watched-2, watched-3. What needs them waits; twinstream migrate creates them"
    ]
    assert [text.split(" since")[0] for text in watch.problems()] == [
        "the topic watched-2 does not exist",
        "the topic watched-3 does not exist",
    ]
    assert counted("twin_topic_missing", "watched-2") == 1
    watch.update({"watched-2": b"c", "watched-3": b"b"})
    assert watch.problems() == []
    assert counted("twin_topic_missing", "watched-2") == 0


def test_a_topic_that_was_missing_between_is_a_restart_on_a_broker_without_ids():
    watch = TopicWatch()
    for topic_id in (NO_ID, NO_ID, None, NO_ID):
        watch.update({"watched-4": topic_id})
    assert watch.all_restarts() == {"watched-4": 1}


def test_a_topic_that_is_back_with_its_id_is_no_restart():
    watch = TopicWatch()
    for topic_id in (b"a", None, b"a"):
        watch.update({"watched-6": topic_id})
    assert watch.restarts("watched-6") == 0
    assert watch.problems() == []


def test_topics_of_two_probes_are_missing_side_by_side(caplog: pytest.LogCaptureFixture):
    watch = TopicWatch()
    for _ in range(3):
        watch.update({"watched-7": None})
        watch.update({"watched-8": None})
    assert [text.split(" since")[0] for text in watch.problems()] == [
        "the topic watched-7 does not exist",
        "the topic watched-8 does not exist",
    ]
    assert len(caplog.records) == 2


def test_a_topic_that_is_created_for_the_first_time_is_no_restart():
    watch = TopicWatch()
    for topic_id in (None, b"a"):
        watch.update({"watched-5": topic_id})
    assert watch.restarts("watched-5") == 0


def test_a_reply_of_an_old_broker_has_no_ids_and_a_topic_without_an_answer_is_left_out():
    topics = [(0, "exists", False, []), (3, "missing", False, []), (29, "forbidden", False, [])]
    assert read_topic_ids(MetadataResponse_v5(0, [], "cluster", 1, topics)) == {"exists": NO_ID, "missing": None}


def test_every_topic_but_the_one_of_commands_is_watched_by_a_role():
    watched = {topic for role in ROLES for topic in needed_topics(role)}
    assert {topic.name for topic in (*TOPICS, *CHANGELOGS)} - watched == {"catalogue-versions"}  # written by commands


def test_offsets_below_the_begin_of_the_log_have_expired_and_other_jumps_have_not(caplog: pytest.LogCaptureFixture):
    expired, tp = ExpiredRecords(), TP("watched-6", 2)
    expired.start(tp, 5)
    expired.deliver(tp, 5, 9)
    assert not expired.has_jumps
    expired.deliver(tp, 12, 20)  # behind the marker of a transaction
    expired.deliver(tp, 31, 40)
    expired.report({tp: 31})
    expired.report({tp: 31})
    assert counted("twin_expired_records_total", "watched-6") == 2 + 10
    assert "watched-6 2: the offsets 21 to 30 were removed" in caplog.text
    expired.deliver(tp, 43, 44)
    expired.report({tp: 31})
    assert counted("twin_expired_records_total", "watched-6") == 2 + 10
