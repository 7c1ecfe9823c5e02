"""What is published: outcomes and requests drawn from a seed, good and bad, each record with what has to come of it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

__all__ = ["OUTCOMES", "POISON", "REQUESTS", "Said", "Scenario", "plan"]

OUTCOMES, REQUESTS = "outcome-events", "simulation-requests"
REGIONS = ("west", "east", "south")
Body = dict[str, Any]


@dataclass(frozen=True)
class Scenario:
    """How much of what, and the settings of the service that the truth depends on; times in seconds.

    Attributes:
        outcomes: new events, without their corrections and duplicates.
        center, scale, rmse: of the champion, the reference of everything that is counted.
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

    @property
    def delay_s(self) -> float:
        """How long corrections and repetitions come after what they are about, at most."""
        return min(60.0, self.seconds / 3)


@dataclass(frozen=True)
class Said:
    """One record.

    Attributes:
        due_s: when it is published, seconds after the beginning.
        outcomes: elements of an outcome record, null for each that has to be refused.
        flaw: what is wrong with it, empty where nothing is.
        answer: status that a request has to be answered with.
    """

    due_s: float
    topic: str
    key: bytes
    value: bytes | None
    outcomes: tuple[Mapping[str, Any] | None, ...] = ()
    flaw: str = ""
    answer: str = ""


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
    "unknown simulation": lambda body: json.dumps(_named(body)).encode(),
}
"""Ten ways to make a good outcome one that nobody can count."""

_ELEMENTS = ("no id", "unknown field", "unknown brand", "out of range", "no time zone", "unknown simulation")


def _named(body: Body) -> Body:
    said = {name: value for name, value in body.items() if not name.startswith("predicted")}
    return said | {"simulation_id": str(UUID(int=404)), "twin_id": body["event_id"]}


def plan(scenario: Scenario) -> list[Said]:
    """All records in the order of publishing; equal scenarios give equal ones."""
    rnd = random.Random(scenario.seed)
    said = [record for number in range(scenario.outcomes) for record in _event(rnd, scenario, number)]
    said += [record for number in range(scenario.requests) for record in _request(rnd, scenario, number)]
    return sorted(_again(rnd, scenario, _in_arrays(rnd, said)), key=lambda record: record.due_s)


# -- outcomes


def _event(rnd: random.Random, scenario: Scenario, number: int) -> Iterator[Said]:
    """An event's first word and its corrections; the order in which they come is not that of the revisions."""
    due_s = (scenario.seconds - scenario.delay_s) * number / scenario.outcomes
    body = _body(rnd, scenario, due_s - _age_s(rnd, scenario, due_s))
    kind = rnd.random()
    if kind < 0.01:
        flaw = rnd.choice(list(POISON))
        yield Said(due_s, OUTCOMES, body["event_id"].encode(), POISON[flaw](body), (None,), flaw)
    elif kind < 0.015:
        early = body | {"observed_at": _moment(scenario, due_s + scenario.skew_s + 7200)}
        yield Said(due_s, OUTCOMES, body["event_id"].encode(), _json(early), (None,), "future")
    else:
        yield _outcome(due_s + rnd.uniform(0, scenario.delay_s / 6), body)
        if rnd.random() < 0.07:
            for other in _others(rnd, scenario, body):
                yield _outcome(due_s + rnd.uniform(0, scenario.delay_s / 2), other)


def _age_s(rnd: random.Random, scenario: Scenario, due_s: float) -> float:
    """How long ago an outcome was observed: mostly just now, some late, a few too late, some ahead of the clock."""
    kind = rnd.random()
    if kind < 0.01:
        return -rnd.uniform(0, scenario.skew_s / 2)
    if kind < 0.03:
        return rnd.choice([120.0, 300.0, 600.0, 1200.0])
    if kind < 0.035 and due_s > scenario.seconds / 10:
        return scenario.restatement_s + 3600
    return rnd.uniform(0, 15)


def _body(rnd: random.Random, scenario: Scenario, at_s: float) -> Body:
    predicted = round(rnd.gauss(scenario.center, scenario.scale), 4)
    body = {
        "event_id": str(UUID(int=rnd.getrandbits(128), version=4)),
        "observed_at": _moment(scenario, at_s),
        "twin_type": "hcp",
        "brand": "kisqali",
        "metric_type": "prescribing_change",
        "actual_value": _actual(rnd, scenario, predicted),
        "predicted_value": predicted,
        "segment": {"region": rnd.choice(REGIONS)},
    }
    half = round(2 * scenario.rmse, 4)
    return body | ({"predicted_lower": predicted - half, "predicted_upper": predicted + half} if rnd.random() < 0.8 else {})


def _actual(rnd: random.Random, scenario: Scenario, predicted: float) -> float | None:
    return None if rnd.random() < 0.01 else round(predicted + rnd.gauss(0, 0.9 * scenario.rmse), 5)


def _moment(scenario: Scenario, at_s: float) -> str:
    return (scenario.begins + timedelta(seconds=at_s)).isoformat(timespec="microseconds")


def _others(rnd: random.Random, scenario: Scenario, body: Body) -> Iterator[Body]:
    """Corrections, retractions, other words under the same revision, and a correction that moves the outcome elsewhere."""
    for revision in range(1, rnd.choice([2, 2, 3])):
        fresh: Body = {"revision": revision, "actual_value": _actual(rnd, scenario, body["predicted_value"])}
        kind = rnd.random()
        if kind < 0.25:
            fresh["actual_value"] = None
        elif kind < 0.4:
            at = datetime.fromisoformat(body["observed_at"]) - timedelta(seconds=rnd.choice([5, 60]))
            fresh |= {"observed_at": at.isoformat(timespec="microseconds"), "segment": {"region": rnd.choice(REGIONS)}}
        elif kind < 0.5:
            del fresh["revision"]
        yield body | fresh


def _outcome(due_s: float, body: Body) -> Said:
    return Said(due_s, OUTCOMES, body["event_id"].encode(), _json(body), (body,))


def _in_arrays(rnd: random.Random, said: Sequence[Said]) -> Iterator[Said]:
    """Some records with a second outcome, and of these some with a bad element between the two."""
    before: Said | None = None
    for record in said:
        whole = record.topic == OUTCOMES and not record.flaw
        if whole and before is not None and rnd.random() < 0.1:
            yield _array(rnd, before, record)
            before = None
            continue
        if before is not None:
            yield before
            before = None
        if whole:
            before = record
        else:
            yield record
    if before is not None:
        yield before


def _array(rnd: random.Random, first: Said, second: Said) -> Said:
    bodies = [*first.outcomes, *second.outcomes]
    values = [first.value, second.value]
    flaw = ""
    if rnd.random() < 0.05:
        flaw = rnd.choice(_ELEMENTS)
        bodies.insert(1, None)
        values.insert(1, POISON[flaw](dict(first.outcomes[0] or {})))
    joined = b"[" + b", ".join(value or b"" for value in values) + b"]"
    return replace(first, due_s=max(first.due_s, second.due_s), value=joined, outcomes=tuple(bodies), flaw=flaw)


def _again(rnd: random.Random, scenario: Scenario, said: Iterator[Said]) -> Iterator[Said]:
    """Every twentieth record is published twice, and of these every fourth with another key, so that another partition has it."""
    for record in said:
        yield record
        if rnd.random() < 0.05:
            key = record.key if rnd.random() < 0.75 else b"%d" % rnd.getrandbits(32)
            yield replace(record, due_s=record.due_s + rnd.uniform(0, scenario.delay_s / 2), key=key)


def _json(body: Body) -> bytes:
    return json.dumps(body).encode()


# -- requests


def _request(rnd: random.Random, scenario: Scenario, number: int) -> Iterator[Said]:
    due_s = (scenario.seconds - scenario.delay_s) * (number + rnd.random()) / scenario.requests
    simulation_id = str(UUID(int=rnd.getrandbits(128), version=4))
    body = {
        "simulation_id": simulation_id,
        "requested_at": _moment(scenario, due_s),
        "twin_type": "hcp",
        "brand": "kisqali",
        "intervention": {
            "intervention_type": rnd.choice(["email_campaign", "speaker_program_invitation", "educational_content_share"]),
            "channel": "email",
            "frequency": "monthly",
            "duration_weeks": 12,
        },
        "twin_count": rnd.choice([100, 300, 1000]),
    }
    kind = rnd.random()
    if kind < 0.05:
        yield Said(due_s, REQUESTS, simulation_id.encode(), _json(body)[:-9], flaw="cut short")
    elif kind < 0.10:
        nobody = body | {"filters": {"region": ["atlantis"]}}
        yield Said(due_s, REQUESTS, simulation_id.encode(), _json(nobody), answer="rejected")
    elif kind < 0.15:
        clinical = body | {"target": "overall_survival"}
        yield Said(due_s, REQUESTS, simulation_id.encode(), _json(clinical), answer="rejected")
    else:
        yield Said(due_s, REQUESTS, simulation_id.encode(), _json(body), answer="completed")
