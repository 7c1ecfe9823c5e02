"""Who owns the tables, and what the service may do with each: declared here once, and applied by every ``migrate``.

``roles.sql`` explains the four roles. Reading is granted by default; a new table has a line in ``TABLES`` and a new function one in
``FUNCTIONS``, which a contract test checks. Grants are applied again at each ``migrate``, so a database that was restored without
them, or whose grants were changed by hand, is as declared again.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files

from sql.database import Connection

__all__ = [
    "FUNCTIONS",
    "OWNER",
    "READER",
    "TABLES",
    "TYPES",
    "UNREADABLE",
    "WRITER",
    "ensure_roles",
    "excess_rights",
    "grant_privileges",
    "shared_rights",
    "take_ownership",
]

OWNER, WRITER, READER = "twinstream_owner", "twinstream_writer", "twinstream_reader"

_SUMS = (
    "n, n_interval, n_inside, predicted, actual, predicted_squared, actual_squared, product, absolute_error, n_outliers, log_bet_0,"
    " log_bet_1, log_bet_2, log_bet_3, log_bet_4, excess_error, excess_error_spread, slope, slope_spread, excess_misses,"
    " excess_misses_spread"
)

TABLES: Mapping[str, str] = {
    "aged_events": "",
    "aged_lines": "",
    "aged_sources": "",
    "api_requests": "INSERT, UPDATE (answer_status, answer), DELETE",
    "api_tokens": "UPDATE (last_used_on)",
    "catalogue_versions": "INSERT",
    "detector_alarms": "INSERT",
    "detector_cells": "INSERT, UPDATE (splits)",
    "detector_floors": "INSERT, UPDATE (floor, log_values, last_count, log_peak)",
    "detector_restarts": "INSERT, UPDATE (pane, carried_by, restarted_at)",
    "digital_twin_models": "INSERT, UPDATE (mlflow_run_id, artifact_sha256, deprecated_at)",
    "digital_twins": "INSERT, UPDATE (features, baseline_behavior, outcome, metadata), DELETE",
    "drift_states": "INSERT, UPDATE (state, evidence_ratio, event, said, changed_at, alarmed_at, attempt)",
    "effect_pin_tellings": "INSERT, UPDATE (number)",
    "effect_pins": "INSERT",
    "effect_priors": "INSERT",
    "effect_versions": "INSERT",
    "entity_history": "INSERT, UPDATE (features, target, source)",
    "erasure_salt": "",
    "erasures": "",
    "estimated_fidelity": "INSERT, UPDATE (model_id, estimate, made_at)",
    "event_heads": "INSERT, UPDATE (revision, digest, line, model_id, segments, pane, width_s, contribution)",
    "experiment_decisions": "INSERT",
    "experiments": "INSERT, UPDATE (withdrawn_at, revision)",
    "feature_counts": "INSERT, UPDATE (outcomes, missing, unseen, unused)",
    "fidelity_panes": f"INSERT, UPDATE (version, last_offset, changed_at, {_SUMS})",
    "fidelity_snapshots": (
        "INSERT, UPDATE (mae, rmse, correlation, coverage_95pct, sample_size, status, version, state, bias, n_interval, n_skipped,"
        " n_outliers, standard_errors, missing, evidence_ratio, intervals, n_effective)"
    ),
    "fidelity_tracking": "INSERT",
    "interrupted_work": "INSERT, DELETE",
    "ledger_tellings": "INSERT, UPDATE (generation)",
    "line_thresholds": "INSERT",
    "maintenance_runs": "INSERT, UPDATE (finished_at, deleted, partitions_created, partitions_dropped, error)",
    "model_ledger": "INSERT",
    "model_lines": "INSERT, UPDATE (champion, generation, policy, floor, first_effective_from)",
    "model_training_rows": "INSERT",
    "park_requests": "INSERT, UPDATE (why, requested_by, requested_at, parked_at), DELETE",
    "promotion_effects": "INSERT, UPDATE (n, verdict, final, comparison, measured_at)",
    "publications": "INSERT, UPDATE (name, rows, repeated, tried_at, sent_at)",
    "published_events": "INSERT",
    "published_windows": "INSERT, UPDATE (version), DELETE",
    "refused_records": "INSERT, UPDATE (sent_at)",
    "refused_replays": "INSERT",
    "replays": "INSERT, UPDATE (quiet_until)",
    "retrain_decisions": "INSERT",
    "retrain_requests": "INSERT, UPDATE (status, approved_at, tries, started_at, finished_at, outcome, learned)",
    "schema_migrations": "",
    "segment_values": "INSERT, UPDATE (followed)",
    "simulation_lanes": "UPDATE (reached)",
    "simulation_queue": "INSERT, UPDATE (holder, heartbeat_at, tries, fence, due_at, cancelled_at), DELETE",
    "simulation_runs": (
        "INSERT, UPDATE (status, results, recommendation, recommendation_reason, error_message, completed_at, population_id)"
    ),
    "simulation_shards": "INSERT, UPDATE (sums, failure, holder, heartbeat_at, tries, fence, due_at), DELETE",
    "source_gaps": "INSERT",
    "source_positions": "INSERT, UPDATE (last_offset, last_time, last_digest, elements, watermark, read_to_end_at)",
    "trainings": (
        "INSERT, UPDATE (status, reason, model_id, notes, started_at, finished_at, tries, fence, holder, heartbeat_at), DELETE"
    ),
    "training_leases": "INSERT, UPDATE (fence, retrain_id, holder, heartbeat_at)",
    "twin_population_members": "INSERT, DELETE",
    "twin_populations": "INSERT, UPDATE (name, description, expires_at, real_rows, realism, unassessed, spread, columns), DELETE",
    "uploaded_blocks": "INSERT, DELETE",
    "uploaded_tables": "INSERT, UPDATE (uploaded_at), DELETE",
}
"""What the service may do with each table besides reading it. Partitions need no line: rights on the table decide."""

UNREADABLE = ("erasure_salt",)
"""Tables that only the owner reads: who knows the salt can find out by trying whether an id was erased."""

FUNCTIONS: Mapping[str, tuple[str, ...]] = {
    "add_aged_elements": (),
    "age_drift_states": (WRITER,),
    "age_history": (WRITER,),
    "age_maintenance_runs": (WRITER,),
    "age_outcomes": (WRITER,),
    "age_panes": (WRITER,),
    "age_publications": (WRITER,),
    "age_refused_records": (WRITER,),
    "age_replays": (WRITER,),
    "age_retrains": (WRITER,),
    "age_simulations": (WRITER,),
    "age_snapshots": (WRITER,),
    "begin_erasure": (WRITER,),
    "drop_aged_partitions": (WRITER,),
    "entity_keys": (WRITER,),
    "erasable_columns": (WRITER,),
    "erase_own_rows": (WRITER,),
    "erased_entities": (WRITER,),
    "erased_name": (WRITER,),
    "erasure_hash": (WRITER,),
    "features_name": (WRITER,),
    "fidelity_partitions_ahead": (WRITER,),
    "has_erasures": (WRITER,),
    "is_redacted_text": (),
    "is_redaction": (),
    "json_names": (WRITER,),
    "least_retention": (),
    "make_fidelity_partitions": (WRITER,),
    "outcomes_needed_since": (),
    "pane_digest": (WRITER, READER),
    "raise_aged_horizon": (),
    "record_erasure": (WRITER,),
    "redact_experiment": (WRITER,),
    "redact_refused_record": (WRITER,),
    "redact_values": (WRITER,),
    "refuse_to_lower_head": (),
    "refuse_to_rewrite": (),
}
"""Who may call each function besides its owner. One that runs with the rights of the owner needs a fixed ``search_path``."""

TYPES = ("aged_element", "brand", "outcome_fate", "simulation_recommendation", "simulation_status", "twin_type")

_SCHEMA = "(SELECT oid FROM pg_namespace WHERE nspname = current_schema())"

# Indexes, and sequences of columns, follow their table. Partitions do not.
_FOREIGN_OWNED = f"""
WITH RECURSIVE tables AS (
    SELECT oid FROM pg_class WHERE relnamespace = {_SCHEMA} AND relkind IN ('r', 'p') AND relname = ANY($2)
    UNION SELECT i.inhrelid FROM pg_inherits i JOIN tables t ON t.oid = i.inhparent
)
SELECT 'TABLE ' || c.oid::regclass FROM pg_class c JOIN tables USING (oid)
WHERE c.relkind IN ('r', 'p') AND c.relowner <> $1::text::regrole
UNION ALL
SELECT 'FUNCTION ' || p.oid::regprocedure FROM pg_proc p
WHERE p.pronamespace = {_SCHEMA} AND p.proname = ANY($3) AND p.proowner <> $1::text::regrole
UNION ALL
SELECT 'TYPE ' || t.oid::regtype FROM pg_type t
WHERE t.typnamespace = {_SCHEMA} AND t.typname = ANY($4) AND t.typowner <> $1::text::regrole"""  # noqa: S608  # our own constant

_FUNCTIONS = f"""
SELECT proname, oid::regprocedure::text AS signature FROM pg_proc
WHERE pronamespace = {_SCHEMA} AND proname = ANY($1)"""  # noqa: S608  # our own constant


_RIGHTS = """
SELECT current_user::text AS user, rolsuper AS is_superuser,
       coalesce(pg_has_role(to_regrole($1), 'MEMBER'), false)
       OR (SELECT pg_has_role(nspowner, 'MEMBER') FROM pg_namespace WHERE nspname = current_schema()) AS is_owner
FROM pg_roles WHERE rolname = current_user"""


async def excess_rights(connection: Connection) -> str:
    """Describe what the user of this connection may do beyond the work of the service; empty where that is nothing."""
    (row,) = await connection.fetch(_RIGHTS, OWNER)
    if row["is_superuser"]:
        return f"user {row['user']!r} is a superuser of Postgres, who may rewrite the ledger and run programs on the server"
    return (
        f"user {row['user']!r} owns the tables or their schema, or may become their owner, and drop them" if row["is_owner"] else ""
    )


async def shared_rights(connection: Connection) -> str:
    """Describe with what every user of this database could stop the service; empty where there is nothing."""
    if await connection.fetchval("SELECT has_function_privilege('public', 'pg_advisory_lock(bigint)', 'EXECUTE')"):
        return "every user of this database may take the advisory locks that the service works by, and so stop it"
    return ""


async def ensure_roles(connection: Connection) -> None:
    """Create the roles unless the server has them, and let the owner create tables here.

    Raises:
        asyncpg.InsufficientPrivilegeError: when something is missing that this user may not add.
    """
    await connection.execute((files("sql") / "roles.sql").read_text(encoding="utf-8"))


async def take_ownership(connection: Connection) -> None:
    """Make the owner role the owner of all tables, functions and types that the migrations have created in this database.

    Raises:
        asyncpg.InsufficientPrivilegeError: when they belong to a role that this user is no member of.
    """
    names = list(TABLES), list(FUNCTIONS), list(TYPES)
    for row in await connection.fetch(_FOREIGN_OWNED, OWNER, *names):
        await connection.execute(f"ALTER {row[0]} OWNER TO {OWNER}")


async def grant_privileges(connection: Connection) -> None:
    """Let writers and readers do what is declared here, and nothing else."""
    async with connection.transaction():
        for table, writes in TABLES.items():
            await connection.execute(f"REVOKE ALL ON {table} FROM PUBLIC, {WRITER}, {READER}")
            if table not in UNREADABLE:
                await connection.execute(f"GRANT SELECT ON {table} TO {WRITER}, {READER}")
            if writes:
                await connection.execute(f"GRANT {writes} ON {table} TO {WRITER}")
        for row in await connection.fetch(_FUNCTIONS, list(FUNCTIONS)):
            await connection.execute(f"REVOKE ALL ON FUNCTION {row['signature']} FROM PUBLIC, {WRITER}, {READER}")
            if callers := ", ".join(FUNCTIONS[row["proname"]]):
                await connection.execute(f"GRANT EXECUTE ON FUNCTION {row['signature']} TO {callers}")
