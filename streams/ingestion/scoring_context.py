"""The data that scoring needs beside the outcomes, and its loader.

The loader reads Postgres and the registry, and caches what it has read: champions until their line changes.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, TypeAlias, TypeVar
from uuid import UUID

import numpy as np
import pandas as pd
from cachetools import LRUCache, TTLCache

from engine.twins import FeatureGaps
from schemas import TwinPopulation
from schemas.arrays import Floats, Integers
from schemas.twin_models import ModelCard
from sql.database import Pool
from sql.feature_count_store import line_columns
from sql.model_card_rows import UnknownModel, load_card
from sql.outcome_store import ChampionPeriods, champion_periods
from streams.errors import describe_error, is_waited_for
from streams.ingestion.feature_names import declared_names
from streams.ingestion.outcome_batch import ElementRefusal, OutcomeBatch, group_positions, parked_element, to_microseconds

__all__ = ["ContextLoader", "Predictor", "ScoringContext", "SimulatedTwins"]

LOG = logging.getLogger(__name__)
Item = TypeVar("Item")
_Refusals: TypeAlias = "dict[UUID, ElementRefusal]"

_MAX_TWINS = 2_000_000  # in memory between batches: of two of the largest simulations, or of two hundred usual ones
_MAX_CARDS = 1000
_UNAVAILABLE_S = 30.0  # until a model or a simulation that cannot be loaded is tried again


class Predictor(Protocol):
    """A model, as far as scoring needs it."""

    def predict_rows(self, frame: pd.DataFrame) -> tuple[Floats, Floats, Floats, FeatureGaps]:
        """Expected outcome and its 95 % prediction interval (lower, upper), each of shape ``(n,)``, and gaps of the features."""


@dataclass(frozen=True)
class SimulatedTwins:
    """The twins of one simulation and its effect on each.

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

    def take(self, twin_ids: Iterable[UUID]) -> SimulatedTwins:
        """The same simulation with only these of its twins; unknown ones are left out."""
        stored_ids = [twin_id for twin_id in twin_ids if twin_id in self.rows]
        numbers = [self.rows[twin_id] for twin_id in stored_ids] or [0]  # a population has at least one twin
        rows = {twin_id: row for row, twin_id in enumerate(stored_ids)}
        return SimulatedTwins(self.line, self.model_id, self.population.take(numbers), self.changes[numbers], rows)


@dataclass(frozen=True)
class ScoringContext:
    """The data that scoring needs beside the outcomes.

    Attributes:
        generations: generation of each registered line that the outcomes name.
        champions: of each line, from when on each model was champion, the first one first; lines without a champion are absent.
        cards: of every model that outcomes can refer to.
        models: those that have to predict from features.
        simulations: by id; unknown ones are absent.
        line_features: names of the columns that models of each line were trained with.
        unavailable: why models and simulations cannot be loaded, by their id; only the outcomes that need them are parked.
    """

    generations: Mapping[str, int] = field(default_factory=dict)
    champions: Mapping[str, Sequence[tuple[datetime, UUID]]] = field(default_factory=dict)
    cards: Mapping[UUID, ModelCard] = field(default_factory=dict)
    models: Mapping[UUID, Predictor] = field(default_factory=dict)
    simulations: Mapping[UUID, SimulatedTwins] = field(default_factory=dict)
    line_features: Mapping[str, frozenset[str]] = field(default_factory=dict)
    unavailable: Mapping[UUID, ElementRefusal] = field(default_factory=dict)

    def predicting_models(self, outcomes: OutcomeBatch) -> set[UUID]:
        """Champions that have to predict from the features of these outcomes."""
        rows = np.array(outcomes.rows_with_features(), dtype=np.int64)
        return {model_id for _, model_id, _ in self.by_model(outcomes, rows) if model_id is not None}

    def by_model(self, outcomes: OutcomeBatch, rows: Integers) -> Iterator[tuple[int, UUID | None, Integers]]:
        """Group rows by their shared fields and their model.

        Yields:
            Index of the shared fields, the model that is named or was champion (None for a line without a champion), and the rows.
        """
        model_index: dict[UUID | None, int] = {}
        shared_index = outcomes.shared_index[rows]
        model = np.zeros(len(rows), dtype=np.int64)
        by_line: defaultdict[str, list[int]] = defaultdict(list)
        for index in np.unique(shared_index).tolist():
            shared = outcomes.shared_fields[index]
            if shared.model_id is None:
                by_line[shared.line].append(index)
            else:
                model[shared_index == index] = model_index.setdefault(shared.model_id, len(model_index))
        for line, indices in by_line.items():
            in_line = np.flatnonzero(np.isin(shared_index, indices))
            champions, champion = self._champions_at(line, outcomes.observed_us[rows[in_line]])
            model[in_line] = np.array([model_index.setdefault(model_id, len(model_index)) for model_id in champions])[champion]
        models = list(model_index)
        for code, positions in group_positions(shared_index * len(models) + model):
            index, model_number = divmod(code, len(models))
            yield index, models[model_number], rows[positions]

    def _champions_at(self, line: str, observed_us: Integers) -> tuple[list[UUID | None], Integers]:
        """The champions of a line, and the index of the one at each time; the first one stands for the time before it (rule 6)."""
        periods = self.champions.get(line)
        if not periods:
            return [None], np.zeros(len(observed_us), dtype=np.int64)
        since = np.array([to_microseconds(at) for at, _ in periods], dtype=np.int64)
        champion = np.maximum(np.searchsorted(since, observed_us, side="right") - 1, 0)
        return [model_id for _, model_id in periods], champion


class ContextLoader:
    """Loads the scoring context of batches.

    Args:
        pool: of the database.
        models: loads a model by its id.
        simulations: finds the twins of a completed simulation, None for an unknown one.
    """

    def __init__(
        self,
        pool: Pool,
        models: Callable[[UUID], Awaitable[Predictor]],
        simulations: Callable[[UUID], Awaitable[SimulatedTwins | None]],
    ) -> None:
        self._pool = pool
        self._load_model = models
        self._find_simulation = simulations
        self._periods: dict[str, ChampionPeriods] = {}
        self._line_features: dict[str, frozenset[str]] = {}
        self._cards: LRUCache[UUID, ModelCard] = LRUCache(_MAX_CARDS)
        self._simulations: LRUCache[UUID, SimulatedTwins] = LRUCache(
            _MAX_TWINS, getsizeof=lambda twins: twins.population.twin_count
        )
        self._unavailable: TTLCache[tuple[str, UUID], ElementRefusal] = TTLCache(_MAX_CARDS, _UNAVAILABLE_S)

    async def load(self, outcomes: OutcomeBatch, *, retries_failed: bool = False) -> ScoringContext:
        """Load everything that is needed to score these outcomes.

        Args:
            outcomes: which ones.
            retries_failed: try models and simulations again that could not be loaded shortly before: they may be repaired.
        """
        if retries_failed:
            self._unavailable.clear()
        lines = {shared.line for shared in outcomes.shared_fields}
        await self._load_periods(lines)
        registered = {line: self._periods[line] for line in lines & self._periods.keys()}
        champions = {line: periods.champions for line, periods in registered.items() if periods.champions}
        unavailable: dict[UUID, ElementRefusal] = {}
        simulations = await self._load_simulations(outcomes.twins.values(), unavailable)
        predicting = ScoringContext(champions=champions).predicting_models(outcomes)
        models = {shared.model_id for shared in outcomes.shared_fields if shared.model_id is not None}
        models |= {model_id for periods in champions.values() for _, model_id in periods}
        models |= {twins.model_id for twins in simulations.values()}
        return ScoringContext(
            generations={line: periods.generation for line, periods in registered.items()},
            champions=champions,
            cards=await self._load_cards(models, unavailable),
            models=await self._load_models(predicting, unavailable),
            simulations=simulations,
            line_features=await self._load_features(outcomes),
            unavailable=unavailable,
        )

    def invalidate(self, lines: Iterable[str]) -> None:
        """Load these lines again next time, because their champion has changed."""
        for line in lines:
            self._periods.pop(line, None)

    async def _load_features(self, outcomes: OutcomeBatch) -> Mapping[str, frozenset[str]]:
        """Names of the features of these lines' models; read again for a name that none of them had."""
        named = {
            (int(outcomes.shared_index[row]), tuple(outcomes.entities[row].features or ())) for row in outcomes.rows_with_features()
        }
        lines = set()
        for index, names in named:
            shared = outcomes.shared_fields[index]
            accepted = declared_names(shared.twin_type) | self._line_features.get(shared.line, frozenset())
            if not accepted.issuperset(names):
                lines.add(shared.line)
        if lines:
            columns = await line_columns(self._pool, lines)
            self._line_features.update({line: names.features | names.left_out for line, names in columns.items()})
        return self._line_features

    async def _load_periods(self, lines: set[str]) -> None:
        missing = lines - self._periods.keys()
        if missing:
            self._periods.update(await champion_periods(self._pool, missing))

    async def _load_cards(self, ids: set[UUID], unavailable: _Refusals) -> dict[UUID, ModelCard]:
        cards = {}
        for model_id in ids:
            card = self._cards.get(model_id)
            if card is None:
                card = await self._try("the card of model", model_id, self._load_card, unavailable)
            if card is not None:
                cards[model_id] = self._cards[model_id] = card
        return cards

    async def _load_card(self, model_id: UUID) -> ModelCard | None:
        try:
            return await load_card(self._pool, model_id)
        except UnknownModel:
            return None

    async def _load_models(self, ids: set[UUID], unavailable: _Refusals) -> dict[UUID, Predictor]:
        models = {model_id: await self._try("model", model_id, self._load_model, unavailable) for model_id in ids}
        return {model_id: model for model_id, model in models.items() if model is not None}

    async def _try(
        self, name: str, key: UUID, load: Callable[[UUID], Awaitable[Item | None]], unavailable: _Refusals
    ) -> Item | None:
        """What ``load`` returns; None when it fails for a reason of its own, for which no other outcome waits or is parked."""
        refusal = self._unavailable.get((name, key))
        if refusal is None:
            try:
                return await load(key)
            except Exception as error:
                if is_waited_for(error):
                    raise
                reason = f"{name} {key} cannot be loaded: {type(error).__name__}: {describe_error(error)}"
                self._unavailable[name, key] = refusal = parked_element(error, reason)
                LOG.error("%s", reason)  # noqa: TRY400  # the traceback is stored with the outcomes
        unavailable[key] = refusal
        return None

    async def _load_simulations(self, named: Iterable[tuple[UUID, UUID]], unavailable: _Refusals) -> dict[UUID, SimulatedTwins]:
        """The named twins of simulations, one simulation after another: a batch may name more of them than fit into memory."""
        twin_ids: defaultdict[UUID, set[UUID]] = defaultdict(set)
        for simulation_id, twin_id in named:
            twin_ids[simulation_id].add(twin_id)
        simulations = {}
        for simulation_id, ids in twin_ids.items():
            twins = await self._try("simulation", simulation_id, self._find_twins, unavailable)
            if twins is not None:
                simulations[simulation_id] = twins.take(sorted(ids))
        return simulations

    async def _find_twins(self, simulation_id: UUID) -> SimulatedTwins | None:
        twins = self._simulations.get(simulation_id) or await self._find_simulation(simulation_id)
        if twins is not None and twins.population.twin_count <= _MAX_TWINS:
            self._simulations[simulation_id] = twins
        return twins
