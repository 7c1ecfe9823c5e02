"""Twins of real entities: training tables, the model of the expected outcome, the joint distribution, and their assessment.

Imports ``schemas`` only; `TwinModel` combines the parts of one trained version of a model line.
"""

from engine.twins.causal_checks import CausalDisagreement, cross_check
from engine.twins.causal_features import select_features
from engine.twins.conformal import conformal_quantile, fit_conformal
from engine.twins.density_ratio import FEWEST_ROWS as FEWEST_ROWS_OF_RATIO
from engine.twins.density_ratio import fit_density_ratio
from engine.twins.donor_adjustment import fit_adjustment
from engine.twins.empty_filter import EmptyFilter
from engine.twins.entities import MIN_ENTITIES
from engine.twins.entities import folds as entity_folds
from engine.twins.feature_gaps import FeatureGaps, gap_sentences
from engine.twins.forests import forest_mean
from engine.twins.large_tables import LEARNS_ALL_ROWS, sample_rows, sampling_sentences
from engine.twins.leakage import feature_knowledge, near_copies, refuse_copies
from engine.twins.new_levels import measure_new_levels, new_level_sentences
from engine.twins.outcome_model import (
    FOLDS,
    HYPERPARAMETERS,
    CrossFit,
    cross_fit,
    encode_features,
    feature_importance,
    fit_outcome_model,
    predict_outcome,
)
from engine.twins.realism_assessment import TooFewRows, learn_joint
from engine.twins.target_scale import few_implausible, scale_problem
from engine.twins.training_table import MIN_SAMPLES, ClinicalData, TrainingTable, build_training_table, identifier_warnings
from engine.twins.twin_model import INTERVAL_LEVEL, ModelParts, TwinModel, common_seed, population_id

__all__ = [
    "FEWEST_ROWS_OF_RATIO",
    "FOLDS",
    "HYPERPARAMETERS",
    "INTERVAL_LEVEL",
    "LEARNS_ALL_ROWS",
    "MIN_ENTITIES",
    "MIN_SAMPLES",
    "CausalDisagreement",
    "ClinicalData",
    "CrossFit",
    "EmptyFilter",
    "FeatureGaps",
    "ModelParts",
    "TooFewRows",
    "TrainingTable",
    "TwinModel",
    "build_training_table",
    "common_seed",
    "conformal_quantile",
    "cross_check",
    "cross_fit",
    "encode_features",
    "entity_folds",
    "feature_importance",
    "feature_knowledge",
    "few_implausible",
    "fit_adjustment",
    "fit_conformal",
    "fit_density_ratio",
    "fit_outcome_model",
    "forest_mean",
    "gap_sentences",
    "identifier_warnings",
    "learn_joint",
    "measure_new_levels",
    "near_copies",
    "new_level_sentences",
    "population_id",
    "predict_outcome",
    "refuse_copies",
    "sample_rows",
    "sampling_sentences",
    "scale_problem",
    "select_features",
]
