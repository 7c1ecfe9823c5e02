"""Scores outcomes: what was predicted for each, and what it adds to the sums of its series.

There are three ways to the prediction of an outcome: it carries the prediction itself, it names a twin of a simulation, or it
carries features that the champion predicts from. Each way is computed by columns, once for each model or simulation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np

from engine.fidelity import LIMIT, contributions, in_range
from engine.twins import FeatureGaps
from schemas import TWIN_TYPES, ModelCard, SourceId
from schemas.arrays import Flags, Integers
from schemas.base import shorten
from schemas.events import SUM_FIELDS
from schemas.levels import frame_of_records, level_text
from schemas.twin_models import BEHAVIOUR, LOWER, UPPER, Baseline
from schemas.twin_types import ALL_ROWS, segment_name
from sql.outcome_store import OutcomeGroup
from sql.segment_store import DEFAULT_SEGMENT_LIMITS
from streams.errors import describe_error
from streams.ingestion.feature_names import FeatureUse, empty_reason, known_names, rows_by_names, unknown_reason, unused_names
from streams.ingestion.outcome_batch import (
    DecodedBatch,
    ElementRefusal,
    OutcomeBatch,
    SharedFields,
    group_positions,
    parked_element,
)
from streams.ingestion.scoring_context import Predictor, ScoringContext, SimulatedTwins

__all__ = ["ScoredBatch", "Scores", "score"]

_COMPARED_SETS, _COMPARED_NAMES = 50, 5


class Scores:
    """Scores as columns in the order of the outcomes; NaN where there is no prediction or no interval.

    Attributes:
        refused: by the row of an outcome that cannot be scored.
        groups: outcome ``i`` belongs to ``groups[group_index[i]]``; the index is -1 until it is scored, and where it is refused.
        feature_uses: what models had to predict outcomes from.
        in_sums: which outcomes enter sums; their ``contributions`` have the shape ``(n, len(SUM_FIELDS))``.
    """

    def __init__(self, n: int) -> None:
        self.refused: dict[int, ElementRefusal] = {}
        self.predicted = np.full(n, np.nan)
        self.lower = np.full(n, np.nan)
        self.upper = np.full(n, np.nan)
        self.groups: list[OutcomeGroup] = []
        self.group_index = np.full(n, -1, dtype=np.int64)
        self.in_sums = np.zeros(n, dtype=np.bool_)
        self.contributions: Integers = np.zeros((n, len(SUM_FIELDS)), dtype=np.int64)
        self.feature_uses: list[FeatureUse] = []
        self._numbers: dict[OutcomeGroup, int] = {}

    def refuse(self, rows: Iterable[int], refusal: ElementRefusal) -> None:
        """Refuse outcomes; the first reason of each stays."""
        for row in rows:
            self.refused.setdefault(row, refusal)

    def assign_group(self, rows: Sequence[int] | Integers, group: OutcomeGroup) -> None:
        """Put outcomes into a group."""
        if group not in self._numbers:
            self._numbers[group] = len(self.groups)
            self.groups.append(group)
        self.group_index[rows] = self._numbers[group]

    def with_groups(self, groups: Sequence[OutcomeGroup]) -> Scores:
        """These scores with other groups in the place of theirs."""
        scores = copy(self)
        scores.groups = list(groups)
        return scores


@dataclass(frozen=True)
class ScoredBatch:
    """A decoded batch and its scores; nothing of it is stored yet.

    Attributes:
        generations: of each registered line, at which the batch was scored.
    """

    decoded: DecodedBatch
    scores: Scores
    simulations: Mapping[UUID, SimulatedTwins]
    generations: Mapping[str, int]

    @property
    def source(self) -> SourceId:
        """The source of the batch."""
        return self.decoded.source

    @property
    def outcomes(self) -> OutcomeBatch:
        """The decoded outcomes."""
        return self.decoded.outcomes

    @property
    def is_accepted(self) -> Flags:
        """Which outcomes could be scored, shape ``(n,)``."""
        accepted: Flags = self.scores.group_index >= 0
        accepted[list(self.scores.refused)] = False
        return accepted


def score(decoded: DecodedBatch, context: ScoringContext, max_characters: int = DEFAULT_SEGMENT_LIMITS.characters) -> ScoredBatch:
    """Score the outcomes of a batch, each by its own record alone (rule 6); segment values have at most ``max_characters``."""
    outcomes = decoded.outcomes
    scores = Scores(len(outcomes))
    for score_rows, rows in _rows_by_way(outcomes).items():
        score_rows(outcomes, rows, context, scores)
    _refuse_bad_levels(outcomes, scores, max_characters)
    _refuse_out_of_range(outcomes, context, scores)
    _add_contributions(outcomes, context, scores)
    return ScoredBatch(decoded, scores, context.simulations, context.generations)


def _series_of(shared: SharedFields, features: Mapping[str, Any]) -> tuple[str, ...]:
    """Series of an outcome: ``all``, and one for each declared dimension whose level is in its segment or else in its features."""
    dimensions, segment = TWIN_TYPES[shared.twin_type].segments, dict(shared.segment)
    levels = {name: _first_level(segment.get(name), features.get(name)) for name in dimensions}
    return (ALL_ROWS, *(segment_name(name, level) for name, level in levels.items() if level is not None))


def _first_level(*values: Any) -> str | None:
    """The first level among values, None when all are missing."""
    return next((level for value in values if (level := level_text(value)) is not None), None)


_FEATURE_ERRORS = (ValueError, TypeError, OverflowError)
_MAX_MODEL_ERRORS = 100

_ScoreRows = Callable[[OutcomeBatch, Integers, ScoringContext, Scores], None]


def _refuse_bad_levels(outcomes: OutcomeBatch, scores: Scores, max_characters: int) -> None:
    """Refuse levels that are long or not printable: they become keys of rows and labels of metrics."""
    for index, group in enumerate(scores.groups):
        bad = [series for series in group.segments if not _is_sound(series.partition("=")[2], max_characters)]
        if bad:
            limit = f"TWIN_MAX_SEGMENT_CHARACTERS: a level is printable text of at most {max_characters} characters"
            for row in np.flatnonzero(scores.group_index == index).tolist():
                place = "features" if row in outcomes.entities and outcomes.entities[row].features is not None else "segment"
                scores.refuse([row], ElementRefusal(place, f"{place} {shorten(bad[0])}, {limit}"))
                scores.group_index[row] = -1
            scores.groups[index] = group._replace(segments=())


def _is_sound(level: str, max_characters: int) -> bool:
    return level.isprintable() and len(level) <= max_characters


def _rows_by_way(outcomes: OutcomeBatch) -> dict[_ScoreRows, Integers]:
    has_twin, has_features = (np.zeros(len(outcomes), dtype=np.bool_) for _ in range(2))
    has_twin[list(outcomes.twins)] = True
    has_features[outcomes.rows_with_features()] = True
    ways: dict[_ScoreRows, Flags] = {
        _score_predictions: ~has_twin & ~has_features,
        _score_twins: has_twin,
        _score_features: has_features,
    }
    rows = {score_rows: np.flatnonzero(mask) for score_rows, mask in ways.items()}
    return {score_rows: selected for score_rows, selected in rows.items() if len(selected)}


# -- outcomes that carry their prediction


def _score_predictions(outcomes: OutcomeBatch, rows: Integers, context: ScoringContext, scores: Scores) -> None:
    """Attribute each prediction to the model that is named, else to the champion at the time of the outcome."""
    for index, model_id, model_rows in context.by_model(outcomes, rows):
        shared = outcomes.shared_fields[index]
        refusal = _model_refusal(shared, model_id, context)
        if refusal is None:
            group = OutcomeGroup(shared.line, shared.metric_type, model_id, _series_of(shared, {}), None, None)
            scores.assign_group(model_rows, group)
        else:
            scores.refuse(model_rows.tolist(), refusal)
    scored = rows[scores.group_index[rows] >= 0]
    scores.predicted[scored] = outcomes.predicted[scored]
    scores.lower[scored] = outcomes.lower[scored]
    scores.upper[scored] = outcomes.upper[scored]


def _model_refusal(shared: SharedFields, model_id: UUID | None, context: ScoringContext) -> ElementRefusal | None:
    """Why outcomes with these fields cannot be attributed to the model, None when they can."""
    if model_id is None:
        return _no_champion(shared.line)
    card = context.cards.get(model_id)
    if card is None:
        unknown = ElementRefusal("model", f"model {model_id} is not registered: name a registered one, or leave model_id out")
        return context.unavailable.get(model_id, unknown)
    if card.line != shared.line:
        return ElementRefusal("model", f"model {model_id} belongs to {card.line}, not to {shared.line}")
    return None


def _no_champion(line: str) -> ElementRefusal:
    return ElementRefusal("champion", f"line {line} never had a champion: train and promote a model first, then replay this")


# -- outcomes that carry features


def _score_features(outcomes: OutcomeBatch, rows: Integers, context: ScoringContext, scores: Scores) -> None:
    by_champion: defaultdict[UUID, list[int]] = defaultdict(list)
    for index, champion, model_rows in context.by_model(outcomes, rows):
        if champion is None:
            scores.refuse(model_rows.tolist(), _no_champion(outcomes.shared_fields[index].line))
        elif champion in context.unavailable:
            scores.refuse(model_rows.tolist(), context.unavailable[champion])
        else:
            by_champion[champion] += model_rows.tolist()
    for champion, champion_rows in by_champion.items():
        card = context.cards[champion]
        for predicted, gaps in _predict(
            context.models[champion], outcomes, _with_known_names(outcomes, champion_rows, card, context, scores), scores
        ):
            is_empty = gaps.missing.all(axis=1)
            if is_empty.any():
                scores.refuse(predicted[is_empty].tolist(), ElementRefusal("features", empty_reason(card)))
            scores.feature_uses.append(FeatureUse(card.line, champion, predicted, gaps))
            _assign_series(outcomes, predicted[~is_empty], champion, scores)


def _with_known_names(
    outcomes: OutcomeBatch, rows: Iterable[int], card: ModelCard, context: ScoringContext, scores: Scores
) -> list[int]:
    """The rows whose features all have known names; the others are refused."""
    accepted_names, accepted = known_names(card, context.line_features), []
    n_refused = 0
    for names, named_rows in rows_by_names(outcomes, rows).items():
        # To compare names takes a fifth of a millisecond each: 50,000 outcomes, each with names of its own, would take minutes.
        compared = _COMPARED_NAMES if n_refused < _COMPARED_SETS else 0
        reason = unknown_reason(names, card, accepted_names, compared)
        if reason is not None:
            n_refused += 1
            scores.refuse(named_rows, ElementRefusal("features", reason))
            continue
        accepted += named_rows
        if unused := unused_names(names, card):
            scores.feature_uses.append(FeatureUse(card.line, card.model_id, np.array(named_rows), unused=unused))
    return accepted


def _assign_series(outcomes: OutcomeBatch, rows: Integers, champion: UUID, scores: Scores) -> None:
    """Put each row into the group of its series, which it has by the levels of its segment or its features."""
    dimensions = [TWIN_TYPES[shared.twin_type].segments for shared in outcomes.shared_fields]
    grouped: defaultdict[Any, list[int]] = defaultdict(list)
    for row, index in zip(rows.tolist(), outcomes.shared_index[rows].tolist(), strict=True):
        features = outcomes.entities[row].features or {}
        levels = tuple([features.get(name) for name in dimensions[index]])
        grouped[index, levels, tuple(map(type, levels))].append(row)  # with types: true and 1 are different levels
    for (index, levels, _), members in grouped.items():
        shared = outcomes.shared_fields[index]
        series = _series_of(shared, dict(zip(dimensions[index], levels, strict=True)))
        scores.assign_group(members, OutcomeGroup(shared.line, shared.metric_type, champion, series, None, None))


def _predict(
    model: Predictor, outcomes: OutcomeBatch, all_rows: list[int], scores: Scores
) -> Iterator[tuple[Integers, FeatureGaps]]:
    """Predict rows together; after an error half by half, so that only rows with impossible features are refused (rule 3).

    Errors that no feature explains are those of the model: after some of them the other rows are parked without being tried.

    Yields:
        Rows that are predicted, and the gaps of their features.
    """
    pending, model_errors = [all_rows] if all_rows else [], 0
    while pending:
        rows = pending.pop(0)
        frame = frame_of_records([outcomes.entities[row].features or {} for row in rows])
        try:
            scores.predicted[rows], scores.lower[rows], scores.upper[rows], gaps = model.predict_rows(frame)
        except Exception as error:  # noqa: BLE001  # a model is foreign code: whatever it raises concerns these rows only
            model_errors += not isinstance(error, _FEATURE_ERRORS)
            if len(rows) == 1 or model_errors > _MAX_MODEL_ERRORS:
                scores.refuse(rows, _prediction_refusal(error))
            else:
                pending[:0] = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
        else:
            yield np.array(rows), gaps


def _prediction_refusal(error: Exception) -> ElementRefusal:
    reason = f"the champion cannot predict from these features: {describe_error(error)}"
    return ElementRefusal("features", reason) if isinstance(error, _FEATURE_ERRORS) else parked_element(error, reason)


# -- outcomes that name a twin


def _score_twins(outcomes: OutcomeBatch, rows: Integers, context: ScoringContext, scores: Scores) -> None:
    by_simulation: defaultdict[UUID, list[int]] = defaultdict(list)
    for row in rows.tolist():
        by_simulation[outcomes.twins[row][0]].append(row)
    for simulation_id, simulation_rows in by_simulation.items():
        twins = context.simulations.get(simulation_id)
        for row in simulation_rows:
            if refusal := _unavailable(simulation_id, twins, context) or _twin_refusal(row, outcomes, twins):
                scores.refuse([row], refusal)
        accepted = [row for row in simulation_rows if row not in scores.refused]
        if twins is not None and accepted:
            _predict_twins(outcomes, accepted, twins, scores)


def _unavailable(simulation_id: UUID, twins: SimulatedTwins | None, context: ScoringContext) -> ElementRefusal | None:
    """Why the twins of a simulation, or the card of their model, cannot be loaded; None when they can, or do not exist."""
    if twins is None:
        return context.unavailable.get(simulation_id)
    return None if twins.model_id in context.cards else context.unavailable.get(twins.model_id)


def _twin_refusal(row: int, outcomes: OutcomeBatch, twins: SimulatedTwins | None) -> ElementRefusal | None:
    """Why the twin of an outcome cannot be used, None when it can."""
    simulation_id, twin_id = outcomes.twins[row]
    line = outcomes.shared_fields_of(row).line
    if twins is None:
        return ElementRefusal(
            "simulation", f"simulation {simulation_id} does not exist, was not completed, or has twins without ids"
        )
    if twins.line != line:
        return ElementRefusal("simulation", f"simulation {simulation_id} is about {twins.line}, not {line}")
    if twin_id not in twins.rows:
        return ElementRefusal("twin", f"simulation {simulation_id} has no twin {twin_id}")
    if outcomes.treated[row] != 0 and not np.isfinite(twins.changes[twins.rows[twin_id]]):
        return ElementRefusal("twin", f"the effect on twin {twin_id} is a share of a value that it does not have: train with it")
    return None


def _predict_twins(outcomes: OutcomeBatch, rows: list[int], twins: SimulatedTwins, scores: Scores) -> None:
    """Predict each twin's outcome: its expected outcome, plus the simulated change unless it was not treated."""
    frame = twins.population.frame
    twin_rows = [twins.rows[outcomes.twins[row][1]] for row in rows]
    change = np.where(outcomes.treated[rows] != 0, twins.changes[twin_rows], 0.0)
    for column, name in ((scores.predicted, BEHAVIOUR), (scores.lower, LOWER), (scores.upper, UPPER)):
        if name in frame:
            column[rows] = frame[name].to_numpy(dtype=float)[twin_rows] + change
    dimensions = [name for name in TWIN_TYPES[twins.population.twin_type].segments if name in frame]
    levels = frame[dimensions].iloc[twin_rows].to_dict("records")
    for row, twin_levels in zip(rows, levels, strict=True):
        shared = outcomes.shared_fields_of(row)
        series = _series_of(shared, {str(name): level for name, level in twin_levels.items()})
        pinned = outcomes.twins[row][0], twins.population.population_id
        scores.assign_group([row], OutcomeGroup(shared.line, shared.metric_type, twins.model_id, series, *pinned))


# -- what outcomes add to sums


def _add_contributions(outcomes: OutcomeBatch, context: ScoringContext, scores: Scores) -> None:
    """Compute the contributions of outcomes with a value; the others are moved to a group without series.

    A treated entity is not counted either: the champion predicts from features what happens without treatment.
    """
    belongs = (scores.group_index >= 0) & ~np.isnan(outcomes.actual)
    if outcomes.entities:
        featured = outcomes.rows_with_features()
        belongs[featured] &= outcomes.treated[featured] != 1
    for model_id, indices in _groups_by_model(scores).items():
        rows = np.flatnonzero(belongs & np.isin(scores.group_index, indices))
        if model_id is not None and len(rows):
            _contribute(rows, outcomes, context.cards[model_id].baseline, scores)
    outside = np.flatnonzero((scores.group_index >= 0) & ~belongs)
    for index, positions in group_positions(scores.group_index[outside]):
        scores.assign_group(outside[positions], scores.groups[index]._replace(segments=()))


def _contribute(rows: Integers, outcomes: OutcomeBatch, baseline: Baseline, scores: Scores) -> None:
    """Standardise by the model's fixed baseline, as integers (rule 7)."""
    scores.in_sums[rows] = True
    values = scores.predicted[rows], outcomes.actual[rows], scores.lower[rows], scores.upper[rows]
    scores.contributions[rows] = contributions(*values, baseline)


def _refuse_out_of_range(outcomes: OutcomeBatch, context: ScoringContext, scores: Scores) -> None:
    """Refuse outcomes with a number beyond what sums can hold, whether they are counted in sums or not (rule 7)."""
    for model_id, groups in _groups_by_model(scores).items():
        rows = np.flatnonzero(np.isin(scores.group_index, groups))
        if model_id is None or not len(rows):
            continue
        baseline = context.cards[model_id].baseline
        numbers = {
            "actual_value": outcomes.actual,
            "predicted_value": scores.predicted,
            "predicted_lower": outcomes.lower,  # those that a model states may be infinite: it knows nothing then
            "predicted_upper": outcomes.upper,
        }
        for name, values in numbers.items():
            is_absent = np.isnan(values[rows]) & ((name != "predicted_value") | np.isnan(outcomes.actual[rows]))
            for row in rows[~(is_absent | in_range(values[rows], values[rows], baseline))].tolist():
                scores.refuse([row], _range_refusal(name, float(values[row]), baseline))
                scores.group_index[row] = -1


def _groups_by_model(scores: Scores) -> Mapping[UUID | None, list[int]]:
    by_model: defaultdict[UUID | None, list[int]] = defaultdict(list)
    for index, group in enumerate(scores.groups):
        by_model[group.model_id].append(index)
    return by_model


def _range_refusal(name: str, value: float, baseline: Baseline) -> ElementRefusal:
    limits = f"{baseline.center:g} +- {LIMIT * baseline.scale:g}"
    return ElementRefusal("range", f"{name} {value:g} is outside of {limits}, the range in which this model is monitored")
