"""What has to come out, recomputed in plain Python from what stands on the topics: nothing of the service has a hand in it.

Of the project only the canonical digest of an event is used, which decides between two words under one revision.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from schemas import OutcomeEvent
from schemas.events import canonical_digest
from tests.chaos.plan import OUTCOMES, Said, Scenario

__all__ = ["FIELDS", "Figures", "Place", "Published", "Sums", "Truth", "figures_of", "truth_of"]

FIELDS = ("n", "n_interval", "n_inside", "predicted", "actual", "predicted_squared", "actual_squared", "product", "absolute_error")
QUANTUM = 1e-5
Sums = tuple[int, ...]
NOTHING: Sums = (0,) * len(FIELDS)


class Place(NamedTuple):
    """Where an element stands on a topic; ``element`` is its index in the array of its record."""

    topic: str
    partition: int
    offset: int
    element: int


@dataclass(frozen=True)
class Published:
    """A record as the broker keeps it, with what was planned of it and its number in the plan."""

    number: int
    said: Said
    partition: int
    offset: int


class Figures(NamedTuple):
    """What a window says of its outcomes; null where it can say nothing."""

    n: int
    mae: float | None
    rmse: float | None
    bias: float | None
    coverage: float | None


@dataclass
class Truth:
    """What has to be found.

    Attributes:
        fates: ``counted`` (or beaten by another revision), ``too_late`` or ``refused``, of every element.
        values: the bytes of each record that is refused as a whole.
        panes: sums by series and start of the pane; ``windows`` figures by series and start of the window.
        answers: statuses by simulation.
    """

    fates: dict[Place, str] = field(default_factory=dict)
    values: dict[Place, bytes | None] = field(default_factory=dict)
    panes: dict[tuple[str, float], Sums] = field(default_factory=dict)
    windows: dict[tuple[str, float], Figures] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)


Winner = tuple[tuple[int, bytes], Mapping[str, Any]]


def truth_of(scenario: Scenario, published: Iterable[Published]) -> Truth:
    """Fold what was published, partition by partition in the order of offsets."""
    truth, winners = Truth(), dict[str, Winner]()
    for partition in _by_partition(published).values():
        watermark: float | None = None
        for record in partition:
            for place, body in _elements(record):
                watermark = _judge(scenario, truth, winners, place, body, watermark)
            if record.said.flaw and len(record.said.outcomes) <= 1:
                truth.values[Place(record.said.topic, record.partition, record.offset, 0)] = record.said.value
            if record.said.answer:
                truth.answers[json.loads(record.said.value or b"")["simulation_id"]] = record.said.answer
    truth.panes = _panes(scenario, [body for _, body in winners.values() if body["actual_value"] is not None])
    truth.windows = _windows(scenario, truth.panes)
    return truth


def _by_partition(published: Iterable[Published]) -> Mapping[tuple[str, int], Sequence[Published]]:
    found: defaultdict[tuple[str, int], list[Published]] = defaultdict(list)
    for record in sorted(published, key=lambda record: record.offset):
        found[record.said.topic, record.partition].append(record)
    return found


def _elements(record: Published) -> Iterable[tuple[Place, Mapping[str, Any] | None]]:
    said = record.said
    bodies = said.outcomes if said.topic == OUTCOMES else (None,) if said.flaw else ()
    return ((Place(said.topic, record.partition, record.offset, element), body) for element, body in enumerate(bodies))


def _judge(
    scenario: Scenario,
    truth: Truth,
    winners: dict[str, Winner],
    place: Place,
    body: Mapping[str, Any] | None,
    watermark: float | None,
) -> float | None:
    """Note what becomes of an element, and return the watermark of its partition after it."""
    if body is None:
        truth.fates[place] = "refused"
        return watermark
    at = _seconds(body)
    if watermark is not None and _start(at, scenario.pane_s) < _start(watermark - scenario.restatement_s, scenario.pane_s):
        truth.fates[place] = "too_late"
        return watermark
    truth.fates[place] = "counted"
    rank = body.get("revision", 0), canonical_digest(OutcomeEvent.model_validate(body))
    before = winners.get(body["event_id"])
    if before is None or rank > before[0]:
        winners[body["event_id"]] = rank, body
    return at if watermark is None else max(watermark, at)


def _seconds(body: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(body["observed_at"]).timestamp()


def _start(at: float, width: float) -> float:
    return at // width * width


def _panes(scenario: Scenario, bodies: Iterable[Mapping[str, Any]]) -> dict[tuple[str, float], Sums]:
    found: defaultdict[tuple[str, float], Sums] = defaultdict(lambda: NOTHING)
    for body in bodies:
        pane, sums = _start(_seconds(body), scenario.pane_s), _sums(scenario, body)
        for series in ("all", f"region={body['segment']['region']}"):
            found[series, pane] = _plus(found[series, pane], sums)
    return dict(found)


def _sums(scenario: Scenario, body: Mapping[str, Any]) -> Sums:
    """Whole numbers of quanta, of the distance from the champion's center in its scale."""
    predicted, actual = (
        round((body[name] - scenario.center) / scenario.scale / QUANTUM) for name in ("predicted_value", "actual_value")
    )
    told = "predicted_lower" in body
    inside = told and body["predicted_lower"] <= body["actual_value"] <= body["predicted_upper"]
    return (1, int(told), int(inside), predicted, actual, predicted**2, actual**2, predicted * actual, abs(predicted - actual))


def _plus(one: Sums, other: Sums) -> Sums:
    return tuple(a + b for a, b in zip(one, other, strict=True))


def _windows(scenario: Scenario, panes: Mapping[tuple[str, float], Sums]) -> dict[tuple[str, float], Figures]:
    """Every window that overlaps a pane, sliding by one pane."""
    found: defaultdict[tuple[str, float], Sums] = defaultdict(lambda: NOTHING)
    for (series, pane), sums in panes.items():
        for back in range(round(scenario.window_s / scenario.pane_s)):
            key = series, pane - back * scenario.pane_s
            found[key] = _plus(found[key], sums)
    return {key: figures_of(scenario, sums) for key, sums in found.items()}


def figures_of(scenario: Scenario, sums: Sums) -> Figures:
    """Figures in units of the target."""
    n, n_interval, n_inside, predicted, actual, predicted_squared, actual_squared, product, absolute = sums
    if n == 0:
        return Figures(0, None, None, None, None)
    unit = QUANTUM * scenario.scale
    rmse = unit * math.sqrt((predicted_squared + actual_squared - 2 * product) / n)
    coverage = n_inside / n_interval if n_interval else None
    return Figures(n, unit * absolute / n, rmse, unit * (predicted - actual) / n, coverage)
