"""One trained, immutable version of a model line: it predicts outcomes with intervals and generates twins."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property, reduce
from typing import Any
from uuid import UUID, uuid5

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline

from engine.twins.conformal import Conformal
from engine.twins.density_ratio import DensityRatio, draw_rows, fit_density_ratio
from engine.twins.donor_adjustment import DonorAdjustment
from engine.twins.feature_gaps import FeatureGaps, find_gaps, gap_sentences
from engine.twins.joint_model import JointModel, SampledTable
from engine.twins.marginal import Predicate
from engine.twins.new_levels import widening
from engine.twins.outcome_model import encode_features, fit_outcome_model, predict_outcome
from engine.twins.outcome_spread import TrainingOutcomes
from engine.twins.realism_assessment import Allowed, TooFewRows, assess, learn_joint
from engine.twins.segment_factors import SegmentFactors
from engine.twins.training_table import TrainingTable, feature_frame
from schemas.arrays import Floats, Integers
from schemas.events import MAX_TWINS_AT_ONCE
from schemas.filters import Condition, Filters, canonical_filters, conditions
from schemas.levels import KnownLevels
from schemas.realism import RealismReport
from schemas.relations import Relation
from schemas.twin_models import BEHAVIOUR, LOWER, UPPER, ModelCard, TwinPopulation
from schemas.twin_types import TWIN_TYPES, Target, TwinType

__all__ = ["INTERVAL_LEVEL", "ModelParts", "TwinModel", "common_seed", "population_id"]


INTERVAL_LEVEL = 0.95


def population_id(model_id: UUID, twin_type: TwinType, n: int, filters: Filters, seed: int) -> UUID:
    """Id of the population that a model of this twin type generates from these arguments; the model itself is not needed."""
    canonical = canonical_filters(twin_type, filters)
    return uuid5(model_id, repr((n, sorted(canonical.items()), seed)))


def common_seed(model_id: UUID, twin_type: TwinType, filters: Filters) -> int:
    """The seed in [0, 2**63) of all simulations that name none, so that campaigns are compared on the same twins and draws.

    References:
        Glasserman, Yao (1992), Some guidelines and guarantees for common random numbers. Management Science 38.
    """
    canonical = canonical_filters(twin_type, filters)
    return uuid5(model_id, f"seed {sorted(canonical.items())!r}").int % 2**63


@dataclass(frozen=True)
class ModelParts:
    """The storable parts of a model: scikit-learn estimators, plain arrays, and JSON types; no code."""

    estimators: dict[str, BaseEstimator]
    arrays: dict[str, npt.NDArray[Any]]
    meta: dict[str, Any]


@dataclass(frozen=True)
class TwinModel:
    """A trained model: predictions, prediction intervals, and twins.

    Attributes:
        card: identity, metrics and baseline.
        kinds: kind of each feature, in the order in which the model takes them.
        joint: distribution of features and target.
        outcome: encoder and estimator of the expected outcome.
        adjustment: of drawn outcomes by expected ones.
        conformal: widths of prediction intervals.
        entities: the entity of each row that twins are drawn from, ``(rows,)``, small integers; None where every row was an entity
            of its own.
        ratio: by which drawn rows are chosen; None where it is not needed, and for models stored before there was one.
        sampled: positions in the training table of the rows that twins are drawn from, ``(rows,)``; None where these are all.
    """

    card: ModelCard
    kinds: Mapping[str, str]
    joint: JointModel
    outcome: Pipeline
    adjustment: DonorAdjustment
    conformal: Conformal
    entities: Integers | None = None
    ratio: DensityRatio | None = None
    sampled: Integers | None = None

    @property
    def declared_relations(self) -> list[Relation]:
        """The relations that the model did not find by itself."""
        declared = (relation for relation in self.joint.decoder.relations.listed if relation.declared)
        return [Relation(kind=relation.kind, columns=relation.columns, factor=relation.factor) for relation in declared]

    @property
    def _target(self) -> Target:
        return TWIN_TYPES[self.card.twin_type].target(self.card.target)

    @property
    def seed(self) -> int:
        """The seed of its training."""
        return int(self.card.hyperparameters.get("seed", 0))

    def predict(self, frame: pd.DataFrame) -> Floats:
        """Expected outcome without any intervention, shape ``(n,)``, units of the target.

        Features that the frame lacks are treated as missing, unknown levels as rare ones.

        Raises:
            ValueError: for a value that a feature cannot have.
        """
        return predict_outcome(self.outcome, self.encoded(frame))

    def encoded(self, frame: pd.DataFrame) -> Floats:
        """Features of each row as the outcome model's encoder transforms them, shape ``(n, p)``."""
        return encode_features(self.outcome, self._features(frame))

    def predict_interval(self, frame: pd.DataFrame, level: float = INTERVAL_LEVEL) -> tuple[Floats, Floats]:
        """Lower and upper end of the prediction interval of one outcome, each of shape ``(n,)``."""
        _, lower, upper = self.predict_all(frame, level)
        return lower, upper

    def predict_all(self, frame: pd.DataFrame, level: float = INTERVAL_LEVEL) -> tuple[Floats, Floats, Floats]:
        """Expected outcome, lower and upper end of its prediction interval, each of shape ``(n,)``."""
        return self._predict_features(self._features(frame), level)

    def predict_rows(self, frame: pd.DataFrame) -> tuple[Floats, Floats, Floats, FeatureGaps]:
        """Expected outcome and its 95 % prediction interval as ``predict_all``, and the gaps of the rows' features."""
        features = self._features(frame)
        gaps = find_gaps(features, self.card.outcome_features, self.known_levels)
        return *self._predict_features(features, INTERVAL_LEVEL), gaps

    def gap_sentences(self, frame: pd.DataFrame, named: Collection[str] = ()) -> list[str]:
        """What the model has to predict these rows without, see :func:`engine.twins.gap_sentences`."""
        widening = {name: of_feature.widening for name, of_feature in self.card.metrics.new_levels.items()}
        return gap_sentences(self._features(frame), self.card.outcome_features, self.known_levels, named, widening)

    def features(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The features of the model in any table, converted; those that the table lacks are left out."""
        names = [name for name in self.kinds if name in frame]
        return self._features(frame)[names]

    def _predict_features(self, features: pd.DataFrame, level: float) -> tuple[Floats, Floats, Floats]:
        encoded = encode_features(self.outcome, features)
        expected = predict_outcome(self.outcome, encoded)
        return self._with_interval(expected, encoded, features, level, self._widening(features))

    def intervals_around(self, expected: Floats, frame: pd.DataFrame, level: float) -> tuple[Floats, Floats, Floats]:
        """Expected outcomes from elsewhere, ``(n,)``, with the ends of the intervals that this model gives such rows."""
        features = self._features(frame)
        encoded = encode_features(self.outcome, features)
        return self._with_interval(expected, encoded, features, level, self._widening(features))

    def _with_interval(
        self, expected: Floats, encoded: Floats, features: pd.DataFrame, level: float, widening: Floats | float = 1.0
    ) -> tuple[Floats, Floats, Floats]:
        widths = self.conformal.widths(encoded, features, level)
        return expected, expected - widths.below * widening, expected + widths.above * widening

    def _widening(self, features: pd.DataFrame) -> Floats:
        """Factors of the width of each row's interval: more than 1 where a level was not in training."""
        measured = self.card.metrics.new_levels
        return widening(measured, find_gaps(features, measured, self.known_levels).unseen)

    def population_id(self, n: int, filters: Filters = None, seed: int = 0) -> UUID:
        """Id of the population that ``generate`` returns for the same arguments."""
        return population_id(self.card.model_id, self.card.twin_type, n, filters, seed)

    def generate(self, n: int, filters: Filters = None, seed: int = 0, *, expires_at: datetime | None = None) -> TwinPopulation:
        """Generate ``n`` twins that satisfy the filters; equal arguments give equal twins.

        Once stored, they are deleted after ``expires_at``, a time with its zone; without one they stay. Twins without filters have
        the realism that was measured in training; with filters they have none until ``assess_population`` measures it.

        Raises:
            EmptyFilter: when no real row satisfies the filters; it names the condition to drop.
            ValueError: for an impossible ``n``, or a filter on a column that these twins lack.
        """
        population, encoded = self._draw_population(n, filters, seed, expires_at)
        frame = population.frame
        expected, lower, upper = self._with_interval(frame[BEHAVIOUR].to_numpy(), encoded, frame, INTERVAL_LEVEL)
        frame = frame.assign(**{BEHAVIOUR: expected, LOWER: lower, UPPER: upper})
        return population.model_copy(update={"frame": frame})

    def draw_population(self, n: int, filters: Filters = None, seed: int = 0) -> TwinPopulation:
        """The same twins as :meth:`generate`, without the intervals of their outcomes: no simulation reads them."""
        return self._draw_population(n, filters, seed)[0]

    def _draw_population(
        self, n: int, filters: Filters, seed: int, expires_at: datetime | None = None
    ) -> tuple[TwinPopulation, Floats]:
        """Twins without intervals, and their encoded features ``(n, p)``."""
        if not 1 <= n <= MAX_TWINS_AT_ONCE:
            raise ValueError(f"n is {n}: 1 to {MAX_TWINS_AT_ONCE:,} twins can be generated at once")
        rng, allowed = (
            np.random.default_rng(seed),
            self._predicates(conditions(self.card.twin_type, filters, self.card.own_features)),
        )
        sampled, encoded, expected = _draw_twins(self.joint, self.ratio, self.outcome, self.adjustment, n, rng, allowed)
        canonical = canonical_filters(self.card.twin_type, filters)
        population = TwinPopulation(
            population_id=self.population_id(n, filters, seed),
            model_id=self.card.model_id,
            name=f"{self.card.line} twins",
            description=f"{n} twins of {self.card.model_type} {self.card.model_id}",
            twin_count=n,
            filters_applied=canonical,
            seed=seed,
            real_rows=sampled.real_rows,
            realism=None if canonical else self.card.metrics.realism,
            expires_at=expires_at,
            model=self.card,
            frame=sampled.frame.assign(**{BEHAVIOUR: expected}),
        )
        return population.measured_by(TrainingOutcomes(self.joint, self.adjustment.expected)), encoded

    def generate_block(self, number: int, n: int, filters: Filters = None, seed: int = 0) -> TwinPopulation:
        """Generate the ``n`` twins of one block of a population that is too large to be generated at once.

        The twins of a block depend on the seed and its number only. The first block has outcomes; the others have none, and an
        expected outcome only where effects are a share of it: it is 0 elsewhere, and intervals are left out.

        Raises:
            EmptyFilter, ValueError: as :meth:`generate`.
        """
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number,)))
        allowed = self._predicates(conditions(self.card.twin_type, filters, self.card.own_features))
        if number == 0:
            sampled, _, expected = _draw_twins(self.joint, self.ratio, self.outcome, self.adjustment, n, rng, allowed)
            frame = sampled.frame
        else:
            joint = self.joint if self.ratio else self.joint.without(self.card.target)
            frame = draw_rows(joint, self.ratio, n, rng, allowed).frame
            frame = frame.drop(columns=self.card.target, errors="ignore")
            expected = (
                np.zeros(n) if self._target.is_change else predict_outcome(self.outcome, encode_features(self.outcome, frame))
            )
        return TwinPopulation(
            population_id=self.population_id(n, filters, seed),
            model_id=self.card.model_id,
            name=f"{self.card.line} twins, block {number}",
            twin_count=n,
            filters_applied=canonical_filters(self.card.twin_type, filters),
            seed=seed,
            model=self.card,
            frame=frame.assign(**{BEHAVIOUR: expected}),
        )

    def assess(self, filters: Filters = None, seed: int = 0, n_jobs: int = 1) -> RealismReport:
        """Assess the realism of twins that satisfy the filters: train without some rows and compare with them. Takes seconds.

        Raises:
            TooFewRows: when too few rows satisfy the filters for an assessment.
            ValueError: for a filter on a column that these twins lack.
        """
        table, allowed = self.table(), self._predicates(conditions(self.card.twin_type, filters, self.card.own_features))

        def make(rows: Integers, sizes: Sequence[int], rng: np.random.Generator) -> list[pd.DataFrame]:
            joint, outcome = self._fit_again(table.take(rows), seed, n_jobs)
            ratio, adjustment = fit_density_ratio(joint, seed) if self.ratio else None, self.adjustment.take(rows)
            return [_draw_twins(joint, ratio, outcome, adjustment, n, rng, allowed)[0].frame for n in sizes]

        frame, outcome = table.with_target(self.card.target), self.card.target
        return assess(frame, make, table.categorical, seed, allowed, table.entities, outcome)

    def assess_population(self, population: TwinPopulation) -> TwinPopulation:
        """The population with the realism of twins with its filters, or with the reason why it cannot be assessed. Takes seconds.

        Raises:
            ValueError: when the population is of another model.
        """
        if population.model_id != self.card.model_id:
            raise ValueError(
                f"population {population.population_id} is of model {population.model_id}, this is {self.card.model_id}"
            )
        try:
            return population.with_realism(self.assess(population.filters_applied, self.seed))
        except TooFewRows as error:
            return population.with_realism(None, unassessed=str(error))

    def table(self) -> TrainingTable:
        """The rows that twins are drawn from, in the order of the training table: all of it, or its ``sampled`` ones."""
        frame = self.joint.table()
        target = frame[self.card.target].to_numpy(dtype=np.float64)
        return TrainingTable(frame[list(self.kinds)], target, self.kinds, 0, (), self.entities)

    def of_table(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Values of all training rows, ``(training rows,)``, at the rows of ``table``."""
        return values if self.sampled is None else values[self.sampled]

    def predict_fitted_on(self, rows: Integers, frame: pd.DataFrame, *, n_jobs: int = 1) -> Floats:
        """Expected outcome by this model's estimator and features, fitted on some rows of its ``table`` only."""
        fitted = self._fit_outcome_again(self.table().take(rows), self.seed, n_jobs)
        return predict_outcome(fitted, encode_features(fitted, self._features(frame)))

    def _fit_again(self, table: TrainingTable, seed: int, n_jobs: int) -> tuple[JointModel, Pipeline]:
        card, frame = self.card, table.with_target(self.card.target)
        joint = learn_joint(
            frame, card.twin_type, table.categorical, card.target, seed, n_jobs, table.entities, self.declared_relations
        )
        return joint, self._fit_outcome_again(table, seed, n_jobs)

    def _fit_outcome_again(self, table: TrainingTable, seed: int, n_jobs: int) -> Pipeline:
        selected = table.select([name for name in table.kinds if name in self.card.metrics.feature_importance])
        return fit_outcome_model(selected, self.card.model_type, n_jobs=n_jobs, seed=seed)

    def to_parts(self) -> ModelParts:
        """The storable parts, from which ``from_parts`` restores the model bit for bit."""
        arrays = {f"joint.{name}": array for name, array in self.joint.arrays().items()}
        scores = {f"conformal_scores.{group}": array for group, array in enumerate(self.conformal.scores)}
        weights = {f"conformal_weights.{group}": array for group, array in enumerate(self.conformal.weights)}
        rows = {"entities": self.entities, "sampled": self.sampled}
        return ModelParts(
            estimators={
                "encoder": self.outcome["encoder"],
                "estimator": self.outcome["estimator"],
                "difficulty": self.conformal.difficulty,
            }
            | ({"density_ratio": self.ratio.classifier} if self.ratio else {}),
            arrays={**arrays, "expected": self.adjustment.expected, "conformal_edges": self.conformal.edges, **scores}
            | weights
            | {name: array for name, array in rows.items() if array is not None},
            meta={
                "card": self.card.model_dump(mode="json"),
                "kinds": dict(self.kinds),
                "joint": self.joint.meta,
                "adjusted_share": self.adjustment.share,
                "conformal_floor": self.conformal.floor,
                "conformal_version": self.conformal.version,
                "conformal_segments": [factors.to_meta() for factors in self.conformal.segments],
                "density_ratio": self.ratio.meta if self.ratio else None,
            },
        )

    @classmethod
    def from_parts(cls, parts: ModelParts) -> TwinModel:
        """Restore a model from its parts."""
        joint_arrays = {name.removeprefix("joint."): array for name, array in parts.arrays.items() if name.startswith("joint.")}
        joint = JointModel.from_arrays(joint_arrays, parts.meta["joint"])
        scores, weights = (
            [array for name, array in sorted(parts.arrays.items()) if name.startswith(f"conformal_{kind}")]
            for kind in ("scores", "weights")
        )
        edges = parts.arrays.get("conformal_edges", np.empty(0))  # models stored without groups have one
        expected = parts.arrays.get("expected", np.zeros(joint.n_rows))  # models stored without adjustment have none
        outcome = Pipeline([(step, parts.estimators[step]) for step in ("encoder", "estimator")])
        card, ratio = ModelCard.model_validate(parts.meta["card"]), parts.meta.get("density_ratio")
        return cls(
            card=card,
            kinds={name: parts.meta["kinds"][name] for name in card.features},  # a file has them in another order
            joint=joint,
            outcome=outcome,
            adjustment=DonorAdjustment(expected, parts.meta.get("adjusted_share", 0.0)),
            conformal=Conformal(
                parts.estimators["difficulty"],
                parts.meta["conformal_floor"],
                edges,
                scores,
                weights,
                [SegmentFactors.from_meta(of_segment) for of_segment in parts.meta.get("conformal_segments", ())],
                parts.meta.get("conformal_version", 1),
            ),
            entities=parts.arrays.get("entities"),
            ratio=DensityRatio.from_meta(parts.estimators["density_ratio"], ratio) if ratio else None,
            sampled=parts.arrays.get("sampled"),
        )

    def with_card(self, card: ModelCard) -> TwinModel:
        """The same model with another card, such as one that a registry has completed."""
        return replace(self, card=card)

    def with_realism(self, report: RealismReport) -> TwinModel:
        """The same model with a realism report in its metrics."""
        metrics = self.card.metrics.model_copy(update={"realism": report})
        return self.with_card(self.card.model_copy(update={"metrics": metrics}))

    def with_relations(self) -> TwinModel:
        """The same model with the relations of its twins in its metrics, and a warning about those that real rows break."""
        relations = self.joint.decoder.relations.listed
        broken = tuple(
            f"twins satisfy a relation that some real rows break: {relation}" for relation in relations if relation.n_broken
        )
        metrics = self.card.metrics
        update = {"relations": relations, "warnings": (*metrics.warnings, *broken)}
        return self.with_card(self.card.model_copy(update={"metrics": metrics.model_copy(update=update)}))

    @cached_property
    def known_levels(self) -> Mapping[str, KnownLevels]:
        """The levels of each category in the training table."""
        return {
            column.name: KnownLevels(column.levels) for column in self.joint.columns if self.kinds.get(column.name) == "category"
        }

    def _features(self, frame: pd.DataFrame) -> pd.DataFrame:
        return feature_frame(frame, self.kinds, self.card.twin_type, self.known_levels)

    def _predicates(self, filters: tuple[Condition, ...]) -> dict[str, Predicate]:
        by_column: defaultdict[str, list[Condition]] = defaultdict(list)
        for condition in filters:
            if condition.column not in self.kinds:
                raise ValueError(f"these twins have no {condition.column!r}: the model has {', '.join(self.kinds)}")
            by_column[condition.column].append(condition)
        return {column: _conjunction(of_column) for column, of_column in by_column.items()}


def _draw_twins(
    joint: JointModel,
    ratio: DensityRatio | None,
    outcome: Pipeline,
    adjustment: DonorAdjustment,
    n: int,
    rng: np.random.Generator,
    allowed: Allowed,
) -> tuple[SampledTable, Floats, Floats]:
    """Twins, their encoded features ``(n, p)``, and their expected outcomes ``(n,)``."""
    sampled = draw_rows(joint, ratio, n, rng, allowed or {})
    encoded = encode_features(outcome, sampled.frame)
    expected = predict_outcome(outcome, encoded)
    return adjustment.adjust(joint, sampled, expected), encoded, expected


def _conjunction(filters: list[Condition]) -> Predicate:
    return lambda values: reduce(np.logical_and, [condition.mask(values) for condition in filters])
