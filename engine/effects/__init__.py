"""Effects of interventions: priors, dose response, draws, calibration by experiments, subgroups, and sample sizes.

Imports ``schemas`` only; a simulation combines these parts in `engine.simulation_engine`.
"""

from engine.effects.alternatives import best_choice, better_alternative_text, compare_alternatives
from engine.effects.base_effect import BaseEffect, prior_interval
from engine.effects.calibration import calibrate, surprise
from engine.effects.effect_draws import AverageDraws, EffectDraws
from engine.effects.effect_model import (
    Design,
    build_design,
    catalogue_prior,
    catalogue_priors,
    dose_response,
    draw_dose,
    is_moderated,
    typical_dose,
)
from engine.effects.heterogeneity import effects_by_dimension
from engine.effects.intervals import interval, standard_deviation, summary
from engine.effects.intervention_draws import InterventionDraws, checked_priors, learned_levels
from engine.effects.learned_parameters import level_spread
from engine.effects.level_reading import reading_of
from engine.effects.normal_draws import normal_draws
from engine.effects.outcome_changes import average_change, change_per_effect, change_sums, unknown_base
from engine.effects.population_filter import EmptyPopulation, select_twins
from engine.effects.prepared_twins import PreparedTwins
from engine.effects.reach import measure_reach
from engine.effects.recommendation import Criteria, Recommendation, effect_text, recommend
from engine.effects.result_warnings import realism_warnings, result_warnings
from engine.effects.sample_size import (
    SampleSize,
    achieved_power,
    adjustable_correlation,
    design_effect,
    minimum_detectable_effect,
    required_sample_size,
    sample_size_for,
    two_sample,
)
from engine.effects.subgroups import Groups, LevelSums, group_by_level
from engine.effects.track_record import ComparedSimulation, compute_track_record
from engine.effects.twin_factors import TwinFactors
from engine.effects.twin_sums import ExactSums, TwinSums

__all__ = [
    "AverageDraws",
    "BaseEffect",
    "ComparedSimulation",
    "Criteria",
    "Design",
    "EffectDraws",
    "EmptyPopulation",
    "ExactSums",
    "Groups",
    "InterventionDraws",
    "LevelSums",
    "PreparedTwins",
    "Recommendation",
    "SampleSize",
    "TwinFactors",
    "TwinSums",
    "achieved_power",
    "adjustable_correlation",
    "average_change",
    "best_choice",
    "better_alternative_text",
    "build_design",
    "calibrate",
    "catalogue_prior",
    "catalogue_priors",
    "change_per_effect",
    "change_sums",
    "checked_priors",
    "compare_alternatives",
    "compute_track_record",
    "design_effect",
    "dose_response",
    "draw_dose",
    "effect_text",
    "effects_by_dimension",
    "group_by_level",
    "interval",
    "is_moderated",
    "learned_levels",
    "level_spread",
    "measure_reach",
    "minimum_detectable_effect",
    "normal_draws",
    "prior_interval",
    "reading_of",
    "realism_warnings",
    "recommend",
    "required_sample_size",
    "result_warnings",
    "sample_size_for",
    "select_twins",
    "standard_deviation",
    "summary",
    "surprise",
    "two_sample",
    "typical_dose",
    "unknown_base",
]
