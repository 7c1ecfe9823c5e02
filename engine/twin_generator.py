"""Train a twin model on a table and generate populations of twins: the interface to :mod:`engine.twins`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Protocol
from uuid import UUID, uuid5

import numpy as np
import pandas as pd
from sklearn.metrics import r2_score
from sklearn.pipeline import Pipeline

from engine.fidelity import FEWEST_ROWS, HoldoutRows, compute_baseline, standing_texts
from engine.twins import (
    FEWEST_ROWS_OF_RATIO,
    HYPERPARAMETERS,
    INTERVAL_LEVEL,
    LEARNS_ALL_ROWS,
    MIN_ENTITIES,
    CrossFit,
    TrainingTable,
    TwinModel,
    build_training_table,
    cross_fit,
    encode_features,
    feature_importance,
    fit_adjustment,
    fit_conformal,
    fit_density_ratio,
    fit_outcome_model,
    learn_joint,
    measure_new_levels,
    near_copies,
    new_level_sentences,
    predict_outcome,
    refuse_copies,
    sample_rows,
    sampling_sentences,
    select_features,
)
from schemas.arrays import Floats, Integers
from schemas.base import require_one_of
from schemas.catalogue import Catalogue
from schemas.catalogue_in_effect import catalogue_in_effect, in_effect, under_own_catalogue
from schemas.causal_graphs import CAUSAL_GRAPHS, CausalGraph, FeatureSelection
from schemas.filters import Filters
from schemas.relations import Relation
from schemas.twin_models import Baseline, ModelCard, ModelType, NewLevels, TwinModelMetrics, TwinPopulation
from schemas.twin_types import BUILT_IN_TWIN_TYPES, TWIN_TYPES, TwinType, TwinTypeEntry, catalogue_brand

__all__ = ["ModelRegistry", "NotTrained", "SelectionCheck", "TwinGenerator", "skip_check"]


MODELS = UUID("5d0b9a3c-64a5-5f0e-9d6e-0d1a3f0b7c11")
"""Namespace of the uuid5 ids of models."""

DRAWING = "shares, resampled"
"""How twins are drawn: part of a model's identity, so that a table learned again by a later release gives another model."""

ENOUGH_FIDELITY = 0.75
ENOUGH_R2 = 0.5
ENOUGH_ROWS = 5_000


class NotTrained(RuntimeError):
    """The generator has no model yet: ``train`` was not called."""


class StoredModel(Protocol):
    """Where a model is stored."""

    @property
    def mlflow_run_id(self) -> str:
        """The MLflow run with its files."""


class ModelRegistry(Protocol):
    """Stores trained models."""

    def save(self, model: TwinModel) -> StoredModel:
        """Store a model permanently; saving it again has no effect."""


class SelectionCheck(Protocol):
    """An independent check of a feature selection, such as :func:`engine.twins.causal_checks.cross_check`."""

    def __call__(self, selection: FeatureSelection, outcome: str, table: pd.DataFrame, seed: int) -> FeatureSelection:
        """The selection with the results of the check; a ``ValueError`` stops the training."""


def skip_check(selection: FeatureSelection, outcome: str, table: pd.DataFrame, seed: int) -> FeatureSelection:  # noqa: ARG001
    """The unchanged selection."""
    return selection


class TwinGenerator:
    """Trains on a table of real entities and generates synthetic ones.

    Args:
        twin_type: whom the twins represent.
        brand: brand of the model line.
        target: the column to predict; by default that of the twin type.
        model_type: estimator of the expected outcome. ``auto`` fits the random forest and, when its fidelity is below 0.75, also
            gradient boosting, and selects the one with the better cross-validated R2. For a table of more than 100,000 rows it is
            histogram boosting, which learns from all of them (:mod:`engine.twins.large_tables`).
        graph: causal graph by which the features of the outcome are selected; by default that of the twin type.
        check: an independent check of that selection; none by default.
        n_jobs: processors for fitting, -1 for all; results do not depend on it.
        seed: of fitting and, by default, of generated twins.
        relations: that every twin satisfies, beside those of the twin type's entry and those that are found in the table.
        registry: where ``save_to_registry`` stores the model.
        catalogue: with the brand, features, targets and filters; by default the one in effect where a method is called.

    Example:
        >>> from engine.sample_tables import sample_table
        >>> from schemas.brands import Brand
        >>> generator = TwinGenerator(TwinType.TERRITORY, Brand.KISQALI, model_type="RandomForest", n_jobs=1)
        >>> metrics = generator.train(sample_table(TwinType.TERRITORY, 1000, np.random.default_rng(0)))
        >>> metrics.training_samples, metrics.fidelity > 0.5
        (1000, True)
        >>> twins = generator.generate(500, {"region": "west"})
        >>> twins.twin_count, bool((twins.frame["covered_hcps"] <= twins.frame["total_hcps"]).all())
        (500, True)
        >>> lower, upper = generator.predict_interval(twins.frame)
        >>> bool(((lower <= twins.frame["baseline_behavior"]) & (twins.frame["baseline_behavior"] <= upper)).all())
        True
    """

    def __init__(
        self,
        twin_type: TwinType,
        brand: str,
        target: str | None = None,
        *,
        model_type: ModelType = "auto",
        graph: CausalGraph | None = None,
        check: SelectionCheck = skip_check,
        n_jobs: int = -1,
        seed: int = 0,
        relations: Sequence[Relation] = (),
        registry: ModelRegistry | None = None,
        catalogue: Catalogue | None = None,
    ) -> None:
        self.catalogue = catalogue
        self.twin_type = TwinType(twin_type)
        with in_effect(catalogue or catalogue_in_effect()):
            self.brand = catalogue_brand(brand)
            self.target = target or TWIN_TYPES[self.twin_type].default_target.name
        self.model_type = require_one_of("model_type", model_type, ("auto", *HYPERPARAMETERS))
        standard = BUILT_IN_TWIN_TYPES[self.twin_type].default_target.name
        self.graph = (graph or CAUSAL_GRAPHS[self.twin_type]).about(self.target, standard)
        self.check = check
        self.n_jobs = n_jobs
        self.seed = seed
        self.relations = tuple(relations)
        self.registry = registry
        self._model: TwinModel | None = None

    @property
    def model(self) -> TwinModel:
        """The trained model.

        Raises:
            NotTrained: before ``train``.
        """
        if self._model is None:
            raise NotTrained("the generator is not trained: call train with a table first")
        return self._model

    @under_own_catalogue
    def train(self, training_data: pd.DataFrame, target_col: str | None = None, *, n_carried_rows: int = 0) -> TwinModelMetrics:
        """Train on a table; the frame is not changed. Equal tables, settings and seeds give equal models.

        Where entities have several rows, each is kept in one part of every split, so that all figures are of unseen entities.

        Args:
            training_data: features and target, and optionally a column that names the entity of each row, such as ``entity_id``.
            target_col: name of the target; by default that of the generator.
            n_carried_rows: number of rows at the start of the table that were carried over from before a change
                (:func:`engine.promotion.carry_over.adjust_history`). The model is fitted on all rows, but metrics, baseline and
                intervals come from the other rows only.

        Returns:
            The metrics of the model card.

        Raises:
            ClinicalData: for clinical columns or targets.
            ValueError: when the table is unusable; the message names the reason and a remedy.
        """
        target = target_col or self.target
        whole = build_training_table(training_data, self.twin_type, target)
        refuse_copies(whole, target)
        _refuse_unknown(self.relations, whole)
        first_of_whole = _first_evaluated_row(training_data, target, n_carried_rows)
        sampled = sample_rows(whole, first_of_whole, self.seed)
        table = whole if sampled is None else whole.take(sampled)
        first = first_of_whole if sampled is None else int(np.searchsorted(sampled, first_of_whole))
        evaluated_entities = _evaluated_entities(table, first)
        frame = table.with_target(target)
        selection = self.check(select_features(self.graph, target, tuple(table.kinds)), target, frame, self.seed)
        selected = table.select(selection.features)
        model_type, crossed, r2_by_type = self._select_model_type(selected, first, is_sampled=sampled is not None)
        learned = whole.select(selection.features) if model_type == LEARNS_ALL_ROWS else selected
        outcome = fit_outcome_model(learned, model_type, n_jobs=self.n_jobs, seed=self.seed, encoded_by=selected)
        evaluated = table.features.iloc[first:]
        encoded = encode_features(outcome, evaluated)
        segments = evaluated[[name for name in TWIN_TYPES[self.twin_type].segments if name in evaluated]]
        conformal, widths = fit_conformal(encoded, crossed.actual - crossed.predicted, self.seed, evaluated_entities, segments)
        ends = crossed.predicted - widths.below, crossed.predicted + widths.above
        holdout = HoldoutRows(crossed.actual, crossed.predicted, *ends, evaluated_entities)
        baseline = compute_baseline(holdout, evaluated, TWIN_TYPES[self.twin_type].segments)
        fit = partial(fit_outcome_model, model_type=model_type, n_jobs=self.n_jobs, seed=self.seed)
        own_rows, declared = table.take(np.arange(first, len(table))), TWIN_TYPES[self.twin_type].segments
        new_levels = measure_new_levels(own_rows, selection.features, outcome, conformal, fit, declared, self.seed)
        metrics = _with_new_levels(
            _metrics(selected, outcome, crossed, TWIN_TYPES[self.twin_type], target, self.seed, selection, baseline), new_levels
        )
        metrics = _of_whole(metrics, whole, len(table), model_type)
        card = self._card(whole, first_of_whole, target, model_type, r2_by_type, metrics, baseline)
        joint = learn_joint(
            frame, self.twin_type, table.categorical, target, self.seed, self.n_jobs, table.entities, self.relations
        )
        adjustment = fit_adjustment(joint, crossed.expected, np.random.default_rng(self.seed), self.n_jobs, table.entities)
        has_ratio = len(table) >= FEWEST_ROWS_OF_RATIO and table.entities is None  # rows of one entity would be recognised
        ratio = fit_density_ratio(joint, self.seed) if has_ratio else None
        model = TwinModel(card, dict(table.kinds), joint, outcome, adjustment, conformal, table.entities, ratio, sampled)
        self._model = model.with_relations().with_realism(model.assess(seed=self.seed, n_jobs=self.n_jobs))
        self.target = target
        return self._model.card.metrics

    @under_own_catalogue
    def retrain(self, training_data: pd.DataFrame) -> TwinModelMetrics:
        """Train again on another table, with the same target and settings.

        Raises:
            NotTrained: before ``train``.
        """
        return self.train(training_data, self.model.card.target)

    @under_own_catalogue
    def generate(
        self, n: int, filters: Filters = None, seed: int | None = None, *, expires_at: datetime | None = None
    ) -> TwinPopulation:
        """Generate ``n`` twins, see ``TwinModel.generate``; the default seed is that of the generator."""
        return self.model.generate(n, filters, self.seed if seed is None else seed, expires_at=expires_at)

    @under_own_catalogue
    def predict(self, frame: pd.DataFrame) -> Floats:
        """Expected outcome of each row, shape ``(n,)``."""
        return self.model.predict(frame)

    @under_own_catalogue
    def predict_interval(self, frame: pd.DataFrame, level: float = INTERVAL_LEVEL) -> tuple[Floats, Floats]:
        """Ends of the prediction interval of each row's outcome, each of shape ``(n,)``."""
        return self.model.predict_interval(frame, level)

    @under_own_catalogue
    def save_to_registry(self) -> UUID:
        """Store the trained model in the registry and return its id; its card names the MLflow run from then on.

        Raises:
            NotTrained: before ``train``.
            ValueError: when the generator has no registry.
        """
        if self.registry is None:
            raise ValueError("this generator has no registry: pass one as TwinGenerator(..., registry=...)")
        stored = self.registry.save(self.model)
        self._model = self.model.with_card(self.model.card.model_copy(update={"mlflow_run_id": stored.mlflow_run_id}))
        return self.model.card.model_id

    def _select_model_type(self, table: TrainingTable, first: int, *, is_sampled: bool) -> tuple[str, CrossFit, dict[str, float]]:
        """The model type with the best cross-validated R2, its cross-fit, and the R2 of each type that was tried."""
        default = LEARNS_ALL_ROWS if is_sampled else "RandomForest"
        preferred = default if self.model_type == "auto" else self.model_type
        fits = {preferred: cross_fit(table, preferred, n_jobs=self.n_jobs, seed=self.seed, first=first)}
        fidelity = fits[preferred].fidelity
        if self.model_type == "auto" and not is_sampled and (fidelity is None or fidelity < ENOUGH_FIDELITY):
            fits["GradientBoosting"] = cross_fit(table, "GradientBoosting", n_jobs=self.n_jobs, seed=self.seed, first=first)
        best = max(fits, key=lambda name: float(fits[name].r2.mean()))
        return best, fits[best], {name: round(float(crossed.r2.mean()), 6) for name, crossed in fits.items()}

    def _card(
        self,
        table: TrainingTable,
        first: int,
        target: str,
        model_type: str,
        r2_by_type: dict[str, float],
        metrics: TwinModelMetrics,
        baseline: Baseline,
    ) -> ModelCard:
        parameters: dict[str, Any] = {**HYPERPARAMETERS[model_type], "cv_r2_of_tried": r2_by_type, "seed": self.seed}
        settings = (self.twin_type.value, str(self.brand), target, self.model_type, model_type, self.seed)
        identity = (*settings, table.digest(), first, self.graph, DRAWING, *map(repr, self.relations))
        return ModelCard(
            model_id=uuid5(MODELS, repr(identity)),
            twin_type=self.twin_type,
            brand=self.brand,
            target=target,
            model_type=model_type,
            features=tuple(map(str, table.features)),
            hyperparameters=parameters,
            training_samples=len(table),
            metrics=metrics,
            baseline=baseline,
        )


def _refuse_unknown(relations: Sequence[Relation], table: TrainingTable) -> None:
    """Refuse a declared relation of columns that the table lacks."""
    for relation in relations:
        if unknown := [name for name in relation.columns if name not in table.features]:
            raise ValueError(f"{relation.formula!r} names {', '.join(unknown)}: the table has {', '.join(table.kinds)}")


def _first_evaluated_row(frame: pd.DataFrame, target: str, n_carried_rows: int) -> int:
    """Index in the training table of the first row that was not carried over; rows without an outcome are not in that table."""
    complete = np.isfinite(pd.to_numeric(frame[target], errors="coerce").to_numpy(dtype=float))
    own = int(complete[n_carried_rows:].sum())
    if n_carried_rows and own < FEWEST_ROWS:
        raise ValueError(
            f"{own} rows beside the {n_carried_rows} carried over have an outcome: {FEWEST_ROWS} are needed to evaluate the model"
        )
    return int(complete[:n_carried_rows].sum())


def _evaluated_entities(table: TrainingTable, first: int) -> Integers | None:
    """The entity of each evaluated row; None where every row of the table is an entity of its own."""
    if table.entities is None:
        return None
    entities = table.entities[first:]
    if (n := len(np.unique(entities))) < MIN_ENTITIES:
        raise ValueError(f"the {len(entities):,} rows that are evaluated are of {n} entities: at least {MIN_ENTITIES} are needed")
    return entities


def _metrics(
    table: TrainingTable,
    outcome: Pipeline,
    crossed: CrossFit,
    entry: TwinTypeEntry,
    target: str,
    seed: int,
    selection: FeatureSelection,
    baseline: Baseline,
) -> TwinModelMetrics:
    fitted = predict_outcome(outcome, encode_features(outcome, table.features))
    errors = table.target - fitted
    r2 = float(crossed.r2.mean())
    return TwinModelMetrics(
        train_r2=float(r2_score(table.target, fitted)),
        train_mae=float(np.abs(errors).mean()),
        train_rmse=float(np.sqrt((errors**2).mean())),
        cv_r2_mean=r2,
        cv_r2_std=float(crossed.r2.std()),
        fidelity=crossed.fidelity,
        training_samples=len(table),
        n_dropped=table.n_dropped,
        left_out=table.left_out,
        n_entities=table.n_entities,
        no_change_mae=float(np.abs(table.target).mean()) if entry.target(target).is_change else None,
        feature_importance=feature_importance(outcome, table, seed),
        selection=selection,
        warnings=(
            *table.warnings,
            *near_copies(table),
            *_cluster_warnings(table, baseline),
            *_data_warnings(table, selection),
            *_accuracy_warnings(r2, table, entry, selection),
            *standing_texts(baseline),
        ),
    )


def _of_whole(metrics: TwinModelMetrics, whole: TrainingTable, n_sampled: int, model_type: str) -> TwinModelMetrics:
    """Metrics of a part of a table with the numbers of the whole one, and a sentence about the part."""
    sentences = sampling_sentences(len(whole), n_sampled, model_type)
    counts = {"training_samples": len(whole), "n_entities": whole.n_entities}
    return metrics.model_copy(update={**counts, "warnings": (*sentences, *metrics.warnings)})


def _with_new_levels(metrics: TwinModelMetrics, new_levels: dict[str, NewLevels]) -> TwinModelMetrics:
    return metrics.model_copy(update={"new_levels": new_levels, "warnings": (*metrics.warnings, *new_level_sentences(new_levels))})


def _cluster_warnings(table: TrainingTable, baseline: Baseline) -> Iterator[str]:
    """How many independent rows the evaluated rows of entities are worth."""
    if baseline.n_effective is not None:
        yield (
            f"errors of one entity are alike: {baseline.n:,} evaluated rows of {table.n_entities:,} entities are worth"
            f" {baseline.n_effective:,.0f} independent ones (design effect {baseline.n / baseline.n_effective:.2f})"
        )


def _data_warnings(table: TrainingTable, selection: FeatureSelection) -> Iterator[str]:
    """Rows and columns that were left out, and doubts about the causal graph."""
    if table.n_dropped:
        yield f"{table.n_dropped} rows without a value of the target were left out"
    if selection.dropped:
        reasons = "; ".join(f"{name}, {reason}" for name, reason in selection.dropped.items())
        yield f"columns left out as features of the outcome by the causal graph: {reasons}"
    if selection.lacking:
        yield (
            f"this table cannot separate the effect of {selection.graph.treatment} from that of columns it lacks:"
            f" {', '.join(selection.lacking)}"
        )
    for refuted in (refutation for refutation in selection.refutations if not refutation.survived):
        yield (
            f"the effect of {selection.graph.treatment} estimated from this table failed a test ({refuted.test}: "
            f"{refuted.estimate:.4g} became {refuted.after:.4g}, p {refuted.p_value:.3f}): review the causal graph"
        )


def _accuracy_warnings(r2: float, table: TrainingTable, entry: TwinTypeEntry, selection: FeatureSelection) -> Iterator[str]:
    """A warning about a low R2, with advice."""
    if r2 >= ENOUGH_R2:
        return
    lacking = [name for name in entry.by_name if name not in table.features and name not in selection.dropped]
    advice = [
        f"add {', '.join(lacking[:5])}" if lacking else "add features measured closer to the outcome, such as last year's change"
    ]
    if len(table) < ENOUGH_ROWS:
        advice.append(f"provide {ENOUGH_ROWS:,} rows or more instead of {len(table):,}")
    if (share := _variance_of_extremes(table.target)) > 0.5:
        advice.append(f"check the 1 % most extreme values of the target, which make up {share:.0%} of its variance")
    yield f"R2 on unseen rows is {r2:.2f}, below {ENOUGH_R2}: single predictions are imprecise; {'; '.join(advice)}"


def _variance_of_extremes(target: Floats) -> float:
    """Share of the variance that the 1 % most extreme values contribute, 0 to 1."""
    squares = np.sort((target - target.mean()) ** 2)
    return float(squares[-max(1, len(squares) // 100) :].sum() / squares.sum())
