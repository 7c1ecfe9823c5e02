"""The one filter language as SQL: fixed text with parameters, so that no value ever becomes part of a statement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from schemas.base import require_one_of
from schemas.filters import Condition, PopulationFilter, conditions
from schemas.twin_types import Brand, TwinType

__all__ = ["TwinQuery", "twin_query"]

WORDS = ("brand", "model_id", "twin_type", "limit")


@dataclass
class TwinQuery:
    """Clauses and their values; ``t`` is the twin's table, ``m`` its model's."""

    clauses: list[str] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)

    def where(self) -> str:
        """All clauses as one condition."""
        return " AND ".join(self.clauses) or "true"

    def value(self, value: Any) -> str:
        """Placeholder of one more value."""
        self.values.append(value)
        return f"${len(self.values)}"


def twin_query(filters: Mapping[str, Any] | PopulationFilter) -> TwinQuery:
    """The filters as a condition; beside the filter language ``brand``, ``model_id``, ``twin_type`` and ``limit`` are understood.

    Without a twin type, twins of every type match whose catalogue entry knows all the words.

    Raises:
        ValueError: for a word or value that means nothing for any of the twin types asked for.
    """
    said = filters.model_dump() if isinstance(filters, PopulationFilter) else dict(filters)
    query = TwinQuery()
    if said.get("brand") is not None:
        query.clauses.append(f"m.brand::text = {query.value(require_one_of('brand', said['brand'], Brand))}")
    if said.get("model_id") is not None:
        query.clauses.append(f"t.model_id = {query.value(_uuid(said['model_id']))}")
    query.clauses.append(_of_types(query, _types(said.get("twin_type")), {w: v for w, v in said.items() if w not in WORDS}))
    return query


def _types(twin_type: Any) -> list[TwinType]:
    return list(TwinType) if twin_type is None else [TwinType(require_one_of("twin type", twin_type, TwinType))]


def _of_types(query: TwinQuery, twin_types: list[TwinType], words: dict[str, Any]) -> str:
    understood: dict[TwinType, tuple[Condition, ...]] = {}
    refusals = []
    for twin_type in twin_types:
        try:
            understood[twin_type] = conditions(twin_type, words)
        except ValueError as refusal:
            refusals.append(str(refusal))
    if not understood:
        raise ValueError("; ".join(refusals))
    either = (_of_type(query, twin_type, wanted) for twin_type, wanted in understood.items())
    return f"({' OR '.join(either)})"


def _of_type(query: TwinQuery, twin_type: TwinType, wanted: tuple[Condition, ...]) -> str:
    kind = f"t.twin_type::text = {query.value(twin_type.value)}"
    return f"({' AND '.join([kind, *(_clause(query, condition) for condition in wanted)])})"


def _clause(query: TwinQuery, condition: Condition) -> str:
    column = f"t.features -> {query.value(condition.column)}::text"
    if condition.operator == "in":
        return f"{query.value(list(condition.values))}::jsonb @> ({column})"
    sign = ">=" if condition.operator == "min" else "<="
    number = f"CASE WHEN jsonb_typeof({column}) = 'number' THEN ({column})::float8 END"
    return f"{number} {sign} {query.value(float(condition.values[0]))}::float8"


def _uuid(value: Any) -> UUID:
    try:
        return value if isinstance(value, UUID) else UUID(str(value))
    except ValueError:
        raise ValueError(f"model_id {value!r} is not a UUID") from None
