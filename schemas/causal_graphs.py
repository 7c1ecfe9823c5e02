"""Assumed causal graphs per twin type, by which the features of the outcome are selected.

A graph is an assumption, not a result of the data. Users can replace it by an argument of ``TwinGenerator`` or by a JSON file in
``TWIN_CAUSAL_GRAPHS``, ``{"hcp": {"treatment": ..., "edges": [[cause, effect], ...]}}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Self

from pydantic import ConfigDict, Field, model_validator

from schemas.base import Frozen
from schemas.twin_types import TwinType

__all__ = ["CAUSAL_GRAPHS", "CausalGraph", "Edge", "FeatureSelection", "Refutation"]

Edge = tuple[str, str]


class CausalGraph(Frozen):
    """A directed graph of columns.

    Attributes:
        treatment: the intervention: a column, or a quantity that only a simulation or an experiment sets.
        edges: pairs (cause, effect). A column that a table lacks counts as unobserved.
    """

    treatment: str
    edges: tuple[Edge, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _treatment_is_a_node(self) -> Self:
        if self.treatment not in self.nodes:
            raise ValueError(f"the treatment {self.treatment!r} is in no edge: the graph has {', '.join(sorted(self.nodes))}")
        return self

    def about(self, outcome: str, default: str) -> Self:
        """The graph with an outcome in place of the built-in one of its twin type, unless it has that outcome itself.

        An own target is assumed to have the causes of the built-in one, until a graph of one's own says otherwise.
        """
        if outcome in self.nodes or default not in self.nodes:
            return self
        renamed = tuple((outcome if a == default else a, outcome if b == default else b) for a, b in self.edges)
        return self.model_copy(update={"edges": renamed})

    @property
    def nodes(self) -> frozenset[str]:
        """All causes and effects."""
        return frozenset(name for edge in self.edges for name in edge)


class Refutation(Frozen):
    """Result of a refutation test of an estimated effect, which a causal effect passes.

    Attributes:
        test: the change to the data, and the expected result.
        estimate, after: effect of the treatment on the outcome, units of the target, before and after the change.
        p_value: of the null hypothesis of the expected result; small values are evidence against the graph.
    """

    test: str
    estimate: float
    after: float
    p_value: float | None = None

    @property
    def survived(self) -> bool:
        """Whether the test is consistent with the graph at the 5 % level."""
        return self.p_value is None or self.p_value >= 0.05


class FeatureSelection(Frozen):
    """The features that the expected outcome is learned from, and the reasons why other columns are not.

    Attributes:
        graph: the causal graph behind the selection.
        features: features of the outcome, in the order of the table; stored under the name ``kept``.
        adjustment: smallest set of columns that closes every backdoor path from treatment to outcome; null when the table's
            columns do not close all of them.
        lacking: columns outside of the table that would close them.
        outcome_parents: direct causes of the outcome in the graph.
        undeclared: columns that are not in the graph; they are features, on the assumption that they were measured before the
            treatment.
        dropped: the other columns with the reason.
        checked_by: library that identified the same adjustment independently; null without a check.
        refutations: tests of the estimated effect, run at training where the table has the treatment.
    """

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    graph: CausalGraph
    features: tuple[str, ...] = Field(alias="kept")
    adjustment: tuple[str, ...] | None
    lacking: tuple[str, ...] = ()
    outcome_parents: tuple[str, ...] = ()
    undeclared: tuple[str, ...] = ()
    dropped: dict[str, str] = Field(default_factory=dict)
    checked_by: str | None = None
    refutations: tuple[Refutation, ...] = ()


def _causes(effect: str, *causes: str) -> tuple[Edge, ...]:
    return tuple((cause, effect) for cause in causes)


HCP_GRAPH = CausalGraph(
    treatment="campaign_contact",
    edges=(
        *_causes("total_patient_volume", "specialty", "practice_size", "region"),
        *_causes("target_patient_volume", "specialty", "total_patient_volume"),
        *_causes("decile", "total_patient_volume", "specialty"),
        *_causes("priority_tier", "decile"),
        *_causes("practice_size", "practice_type"),
        *_causes("digital_engagement_score", "years_experience"),
        *_causes("preferred_channel", "digital_engagement_score"),
        *_causes("adoption_stage", "digital_engagement_score", "specialty", "peer_influence_score"),
        *_causes("peer_influence_score", "years_experience", "decile"),
        *_causes("interaction_frequency", "decile"),
        *_causes("last_interaction_days", "interaction_frequency"),
        *_causes(
            "campaign_contact",
            "priority_tier",
            "specialty",
            "region",
            "preferred_channel",
            "interaction_frequency",
            "last_interaction_days",
            "sales_force_capacity",
        ),
        *_causes("samples_received", "campaign_contact"),
        *_causes("event_attendance", "campaign_contact"),
        *_causes(
            "prescribing_change",
            "campaign_contact",
            "samples_received",
            "event_attendance",
            "specialty",
            "years_experience",
            "practice_type",
            "practice_size",
            "region",
            "decile",
            "total_patient_volume",
            "target_patient_volume",
            "digital_engagement_score",
            "interaction_frequency",
            "last_interaction_days",
            "adoption_stage",
            "peer_influence_score",
        ),
        *_causes("next_year_claims", "prescribing_change"),
    ),
)

PATIENT_GRAPH = CausalGraph(
    treatment="support_contact",
    edges=(
        *_causes("insurance_type", "age_group", "socioeconomic_index"),
        *_causes("insurance_coverage_flag", "insurance_type"),
        *_causes("comorbidity_count", "age_group"),
        *_causes("risk_score", "age_group", "comorbidity_count"),
        *_causes("journey_complexity_score", "comorbidity_count", "primary_diagnosis_code"),
        *_causes("journey_duration_days", "treatment_line", "journey_complexity_score"),
        *_causes("treatment_line", "primary_diagnosis_code"),
        *_causes("support_contact", "insurance_type", "journey_stage", "geographic_region", "programme_capacity"),
        *_causes("programme_enrolment", "support_contact"),
        *_causes(
            "journey_progression_days",
            "support_contact",
            "programme_enrolment",
            "age_group",
            "gender",
            "geographic_region",
            "socioeconomic_index",
            "primary_diagnosis_code",
            "comorbidity_count",
            "risk_score",
            "journey_complexity_score",
            "insurance_type",
            "insurance_coverage_flag",
            "journey_stage",
            "journey_duration_days",
            "treatment_line",
        ),
        *_causes("next_stage", "journey_progression_days"),
    ),
)

TERRITORY_GRAPH = CausalGraph(
    treatment="sales_investment",
    edges=(
        *_causes("population_density", "urban_rural_mix"),
        *_causes("total_hcps", "population_density", "zip_count"),
        *_causes("zip_count", "state_count", "region"),
        *_causes("covered_hcps", "total_hcps"),
        *_causes("coverage_rate", "covered_hcps", "total_hcps"),
        *_causes("total_patient_volume", "total_hcps"),
        *_causes("average_hcp_decile", "urban_rural_mix"),
        *_causes("competitor_presence_score", "urban_rural_mix"),
        *_causes("market_share", "competitor_presence_score", "coverage_rate"),
        *_causes("sales_investment", "region", "coverage_rate", "market_share", "total_patient_volume", "budget_cycle"),
        *_causes("calls_made", "sales_investment"),
        *_causes(
            "market_share_change",
            "sales_investment",
            "calls_made",
            "region",
            "state_count",
            "zip_count",
            "total_hcps",
            "covered_hcps",
            "coverage_rate",
            "total_patient_volume",
            "market_share",
            "competitor_presence_score",
            "average_hcp_decile",
            "urban_rural_mix",
            "population_density",
        ),
    ),
)

CAUSAL_GRAPHS: Mapping[TwinType, CausalGraph] = MappingProxyType(
    {TwinType.HCP: HCP_GRAPH, TwinType.PATIENT: PATIENT_GRAPH, TwinType.TERRITORY: TERRITORY_GRAPH}
)
"""Default graph of each twin type: features of the catalogue are measured before a campaign, so none of them is its effect."""
