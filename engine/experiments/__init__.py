"""Real experiments: their design by simulation on twins, the analysis of their rows, and counterfactual outcomes.

Imports ``schemas`` and the other packages of ``engine``, which do not import it.
"""

from engine.experiments.arms import attrition_text, parse_arms, require_filled, sample_ratio_p, sample_ratio_warning
from engine.experiments.counterfactuals import Counterfactuals, predict_counterfactuals, treated_counterfactuals
from engine.experiments.experiment_analysis import EffectEstimate, relative_effect
from engine.experiments.experiment_design import Assignment, ExperimentDesigner, plan_experiment
from engine.experiments.trial_analysis import FEWEST_OF_SUBGROUP, TrialAnalysis, analyse_trial

__all__ = [
    "FEWEST_OF_SUBGROUP",
    "Assignment",
    "Counterfactuals",
    "EffectEstimate",
    "ExperimentDesigner",
    "TrialAnalysis",
    "analyse_trial",
    "attrition_text",
    "parse_arms",
    "plan_experiment",
    "predict_counterfactuals",
    "relative_effect",
    "require_filled",
    "sample_ratio_p",
    "sample_ratio_warning",
    "treated_counterfactuals",
]
