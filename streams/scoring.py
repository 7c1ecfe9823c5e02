"""From outcomes to what was predicted for them, and what they add to the sums: one vectorised pass a way and a model."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import numpy as np
import numpy.typing as npt
import pandas as pd

from engine.sums import LIMIT, contributions, in_range
from schemas import TWIN_TYPES, OutcomeEvent, TwinPopulation
from schemas.events import SUM_FIELDS
from schemas.twin_models import BEHAVIOUR, LOWER, UPPER, Baseline, ModelCard

__all__ = ["ALL", "Knowledge", "Predictor", "Scores", "SimulatedTwins", "score", "segments_of"]

Array = npt.NDArray[np.float64]

ALL = "all"
_LONGEST_LEVEL = 100


class Predictor(Protocol):
    """A model, as far as scoring needs it."""

    def predict_all(self, frame: pd.DataFrame) -> tuple[Array, Array, Array]:
        """Expected outcome and its 95 % prediction interval."""


@dataclass(frozen=True)
class SimulatedTwins:
    """The twins of one simulation and what it does to each.

    Attributes:
        line: of the simulation; ``model_id`` is the model it was pinned to.
        population: regenerated from its recipe, or loaded.
        changes: expected change of each twin's outcome, in units of the target with its own sign, shape ``(n,)``.
        rows: row of each twin, by its id.
    """

    line: str
    model_id: UUID
    population: TwinPopulation
    changes: Array
    rows: Mapping[UUID, int]


@dataclass(frozen=True)
class Knowledge:
    """What scoring has to know beside the outcomes.

    Attributes:
        champions: of each line, who and from when, the first one first; lines without a champion are absent.
        cards: of every model that may be named.
        models: those that have to predict.
        simulations: by id; unknown ones are absent.
    """

    champions: Mapping[str, Sequence[tuple[datetime, UUID]]] = field(default_factory=dict)
    cards: Mapping[UUID, ModelCard] = field(default_factory=dict)
    models: Mapping[UUID, Predictor] = field(default_factory=dict)
    simulations: Mapping[UUID, SimulatedTwins] = field(default_factory=dict)

    def champion_at(self, line: str, at: datetime) -> UUID | None:
        """Champion at a time, the first one also for the time before it."""
        reigns = self.champions.get(line)
        if not reigns:
            return None
        return reigns[max(bisect_right(reigns, at, key=lambda reign: reign[0]) - 1, 0)][1]


class Scores:
    """What is known of each outcome, as columns of the same length; NaN and null where there is nothing.

    Attributes:
        refused: reason, by the row of an outcome that cannot be scored.
        counted: rows that enter sums, in the order of ``contributions`` of shape ``(k, len(SUM_FIELDS))``.
    """

    def __init__(self, n: int) -> None:
        self.refused: dict[int, tuple[str, str]] = {}
        self.model_id: list[UUID | None] = [None] * n
        self.population_id: list[UUID | None] = [None] * n
        self.predicted = np.full(n, np.nan)
        self.lower = np.full(n, np.nan)
        self.upper = np.full(n, np.nan)
        self.segments: list[tuple[str, ...]] = [()] * n
        self.counted: dict[int, int] = {}
        self.contributions: npt.NDArray[np.int64] = np.zeros((0, len(SUM_FIELDS)), dtype=np.int64)

    def refuse(self, row: int, kind: str, reason: str) -> None:
        """Say why an outcome is not taken."""
        self.refused.setdefault(row, (kind, reason))


def score(events: Sequence[OutcomeEvent], known: Knowledge) -> Scores:
    """Score outcomes, each by what it says itself."""
    scores = Scores(len(events))
    for way, rows in _by_way(events).items():
        way(events, rows, known, scores)
    _count(events, known, scores)
    return scores


def segments_of(event: OutcomeEvent, features: Mapping[str, Any]) -> tuple[str, ...]:
    """Series of an outcome: ``all``, and one for each declared dimension whose level it tells or its features do."""
    dimensions = TWIN_TYPES[event.twin_type].segments
    said = {name: event.segment.get(name, features.get(name)) for name in dimensions}
    return (ALL, *(f"{name}={_level(value)}" for name, value in said.items() if value is not None))


def _level(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


_Way = Callable[[Sequence[OutcomeEvent], Sequence[int], Knowledge, Scores], None]


def _by_way(events: Sequence[OutcomeEvent]) -> dict[_Way, list[int]]:
    found: defaultdict[_Way, list[int]] = defaultdict(list)
    for row, event in enumerate(events):
        unprintable = next(
            (level for level in event.segment.values() if not level.isprintable() or len(level) > _LONGEST_LEVEL), None
        )
        if unprintable is not None:
            found[_refuse_level].append(row)
        elif event.predicted_value is not None:
            found[_explicit].append(row)
        elif event.simulation_id is not None:
            found[_simulated].append(row)
        else:
            found[_by_features].append(row)
    return found


def _refuse_level(events: Sequence[OutcomeEvent], rows: Sequence[int], known: Knowledge, scores: Scores) -> None:  # noqa: ARG001  # as every way
    for row in rows:
        scores.refuse(
            row, "segment", f"segment {events[row].segment!r}: a level is printable text of at most {_LONGEST_LEVEL} characters"
        )


def _explicit(events: Sequence[OutcomeEvent], rows: Sequence[int], known: Knowledge, scores: Scores) -> None:
    for row in rows:
        event = events[row]
        model_id = _named_model(row, event, known, scores) if event.model_id else _champion(row, event, known, scores)
        if model_id is not None:
            scores.model_id[row] = model_id
            scores.segments[row] = segments_of(event, {})
    chosen = [row for row in rows if scores.model_id[row] is not None]
    scores.predicted[chosen] = [events[row].predicted_value for row in chosen]
    scores.lower[chosen] = [_or_nan(events[row].predicted_lower) for row in chosen]
    scores.upper[chosen] = [_or_nan(events[row].predicted_upper) for row in chosen]


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value


def _named_model(row: int, event: OutcomeEvent, known: Knowledge, scores: Scores) -> UUID | None:
    card = known.cards.get(event.model_id) if event.model_id else None
    if card is None:
        scores.refuse(row, "model", f"model {event.model_id} is not known: name a registered one, or leave model_id out")
    elif card.line != event.line:
        scores.refuse(row, "model", f"model {event.model_id} belongs to {card.line}, not to {event.line}")
    return card.model_id if card is not None and row not in scores.refused else None


def _champion(row: int, event: OutcomeEvent, known: Knowledge, scores: Scores) -> UUID | None:
    champion = known.champion_at(event.line, event.observed_at)
    if champion is None:
        scores.refuse(row, "champion", f"line {event.line} never had a champion: train and promote a model first, then replay this")
    return champion


def _by_features(events: Sequence[OutcomeEvent], rows: Sequence[int], known: Knowledge, scores: Scores) -> None:
    by_model: defaultdict[UUID, list[int]] = defaultdict(list)
    for row in rows:
        champion = _champion(row, events[row], known, scores)
        if champion is not None:
            by_model[champion].append(row)
    for model_id, chosen in by_model.items():
        for row in _predict(known.models[model_id], events, chosen, scores):
            scores.model_id[row] = model_id
            scores.segments[row] = segments_of(events[row], events[row].features or {})


def _predict(model: Predictor, events: Sequence[OutcomeEvent], rows: list[int], scores: Scores) -> Iterator[int]:
    """Predict together; where one cannot be predicted, each for itself, so that only the bad ones are refused."""
    frame = pd.DataFrame([dict(events[row].features or {}) for row in rows])
    try:
        predicted, lower, upper = model.predict_all(frame)
    except (ValueError, TypeError, OverflowError) as error:
        if len(rows) == 1:
            scores.refuse(rows[0], "features", f"features cannot be predicted from: {error}")
            return
        for row in rows:
            yield from _predict(model, events, [row], scores)
        return
    scores.predicted[rows], scores.lower[rows], scores.upper[rows] = predicted, lower, upper
    yield from rows


def _simulated(events: Sequence[OutcomeEvent], rows: Sequence[int], known: Knowledge, scores: Scores) -> None:
    by_simulation: defaultdict[UUID | None, list[int]] = defaultdict(list)
    for row in rows:
        by_simulation[events[row].simulation_id].append(row)
    for simulation_id, chosen in by_simulation.items():
        twins = known.simulations.get(simulation_id) if simulation_id else None
        for row in chosen:
            _refuse_stranger(row, events[row], twins, scores)
        found = [row for row in chosen if row not in scores.refused]
        if twins is not None and found:
            _of_twins(events, found, twins, scores)


def _refuse_stranger(row: int, event: OutcomeEvent, twins: SimulatedTwins | None, scores: Scores) -> None:
    if twins is None:
        scores.refuse(row, "simulation", f"simulation {event.simulation_id} is not known, or was not completed")
    elif twins.line != event.line:
        scores.refuse(row, "simulation", f"simulation {event.simulation_id} is about {twins.line}, not {event.line}")
    elif event.twin_id not in twins.rows:
        scores.refuse(row, "twin", f"twin {event.twin_id} is none of simulation {event.simulation_id}")


def _of_twins(events: Sequence[OutcomeEvent], rows: list[int], twins: SimulatedTwins, scores: Scores) -> None:
    frame = twins.population.frame
    places = [twins.rows[event.twin_id] for event in (events[row] for row in rows) if event.twin_id is not None]
    treated = np.array([events[row].treated is not False for row in rows])
    change = np.where(treated, twins.changes[places], 0.0)
    for column, said in ((scores.predicted, BEHAVIOUR), (scores.lower, LOWER), (scores.upper, UPPER)):
        if said in frame:
            column[rows] = frame[said].to_numpy(dtype=float)[places] + change
    dimensions = [name for name in TWIN_TYPES[twins.population.twin_type].segments if name in frame]
    levels = frame[dimensions].iloc[places].to_dict("records")
    for row, features in zip(rows, levels, strict=True):
        scores.model_id[row] = twins.model_id
        scores.population_id[row] = twins.population.population_id
        scores.segments[row] = segments_of(events[row], {str(name): _plain(value) for name, value in features.items()})


def _plain(value: Any) -> Any:
    return None if pd.isna(value) else value


def _count(events: Sequence[OutcomeEvent], known: Knowledge, scores: Scores) -> None:
    """Work out the contributions of those with a value that belong into a series."""
    by_model: defaultdict[UUID, list[int]] = defaultdict(list)
    for row, (event, model_id) in enumerate(zip(events, scores.model_id, strict=True)):
        if model_id is not None and event.actual_value is not None and not (event.treated and event.features is not None):
            by_model[model_id].append(row)
        elif model_id is not None:
            scores.segments[row] = ()
    parts = [_contributions(rows, events, known.cards[model_id].baseline, scores) for model_id, rows in by_model.items()]
    order = [row for rows, _ in parts for row in rows]
    scores.counted = {row: place for place, row in enumerate(order)}
    if parts:
        scores.contributions = np.concatenate([matrix for _, matrix in parts])


def _contributions(
    rows: Sequence[int], events: Sequence[OutcomeEvent], baseline: Baseline, scores: Scores
) -> tuple[list[int], npt.NDArray[np.int64]]:
    actual = np.array([events[row].actual_value for row in rows], dtype=float)
    allowed = in_range(scores.predicted[list(rows)], actual, baseline)
    for row in np.asarray(rows)[~allowed].tolist():
        scores.refuse(row, "range", _too_far(events[row], float(scores.predicted[row]), baseline))
    kept = np.asarray(rows)[allowed].tolist()
    picked = np.array(kept, dtype=np.int64)
    return kept, contributions(scores.predicted[picked], actual[allowed], scores.lower[picked], scores.upper[picked], baseline)


def _too_far(event: OutcomeEvent, predicted: float, baseline: Baseline) -> str:
    near = f"{baseline.center:g} +- {LIMIT * baseline.scale:g}"
    return (
        f"actual_value {event.actual_value} or predicted_value {predicted} lies outside of what this model can be judged by, {near}"
    )


def rows_of(ids: Iterable[UUID]) -> dict[UUID, int]:
    """Row of each twin, by its id."""
    return {twin_id: row for row, twin_id in enumerate(ids)}
