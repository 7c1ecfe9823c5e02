"""Draws the records to publish from a seed: valid and invalid outcomes and requests, each with the result that it must have."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from tests.hostile.messages import DAMAGES, TEMPLATES, Headers, hostile_records

__all__ = ["CODECS", "OUTCOMES", "POISON", "REQUESTS", "SUMS", "PlannedRecord", "Scenario", "plan", "with_history"]

OUTCOMES, REQUESTS, SUMS = "outcome-events", "simulation-requests", "fidelity-errors"
CODECS = (None, "gzip", "snappy", "lz4", "zstd")
REGIONS = ("west", "east", "south")
Body = dict[str, Any]


@dataclass(frozen=True)
class Scenario:
    """Size of a run, and the settings of the service that the expected result depends on; times in seconds.

    Attributes:
        outcomes: number of new events, without their corrections and duplicates.
        requests: number of simulation requests.
        center, scale, rmse: baseline of the champion, by which contributions are standardised.
        hostile: number of hostile records, of which those on ``topics`` are published, and those on topics that no role reads.
        topics: the topics that the roles of the run read.
    """

    seed: int
    begins: datetime
    seconds: float
    outcomes: int
    requests: int
    center: float
    scale: float
    rmse: float
    pane_s: float = 10.0
    window_s: float = 60.0
    skew_s: float = 60.0
    restatement_s: float = 7200.0
    hostile: int = 0
    topics: tuple[str, ...] = ()

    @property
    def delay_s(self) -> float:
        """The longest time between an event and its corrections and duplicates."""
        return min(60.0, self.seconds / 3)


@dataclass(frozen=True)
class PlannedRecord:
    """A record to publish.

    Attributes:
        due_s: when it is published, in seconds after the beginning of the stream.
        outcomes: elements of an outcome record; null for each that must be refused.
        flaw: why it is invalid; empty when it is valid.
        answer: status that the answer to a request must have.
        codec: compression of its batch; null for none.
        is_hostile: whether its result is not planned, but that it leaves a trace and changes no other result.
    """

    due_s: float
    topic: str
    key: bytes | None
    value: bytes | None
    outcomes: tuple[Mapping[str, Any] | None, ...] = ()
    flaw: str = ""
    answer: str = ""
    codec: str | None = None
    headers: Headers = ()
    is_hostile: bool = False


POISON: Mapping[str, Callable[[Body], bytes | None]] = {
    "cut short": lambda body: json.dumps(body).encode()[:-20],
    "no text": lambda body: b'{"event_id": "\xff\xfe"}',
    "no value": lambda body: None,
    "empty array": lambda body: b"[]",
    "no id": lambda body: json.dumps({name: value for name, value in body.items() if name != "event_id"}).encode(),
    "unknown field": lambda body: json.dumps(body | {"weather": "fine"}).encode(),
    "unknown brand": lambda body: json.dumps(body | {"brand": "aspirin"}).encode(),
    "out of range": lambda body: json.dumps(body | {"actual_value": 1e300}).encode(),
    "no time zone": lambda body: json.dumps(body | {"observed_at": body["observed_at"][:19]}).encode(),
    "unknown simulation": lambda body: json.dumps(_of_unknown_simulation(body)).encode(),
    "nested deeply": lambda body: b'{"features": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "character NUL": lambda body: json.dumps(body | {"entity_id": "a\0b"}).encode(),
    "infinite number": lambda body: json.dumps(body).replace('"actual_value": ', '"actual_value": 1e400, "revision": ').encode(),
    "end of the calendar": lambda body: json.dumps(body | {"observed_at": "9999-12-31T23:59:59.999999Z"}).encode(),
    "other encoding": lambda body: json.dumps(body).encode("utf-16"),
    "blanks only": lambda body: b" " * 1_000_000,
    "long text": lambda body: json.dumps(body | {"segment": {"region": "a" * 200_000}}).encode(),
}
"""Ways to make a valid outcome invalid."""

_SUMS_DAMAGES = ("random bytes", "cut short", "other json", "deep", "other encoding")
"""Damages after which a record is never a valid sum."""

_ELEMENT_FLAWS = ("no id", "unknown field", "unknown brand", "out of range", "no time zone", "unknown simulation")


def _of_unknown_simulation(body: Body) -> Body:
    fields = {name: value for name, value in body.items() if not name.startswith("predicted")}
    return fields | {"simulation_id": str(UUID(int=404)), "twin_id": body["event_id"]}


def plan(scenario: Scenario) -> list[PlannedRecord]:
    """All records in the order of publishing; equal scenarios give equal plans."""
    rng = random.Random(scenario.seed)
    records = [record for number in range(scenario.outcomes) for record in _event(rng, scenario, number)]
    records += [record for number in range(scenario.requests) for record in _request(rng, scenario, number)]
    records += [_forged_sums(rng, scenario) for _ in range(scenario.outcomes // 500)]
    compressed = (replace(record, codec=rng.choice(CODECS)) for record in _with_duplicates(rng, scenario, _in_arrays(rng, records)))
    return sorted([*compressed, *_hostile(rng, scenario)], key=lambda record: record.due_s)


def with_history(scenario: Scenario, outcomes: int) -> tuple[list[PlannedRecord], list[PlannedRecord]]:
    """Plan outcomes of the hour before the stream, which are published at once, and the stream."""
    hour = timedelta(hours=1)
    before = replace(
        scenario,
        seed=scenario.seed + 1_000_000,
        begins=scenario.begins - hour,
        seconds=hour.total_seconds(),
        outcomes=outcomes,
        requests=0,
        hostile=0,
    )
    return [replace(record, due_s=0.0) for record in plan(before)] if outcomes else [], plan(scenario)


# -- outcomes


def _event(rng: random.Random, scenario: Scenario, number: int) -> Iterator[PlannedRecord]:
    """The first record of an event and its corrections, which are not published in the order of their revisions."""
    due_s = (scenario.seconds - scenario.delay_s) * number / scenario.outcomes
    body = _body(rng, scenario, due_s - _age_s(rng, scenario, due_s))
    kind = rng.random()
    if kind < 0.01:
        flaw = rng.choice(list(POISON))
        yield PlannedRecord(due_s, OUTCOMES, body["event_id"].encode(), POISON[flaw](body), (None,), flaw)
    elif kind < 0.015:
        early = body | {"observed_at": _timestamp(scenario, due_s + scenario.skew_s + 7200)}
        yield PlannedRecord(due_s, OUTCOMES, body["event_id"].encode(), _json(early), (None,), "future")
    else:
        yield _outcome(due_s + rng.uniform(0, scenario.delay_s / 6), body)
        if rng.random() < 0.07:
            for correction in _corrections(rng, scenario, body):
                yield _outcome(due_s + rng.uniform(0, scenario.delay_s / 2), correction)


def _age_s(rng: random.Random, scenario: Scenario, due_s: float) -> float:
    """Seconds since the outcome was observed: mostly few, for some many, for some too many, and for some negative."""
    kind = rng.random()
    if kind < 0.01:
        return -rng.uniform(0, scenario.skew_s / 2)
    if kind < 0.03:
        return rng.choice([120.0, 300.0, 600.0, 1200.0])
    if kind < 0.035 and due_s > scenario.seconds / 10:
        return scenario.restatement_s + 3600
    return rng.uniform(0, 15)


def _body(rng: random.Random, scenario: Scenario, observed_s: float) -> Body:
    predicted = round(rng.gauss(scenario.center, scenario.scale), 4)
    body = {
        "event_id": str(UUID(int=rng.getrandbits(128), version=4)),
        "observed_at": _timestamp(scenario, observed_s),
        "twin_type": "hcp",
        "brand": "kisqali",
        "metric_type": "prescribing_change",
        "actual_value": _actual(rng, scenario, predicted),
        "predicted_value": predicted,
        "segment": {"region": rng.choice(REGIONS)},
    }
    half = round(2 * scenario.rmse, 4)
    return body | ({"predicted_lower": predicted - half, "predicted_upper": predicted + half} if rng.random() < 0.8 else {})


def _actual(rng: random.Random, scenario: Scenario, predicted: float) -> float | None:
    return None if rng.random() < 0.01 else round(predicted + rng.gauss(0, 0.9 * scenario.rmse), 5)


def _timestamp(scenario: Scenario, elapsed_s: float) -> str:
    return (scenario.begins + timedelta(seconds=elapsed_s)).isoformat(timespec="microseconds")


def _corrections(rng: random.Random, scenario: Scenario, body: Body) -> Iterator[Body]:
    """Corrections, retractions, another content under the same revision, and corrections that move the outcome to another pane."""
    for revision in range(1, rng.choice([2, 2, 3])):
        changed: Body = {"revision": revision, "actual_value": _actual(rng, scenario, body["predicted_value"])}
        kind = rng.random()
        if kind < 0.25:
            changed["actual_value"] = None
        elif kind < 0.4:
            observed_at = datetime.fromisoformat(body["observed_at"]) - timedelta(seconds=rng.choice([5, 60]))
            changed |= {"observed_at": observed_at.isoformat(timespec="microseconds"), "segment": {"region": rng.choice(REGIONS)}}
        elif kind < 0.5:
            del changed["revision"]
        yield body | changed


def _outcome(due_s: float, body: Body) -> PlannedRecord:
    return PlannedRecord(due_s, OUTCOMES, body["event_id"].encode(), _json(body), (body,))


def _in_arrays(rng: random.Random, records: Sequence[PlannedRecord]) -> Iterator[PlannedRecord]:
    """Join some neighbouring valid outcomes into one record with an array, some of these with an invalid element in between."""
    before: PlannedRecord | None = None
    for record in records:
        is_joinable = record.topic == OUTCOMES and not record.flaw
        if is_joinable and before is not None and rng.random() < 0.1:
            yield _array(rng, before, record)
            before = None
            continue
        if before is not None:
            yield before
        before = record if is_joinable else None
        if not is_joinable:
            yield record
    if before is not None:
        yield before


def _array(rng: random.Random, first: PlannedRecord, second: PlannedRecord) -> PlannedRecord:
    bodies = [*first.outcomes, *second.outcomes]
    values = [first.value, second.value]
    flaw = ""
    if rng.random() < 0.05:
        flaw = rng.choice(_ELEMENT_FLAWS)
        bodies.insert(1, None)
        values.insert(1, POISON[flaw](dict(first.outcomes[0] or {})))
    joined = b"[" + b", ".join(value or b"" for value in values) + b"]"
    return replace(first, due_s=max(first.due_s, second.due_s), value=joined, outcomes=tuple(bodies), flaw=flaw)


def _with_duplicates(rng: random.Random, scenario: Scenario, records: Iterator[PlannedRecord]) -> Iterator[PlannedRecord]:
    """Publish every twentieth record twice, and of these every fourth under another key, so that it is on another partition."""
    for record in records:
        yield record
        if rng.random() < 0.05:
            key = record.key if rng.random() < 0.75 else b"%d" % rng.getrandbits(32)
            yield replace(record, due_s=record.due_s + rng.uniform(0, scenario.delay_s / 2), key=key)


def _json(body: Body) -> bytes:
    return json.dumps(body).encode()


# -- forged sums


def _forged_sums(rng: random.Random, scenario: Scenario) -> PlannedRecord:
    """A record on the internal topic of sums that is none, or that is about a model which does not exist."""
    due_s, template = scenario.seconds * rng.random(), TEMPLATES[SUMS](rng)
    damage = rng.choice([*_SUMS_DAMAGES, "unknown model"])
    value = _json(template) if damage == "unknown model" else DAMAGES[damage](rng, template)
    return PlannedRecord(due_s, SUMS, b"hcp:kisqali:prescribing_change", value, flaw=f"sums: {damage}")


# -- hostile records


def _hostile(rng: random.Random, scenario: Scenario) -> Iterator[PlannedRecord]:
    """Hostile records for the topics of the run, and for those that only the service writes."""
    for record in hostile_records(scenario.seed, scenario.hostile):
        due_s = scenario.seconds * rng.random()
        if record.topic in scenario.topics or record.topic not in TEMPLATES:
            fields = (due_s, record.topic, record.key, record.value)
            yield PlannedRecord(*fields, flaw=record.kind, codec=record.compression, headers=record.headers, is_hostile=True)


# -- requests


def _request(rng: random.Random, scenario: Scenario, number: int) -> Iterator[PlannedRecord]:
    due_s = (scenario.seconds - scenario.delay_s) * (number + rng.random()) / scenario.requests
    simulation_id = str(UUID(int=rng.getrandbits(128), version=4))
    body = {
        "simulation_id": simulation_id,
        "requested_at": _timestamp(scenario, due_s),
        "twin_type": "hcp",
        "brand": "kisqali",
        "intervention": {
            "intervention_type": rng.choice(["email_campaign", "speaker_program_invitation", "educational_content_share"]),
            "channel": "email",
            "frequency": "monthly",
            "duration_weeks": 12,
        },
        "twin_count": rng.choice([100, 300, 1000]),
    }
    kind = rng.random()
    if kind < 0.05:
        yield PlannedRecord(due_s, REQUESTS, simulation_id.encode(), _json(body)[:-9], flaw="cut short")
    elif kind < 0.10:
        empty = body | {"filters": {"region": ["atlantis"]}}
        yield PlannedRecord(due_s, REQUESTS, simulation_id.encode(), _json(empty), answer="rejected")
    elif kind < 0.15:
        clinical = body | {"target": "overall_survival"}
        yield PlannedRecord(due_s, REQUESTS, simulation_id.encode(), _json(clinical), answer="rejected")
    else:
        yield PlannedRecord(due_s, REQUESTS, simulation_id.encode(), _json(body), answer="completed")
