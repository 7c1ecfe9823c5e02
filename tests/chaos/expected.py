"""Computes the correct result of a run in plain Python from the records on the topics, independently of the service.

The only code shared with the service is the canonical digest of an event, which decides between two contents of one revision.
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
from tests.chaos.plan import OUTCOMES, PlannedRecord, Scenario
from tests.hostile.traces import Position

__all__ = [
    "FIELDS",
    "ElementPosition",
    "ExpectedState",
    "PublishedRecord",
    "Sums",
    "WindowFigures",
    "expected_state",
]

FIELDS = ("n", "n_interval", "n_inside", "predicted", "actual", "predicted_squared", "actual_squared", "product", "absolute_error")
QUANTUM = 1e-5
Sums = tuple[int, ...]
NO_OUTCOMES: Sums = (0,) * len(FIELDS)


class ElementPosition(NamedTuple):
    """Position of an element on a topic; ``element`` is its index in the array of its record."""

    topic: str
    partition: int
    offset: int
    element: int

    def __str__(self) -> str:
        return f"element {self.element} of {self.topic}:{self.partition}:{self.offset}"


@dataclass(frozen=True)
class PublishedRecord:
    """A record on a topic, with the planned record and its index in the plan."""

    index: int
    planned: PlannedRecord
    partition: int
    offset: int


class WindowFigures(NamedTuple):
    """Metrics of a window in units of the target; null where they are undefined."""

    n: int
    mae: float | None
    rmse: float | None
    bias: float | None
    coverage: float | None


@dataclass
class ExpectedState:
    """The correct result of a run.

    Attributes:
        fates: ``counted``, ``too_late`` or ``refused`` for every element; a superseded or duplicate element is ``counted`` here.
        values: bytes of each record that is refused as a whole.
        panes: sums by series and start of the pane.
        windows: figures by series and start of the window.
        answers: status of the answer by simulation id.
        foreign: topic, partition and offset of records whose result is not planned: hostile ones, and outcomes of another line.
        foreign_requests: simulation ids that such records name.
    """

    fates: dict[ElementPosition, str] = field(default_factory=dict)
    values: dict[ElementPosition, bytes | None] = field(default_factory=dict)
    panes: dict[tuple[str, float], Sums] = field(default_factory=dict)
    windows: dict[tuple[str, float], WindowFigures] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)
    foreign: set[Position] = field(default_factory=set)
    foreign_requests: set[str] = field(default_factory=set)


class _Highest(NamedTuple):
    """The highest revision of an event so far: its (revision, digest) and content."""

    rank: tuple[int, bytes]
    body: Mapping[str, Any]


def expected_state(scenario: Scenario, published: Iterable[PublishedRecord]) -> ExpectedState:
    """Fold the published records, partition by partition in the order of offsets."""
    state = ExpectedState()
    highest: dict[str, _Highest] = {}
    for records in _by_partition(record for record in published if not record.planned.is_hostile).values():
        watermark: float | None = None
        for record in records:
            for position, body in _elements(record):
                watermark = _add_element(scenario, state, highest, position, body, watermark)
            _add_record(state, record)
    state.panes = _panes(scenario, [body for _, body in highest.values() if body["actual_value"] is not None])
    state.windows = _windows(scenario, state.panes)
    return state


def _by_partition(published: Iterable[PublishedRecord]) -> Mapping[tuple[str, int], Sequence[PublishedRecord]]:
    records: defaultdict[tuple[str, int], list[PublishedRecord]] = defaultdict(list)
    for record in sorted(published, key=lambda record: record.offset):
        records[record.planned.topic, record.partition].append(record)
    return records


def _elements(record: PublishedRecord) -> Iterable[tuple[ElementPosition, Mapping[str, Any] | None]]:
    """Elements that leave a row in the tables of outcomes; None for one that must be refused."""
    planned = record.planned
    bodies = planned.outcomes if planned.topic == OUTCOMES else (None,) if planned.flaw else ()
    return ((ElementPosition(planned.topic, record.partition, record.offset, index), body) for index, body in enumerate(bodies))


def _add_record(state: ExpectedState, record: PublishedRecord) -> None:
    planned = record.planned
    if planned.flaw and len(planned.outcomes) <= 1:
        state.values[ElementPosition(planned.topic, record.partition, record.offset, 0)] = planned.value
    if planned.answer:
        state.answers[json.loads(planned.value or b"")["simulation_id"]] = planned.answer


def _add_element(
    scenario: Scenario,
    state: ExpectedState,
    highest: dict[str, _Highest],
    position: ElementPosition,
    body: Mapping[str, Any] | None,
    watermark: float | None,
) -> float | None:
    """Set the fate of an element, and return the watermark of its partition after it."""
    if body is None:
        state.fates[position] = "refused"
        return watermark
    observed_s = _observed_s(body)
    if watermark is not None and _start(observed_s, scenario.pane_s) < _start(watermark - scenario.restatement_s, scenario.pane_s):
        state.fates[position] = "too_late"
        return watermark
    state.fates[position] = "counted"
    rank = body.get("revision", 0), canonical_digest(OutcomeEvent.model_validate(body))
    before = highest.get(body["event_id"])
    if before is None or rank > before.rank:
        highest[body["event_id"]] = _Highest(rank, body)
    return observed_s if watermark is None else max(watermark, observed_s)


def _observed_s(body: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(body["observed_at"]).timestamp()


def _start(seconds: float, width_s: float) -> float:
    return seconds // width_s * width_s


def _panes(scenario: Scenario, bodies: Iterable[Mapping[str, Any]]) -> dict[tuple[str, float], Sums]:
    panes: defaultdict[tuple[str, float], Sums] = defaultdict(lambda: NO_OUTCOMES)
    for body in bodies:
        pane, sums = _start(_observed_s(body), scenario.pane_s), _sums(scenario, body)
        for series in ("all", f"region={body['segment']['region']}"):
            panes[series, pane] = _add(panes[series, pane], sums)
    return dict(panes)


def _sums(scenario: Scenario, body: Mapping[str, Any]) -> Sums:
    """Sums of one outcome, standardised by the champion's center and scale and rounded to quanta."""
    predicted, actual = (
        round((body[name] - scenario.center) / scenario.scale / QUANTUM) for name in ("predicted_value", "actual_value")
    )
    has_interval = "predicted_lower" in body
    is_inside = has_interval and body["predicted_lower"] <= body["actual_value"] <= body["predicted_upper"]
    products = (predicted**2, actual**2, predicted * actual)
    return (1, int(has_interval), int(is_inside), predicted, actual, *products, abs(predicted - actual))


def _add(left: Sums, right: Sums) -> Sums:
    return tuple(a + b for a, b in zip(left, right, strict=True))


def _windows(scenario: Scenario, panes: Mapping[tuple[str, float], Sums]) -> dict[tuple[str, float], WindowFigures]:
    """Every window that overlaps a pane; windows slide by one pane."""
    windows: defaultdict[tuple[str, float], Sums] = defaultdict(lambda: NO_OUTCOMES)
    for (series, pane), sums in panes.items():
        for step in range(round(scenario.window_s / scenario.pane_s)):
            key = series, pane - step * scenario.pane_s
            windows[key] = _add(windows[key], sums)
    return {key: window_figures(scenario, sums) for key, sums in windows.items()}


def window_figures(scenario: Scenario, sums: Sums) -> WindowFigures:
    """The figures of a window with these sums."""
    n, n_interval, n_inside, predicted, actual, predicted_squared, actual_squared, product, absolute = sums
    if n == 0:
        return WindowFigures(0, None, None, None, None)
    unit = QUANTUM * scenario.scale
    rmse = unit * math.sqrt((predicted_squared + actual_squared - 2 * product) / n)
    coverage = n_inside / n_interval if n_interval else None
    return WindowFigures(n, unit * absolute / n, rmse, unit * (predicted - actual) / n, coverage)
