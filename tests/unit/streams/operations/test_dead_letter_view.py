"""Dead letters as text and as JSON."""

from __future__ import annotations

import json
from datetime import timedelta

from schemas import SourceId
from sql.dead_letter_store import PastReplay, RefusedRecord, refusal_id
from streams.operations import DeadLetter
from tests.outcomes import START, TOPIC

SOURCE = SourceId(topic=TOPIC, partition=2)
REFUSED = RefusedRecord(
    refusal_id(SOURCE, 7, START),
    SOURCE,
    7,
    3,
    START,
    b"\xff",
    b'{"a": 1}',
    [("trace", None)],
    "invalid",
    "r" * 100,
    "ValidationError",
    START,
)


def make_replay(result: str | None, topic: str = TOPIC) -> PastReplay:
    later = START + timedelta(hours=1)
    return PastReplay(REFUSED.refusal_id, topic, 2, 9, later, "ann@host", "without a", result)


def test_the_state_is_the_result_of_the_last_replay():
    assert DeadLetter(REFUSED, ()).state == ""
    assert DeadLetter(REFUSED, (make_replay("refused: invalid"), make_replay("counted"))).state == "counted"
    assert DeadLetter(REFUSED, (make_replay(None),)).state == "replayed"


def test_only_a_replayed_outcome_without_a_result_is_pending():
    assert DeadLetter(REFUSED, (make_replay(None),)).is_pending
    assert not DeadLetter(REFUSED, (make_replay(None), make_replay("counted"))).is_pending
    assert not DeadLetter(REFUSED, (make_replay(None, "simulation-requests"),)).is_pending
    assert not DeadLetter(REFUSED, ()).is_pending


def test_the_text_has_every_field_and_the_value_as_indented_json():
    lines = DeadLetter(REFUSED, (make_replay("counted"),)).format_text().splitlines()
    assert lines[1] == f"received  {TOPIC}, partition 2, offset 7, element 3 of its array, at 2026-03-02 08:00:00 UTC"
    assert lines[4:6] == ["key       \\xff", "header    trace: none"]
    assert lines[6].endswith(f"2026-03-02 09:00:00 UTC by ann@host as {TOPIC}:2:9 with without a: counted")
    assert lines[7:] == ["value     {", '  "a": 1', "}"]


def test_json_has_bytes_as_text_where_they_are_text_and_always_in_base64():
    document = json.loads(json.dumps(DeadLetter(REFUSED, (make_replay("counted"),)).to_dict(), default=str))
    assert document["key"] == {"text": None, "base64": "/w=="}
    assert document["value"] == {"text": '{"a": 1}', "base64": "eyJhIjogMX0="}
    assert document["headers"] == [{"name": "trace"}]
    assert document["replays"][0]["came_of_it"] == "counted"
