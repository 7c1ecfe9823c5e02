"""From outcomes to what was predicted for them, and what they add to the sums: one pass over the columns for each way and model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

import numpy as np
import numpy.typing as npt
import pandas as pd

from engine.fidelity.error_sums import LIMIT, contributions, in_range
from schemas import TWIN_TYPES, TwinPopulation
from schemas.events import SUM_FIELDS
from schemas.twin_models import BEHAVIOUR, LOWER, UPPER, Baseline, ModelCard
from schemas.twin_types import ALL_ROWS, segment_name
from sql.outcome_store import OutcomeGroup
from streams.ingestion.outcome_batch import Floats, Integers, OutcomeBatch, SharedFields

__all__ = ["Predictor", "Scores", "ScoringContext", "SimulatedTwins", "score", "segments_of"]

_LONGEST_LEVEL = 100
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Predictor(Protocol):
    """A model, as far as scoring needs it."""

    def predict_all(self, frame: pd.DataFrame) -> tuple[Floats, Floats, Floats]:
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
    changes: Floats
    rows: Mapping[UUID, int]


@dataclass(frozen=True)
class ScoringContext:
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

    def predicting(self, outcomes: OutcomeBatch) -> Iterator[tuple[int, UUID | None, Integers]]:
        """Outcomes that the champion has to predict."""
        return self.by_model(outcomes, np.array(_featured(outcomes), dtype=np.int64))

    def by_model(self, outcomes: OutcomeBatch, rows: Integers) -> Iterator[tuple[int, UUID | None, Integers]]:
        """Outcomes with the same words (by their number) and the same model, named or champion, None for a line without one."""
        models: dict[UUID | None, int] = {}
        of = outcomes.of[rows]
        model = np.zeros(len(rows), dtype=np.int64)
        by_line: defaultdict[str, list[int]] = defaultdict(list)
        for number in np.unique(of).tolist():
            words = outcomes.words[number]
            if words.model_id is None:
                by_line[words.line].append(number)
            else:
                model[of == number] = models.setdefault(words.model_id, len(models))
        for line, numbers in by_line.items():
            of_line = np.flatnonzero(np.isin(of, numbers))
            champions, ruling = self._champions_at(line, outcomes.observed_us[rows[of_line]])
            model[of_line] = np.array([models.setdefault(champion, len(models)) for champion in champions])[ruling]
        names = list(models)
        for code, places in _groups(of * len(names) + model):
            number, named = divmod(code, len(names))
            yield number, names[named], rows[places]

    def _champions_at(self, line: str, observed_us: Integers) -> tuple[list[UUID | None], Integers]:
        """The champions of a line, and which of them ruled at each time, the first one also before its time."""
        reigns = self.champions.get(line)
        if not reigns:
            return [None], np.zeros(len(observed_us), dtype=np.int64)
        since = np.array([(at - _EPOCH) // timedelta(microseconds=1) for at, _ in reigns], dtype=np.int64)
        ruling = np.maximum(np.searchsorted(since, observed_us, side="right") - 1, 0)
        return [champion for _, champion in reigns], ruling


class Scores:
    """What is known of each outcome, as columns in the order of the outcomes; NaN where there is nothing.

    Attributes:
        refused: reason, by the row of an outcome that cannot be scored.
        kinds: the different ones; ``of`` tells which an outcome is, -1 where it is refused.
        counts: which outcomes enter sums, with their ``contributions`` of shape ``(n, len(SUM_FIELDS))``.
    """

    def __init__(self, n: int) -> None:
        self.refused: dict[int, tuple[str, str]] = {}
        self.predicted = np.full(n, np.nan)
        self.lower = np.full(n, np.nan)
        self.upper = np.full(n, np.nan)
        self.kinds: list[OutcomeGroup] = []
        self.of = np.full(n, -1, dtype=np.int64)
        self.counts = np.zeros(n, dtype=np.bool_)
        self.contributions: npt.NDArray[np.int64] = np.zeros((n, len(SUM_FIELDS)), dtype=np.int64)
        self._numbers: dict[OutcomeGroup, int] = {}

    def refuse(self, row: int, kind: str, reason: str) -> None:
        """Say why an outcome is not taken."""
        self.refused.setdefault(row, (kind, reason))

    def tell(self, rows: Sequence[int] | Integers, kind: OutcomeGroup) -> None:
        """Say of what kind outcomes are."""
        if kind not in self._numbers:
            self._numbers[kind] = len(self.kinds)
            self.kinds.append(kind)
        self.of[rows] = self._numbers[kind]


def score(outcomes: OutcomeBatch, known: ScoringContext) -> Scores:
    """Score outcomes, each by what it says itself."""
    scores = Scores(len(outcomes))
    _refuse_levels(outcomes, scores)
    for way, rows in _by_way(outcomes, scores).items():
        way(outcomes, rows, known, scores)
    _count(outcomes, known, scores)
    return scores


def segments_of(words: SharedFields, features: Mapping[str, Any]) -> tuple[str, ...]:
    """Series of an outcome: ``all``, and one for each declared dimension whose level it tells or its features do."""
    dimensions, said = TWIN_TYPES[words.twin_type].segments, dict(words.segment)
    levels = {name: said.get(name, features.get(name)) for name in dimensions}
    return (ALL_ROWS, *(segment_name(name, level) for name, level in levels.items() if level is not None))


_Way = Callable[[OutcomeBatch, Integers, ScoringContext, Scores], None]


def _refuse_levels(outcomes: OutcomeBatch, scores: Scores) -> None:
    """A level stands in keys and labels: it has to be short and visible."""
    for number, words in enumerate(outcomes.words):
        if not all(level.isprintable() and len(level) <= _LONGEST_LEVEL for _, level in words.segment):
            reason = f"segment {dict(words.segment)!r}: a level is printable text of at most {_LONGEST_LEVEL} characters"
            for row in np.flatnonzero(outcomes.of == number).tolist():
                scores.refuse(row, "segment", reason)


def _by_way(outcomes: OutcomeBatch, scores: Scores) -> dict[_Way, Integers]:
    left = np.ones(len(outcomes), dtype=np.bool_)
    left[list(scores.refused)] = False
    named, featured = (np.zeros(len(outcomes), dtype=np.bool_) for _ in range(2))
    named[list(outcomes.twins)] = True
    featured[_featured(outcomes)] = True
    ways: dict[_Way, npt.NDArray[np.bool_]] = {_explicit: ~named & ~featured, _simulated: named, _by_features: featured}
    found = {way: np.flatnonzero(left & chosen) for way, chosen in ways.items()}
    return {way: rows for way, rows in found.items() if len(rows)}


def _featured(outcomes: OutcomeBatch) -> list[int]:
    return sorted(row for row, entity in outcomes.entities.items() if entity.features is not None)


def _explicit(outcomes: OutcomeBatch, rows: Integers, known: ScoringContext, scores: Scores) -> None:
    """Whose predictions these are: the model that is named, else the champion at the time."""
    for number, model_id, those in known.by_model(outcomes, rows):
        words = outcomes.words[number]
        reason = _unfit(words, model_id, known)
        if reason is None:
            scores.tell(those, OutcomeGroup(words.line, words.metric_type, model_id, segments_of(words, {}), None, None))
        for row in those.tolist() if reason else ():
            scores.refuse(row, *reason or ("", ""))
    chosen = rows[scores.of[rows] >= 0]
    for mine, said in ((scores.predicted, outcomes.predicted), (scores.lower, outcomes.lower), (scores.upper, outcomes.upper)):
        mine[chosen] = said[chosen]


def _groups(codes: Integers) -> Iterator[tuple[int, Integers]]:
    """Each code with the places where it stands."""
    if len(codes):
        order = np.argsort(codes, kind="stable")
        found, first = np.unique(codes[order], return_index=True)
        yield from zip(found.tolist(), np.split(order, first[1:]), strict=True)


def _unfit(words: SharedFields, model_id: UUID | None, known: ScoringContext) -> tuple[str, str] | None:
    """Why a model cannot stand for outcomes with these words."""
    if model_id is None:
        return _no_champion(words.line)
    card = known.cards.get(model_id)
    if card is None:
        return "model", f"model {model_id} is not known: name a registered one, or leave model_id out"
    if card.line != words.line:
        return "model", f"model {model_id} belongs to {card.line}, not to {words.line}"
    return None


def _no_champion(line: str) -> tuple[str, str]:
    return "champion", f"line {line} never had a champion: train and promote a model first, then replay this"


def _by_features(outcomes: OutcomeBatch, rows: Integers, known: ScoringContext, scores: Scores) -> None:
    by_champion: defaultdict[UUID, list[int]] = defaultdict(list)
    for number, champion, those in known.by_model(outcomes, rows):
        if champion is not None:
            by_champion[champion] += those.tolist()
        for row in those.tolist() if champion is None else ():
            scores.refuse(row, *_no_champion(outcomes.words[number].line))
    for champion, chosen in by_champion.items():
        for row in _predict(known.models[champion], outcomes, chosen, scores):
            words = outcomes.words_of(row)
            segments = segments_of(words, outcomes.entities[row].features or {})
            scores.tell([row], OutcomeGroup(words.line, words.metric_type, champion, segments, None, None))


def _predict(model: Predictor, outcomes: OutcomeBatch, rows: list[int], scores: Scores) -> Iterator[int]:
    """Predict together; where one cannot be predicted, half by half, so that only the bad ones are refused."""
    frame = pd.DataFrame([dict(outcomes.entities[row].features or {}) for row in rows])
    try:
        predicted, lower, upper = model.predict_all(frame)
    except (ValueError, TypeError, OverflowError) as error:
        if len(rows) == 1:
            scores.refuse(rows[0], "features", f"features cannot be predicted from: {error}")
            return
        for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
            yield from _predict(model, outcomes, half, scores)
        return
    scores.predicted[rows], scores.lower[rows], scores.upper[rows] = predicted, lower, upper
    yield from rows


def _simulated(outcomes: OutcomeBatch, rows: Integers, known: ScoringContext, scores: Scores) -> None:
    by_simulation: defaultdict[UUID, list[int]] = defaultdict(list)
    for row in rows.tolist():
        by_simulation[outcomes.twins[row][0]].append(row)
    for simulation_id, chosen in by_simulation.items():
        twins = known.simulations.get(simulation_id)
        for row in chosen:
            _refuse_stranger(row, outcomes, twins, scores)
        found = [row for row in chosen if row not in scores.refused]
        if twins is not None and found:
            _of_twins(outcomes, found, twins, scores)


def _refuse_stranger(row: int, outcomes: OutcomeBatch, twins: SimulatedTwins | None, scores: Scores) -> None:
    simulation_id, twin_id = outcomes.twins[row]
    line = outcomes.words_of(row).line
    if twins is None:
        scores.refuse(row, "simulation", f"simulation {simulation_id} is not known, or was not completed")
    elif twins.line != line:
        scores.refuse(row, "simulation", f"simulation {simulation_id} is about {twins.line}, not {line}")
    elif twin_id not in twins.rows:
        scores.refuse(row, "twin", f"twin {twin_id} is none of simulation {simulation_id}")


def _of_twins(outcomes: OutcomeBatch, rows: list[int], twins: SimulatedTwins, scores: Scores) -> None:
    frame = twins.population.frame
    places = [twins.rows[outcomes.twins[row][1]] for row in rows]
    change = np.where(outcomes.treated[rows] != 0, twins.changes[places], 0.0)
    for column, said in ((scores.predicted, BEHAVIOUR), (scores.lower, LOWER), (scores.upper, UPPER)):
        if said in frame:
            column[rows] = frame[said].to_numpy(dtype=float)[places] + change
    dimensions = [name for name in TWIN_TYPES[twins.population.twin_type].segments if name in frame]
    levels = frame[dimensions].iloc[places].to_dict("records")
    for row, features in zip(rows, levels, strict=True):
        words = outcomes.words_of(row)
        plain = {str(name): _plain(value) for name, value in features.items()}
        pinned = outcomes.twins[row][0], twins.population.population_id
        scores.tell([row], OutcomeGroup(words.line, words.metric_type, twins.model_id, segments_of(words, plain), *pinned))


def _plain(value: Any) -> Any:
    return None if pd.isna(value) else value


def _count(outcomes: OutcomeBatch, known: ScoringContext, scores: Scores) -> None:
    """Work out the contributions of those with a value that belong into a series; the kind of others has none."""
    belongs = (scores.of >= 0) & ~np.isnan(outcomes.actual)
    if outcomes.entities:
        featured = _featured(outcomes)
        belongs[featured] &= outcomes.treated[featured] != 1
    by_model: defaultdict[UUID | None, list[int]] = defaultdict(list)
    for number, kind in enumerate(scores.kinds):
        by_model[kind.model_id].append(number)
    for model_id, numbers in by_model.items():
        rows = np.flatnonzero(belongs & np.isin(scores.of, numbers))
        if model_id is not None and len(rows):
            _contribute(rows, outcomes, known.cards[model_id].baseline, scores)
    outside = np.flatnonzero((scores.of >= 0) & ~belongs)
    for number, places in _groups(scores.of[outside]):
        scores.tell(outside[places], scores.kinds[number]._replace(segments=()))


def _contribute(rows: Integers, outcomes: OutcomeBatch, baseline: Baseline, scores: Scores) -> None:
    predicted, actual = scores.predicted[rows], outcomes.actual[rows]
    allowed = in_range(predicted, actual, baseline)
    for row in rows[~allowed].tolist():
        scores.refuse(row, "range", _too_far(float(outcomes.actual[row]), float(scores.predicted[row]), baseline))
    kept = rows[allowed]
    scores.counts[kept] = True
    scores.contributions[kept] = contributions(
        predicted[allowed], actual[allowed], scores.lower[kept], scores.upper[kept], baseline
    )


def _too_far(actual: float, predicted: float, baseline: Baseline) -> str:
    near = f"{baseline.center:g} +- {LIMIT * baseline.scale:g}"
    return f"actual_value {actual} or predicted_value {predicted} lies outside of what this model can be judged by, {near}"
