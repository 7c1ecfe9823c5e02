"""Translates population filters into SQL: fixed text with parameters, so that no value becomes part of a statement."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias
from uuid import UUID

from schemas.base import require_one_of
from schemas.filters import Condition, PopulationFilter, conditions, filter_values
from schemas.level_meaning import spellings_of
from schemas.levels import level_key
from schemas.twin_types import TWIN_TYPES, Kind, TwinType, catalogue_brand
from sql.database import Database

__all__ = ["TwinQuery", "own_features", "twin_query"]

QUERY_FILTERS = ("brand", "model_id", "population_id", "twin_type", "limit")


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


OwnFeatures: TypeAlias = Mapping[TwinType, Mapping[str, Kind]]

OWN_FEATURES = """
SELECT m.twin_type::text AS twin_type, f.name,
       bool_or(jsonb_array_length(m.baseline -> 'inputs' -> f.name -> 'levels') > 0) AS levels
FROM digital_twin_models m, unnest(m.features) AS f (name)
WHERE f.name = ANY($1)
GROUP BY 1, 2"""


async def own_features(database: Database, filters: Mapping[str, Any] | PopulationFilter) -> OwnFeatures:
    """Those names in the filters that are columns of stored models beyond the features of their twin type."""
    names = {name for key in filter_values(filters) for name in (key, key.removeprefix("min_"), key.removeprefix("max_"))}
    unknown = names - {name for entry in TWIN_TYPES.values() for name in (*entry.by_name, *entry.filters)} - set(QUERY_FILTERS)
    by_type: defaultdict[TwinType, dict[str, Kind]] = defaultdict(dict)
    for row in await database.fetch(OWN_FEATURES, sorted(unknown)) if unknown else ():
        by_type[TwinType(row["twin_type"])][row["name"]] = "category" if row["levels"] else "number"
    return by_type


def twin_query(filters: Mapping[str, Any] | PopulationFilter, own: OwnFeatures = MappingProxyType({})) -> TwinQuery:
    """The filters as a condition: those of populations, ``brand``, ``model_id``, ``population_id``, ``twin_type`` and ``limit``.

    Without a twin type, twins match of every type whose catalogue entry, or whose models, have all the filters.

    Raises:
        ValueError: for a filter or value that none of the twin types has.
    """
    fields = filter_values(filters)
    query = TwinQuery()
    if "brand" in fields:
        query.clauses.append(f"m.brand::text = {query.value(catalogue_brand(fields['brand']))}")
    if "model_id" in fields:
        query.clauses.append(f"t.model_id = {query.value(_uuid('model_id', fields['model_id']))}")
    if "population_id" in fields:
        population = query.value(_uuid("population_id", fields["population_id"]))
        members = f"SELECT twin_id FROM twin_population_members WHERE population_id = {population}"  # noqa: S608  # a placeholder
        query.clauses.append(f"t.twin_id IN ({members})")
    population_filters = {name: value for name, value in fields.items() if name not in QUERY_FILTERS}
    query.clauses.append(_types_clause(query, _types(fields.get("twin_type")), population_filters, own))
    return query


def _types(twin_type: Any) -> list[TwinType]:
    return list(TwinType) if twin_type is None else [TwinType(require_one_of("twin type", twin_type, TwinType))]


def _types_clause(query: TwinQuery, twin_types: list[TwinType], filters: dict[str, Any], own: OwnFeatures) -> str:
    by_type: dict[TwinType, tuple[Condition, ...]] = {}
    errors = []
    for twin_type in twin_types:
        try:
            by_type[twin_type] = conditions(twin_type, filters, own.get(twin_type, {}))
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
        return _membership(query, condition, column)
    sign = ">=" if condition.operator == "min" else "<="
    number = f"CASE WHEN jsonb_typeof({column}) = 'number' THEN ({column})::float8 END"
    return f"{number} {sign} {query.value(float(condition.values[0]))}::float8"


def _membership(query: TwinQuery, condition: Condition, column: str) -> str:
    """Levels are compared without surrounding blanks, in every declared spelling, as written and in lower case.

    The lower case is that of the database: depending on its locale, letters beyond ASCII match as written only.
    """
    written = [value for value in condition.values if isinstance(value, str)]
    levels = [text for value in written for text in spellings_of(condition.column, value)]
    others = [value for value in condition.values if not isinstance(value, str)]
    others += [int(value) for value in others if isinstance(value, bool)]  # flags of twins are stored as numbers
    clauses = []
    if levels:
        text = f"btrim(({column}) #>> '{{}}')"
        clauses.append(f"{text} = ANY({query.value(levels)}::text[])")
        clauses.append(f"lower({text}) = ANY({query.value([level_key(level) for level in levels])}::text[])")
    if others:
        clauses.append(f"{query.value(others)}::jsonb @> ({column})")
    return f"({' OR '.join(clauses)})"


def _uuid(name: str, value: Any) -> UUID:
    try:
        return value if isinstance(value, UUID) else UUID(str(value))
    except ValueError:
        raise ValueError(f"{name} {value!r} is not a UUID") from None
