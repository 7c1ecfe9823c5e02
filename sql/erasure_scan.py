"""Finds an id in every column of every table, redacts the columns that may change, and says why the others stay.

The catalogue of Postgres says which columns there are, the function ``erasable_columns`` which of them are redacted; every other
one has its reason here, which a test checks.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple

from schemas.readings import base64_needles, octet_needles, spellings
from sql.database import Connection
from sql.erasure_store import OWN_ROWS
from sql.privileges import TABLES

__all__ = ["UNDECLARED", "Column", "ScannedRow", "reason_to_stay", "redact_values", "scan", "text_columns"]

_MODEL = "a model keeps what it learned: train and promote a new one"
_LEDGER = "the ledger of models only grows: what happened stays written"
_CATALOGUE = "the catalogue names brands, campaigns and columns, and its versions are pinned: apply one without the id"
_SEGMENT = "figures are stored by the value of their segment, and could not be verified under another one"
_DIGEST = "a digest or a salt, which leads to nobody"
_NAME = "a name by which the service finds its rows, of a line, a source, a topic, a process or a kind"
_TRANSIENT = "deleted with its request, moments after the last shard is computed"
_OPERATOR = "a token is named after a program or an operator: revoke it, and create one with another name"
_KEY = "deleted a day after its request, of which it has a digest, and the answer without values of records"
_FIGURES = "figures by their names, which the service gives"

UNDECLARED = "no reason is declared"
"""Of a column that is neither erasable nor has a reason, which a test finds."""

_REASONS_OF_TABLES = {
    "api_requests": _KEY,
    "api_tokens": _OPERATOR,
    "catalogue_versions": _CATALOGUE,
    "digital_twin_models": _MODEL,
    "effect_pins": _LEDGER,
    "model_ledger": _LEDGER,
    "schema_migrations": _NAME,
}
_REASONS_OF_COLUMNS = {
    **dict.fromkeys(("segment", "segments", "carried_by", "dimension", "value", "event"), _SEGMENT),
    **dict.fromkeys(("digest", "sha256", "last_digest", "body_hash", "entity_hash", "salt", "entities"), _DIGEST),
    "feature": _MODEL,
    **dict.fromkeys(("sums", "failure"), _TRANSIENT),
    **dict.fromkeys(("standard_errors", "missing", "intervals", "unassessed", "drift_limits", "compared_simulations"), _FIGURES),
    **dict.fromkeys(
        ("line", "lines", "source", "topic", "metric_type", "intervention", "target", "lane", "holder", "twin_type", "ending"),
        _NAME,
    ),
    **dict.fromkeys(("policy", "status", "state", "cause", "verdict", "kind", "exception", "partitions_dropped", "origin"), _NAME),
}
_REFUSED_COLUMNS = ("key", "value", "headers", "reason", "traceback")  # redacted by a function of their own
_ERASED_OTHERWISE = {
    *(("fidelity_tracking", "entity_id"), ("entity_history", "entity_id")),
    *(("experiments", "experiment_id"), ("experiments", "body"), ("experiment_decisions", "experiment_id")),
    ("uploaded_blocks", "bytes"),  # with its table
}


class Column(NamedTuple):
    """A column that can hold an id; ``is_erasable`` when a redaction may replace its values."""

    table: str
    name: str
    is_bytes: bool
    is_erasable: bool


_COLUMNS = """
SELECT c.relname AS "table", a.attname AS name, t.typname = 'bytea' AS is_bytes, e.column_name IS NOT NULL AS is_erasable
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN erasable_columns() e ON e.table_name = c.relname AND e.column_name = a.attname
WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname = ANY($1)
  AND a.attnum > 0 AND NOT a.attisdropped AND has_table_privilege(c.oid, 'SELECT')
  AND t.typname = ANY('{text,varchar,bpchar,name,json,jsonb,bytea,_text,_varchar,_bpchar,_name,_json,_jsonb,_bytea}')
ORDER BY c.relname, a.attnum"""


async def text_columns(connection: Connection) -> dict[str, list[Column]]:
    """Every column with text, JSON or bytes, by table; without those of refused records that are redacted with their record."""
    columns: dict[str, list[Column]] = {}
    for row in await connection.fetch(_COLUMNS, list(TABLES)):
        if not (row["table"] == "refused_records" and row["name"] in _REFUSED_COLUMNS):
            columns.setdefault(row["table"], []).append(Column(**row))
    return columns


def reason_to_stay(column: Column) -> str:
    """Why an id stays in a column; empty for one in which none does."""
    if column.is_erasable or (column.table, column.name) in _ERASED_OTHERWISE:
        return ""
    return _REASONS_OF_TABLES.get(column.table) or _REASONS_OF_COLUMNS.get(column.name, UNDECLARED)


class ScannedRow(NamedTuple):
    """A row that may name the person.

    Attributes:
        partition: partition or table that it is in, and ``place`` its place there.
        is_own: whether the row is about the person, and erased as a whole.
        values: of the scanned columns.
    """

    partition: str
    place: str
    is_own: bool
    values: Sequence[Any]


_SIMPLE = re.compile(r"[A-Za-z0-9_-]+")  # characters that neither JSON nor URL encoding changes, but \u and %
_MAX_CORE = 100  # a pattern of the whole id may be too long for Postgres
_ENCODINGS = ("ascii", "utf-16-le", "utf-16-be")
_ENCODED = r"\\u[0-9a-fA-F]{4}|%[0-9a-fA-F]{2}"
_SCOPES = {
    "digital_twins": "twin_type::text = $2",
    "twin_populations": "(SELECT m.twin_type::text FROM digital_twin_models m WHERE m.model_id = twin_populations.model_id) = $2",
}


async def scan(connection: Connection, columns: Sequence[Column], entity: str, twin_type: str) -> AsyncIterator[ScannedRow]:
    """Rows of one table that may name the person; the connection must be in a transaction."""
    table = columns[0].table
    written = spellings(entity)
    cores = [max(_SIMPLE.findall(spelling), key=len, default="")[:_MAX_CORE] for spelling in written]
    pattern = "|".join([*dict.fromkeys(cores), _ENCODED, *map(re.escape, base64_needles(entity))]) if all(cores) else ""
    octets = [core.encode(encoding) for core in cores for encoding in _ENCODINGS] if all(cores) else octet_needles(entity)
    octets += [needle.encode() for needle in base64_needles(entity)]
    matches = " OR ".join(_may_name(column) for column in columns)
    own = f"({_own_rows(table, len(written))}) IS TRUE" if table in OWN_ROWS else "false"
    names = ", ".join(f'"{column.name}"' for column in columns)
    # Every parameter is named, as Postgres refuses one whose type does not follow from its use.
    statement = f"""
SELECT tableoid::regclass::text, ctid::text, {own}, {names} FROM {table}
WHERE ($1::text[] IS NOT NULL AND ($2::text = '' OR {_scope(table, columns)})) AND ({matches})
  AND ($3::text IS NOT NULL AND $4::bytea[] IS NOT NULL)"""  # noqa: S608  # names of the catalogue
    async for row in connection.cursor(statement, written, twin_type, pattern, octets, prefetch=500):
        yield ScannedRow(row[0], row[1], row[2], list(row.values())[3:])


def _own_rows(table: str, n_spellings: int) -> str:
    """The condition on rows that are about the person, in any spelling of ``$1``."""
    return " OR ".join(f"({OWN_ROWS[table].replace('$1', f'($1::text[])[{number}]')})" for number in range(1, n_spellings + 1))


def _may_name(column: Column) -> str:
    if column.is_bytes:
        return f'EXISTS (SELECT FROM unnest($4::bytea[]) needle WHERE position(needle IN "{column.name}") > 0)'
    return f'"{column.name}"::text ~ $3'


def _scope(table: str, columns: Sequence[Column]) -> str:
    """The condition on a row that it is about the twin type of the erasure, as far as the table tells."""
    if table in _SCOPES:
        return _SCOPES[table]
    return "coalesce(split_part(line, ':', 1) = $2, true)" if any(column.name == "line" for column in columns) else "true"


async def redact_values(connection: Connection, row: ScannedRow, values: Mapping[Column, Any]) -> bool:
    """Replace values of a row by their redactions; returns false where the row was changed meanwhile.

    Raises:
        asyncpg.CheckViolationError: when one is no redaction of the stored value.
    """
    statement = "SELECT redact_values($1::text::regclass, $2::text::tid, $3)"
    named = {column.name: value for column, value in values.items()}
    return bool(await connection.fetchval(statement, row.partition, row.place, named))
