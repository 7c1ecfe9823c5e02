"""Data types that all packages share: events, models of twins, simulations and fidelity, and the catalogues.

Imports no other package of this project.
"""

from schemas.catalogue import BUILT_IN, Catalogue
from schemas.catalogue_in_effect import catalogue_in_effect, in_effect, install
from schemas.events import (
    EVENTS,
    AnswerStatus,
    CatalogueEvent,
    DriftEvent,
    EffectsChoice,
    EffectsEvent,
    Event,
    ExperimentResult,
    FidelityErrors,
    FidelityWindow,
    ModelEvent,
    OutcomeEvent,
    PaneRow,
    RetrainEvent,
    SimulationAnswer,
    SimulationProgress,
    SimulationRequest,
    SourceId,
    TrainingRequest,
)
from schemas.fidelity_models import (
    DRIFT_RULES,
    DriftRule,
    DriftState,
    FidelityMetrics,
    PopulationFidelityMetrics,
    Verdict,
)
from schemas.filters import Condition, PopulationFilter, conditions
from schemas.interventions import INTERVENTIONS, MODERATORS, Channel, Frequency
from schemas.realism import RealismReport, RealismVerdict
from schemas.relations import Relation
from schemas.simulation_models import (
    EffectHeterogeneity,
    EffectPrior,
    ExperimentPlan,
    InterventionConfig,
    Reach,
    SimulationRecommendation,
    SimulationResult,
    SubgroupEffect,
    TrackRecord,
)
from schemas.subgroup_results import SubgroupResult
from schemas.twin_models import (
    Baseline,
    DigitalTwin,
    ModelCard,
    TwinModelMetrics,
    TwinPopulation,
)
from schemas.twin_types import TWIN_TYPES, Brand, TwinType, line_parts, model_line

__all__ = [
    "BUILT_IN",
    "DRIFT_RULES",
    "EVENTS",
    "INTERVENTIONS",
    "MODERATORS",
    "TWIN_TYPES",
    "AnswerStatus",
    "Baseline",
    "Brand",
    "Catalogue",
    "CatalogueEvent",
    "Channel",
    "Condition",
    "DigitalTwin",
    "DriftEvent",
    "DriftRule",
    "DriftState",
    "EffectHeterogeneity",
    "EffectPrior",
    "EffectsChoice",
    "EffectsEvent",
    "Event",
    "ExperimentPlan",
    "ExperimentResult",
    "FidelityErrors",
    "FidelityMetrics",
    "FidelityWindow",
    "Frequency",
    "InterventionConfig",
    "ModelCard",
    "ModelEvent",
    "OutcomeEvent",
    "PaneRow",
    "PopulationFidelityMetrics",
    "PopulationFilter",
    "Reach",
    "RealismReport",
    "RealismVerdict",
    "Relation",
    "RetrainEvent",
    "SimulationAnswer",
    "SimulationProgress",
    "SimulationRecommendation",
    "SimulationRequest",
    "SimulationResult",
    "SourceId",
    "SubgroupEffect",
    "SubgroupResult",
    "TrackRecord",
    "TrainingRequest",
    "TwinModelMetrics",
    "TwinPopulation",
    "TwinType",
    "Verdict",
    "catalogue_in_effect",
    "conditions",
    "in_effect",
    "install",
    "line_parts",
    "model_line",
]
