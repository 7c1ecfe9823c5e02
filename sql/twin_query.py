"""Translates population filters into SQL: fixed text with parameters, so that no value becomes part of a statement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from schemas.base import require_one_of
from schemas.filters import Condition, PopulationFilter, conditions, filter_values
from schemas.twin_types import Brand, TwinType

__all__ = ["TwinQuery", "twin_query"]

QUERY_FILTERS = ("brand", "model_id", "twin_type", "limit")


@dataclass
class TwinQuery:
    """Clauses and their parameters; ``t`` is the table of twins, ``m`` that of models."""

    clauses: list[str] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)

    def where(self) -> str:
        """The clauses, joined to one condition."""
        return " AND ".join(self.clauses) or "true"

    def value(self, value: Any) -> str:
        """Add a parameter and return its placeholder."""
        self.values.append(value)
        return f"${len(self.values)}"


def twin_query(filters: Mapping[str, Any] | PopulationFilter) -> TwinQuery:
    """The filters as a condition: those of populations, and ``brand``, ``model_id``, ``twin_type`` and ``limit``.

    Without a twin type, twins match of every type whose catalogue entry has all the filters.

    Raises:
        ValueError: for a filter or value that none of the twin types has.
    """
    fields = filter_values(filters)
    query = TwinQuery()
    if "brand" in fields:
        query.clauses.append(f"m.brand::text = {query.value(require_one_of('brand', fields['brand'], Brand))}")
    if "model_id" in fields:
        query.clauses.append(f"t.model_id = {query.value(_uuid(fields['model_id']))}")
    population_filters = {name: value for name, value in fields.items() if name not in QUERY_FILTERS}
    query.clauses.append(_types_clause(query, _types(fields.get("twin_type")), population_filters))
    return query


def _types(twin_type: Any) -> list[TwinType]:
    return list(TwinType) if twin_type is None else [TwinType(require_one_of("twin type", twin_type, TwinType))]


def _types_clause(query: TwinQuery, twin_types: list[TwinType], filters: dict[str, Any]) -> str:
    by_type: dict[TwinType, tuple[Condition, ...]] = {}
    errors = []
    for twin_type in twin_types:
        try:
            by_type[twin_type] = conditions(twin_type, filters)
        except ValueError as error:
            errors.append(str(error))
    if not by_type:
        raise ValueError("; ".join(errors))
    alternatives = (_type_clause(query, twin_type, filter_conditions) for twin_type, filter_conditions in by_type.items())
    return f"({' OR '.join(alternatives)})"


def _type_clause(query: TwinQuery, twin_type: TwinType, filter_conditions: tuple[Condition, ...]) -> str:
    type_clause = f"t.twin_type::text = {query.value(twin_type.value)}"
    return f"({' AND '.join([type_clause, *(_clause(query, condition) for condition in filter_conditions)])})"


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
