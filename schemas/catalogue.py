"""The catalogue: brands, campaigns, moderators, twin types, clinical terms, drift rules and thresholds, as one model.

The built-in catalogue is made of the literals of this package. A user's own is laid over it (:func:`laid_over`): it names only what
it adds or changes. :mod:`schemas.catalogue_in_effect` holds the one in effect.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, StringConstraints, ValidationError, ValidationInfo, model_validator

from schemas.base import Finite, Frozen, require_one_of
from schemas.catalogue_checks import CatalogueProblems, problems_of
from schemas.catalogue_in_effect import in_effect, install
from schemas.clinical_terms import BUILT_IN_TERMS, clinical_pattern
from schemas.fidelity_models import BUILT_IN_RULES, DriftRule
from schemas.interventions import (
    BUILT_IN_INTERVENTIONS,
    BUILT_IN_MODERATORS,
    REFERENCE_WEEKS,
    Frequency,
    Intervention,
    Moderator,
)
from schemas.levels import level_key
from schemas.past_experiments import with_campaign_defaults
from schemas.relations import Relation
from schemas.simulation_models import InterventionConfig
from schemas.thresholds import ConfidenceThreshold, EffectThreshold, LineThresholds
from schemas.twin_types import BUILT_IN_TWIN_TYPES, Brand, Feature, Ratio, Target, TwinType, TwinTypeEntry
from schemas.written_entries import written_problems

__all__ = ["BUILT_IN", "BrandEntry", "Catalogue", "ThresholdEntry", "Thresholds", "TwinTypeFields", "entry_problems", "laid_over"]

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,59}$")]
ColumnName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,99}$")]


def _named(field: str) -> BeforeValidator:
    """Entries that are written under their name have it in ``field``."""

    def with_names(entries: Any) -> Any:
        if not isinstance(entries, Mapping):
            return entries
        return {name: {**entry, field: name} if isinstance(entry, Mapping) else entry for name, entry in entries.items()}

    return BeforeValidator(with_names)


class BrandEntry(Frozen):
    """A brand; ``label`` is its name on screens, by default its own with a capital."""

    label: str = Field(default="", max_length=100)


class TwinTypeFields(Frozen):
    """The features, targets and names of one twin type; see :class:`schemas.twin_types.TwinTypeEntry`."""

    features: Annotated[dict[ColumnName, Feature], _named("name")]
    targets: Annotated[dict[ColumnName, Target], _named("name")] = Field(min_length=1)
    filters: dict[str, str] = Field(default_factory=dict)
    dimensions: tuple[str, ...] = ()
    segments: tuple[str, ...] = ()
    not_above: tuple[tuple[str, str], ...] = ()
    relations: tuple[Relation, ...] = ()
    ratios: Annotated[dict[ColumnName, Ratio], _named("name")] = Field(default_factory=dict)

    def entry(self, twin_type: TwinType) -> TwinTypeEntry:
        """The entry of a twin type with these fields."""
        return TwinTypeEntry(
            twin_type=twin_type,
            features=tuple(self.features.values()),
            targets=tuple(self.targets.values()),
            filters=self.filters,
            dimensions=self.dimensions,
            segments=self.segments,
            not_above=self.not_above,
            relations=self.relations,
            ratios=tuple(self.ratios.values()),
        )


class ThresholdEntry(Frozen):
    """What a recommendation needs, and limits of drift rules by their name; what is left out is that of the next wider entry."""

    min_effect_threshold: EffectThreshold | None = None
    confidence_threshold: ConfidenceThreshold | None = None
    require_test: bool | None = None
    drift_limits: dict[str, Finite] = Field(default_factory=dict)


class Thresholds(Frozen):
    """Thresholds of all lines, of the lines of a brand, and of single lines; the narrower entry decides."""

    all: ThresholdEntry = ThresholdEntry()
    brands: dict[str, ThresholdEntry] = Field(default_factory=dict)
    lines: dict[str, ThresholdEntry] = Field(default_factory=dict)


class Catalogue(Frozen):
    """What twins, campaigns and outcomes can be about.

    Attributes:
        brands, campaigns, moderators, twin_types, drift_rules: entries by name; a moderator is named after its feature.
        levels: of categories, by column: each level with its other spellings, which mean the same everywhere.
        clinical_terms: words by which a column, target or campaign is refused as clinical.
        thresholds: of recommendations, and limits of drift rules.
        version: number under which it was applied; 0 for the built-in one and for one that is not applied. It is no content.
    """

    brands: dict[Name, BrandEntry]
    campaigns: Annotated[dict[Name, Intervention], BeforeValidator(with_campaign_defaults), _named("name")]
    moderators: Annotated[dict[ColumnName, Moderator], _named("column")]
    twin_types: dict[TwinType, TwinTypeFields]
    levels: dict[ColumnName, dict[str, tuple[str, ...]]] = Field(default_factory=dict)
    clinical_terms: tuple[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")], ...]
    drift_rules: Annotated[dict[Name, DriftRule], _named("name")]
    thresholds: Thresholds = Thresholds()
    version: int = Field(default=0, ge=0, exclude=True)

    @model_validator(mode="after")
    def _is_consistent(self, info: ValidationInfo) -> Self:
        if info.context and info.context.get("is_applied"):
            return self
        if problems := problems_of(self, _BUILT_IN[0] if _BUILT_IN else self):
            raise CatalogueProblems(problems)
        return self

    def with_entries(self, entries: Mapping[str, Any]) -> Catalogue:
        """This catalogue with entries laid over its own, section by section; see :func:`laid_over`.

        Raises:
            ValueError: for what a catalogue cannot have; the message names the entries.

        >>> BUILT_IN.with_entries({"brands": {"acmezumab": {"label": "Acmezumab"}}}).label_of("acmezumab")
        'Acmezumab'
        """
        if contradictions := entry_problems(entries, self):
            raise ValueError("; ".join(f"{'.'.join(path)}: {text}" for path, text in contradictions))
        try:
            return Catalogue.model_validate(laid_over(entries, self))
        except ValidationError as error:
            raise ValueError("; ".join(map(_problem_text, error.errors(include_url=False, include_input=False)))) from None

    def intervention(self, intervention_type: str, **fields: Any) -> InterventionConfig:
        """One of its campaigns to simulate: by its own channel, monthly for 12 weeks, except for what ``fields`` say.

        Raises:
            ValueError: for a campaign that it does not have, and fields that no intervention can have.

        >>> BUILT_IN.intervention("email_campaign", duration_weeks=8).channel
        'email'
        """
        campaign = self.campaigns[require_one_of("intervention_type", intervention_type, self.campaigns)]
        usual = {"channel": campaign.channel.value, "frequency": Frequency.MONTHLY.value, "duration_weeks": REFERENCE_WEEKS}
        with in_effect(self):
            return InterventionConfig(intervention_type=intervention_type, **{**usual, **fields})

    def to_text(self) -> str:
        """The content as JSON: equal catalogues have equal texts, and the order of entries, which has a meaning, stays."""
        return json.dumps(self.model_dump(mode="json"), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str, version: int) -> Self:
        """The catalogue of a text of :meth:`to_text` that was applied: what it may be was checked before that."""
        catalogue = cls.model_validate_json(text, context={"is_applied": True})
        return catalogue.model_copy(update={"version": version})

    @cached_property
    def sha256(self) -> str:
        """Digest of the content."""
        return hashlib.sha256(self.to_text().encode()).hexdigest()

    @cached_property
    def entries(self) -> Mapping[TwinType, TwinTypeEntry]:
        """The entry of each twin type."""
        return {twin_type: fields.entry(twin_type) for twin_type, fields in self.twin_types.items()}

    @cached_property
    def moderator_list(self) -> tuple[Moderator, ...]:
        """All moderators, in their order."""
        return tuple(self.moderators.values())

    @cached_property
    def moderator_terms(self) -> tuple[str, ...]:
        """Names of all coefficients of moderators, ``feature`` or ``feature=level``, in their order."""
        return tuple(
            term
            for moderator in self.moderators.values()
            for term in ([moderator.column] if moderator.slope else [f"{moderator.column}={level}" for level in moderator.levels])
        )

    @cached_property
    def rules(self) -> tuple[DriftRule, ...]:
        """All drift rules with the limits of all lines."""
        limits = self.thresholds.all.drift_limits
        return tuple(rule.model_copy(update={"limit": limits.get(rule.name, rule.limit)}) for rule in self.drift_rules.values())

    @cached_property
    def base_effects(self) -> Mapping[str, float]:
        """Mean effect of each campaign at its reference dose."""
        return MappingProxyType({name: campaign.effect.mean for name, campaign in self.campaigns.items()})

    @cached_property
    def column_names(self) -> frozenset[str]:
        """Features of all twin types, and names of their filters."""
        return frozenset(name for entry in self.entries.values() for name in (*entry.by_name, *entry.filters))

    @cached_property
    def spellings(self) -> Mapping[str, Mapping[str, str]]:
        """By column: the declared level of each of its spellings, by the key of the spelling."""
        return {
            column: {level_key(text): level for level, others in levels.items() for text in (level, *others)}
            for column, levels in self.levels.items()
        }

    def level_of(self, column: str, text: str) -> str:
        """The declared level that a text is in a column, in any spelling; the text itself where none is declared for it."""
        by_key = self.spellings.get(column)
        return text if by_key is None else by_key.get(level_key(text), text)

    @cached_property
    def clinical_names(self) -> Any:
        """Pattern of the clinical terms in the name of a column."""
        return clinical_pattern(self.clinical_terms)

    @cached_property
    def line(self) -> Any:
        """Function of twin type, brand and target that gives the name of their model line; cached."""
        return lru_cache(maxsize=1000)(self._line)

    def _line(self, twin_type: TwinType, brand: str, target: str | None = None) -> str:
        require_one_of("brand", brand, self.brands)
        return f"{TwinType(twin_type).value}:{brand!s}:{self.entries[twin_type].target(target).name}"

    @cached_property
    def thresholds_of(self) -> Any:
        """Function of a line's name (None for any line) that gives its thresholds in this catalogue; cached."""
        return lru_cache(maxsize=1000)(self._thresholds_of)

    def _thresholds_of(self, line: str | None = None) -> LineThresholds:
        entries = [self.thresholds.all]
        if line is not None:
            brand = line.split(":")[1] if line.count(":") == 2 else ""
            entries += [self.thresholds.brands.get(brand, ThresholdEntry()), self.thresholds.lines.get(line, ThresholdEntry())]
        values: dict[str, Any] = {}
        for entry in entries:
            values |= entry.model_dump(exclude_none=True, exclude={"drift_limits"})
        limits = {name: limit for entry in entries[1:] for name, limit in entry.drift_limits.items()}
        return LineThresholds(**values, catalogue_limits=limits)

    def label_of(self, brand: str) -> str:
        """Name of a brand on screens."""
        entry = self.brands.get(brand)
        return (entry.label if entry else "") or brand.replace("_", " ").capitalize()


def _problem_text(problem: Mapping[str, Any]) -> str:
    place, text = ".".join(map(str, problem["loc"])), problem["msg"].removeprefix("Value error, ")
    return f"{place}: {text}" if place else text


_Tree = dict[str, Any]
_BUILT_IN: list[Catalogue] = []


def _plain(value: Any) -> Any:
    """Literals as data: each dataclass and mapping as a dictionary."""
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value) if field.init}
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return tuple(map(_plain, value)) if isinstance(value, tuple) else value


def _twin_type_data(entry: TwinTypeEntry) -> _Tree:
    named = {"features": entry.by_name, "targets": entry.declared, "ratios": {ratio.name: ratio for ratio in entry.ratios}}
    others = {name: getattr(entry, name) for name in ("filters", "dimensions", "segments", "not_above", "relations")}
    return {name: _plain(value) for name, value in (named | others).items()}


BUILT_IN = Catalogue.model_validate(
    {
        "brands": {brand.value: {} for brand in Brand},
        "campaigns": _plain(BUILT_IN_INTERVENTIONS),
        "moderators": _plain({moderator.column: moderator for moderator in BUILT_IN_MODERATORS}),
        "twin_types": {twin_type: _twin_type_data(entry) for twin_type, entry in BUILT_IN_TWIN_TYPES.items()},
        "clinical_terms": BUILT_IN_TERMS,
        "drift_rules": {rule.name: rule for rule in BUILT_IN_RULES},
    }
)
"""The catalogue of the brief, in effect until another one is."""

_BUILT_IN.append(BUILT_IN)
install(BUILT_IN)


def entry_problems(top: Mapping[str, Any], base: Catalogue) -> list[tuple[tuple[str, ...], str]]:
    """What is wrong in a user's entries as they are written, by their paths; :func:`laid_over` does not show it."""
    return [*written_problems(top, base.model_dump(mode="json"))]


def laid_over(top: Mapping[str, Any], base: Catalogue = BUILT_IN) -> _Tree:
    """The fields of a catalogue with those of ``top`` laid over them, as data to make a :class:`Catalogue` of.

    Entries are laid over entries, field by field; null takes an entry out; any other value, also a list, replaces the one below it.
    A section without entries changes nothing, and clinical terms add up. A replaced effect has another source.
    """
    below: _Tree = base.model_dump(mode="json")
    over = {section: entries for section, entries in top.items() if entries is not None}
    if isinstance(terms := over.get("clinical_terms"), list):
        over["clinical_terms"] = [*below["clinical_terms"], *(term for term in terms if term not in below["clinical_terms"])]
    for name, campaign in (over.get("campaigns") or {}).items() if isinstance(over.get("campaigns"), Mapping) else ():
        if isinstance(campaign, Mapping) and campaign.keys() & {"effect", "past_experiments"}:
            below["campaigns"].get(name, {}).pop("source", None)
            below["campaigns"].get(name, {}).pop("past_experiments", None)
    merged: _Tree = _merge(below, over)
    return merged


def _merge(below: Any, above: Any) -> Any:
    if not isinstance(below, Mapping) or not isinstance(above, Mapping):
        return above
    merged = {**below, **{name: _merge(below.get(name), value) for name, value in above.items()}}
    return {name: value for name, value in merged.items() if name not in above or above[name] is not None}
