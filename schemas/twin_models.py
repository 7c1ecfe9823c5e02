"""Twins, their populations, and the card, metrics and baseline of the model that generated them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol, Self
from uuid import UUID, uuid5

import pandas as pd
from pydantic import ConfigDict, Field, PrivateAttr, model_validator

from schemas.arrays import require_finite
from schemas.base import Finite, Frozen, Moment, Record
from schemas.columns import Columns
from schemas.filters import Condition, conditions
from schemas.model_cards import (
    FEWEST_FOR_CORRELATION,
    Baseline,
    Effects,
    Errors,
    ExpectedErrors,
    Histogram,
    LossMoments,
    ModelCard,
    ModelType,
    NewLevels,
    OutcomeSpread,
    TwinModelMetrics,
)
from schemas.realism import RealismReport, RealismVerdict, not_assessed
from schemas.twin_types import TWIN_TYPES, Brand, Kind, TwinType

__all__ = [
    "BEHAVIOUR",
    "FEWEST_FOR_CORRELATION",
    "LOWER",
    "UPPER",
    "Baseline",
    "Brand",
    "DigitalTwin",
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
    "TwinPopulation",
    "TwinType",
    "twins_to_frame",
]

BEHAVIOUR = "baseline_behavior"
LOWER = "baseline_lower"
UPPER = "baseline_upper"


class SpreadSource(Protocol):
    """Measures the spread of outcomes between training rows."""

    def spread(self, required: Sequence[Condition], /) -> OutcomeSpread:
        """Of the rows that satisfy every condition."""
        ...


class DigitalTwin(Record):
    """One synthetic entity; ``baseline_behavior`` is its expected outcome without any intervention, in units of the target."""

    twin_id: UUID
    model_id: UUID
    twin_type: TwinType
    features: dict[str, Any]
    baseline_behavior: Finite
    metadata: dict[str, Any] = Field(default_factory=dict)


class TwinPopulation(Frozen):
    """``twin_count`` twins as a table; made of a ``frame`` and its ``model``, or of ``twins``, which need no model.

    Attributes:
        frame: one row per twin, RangeIndex: the features, the drawn outcome in a column named after the target, the expected
            outcome ``baseline_behavior``, and its 95 % prediction interval ``baseline_lower``, ``baseline_upper``.
        model: the card of the model that generated them; null for twins without one, whose metadata names their target.
        real_rows: training rows that satisfy the filters.
        spread: of the outcomes of these rows; null where it was never measured.
        realism: of twins with these filters, never of others; null until it is measured (``TwinModel.assess_population``).
        unassessed: why it could not be measured; null where it was, or where nobody tried.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True, extra="forbid", protected_namespaces=())

    population_id: UUID
    model_id: UUID
    name: str
    description: str = ""
    twin_count: int = Field(ge=1)
    filters_applied: dict[str, Any] = Field(default_factory=dict)
    seed: int = 0
    real_rows: int | None = None
    spread: OutcomeSpread | None = None
    realism: RealismReport | None = None
    unassessed: str | None = None
    model: ModelCard | None = None
    created_at: Moment | None = None
    expires_at: Moment | None = None
    frame: pd.DataFrame = Field(repr=False, exclude=True)
    _twins: tuple[DigitalTwin, ...] = PrivateAttr(default=())
    _columns: Columns | None = PrivateAttr(default=None)
    _spreads: SpreadSource | None = PrivateAttr(default=None)

    def __init__(self, *, twins: Sequence[DigitalTwin | Mapping[str, Any]] | None = None, **fields: Any) -> None:
        members = tuple(twin if isinstance(twin, DigitalTwin) else DigitalTwin.model_validate(twin) for twin in twins or ())
        if members:
            model = fields.get("model")
            card = None if model is None else ModelCard.model_validate(model)
            fields["frame"] = twins_to_frame(members, _target_of(members, card), _features_of(members, card))
            fields.setdefault("twin_count", len(members))
        super().__init__(**fields)
        if self.model is None and not members:
            raise ValueError("a population that is made of a frame needs the card of its model")
        self._twins = members

    def model_dump(self, *, twins: bool = False, **options: Any) -> dict[str, Any]:
        """The fields as pydantic dumps them, without ``frame``; ``twins`` adds these, to make a population of again."""
        fields = super().model_dump(**options)
        if twins:
            mode = options.get("mode", "python")
            fields["twins"] = [twin.model_dump(mode=mode) for twin in self.twins]
        return fields

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        if len(self.frame) != self.twin_count:
            raise ValueError(f"twin_count is {self.twin_count}, but the frame has {len(self.frame)} rows")
        if BEHAVIOUR not in self.frame:
            raise ValueError(f"the frame lacks the column {BEHAVIOUR!r}")
        require_finite(f"the column {BEHAVIOUR!r}", self.frame[BEHAVIOUR])
        return self

    @property
    def twin_type(self) -> TwinType:
        """The type of entity that these twins represent."""
        return self.model.twin_type if self.model else self._twins[0].twin_type

    @property
    def target(self) -> str:
        """Name of the outcome: that of the model, else the one in the metadata of the twins, else the default one of their type."""
        return _target_of(self._twins, self.model)

    @property
    def verdict(self) -> RealismVerdict:
        """What the realism of twins with these filters means; ``not assessed`` where it was not measured."""
        if self.realism is not None:
            return self.realism.verdict
        rows = "" if self.real_rows is None else f", {self.real_rows:,} real rows are behind them"
        return not_assessed(self.unassessed or f"twins with these filters were not compared with real rows{rows}")

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the feature columns of ``frame``."""
        return _features_of(self._twins, self.model)

    @property
    def own_features(self) -> Mapping[str, Kind]:
        """Features of these twins that their twin type does not have, with their kinds; none without a model."""
        return self.model.own_features if self.model else {}

    @property
    def columns(self) -> Columns:
        """The columns of ``frame`` as numbers and levels, computed once."""
        if self._columns is None or self._columns.frame is not self.frame:
            self._columns = Columns(self.frame)
        return self._columns

    @cached_property
    def twin_ids(self) -> tuple[UUID, ...]:
        """Id of each row: uuid5 of population and row number, unless the population was made of twins with ids."""
        if self._twins:
            return tuple(twin.twin_id for twin in self._twins)
        return tuple(uuid5(self.population_id, str(row)) for row in range(self.twin_count))

    def measured_by(self, spreads: SpreadSource) -> Self:
        """The same population with a source of the spread of outcomes, which then is known under further filters too."""
        measured = self.model_copy(update={"spread": spreads.spread(self.conditions())})
        measured._spreads = spreads  # noqa: SLF001  # of the same class
        return measured

    def with_realism(self, report: RealismReport | None, unassessed: str | None = None) -> Self:
        """The same population with the realism of its twins, or the reason why it could not be assessed."""
        return self.model_copy(update={"realism": report, "unassessed": unassessed})

    def spread_within(self, further: Sequence[Condition]) -> OutcomeSpread | None:
        """The spread of outcomes between the real rows that satisfy further conditions too; None where it is not known."""
        if not further:
            return self.spread
        return self._spreads.spread((*self.conditions(), *further)) if self._spreads else None

    def take(self, rows: Sequence[int]) -> TwinPopulation:
        """The twins in these rows, at least one, with their ids, as a population that keeps none of the others in memory."""
        frame = self.frame.iloc[list(rows)].reset_index(drop=True)
        selected = self.model_copy(update={"frame": frame, "twin_count": len(frame), "spread": None})
        selected._spreads = None  # noqa: SLF001  # these twins are no longer those of a filter
        selected.__dict__.pop("twins", None)
        selected.__dict__["twin_ids"] = tuple(self.twin_ids[row] for row in rows)  # as the cached property would set it
        selected._twins = tuple(self._twins[row] for row in rows) if self._twins else ()  # noqa: SLF001
        return selected

    @cached_property
    def twins(self) -> list[DigitalTwin]:
        """The rows as objects, created at first access."""
        if self._twins:
            return list(self._twins)
        rows = self.frame[list(self.features)].to_dict("records")
        provenance = self.provenance()
        drawn = self.frame[self.target].tolist() if self.target in self.frame else [None] * self.twin_count
        return [
            DigitalTwin(
                twin_id=twin_id,
                model_id=self.model_id,
                twin_type=self.twin_type,
                features={str(name): _plain(value) for name, value in row.items()},
                baseline_behavior=behaviour,
                metadata={**provenance, "outcome": outcome},
            )
            for twin_id, row, behaviour, outcome in zip(self.twin_ids, rows, self.frame[BEHAVIOUR].tolist(), drawn, strict=True)
        ]

    def provenance(self) -> dict[str, Any]:
        """Brand, target, type, training time and fidelity of the model, as in the metadata of every twin; nothing without one."""
        if self.model is None:
            return {}
        return {
            "brand": str(self.model.brand),
            "target": self.model.target,
            "model_type": self.model.model_type,
            "model_trained_at": self.model.trained_at.isoformat() if self.model.trained_at else None,
            "model_fidelity": self.model.metrics.fidelity,
        }

    def conditions(self) -> tuple[Condition, ...]:
        """The filters that these twins satisfy, as conditions on columns."""
        return conditions(self.twin_type, self.filters_applied, self.own_features)


def twins_to_frame(twins: Sequence[DigitalTwin], target: str, features: Sequence[str]) -> pd.DataFrame:
    """A table of twins: features, drawn outcome where all twins have it, ``baseline_behavior``."""
    frame = pd.DataFrame([twin.features for twin in twins], columns=list(features))
    outcomes = [twin.metadata.get("outcome") for twin in twins]
    if all(outcome is not None for outcome in outcomes):
        frame[target] = pd.Series(outcomes, dtype="float64")
    frame[BEHAVIOUR] = pd.Series([twin.baseline_behavior for twin in twins], dtype="float64")
    return frame


def _target_of(twins: Sequence[DigitalTwin], model: ModelCard | None) -> str:
    if model is not None:
        return model.target
    return TWIN_TYPES[twins[0].twin_type].target(twins[0].metadata.get("target")).name


def _features_of(twins: Sequence[DigitalTwin], model: ModelCard | None) -> tuple[str, ...]:
    if model is not None:
        return model.features
    return tuple(dict.fromkeys(name for twin in twins for name in twin.features))


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
