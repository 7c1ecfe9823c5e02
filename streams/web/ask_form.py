"""The form that asks for a simulation: what it offers, what was typed into it, and the request that follows from that.

Everything on offer comes from the catalogue in effect and from the card of a line's champion. A value that the form cannot take is
told beside its field, and what was typed stays there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from schemas import (
    INTERVENTIONS,
    TWIN_TYPES,
    Channel,
    Frequency,
    ModelCard,
    PopulationFilter,
    SimulationRequest,
    line_parts,
)
from schemas.base import shorten
from schemas.events import MAX_ALTERNATIVES, MAX_TWINS, MIN_TWINS
from schemas.filters import Condition, conditions
from schemas.interventions import REFERENCE_FREQUENCY, REFERENCE_WEEKS, Intervention
from schemas.levels import level_key
from schemas.simulation_models import InterventionConfig
from schemas.thresholds import LineThresholds
from schemas.twin_types import Feature, TwinType
from streams.web.typed_fields import TypedFields

__all__ = ["AskForm", "AskOffer", "FilterField", "LevelChoice", "request_parameters"]

_MOST_LEVELS = 200
_MOST_NUMBERS = 12
_WEEKS = (1, 104)
_LARGEST_INTENSITY = 3.0
_INTENSITIES = f"a number above 0, at most {_LARGEST_INTENSITY:g}; 1 is usual"
_FLAG_LEVELS = ("true", "false")


class LevelChoice(NamedTuple):
    """A level that can be picked, and the number of real rows with it; None where that is not known."""

    value: str
    rows: int | None = None


class FilterField(NamedTuple):
    """A feature to filter by: some of its ``levels``, or a range of numbers where it has none; ``note`` is its unit."""

    name: str
    levels: tuple[LevelChoice, ...] = ()
    note: str = ""
    is_declared: bool = False


@dataclass(frozen=True)
class AskOffer:
    """What can be asked of a line.

    Attributes:
        lines: the lines that have a champion.
        line: the chosen one, with its champion and its thresholds.
    """

    lines: tuple[str, ...]
    line: str
    card: ModelCard
    thresholds: LineThresholds

    @property
    def twin_type(self) -> TwinType:
        """The type of the line's twins."""
        return self.card.twin_type

    @property
    def campaigns(self) -> list[Intervention]:
        """The campaigns of the catalogue that are meant for these twins."""
        return [entry for entry in INTERVENTIONS.values() if not entry.twin_types or self.twin_type in entry.twin_types]

    @property
    def filters(self) -> list[FilterField]:
        """The features of the champion, those that the catalogue declares as filters first."""
        entry = TWIN_TYPES[self.twin_type]
        declared = list(entry.filters.values())
        fields = (_filter_field(self.card, name, is_declared=name in declared) for name in self.card.features)
        return sorted(fields, key=lambda field: not field.is_declared)


def _filter_field(card: ModelCard, name: str, *, is_declared: bool) -> FilterField:
    feature = TWIN_TYPES[card.twin_type].by_name.get(name) or Feature(name, card.own_features[name])
    if feature.kind == "flag":
        return FilterField(name, tuple(map(LevelChoice, _FLAG_LEVELS)), is_declared=is_declared)
    if feature.kind == "category":
        return FilterField(name, tuple(_levels(card, name)), is_declared=is_declared)
    if feature.kind == "integer" and feature.low is not None and feature.high is not None:
        low, high = int(feature.low), int(feature.high)
        if high - low < _MOST_NUMBERS:
            numbers = tuple(LevelChoice(str(number)) for number in range(low, high + 1))
            return FilterField(name, numbers, feature.unit, is_declared)
    return FilterField(name, (), feature.unit, is_declared)


def _levels(card: ModelCard, name: str) -> Iterator[LevelChoice]:
    """The levels of a category, the most frequent ones where there are many, in their order."""
    histogram = card.baseline.inputs.get(name)
    counts = {level_key(level): n for level, n in zip(histogram.levels, histogram.counts, strict=False)} if histogram else {}
    levels = card.baseline.levels.get(name) or (histogram.levels if histogram else ())
    frequent = set(sorted(levels, key=lambda level: -counts.get(level_key(level), 0))[:_MOST_LEVELS])
    return (LevelChoice(level, counts.get(level_key(level))) for level in levels if level in frequent)


class AskForm(TypedFields):
    """What was typed, read against what is on offer.

    Args:
        pairs: name and value of each field.
        offer: of the chosen line.

    Attributes:
        alternatives: how many alternatives have fields: one more than are filled in where another one was asked for, at least one.
        request: the fields of the request; of no use where there are errors.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]], offer: AskOffer) -> None:
        super().__init__(pairs)
        self._offer = offer
        filled = max((n for n in range(1, MAX_ALTERNATIVES + 1) if self.text(f"campaign{n}")), default=0)
        self.alternatives = max(1, min(MAX_ALTERNATIVES, filled + ("more" in self.typed)))
        self.request = self._read()

    @property
    def slots(self) -> list[str]:
        """The endings of the names of each campaign's fields: of the one that is asked about, then of its alternatives."""
        return ["", *(str(number) for number in range(1, self.alternatives + 1))]

    @property
    def filters(self) -> PopulationFilter:
        """The filters alone.

        Raises:
            ValueError: for one that cannot be.
        """
        return PopulationFilter.model_validate(self.request["filters"])

    def extra_levels(self, field: FilterField) -> list[str]:
        """Levels that were picked, and are not among those on offer."""
        offered = {level.value for level in field.levels}
        return [value for value in self.chosen(f"in.{field.name}") if value not in offered]

    def _read(self) -> dict[str, Any]:
        line = self.text("line", self._offer.line)
        if line not in self._offer.lines:
            self.errors["line"] = f"No line {shorten(line)} has a model: choose one of {', '.join(self._offer.lines)}."
        twin_type, brand, target = line_parts(self._offer.line)
        slots = [slot for slot in self.slots if not slot or self.text(f"campaign{slot}")]
        campaigns = [self._campaign(slot) for slot in slots]
        optional = {
            "twin_count": self.whole("twins", MIN_TWINS, MAX_TWINS),
            "min_effect_threshold": self.percent("min_effect", 0.01, 99.99),
            "confidence_threshold": self.percent("confidence", 50.01, 99.99),
        }
        return {
            "twin_type": twin_type.value,
            "brand": brand,
            "target": target,
            "intervention": campaigns[0],
            "alternatives": campaigns[1:],
            "filters": dict(self._filters()),
            **{name: value for name, value in optional.items() if value is not None},
        }

    def _campaign(self, slot: str) -> dict[str, Any]:
        campaigns = {entry.name: entry for entry in self._offer.campaigns}
        name = self.one_of(f"campaign{slot}", "campaign for this line called", campaigns, "")
        if not name:
            self.errors[f"campaign{slot}"] = f"Choose a campaign: {', '.join(campaigns)}."
        own_channel = campaigns[name].channel if name in campaigns else ""
        weeks = self.whole(f"weeks{slot}", *_WEEKS)
        fields = {
            "intervention_type": name,
            "channel": self.one_of(f"channel{slot}", "channel", list(Channel), own_channel),
            "frequency": self.one_of(f"frequency{slot}", "frequency", list(Frequency), REFERENCE_FREQUENCY),
            "duration_weeks": REFERENCE_WEEKS if weeks is None else weeks,
            "intensity": self.number(f"intensity{slot}", _is_intensity, _INTENSITIES),
            "variant": self.text(f"variant{slot}") or None,
        }
        return {name: value for name, value in fields.items() if value is not None}

    def _filters(self) -> Iterator[tuple[str, Any]]:
        for field in self._offer.filters:
            if levels := self.chosen(f"in.{field.name}"):
                yield field.name, levels
            if field.levels:
                continue
            low, high = (self.number(f"{bound}.{field.name}", math.isfinite, "a number, such as 0.5") for bound in ("min", "max"))
            if low is not None and high is not None and low > high:
                self.errors[f"max.{field.name}"] = (
                    f"Nobody is at least {low:g} and at most {high:g}: raise this, or lower the other."
                )
            yield from ((f"{bound}_{field.name}", value) for bound, value in (("min", low), ("max", high)) if value is not None)


def _is_intensity(value: float) -> bool:
    return 0 < value <= _LARGEST_INTENSITY


def request_parameters(request: SimulationRequest, offer: AskOffer) -> list[tuple[str, str]]:
    """The names and values that fill the form with what an earlier request asked for.

    Raises:
        ValueError: for a filter that the catalogue in effect does not know.
    """
    pairs = [("line", request.line)]
    for number, campaign in enumerate((request.intervention, *request.alternatives)):
        pairs += _campaign_parameters(campaign, str(number or ""))
    pairs += _filter_parameters(request, offer)
    numbers = {
        "twins": request.twin_count,
        "min_effect": request.min_effect_threshold and request.min_effect_threshold * 100,
        "confidence": request.confidence_threshold and request.confidence_threshold * 100,
    }
    return pairs + [(name, f"{value:.10g}") for name, value in numbers.items() if value is not None]


def _filter_parameters(request: SimulationRequest, offer: AskOffer) -> Iterator[tuple[str, str]]:
    """The picked levels and the bounds of each feature; a bound on a feature with levels picks those within it."""
    by_column: dict[str, list[Condition]] = {}
    for condition in conditions(request.twin_type, request.filters, offer.card.own_features):
        by_column.setdefault(condition.column, []).append(condition)
    levels = {field.name: [level.value for level in field.levels] for field in offer.filters}
    for column, of_column in by_column.items():
        listed = [str(value) for condition in of_column if condition.operator == "in" for value in condition.values]
        bounds = [condition for condition in of_column if condition.operator != "in"]
        if bounds and levels.get(column):
            within = pd.Series([float(level) for level in levels[column]])
            met = np.logical_and.reduce([condition.mask(within) for condition in bounds])
            listed += [level for level, is_met in zip(levels[column], met, strict=True) if is_met]
            bounds = []
        spelled = {level_key(level): level for level in levels.get(column, ())}
        yield from ((f"in.{column}", spelled.get(level_key(value), value)) for value in listed)
        yield from ((f"{condition.operator}.{column}", str(condition.values[0])) for condition in bounds)


def _campaign_parameters(campaign: InterventionConfig, slot: str) -> list[tuple[str, str]]:
    values = {
        "campaign": campaign.intervention_type,
        "channel": campaign.channel,
        "frequency": campaign.frequency,
        "weeks": campaign.duration_weeks,
        "intensity": campaign.intensity,
        "variant": campaign.variant,
    }
    return [(f"{name}{slot}", str(value)) for name, value in values.items() if value is not None]
