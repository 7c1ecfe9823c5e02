"""What is known of a trained model: its card, metrics, baseline of errors and of inputs, and the spread of real outcomes."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from schemas.base import Finite, Frozen, Moment, Record
from schemas.causal_graphs import FeatureSelection
from schemas.level_meaning import same_segment
from schemas.realism import RealismReport
from schemas.relations import Relation
from schemas.twin_types import TWIN_TYPES, Kind, StoredBrand, TwinType, model_line

__all__ = [
    "FEWEST_FOR_CORRELATION",
    "Baseline",
    "Effects",
    "Errors",
    "ExpectedErrors",
    "Histogram",
    "LossMoments",
    "ModelCard",
    "ModelType",
    "NewLevels",
    "OutcomeSpread",
    "TwinModelMetrics",
]

ModelType = Literal["auto", "RandomForest", "GradientBoosting", "HistGradientBoosting"]
"""Estimator of the expected outcome; ``auto`` fits the random forest, and gradient boosting when its fidelity is low."""

FEWEST_FOR_CORRELATION = 200
"""Real rows within a filter from which a correlation is claimed: its standard error is then 0.07 at most."""


class LossMoments(Frozen):
    """A loss of the drift detector on a model's unseen rows: its mean, standard deviation, and mean expected square.

    ``expected_square`` is what :class:`ExpectedErrors` gives for the square, 0 for the size of errors, which needs none.
    """

    mean: Finite
    sd: Finite = Field(ge=0)
    expected_square: Finite = Field(default=0.0, ge=0)


class Effects(Frozen):
    """Two factors of an outcome's expectation, or two terms: by the bin of its prediction, and by that of its half width.

    The bins of ``by_prediction`` come twice, first for outcomes with an interval and then for those without, which have one more in
    ``by_width`` than there are bins.
    """

    by_prediction: tuple[Finite, ...]
    by_width: tuple[Finite, ...]


class ExpectedErrors(Frozen):
    """What is expected of an outcome's error in half widths, given its prediction and the half width of its interval.

    Attributes:
        prediction_edges, width_edges: between the bins, ascending; a bin includes its upper edge.
        prediction_mean, prediction_sd: of the predictions, > 0.
        clip: of the size of an error over its expectation.
        size: factors of the expected absolute error, in half widths.
        error: terms of the expected error (predicted - actual), counted up to one half width.
        square: factors of the expected square of what is left of that error.
        misses: factors of the probability of an outcome outside its interval.
    """

    prediction_edges: tuple[Finite, ...]
    width_edges: tuple[Finite, ...]
    prediction_mean: Finite
    prediction_sd: Finite = Field(gt=0)
    clip: Finite = Field(gt=0)
    size: Effects
    error: Effects
    square: Effects
    misses: Effects


class Errors(Frozen):
    """Errors of a model on rows that it was not fitted on.

    Attributes:
        n: number of these rows (out-of-fold rows of training, plus held-out ones).
        mae, rmse: in units of the target.
        correlation: of predicted and actual; null when either is constant.
        coverage_95pct: share of outcomes inside their 95 % prediction interval.
        clipped_mean, clipped_sd: of the absolute errors after clipping, in units of the baseline's ``clip`` (0 to 1).
        n_effective: number of independent rows that would estimate ``mae`` equally well; null where no entity has several rows.
        losses: the detector's losses, by their name; empty where the baseline has no ``expected`` errors.
    """

    n: int = Field(ge=2)
    mae: Finite = Field(ge=0)
    rmse: Finite = Field(ge=0)
    correlation: Finite | None = None
    coverage_95pct: Finite | None = None
    clipped_mean: Finite = Field(ge=0, le=1)
    clipped_sd: Finite = Field(ge=0)
    n_effective: Finite | None = Field(default=None, gt=0)
    losses: dict[str, LossMoments] = Field(default_factory=dict)


class Histogram(Frozen):
    """Frequencies of a column's values on the training rows of a model.

    Attributes:
        edges: between the bins of a column of numbers, ascending; a bin includes its upper edge. Empty for a category.
        levels: levels of a category; other levels and missing values share the last bin. Empty for a column of numbers.
        counts: of each bin; the last one is for missing and unknown values.
    """

    edges: tuple[Finite, ...] = ()
    levels: tuple[str, ...] = ()
    counts: tuple[int, ...] = Field(min_length=2)


class Baseline(Errors):
    """Errors of a model on rows that it was not fitted on, against which its fidelity is compared; fixed for each model.

    Attributes:
        center, scale: fixed reference of the error sums: mean and standard deviation of the target in training, scale > 0.
        clip: loss at which the detector clips, 1.5 x the 99th percentile of the absolute errors, > 0.
        segments: errors on the rows of each level of a declared dimension, by ``dimension=level``.
        half_width: mean half width of the 95 % prediction interval of those rows.
        inputs: histogram of each feature, and of the prediction under the name ``predicted``.
        levels: levels of each category in the training table, as written there; a level is known in any spelling
            (:mod:`schemas.levels`). Empty for earlier models.
        expected: errors expected of single outcomes; null for earlier models, whose detector knows only the size of errors.
    """

    center: Finite
    scale: Finite = Field(gt=0)
    clip: Finite = Field(gt=0)
    segments: dict[str, Errors] = Field(default_factory=dict)
    half_width: Finite | None = Field(default=None, gt=0)
    inputs: dict[str, Histogram] = Field(default_factory=dict)
    levels: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    expected: ExpectedErrors | None = None

    def segment(self, name: str) -> Errors | None:
        """Errors of a segment; None where it has none of its own. Names of earlier models are in the spelling of their table."""
        if name in self.segments:
            return self.segments[name]
        return next((errors for stored, errors in self.segments.items() if same_segment(stored, name)), None)


class NewLevels(Frozen):
    """Prediction intervals of rows whose level of a feature was left out of training, as if the model had never seen it.

    Attributes:
        levels, rows: that were left out in turn.
        coverage: share of their outcomes inside 95 % intervals.
        worst, worst_coverage: the level with the lowest share, among those with 100 rows; null without one.
        widening: factor of the width of intervals of rows with a new level.
    """

    levels: int = Field(ge=1)
    rows: int = Field(ge=1)
    coverage: Finite = Field(ge=0, le=1)
    worst: str | None = None
    worst_coverage: Finite | None = Field(default=None, ge=0, le=1)
    widening: Finite = Field(ge=1)


class TwinModelMetrics(Record):
    """Accuracy of a trained model, with warnings for the user.

    Attributes:
        fidelity: Pearson correlation of predicted and actual on out-of-fold rows (null when undefined).
        left_out: columns of the training table that are no features, such as ids.
        n_entities: number of different entities in the training rows (null for models trained before entities were counted).
        no_change_mae: mean absolute error of predicting no change; null for targets that are not changes.
        realism: of twins of a model trained without the held-out rows, compared with these rows.
        selection: the features of the expected outcome, and the reasons.
        relations: between the columns, which every twin satisfies; those that the table was found to have, and declared ones.
        new_levels: intervals of rows with a level that is new, by feature; empty where it was not measured.
    """

    train_r2: Finite
    train_mae: Finite
    train_rmse: Finite
    cv_r2_mean: Finite
    cv_r2_std: Finite
    fidelity: Finite | None = None
    training_samples: int
    n_dropped: int = 0
    left_out: tuple[str, ...] = ()
    n_entities: int | None = None
    no_change_mae: Finite | None = None
    feature_importance: dict[str, float] = Field(default_factory=dict)
    realism: RealismReport | None = None
    selection: FeatureSelection | None = None
    relations: tuple[Relation, ...] = ()
    new_levels: dict[str, NewLevels] = Field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class ModelCard(Frozen):
    """Identity, settings, metrics and baseline of one trained model."""

    model_id: UUID
    twin_type: TwinType
    brand: StoredBrand
    target: str
    model_type: str
    features: tuple[str, ...]
    hyperparameters: dict[str, Any]
    training_samples: int
    metrics: TwinModelMetrics
    baseline: Baseline
    trained_at: Moment | None = None
    mlflow_run_id: str | None = None

    @property
    def line(self) -> str:
        """Name of the model line."""
        return model_line(self.twin_type, self.brand, self.target)

    @property
    def own_features(self) -> dict[str, Kind]:
        """Features beyond those of the twin type, and whether they are categories or numbers."""
        names = [name for name in self.features if name not in TWIN_TYPES[self.twin_type].by_name]
        return {name: "category" if self._has_levels(name) else "number" for name in names}

    @property
    def outcome_features(self) -> tuple[str, ...]:
        """The features from which the outcome is predicted; of a model that does not say so all of them."""
        selected = tuple(name for name in self.features if name in self.metrics.feature_importance)
        return selected or self.features

    def _has_levels(self, name: str) -> bool:
        return name in self.baseline.inputs and bool(self.baseline.inputs[name].levels)


class OutcomeSpread(Frozen):
    """How outcomes vary between the real rows behind a population, on which the size of a real experiment rests.

    Attributes:
        n: training rows that satisfy the filters.
        sd: standard deviation of their outcomes, units of the target.
        n_extreme: outcomes counted at a bound, because they lie more than 10 robust standard deviations from the median; 5 at most.
        correlation: of their outcomes with out-of-fold predictions; null below 200 rows and where it is undefined.
    """

    n: int = Field(ge=0)
    sd: Finite = Field(ge=0)
    n_extreme: int = Field(default=0, ge=0)
    correlation: Finite | None = Field(default=None, ge=-1, le=1)
