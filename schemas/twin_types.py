"""Twin types: their features, targets, filters, subgroups and constraints, those of the catalogue in effect and the built-in ones.

A new built-in feature, filter or segment is one entry here; the contract suites run over all entries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Literal, TypeVar

from pydantic import ConfigDict

from schemas.arrays import Floats
from schemas.base import require_one_of
from schemas.brands import Brand, KnownBrand, StoredBrand, brand_name, catalogue_brand
from schemas.catalogue_in_effect import MappingView, catalogue_in_effect
from schemas.levels import level_key, level_text
from schemas.relations import Relation

__all__ = [
    "ALL_ROWS",
    "BUILT_IN_TWIN_TYPES",
    "TWIN_TYPES",
    "Brand",
    "Feature",
    "KnownBrand",
    "PlausibleScale",
    "Ratio",
    "StoredBrand",
    "Target",
    "TwinType",
    "TwinTypeEntry",
    "brand_name",
    "catalogue_brand",
    "dimension_of_other",
    "filter_hint",
    "line_parts",
    "model_line",
    "other_segment",
    "segment_name",
]

Number = TypeVar("Number", float, Floats)
Kind = Literal["category", "integer", "number", "flag"]
_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

ALL_ROWS = "all"
"""Name of the series of all rows of a model line, as opposed to those of its segments."""


class TwinType(StrEnum):
    """The type of entity that a twin represents."""

    HCP = "hcp"
    PATIENT = "patient"
    TERRITORY = "territory"


@dataclass(frozen=True)
class Feature:
    """A column that twins of a type may have; ``low`` and ``high`` are inclusive bounds in ``unit``."""

    __pydantic_config__ = _STRICT

    name: str
    kind: Kind
    unit: str = ""
    low: int | float | None = None
    high: int | float | None = None

    @property
    def is_fraction(self) -> bool:
        """Whether the unit is a fraction from 0 to 1, so that 12 % is 0.12."""
        return (self.low, self.high) == (0, 1)


@dataclass(frozen=True)
class PlausibleScale:
    """Values that a target can plausibly have, by which a wrong unit is found.

    Attributes:
        low, high: an outcome beyond them, in the unit of the target, is hardly meant.
        other_units: units that outcomes are given in by mistake, and the factor that converts each to the unit of the target.
        largest_effect: an effect beyond it, up or down, is hardly meant; a fraction.
    """

    __pydantic_config__ = _STRICT

    low: float
    high: float
    other_units: Mapping[str, float] = field(default_factory=dict)
    largest_effect: float = 1.0

    def holds(self, outcome: float) -> bool:
        """Whether an outcome is plausible."""
        return self.low <= outcome <= self.high

    def likely_unit(self, outcome: float) -> str | None:
        """The other unit in which an implausible outcome would be plausible; None where the unit is not at fault.

        >>> TWIN_TYPES[TwinType.HCP].target().plausible.likely_unit(12.0)
        'percent'
        """
        if self.holds(outcome):
            return None
        return next((unit for unit, factor in self.other_units.items() if self.holds(outcome * factor)), None)


@dataclass(frozen=True)
class Target:
    """The outcome that a model line predicts.

    Attributes:
        scale: ``additive`` effects are points of the target, ``relative`` ones a share of its expected value or of ``share_of``.
        direction: +1 when a larger value is desired, -1 when a smaller one is.
        plausible: values and effects that are plausible.
        effect_unit: what an effect is a fraction of, as it is written after a percentage.
        share_of: feature that a relative effect is a share of; None for the expected value of the target.
    """

    __pydantic_config__ = _STRICT

    name: str
    unit: str
    scale: Literal["additive", "relative"]
    direction: Literal[1, -1]
    plausible: PlausibleScale
    effect_unit: str
    share_of: str | None = None

    @property
    def is_fraction(self) -> bool:
        """Whether the unit is a fraction, so that 12 % is 0.12."""
        return 0.01 in self.plausible.other_units.values()

    @property
    def is_change(self) -> bool:
        """Whether an outcome of 0 means that nothing has changed."""
        return self.scale == "additive" or self.share_of is not None

    def desired_change(self, base: Number) -> Number:
        """Change of the target, in its own unit, that corresponds to an effect of 1; elementwise for an array.

        Args:
            base: what a relative effect is a share of: the value of ``share_of``, or the expected value of the target.
        """
        return self.direction * (abs(base) if self.scale == "relative" else base * 0.0 + 1.0)

    def implausible_effect(self, effect: float) -> str | None:
        """Why an effect is implausible, with its likely unit; None for a plausible one.

        >>> print(TWIN_TYPES[TwinType.HCP].target().implausible_effect(5.0))
        5 is beyond the plausible effects on prescribing_change, -1 to 1 as a fraction: likely in percent (0.05)
        """
        largest = self.plausible.largest_effect
        if abs(effect) <= largest:
            return None
        units = [f"percent ({effect / 100:g})"] if abs(effect) <= 100 * largest else []
        if self.scale == "relative" and self.plausible.holds(abs(effect)):
            units.append(self.unit)
        likely = f"likely in {' or in '.join(units)}" if units else "in no unit that is known"
        return f"{effect:g} is beyond the plausible effects on {self.name}, {-largest:g} to {largest:g} as a fraction: {likely}"


@dataclass(frozen=True)
class Ratio:
    """A feature that is always the quotient of two others."""

    __pydantic_config__ = _STRICT

    name: str
    numerator: str
    denominator: str


@dataclass(frozen=True)
class TwinTypeEntry:
    """The catalogue entry of one twin type.

    Attributes:
        features: columns that twins of this type may have.
        targets: outcomes that model lines may predict; the first is the default.
        filters: fields of ``PopulationFilter`` to the features that they select on.
        dimensions: features by which effects are reported in subgroups, in display order.
        segments: low-cardinality features by which fidelity may be monitored.
        not_above: pairs (a, b) with a <= b in every row.
        relations: further relations that every twin satisfies; more are found in the training table.
        ratios: features that are computed from two others.
        by_name: features by name.
        declared: targets by name.
    """

    twin_type: TwinType
    features: tuple[Feature, ...]
    targets: tuple[Target, ...]
    filters: Mapping[str, str]
    dimensions: tuple[str, ...]
    segments: tuple[str, ...]
    not_above: tuple[tuple[str, str], ...] = ()
    relations: tuple[Relation, ...] = ()
    ratios: tuple[Ratio, ...] = ()
    by_name: Mapping[str, Feature] = field(init=False, repr=False, compare=False)
    declared: Mapping[str, Target] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", MappingProxyType({f.name: f for f in self.features}))
        object.__setattr__(self, "declared", MappingProxyType({target.name: target for target in self.targets}))

    @property
    def default_target(self) -> Target:
        """The first declared target."""
        return self.targets[0]

    def target(self, name: str | None = None) -> Target:
        """The declared target of that name, the default one without a name.

        Raises:
            ValueError: for a target that the catalogue does not declare.
        """
        if name is None:
            return self.default_target
        if name not in self.declared:
            require_one_of(f"target of {self.twin_type} twins", name, self.declared)
        return self.declared[name]


HCP = TwinTypeEntry(
    twin_type=TwinType.HCP,
    features=(
        Feature("specialty", "category"),
        Feature("years_experience", "integer", "years", 0, 70),
        Feature("practice_type", "category"),
        Feature("practice_size", "integer", "physicians", 0, None),
        Feature("region", "category"),
        Feature("decile", "integer", "10 = highest volume", 1, 10),
        Feature("priority_tier", "integer", "1 = highest value", 1, 5),
        Feature("total_patient_volume", "integer", "patients a year", 0, None),
        Feature("target_patient_volume", "integer", "patients a year", 0, None),
        Feature("digital_engagement_score", "number", "0 to 1", 0, 1),
        Feature("preferred_channel", "category"),
        Feature("last_interaction_days", "integer", "days", 0, None),
        Feature("interaction_frequency", "number", "contacts a month", 0, None),
        Feature("adoption_stage", "category"),
        Feature("peer_influence_score", "number", "0 to 1", 0, 1),
    ),
    targets=(
        Target(
            "prescribing_change",
            "share of last year's prescriptions",
            "additive",
            1,
            plausible=PlausibleScale(-1.0, 3.0, MappingProxyType({"percent": 0.01})),
            effect_unit="of last year's prescriptions",
        ),
    ),
    filters=MappingProxyType({"specialty": "specialty", "tier": "priority_tier", "region": "region", "decile": "decile"}),
    dimensions=("specialty", "priority_tier", "region", "adoption_stage"),
    segments=("specialty", "region", "priority_tier"),
    not_above=(("target_patient_volume", "total_patient_volume"),),
)

PATIENT = TwinTypeEntry(
    twin_type=TwinType.PATIENT,
    features=(
        Feature("age_group", "category"),
        Feature("gender", "category"),
        Feature("geographic_region", "category"),
        Feature("socioeconomic_index", "number", "0 to 100", 0, 100),
        Feature("primary_diagnosis_code", "category"),
        Feature("comorbidity_count", "integer", "conditions", 0, None),
        Feature("risk_score", "number", "0 to 1", 0, 1),
        Feature("journey_complexity_score", "number", "0 to 10", 0, 10),
        Feature("insurance_type", "category"),
        Feature("insurance_coverage_flag", "flag"),
        Feature("journey_stage", "category"),
        Feature("journey_duration_days", "integer", "days", 0, None),
        Feature("treatment_line", "integer", "1 = first", 1, 9),
    ),
    targets=(
        Target(
            "journey_progression_days",
            "days to the next stage",
            "relative",
            -1,
            plausible=PlausibleScale(0.0, 3650.0, MappingProxyType({"hours": 1 / 24, "minutes": 1 / 1440, "seconds": 1 / 86_400})),
            effect_unit="of the expected days saved",
        ),
    ),
    filters=MappingProxyType({"region": "geographic_region"}),
    dimensions=("journey_stage", "insurance_type", "geographic_region", "age_group"),
    segments=("geographic_region", "insurance_type", "journey_stage"),
)

TERRITORY = TwinTypeEntry(
    twin_type=TwinType.TERRITORY,
    features=(
        Feature("region", "category"),
        Feature("state_count", "integer", "states", 1, 60),
        Feature("zip_count", "integer", "postal codes", 1, None),
        Feature("total_hcps", "integer", "providers", 0, None),
        Feature("covered_hcps", "integer", "providers", 0, None),
        Feature("coverage_rate", "number", "share of providers", 0, 1),
        Feature("total_patient_volume", "integer", "patients a year", 0, None),
        Feature("market_share", "number", "share", 0, 1),
        Feature("competitor_presence_score", "number", "0 to 1", 0, 1),
        Feature("average_hcp_decile", "number", "1 to 10", 1, 10),
        Feature("urban_rural_mix", "number", "urban share", 0, 1),
        Feature("population_density", "number", "people a square mile", 0, None),
    ),
    targets=(
        Target(
            "market_share_change",
            "share of the market",
            "relative",
            1,
            plausible=PlausibleScale(-0.25, 0.25, MappingProxyType({"percentage points": 0.01})),
            effect_unit="of the present market share",
            share_of="market_share",
        ),
    ),
    filters=MappingProxyType({"region": "region", "decile": "average_hcp_decile"}),
    dimensions=("region",),
    segments=("region",),
    not_above=(("covered_hcps", "total_hcps"),),
    ratios=(Ratio("coverage_rate", "covered_hcps", "total_hcps"),),
)

BUILT_IN_TWIN_TYPES: Mapping[TwinType, TwinTypeEntry] = MappingProxyType(
    {entry.twin_type: entry for entry in (HCP, PATIENT, TERRITORY)}
)

TWIN_TYPES: Mapping[TwinType, TwinTypeEntry] = MappingView(lambda catalogue: catalogue.entries)
"""Twin types of the catalogue in effect."""


def filter_hint(name: str, filters: Mapping[str, str]) -> str:
    """What to say of a name that is a filter where a feature is needed; empty for any other name.

    >>> filter_hint("tier", HCP.filters)
    "it is a filter on 'priority_tier': "
    """
    return f"it is a filter on {filters[name]!r}: " if filters.get(name, name) != name else ""


def model_line(twin_type: TwinType, brand: str, target: str | None = None) -> str:
    """Name of a model line.

    Raises:
        ValueError: for a brand or a target that the catalogue in effect does not have.

    >>> model_line(TwinType.HCP, Brand.KISQALI)
    'hcp:kisqali:prescribing_change'
    """
    line: str = catalogue_in_effect().line(twin_type, brand, target)
    return line


def segment_name(dimension: str, level: object) -> str:
    """Name of the series of one level of a declared dimension, the same for every spelling of the level.

    >>> segment_name("priority_tier", 2.0), segment_name("region", "South ")
    ('priority_tier=2', 'region=south')
    """
    catalogue = catalogue_in_effect()
    if dimension in catalogue.spellings:
        level = catalogue.level_of(dimension, level_text(level) or "")
    return _segment_name(dimension, level)


@lru_cache(maxsize=10_000, typed=True)
def _segment_name(dimension: str, level: object) -> str:
    return f"{dimension}={level_key(level_text(level) or '')}"


def other_segment(dimension: str) -> str:
    """Name of the series of all values of a dimension that have no series of their own; no value has this name.

    >>> other_segment("region"), segment_name("region", "other")
    ('region:other', 'region=other')
    """
    return f"{dimension}:other"


def dimension_of_other(name: str) -> str | None:
    """Dimension of the series :func:`other_segment`; None for any other series.

    >>> dimension_of_other("region:other"), dimension_of_other("region=a:other"), dimension_of_other("all")
    ('region', None, None)
    """
    dimension, separator, _ = name.partition(":")
    return dimension if separator and "=" not in dimension else None


def line_parts(line: str) -> tuple[TwinType, str, str]:
    """Twin type, brand and target of a line's name.

    Raises:
        ValueError: when the name is not ``twin_type:brand:target`` of the catalogue.
    """
    parts = line.split(":")
    if len(parts) != 3:
        raise ValueError(f"model line {line!r} is not twin_type:brand:target, for example hcp:kisqali:prescribing_change")
    twin_type = TwinType(require_one_of("twin type", parts[0], TwinType))
    return twin_type, catalogue_brand(parts[1]), TWIN_TYPES[twin_type].target(parts[2]).name
