"""Every table, function and type of a migration has its declared rights, and functions with the owner's rights are safe to call."""

from __future__ import annotations

import re

import pytest

from sql.migrate import migrations
from sql.privileges import FUNCTIONS, TABLES, TYPES, WRITER

MIGRATIONS = "\n".join(re.sub(r"--[^\n]*", "", migration.text) for migration in migrations())
APPEND_ONLY = (
    *("model_ledger", "fidelity_tracking", "source_gaps", "effect_versions", "effect_priors", "effect_pins", "detector_alarms"),
    "experiment_decisions",
)


def names(statement: str) -> set[str]:
    return set(re.findall(rf"(?i)\b{statement}\s+(?:IF NOT EXISTS\s+)?(\w+)", MIGRATIONS))


def test_every_table_of_a_migration_has_declared_rights():
    partitions = set(re.findall(r"(?i)\bCREATE TABLE\s+(?:IF NOT EXISTS\s+)?(\w+)\s+PARTITION OF", MIGRATIONS))
    dropped = names("DROP TABLE")
    assert TABLES.keys() == names("CREATE TABLE") - partitions - dropped | {"schema_migrations"}


def test_every_function_and_type_of_a_migration_has_declared_rights():
    assert FUNCTIONS.keys() == names("CREATE (?:OR REPLACE )?FUNCTION") - names("DROP FUNCTION")
    assert set(TYPES) == names("CREATE TYPE") - names("DROP TYPE")


@pytest.mark.parametrize("table", APPEND_ONLY)
def test_the_service_only_appends_to_what_is_history(table: str):
    assert TABLES[table] == "INSERT"


@pytest.mark.parametrize("function", [name for name, callers in FUNCTIONS.items() if WRITER in callers])
def test_a_function_that_the_service_calls_has_the_rights_of_the_owner_and_a_fixed_search_path(function: str):
    definitions = re.findall(rf"(?is)\b(?:CREATE|ALTER)\s+(?:OR REPLACE\s+)?FUNCTION\s+{function}\b.*?(?:;|\$\$)", MIGRATIONS)
    text = "\n".join(definitions)
    assert re.search(r"(?i)SECURITY\s+DEFINER", text)
    assert re.search(r"(?i)SET\s+search_path\b.*\bpg_temp\b", text)
