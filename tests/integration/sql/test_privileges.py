"""What the users of the database may and may not do, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.resources import files
from uuid import uuid4

import asyncpg
import pytest
from pydantic import SecretStr

from sql.database import connect, make_partitions, open_pool, transaction
from sql.migrate import MIGRATIONS_TABLE, NotPermitted, migrate, migrations
from sql.privileges import OWNER, READER, TABLES, UNREADABLE, WRITER, excess_rights, shared_rights
from sql.settings import PostgresSettings
from tests.conftest import login_dsn

COPY_LEDGER = (
    "INSERT INTO model_ledger (line, generation, happened, model_id) SELECT line, generation, happened, model_id FROM model_ledger"
)

# What only a superuser may do: to read and write files of the server, to run programs, to become or change others.
OF_A_SUPERUSER = [
    "COPY (SELECT 1) TO PROGRAM 'id'",
    "COPY digital_twins FROM PROGRAM 'id'",
    "COPY (SELECT 1) TO '/tmp/written'",
    "COPY digital_twins FROM '/etc/passwd'",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_read_binary_file('/etc/passwd')",
    "SELECT pg_ls_dir('/')",
    "SELECT lo_import('/etc/passwd')",
    "SELECT rolpassword FROM pg_authid",
    "SELECT passwd FROM pg_shadow",
    "SELECT pg_reload_conf()",
    "LOAD 'auth_delay'",
    "CREATE EXTENSION pgcrypto",
    "CREATE EXTENSION file_fdw",
    "CREATE ROLE another SUPERUSER",
    "CREATE DATABASE another",
    "CREATE SCHEMA another",
    "CREATE PUBLICATION another FOR ALL TABLES",
    "ALTER SYSTEM SET fsync = off",
    "ALTER DATABASE {database} SET synchronous_commit = off",
    "ALTER ROLE ALL SET synchronous_commit = off",
    "ALTER ROLE {superuser} SET synchronous_commit = off",
    "ALTER ROLE {superuser} PASSWORD 'known'",
    "ALTER ROLE {user} SUPERUSER",
    "ALTER ROLE twinstream_owner LOGIN",
    "GRANT pg_execute_server_program TO {user}",
    "GRANT {superuser} TO {user}",
    "SET ROLE {superuser}",
    "SET SESSION AUTHORIZATION {superuser}",
    "SET session_replication_role = replica",
    "DO LANGUAGE plpython3u 'pass'",
    "SELECT lo_create(0)",
    "SELECT lo_creat(-1)",
    "SELECT lo_from_bytea(0, 'x')",
    "SELECT lo_open(1, 131072)",
    "SELECT lo_put(1, 0, 'x')",
    "SELECT lo_unlink(1)",
]
# What only the owner of the tables may do.
OF_THE_OWNER = [
    "SET ROLE twinstream_owner",
    "SET ROLE twinstream_migrator",
    "GRANT twinstream_owner TO {user}",
    "CREATE TABLE another ()",
    "CREATE TEMPORARY TABLE model_ledger ()",
    "CREATE VIEW another AS SELECT 1",
    "CREATE TYPE another AS ENUM ()",
    "CREATE FUNCTION another() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    "CREATE INDEX ON model_ledger (happened)",
    "CREATE RULE another AS ON UPDATE TO model_ledger DO INSTEAD NOTHING",
    "CREATE TRIGGER another BEFORE UPDATE ON model_ledger FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_rewrite()",
    "DROP TRIGGER model_ledger_append_only ON model_ledger",
    "ALTER TABLE model_ledger DISABLE TRIGGER model_ledger_append_only",
    "ALTER TABLE model_ledger DISABLE TRIGGER ALL",
    "ALTER TABLE model_ledger ALTER COLUMN reason DROP NOT NULL",
    "ALTER TABLE model_ledger OWNER TO {user}",
    "ALTER TABLE fidelity_tracking DETACH PARTITION fidelity_tracking_default",
    "ALTER TABLE digital_twins ADD COLUMN another integer",
    "ALTER FUNCTION make_fidelity_partitions(integer) SECURITY INVOKER",
    "ALTER FUNCTION make_fidelity_partitions(integer) RESET search_path",
    "ALTER TYPE twin_type ADD VALUE 'another'",
    "DROP FUNCTION make_fidelity_partitions(integer)",
    "GRANT UPDATE ON model_ledger TO {user}; UPDATE model_ledger SET reason = reason",  # the first alone is a warning
    "COMMENT ON TABLE model_ledger IS 'rewritten'",
    *(f"DROP TABLE {table} CASCADE" for table in TABLES),
    *(f"TRUNCATE {table} CASCADE" for table in TABLES),
]
# Every way to change what has happened.
OF_NOBODY = [
    *(
        f"{verb} {table}{rest}"
        for table in ("model_ledger", "fidelity_tracking", "schema_migrations")
        for verb, rest in (("DELETE FROM", ""), ("UPDATE", " SET {column} = {column}"), ("SELECT FROM", " FOR UPDATE"))
    ),
    "MERGE INTO model_ledger l USING model_lines m ON l.line = m.line WHEN MATCHED THEN UPDATE SET reason = 'better'",
    "MERGE INTO model_ledger l USING model_lines m ON l.line = m.line WHEN MATCHED THEN DELETE",
    f"{COPY_LEDGER} ON CONFLICT (line, generation) DO UPDATE SET reason = 'better'",
    "LOCK TABLE model_ledger IN ACCESS EXCLUSIVE MODE",
    "UPDATE fidelity_tracking_default SET actual_value = 0",
    "DELETE FROM fidelity_tracking_default",
    "INSERT INTO fidelity_tracking_default (tracking_id) VALUES (gen_random_uuid())",
    "INSERT INTO schema_migrations (number, name, sha256) VALUES (999, 'another', '')",
    "DELETE FROM model_lines",
    "DELETE FROM refused_records",
    "UPDATE refused_records SET value = NULL",
    "UPDATE simulation_runs SET request = NULL",
    "UPDATE experiments SET body = '{{}}'",
    "UPDATE effect_priors SET prior = '{{}}'",
    "UPDATE digital_twin_models SET baseline = '{{}}'",
    (
        "INSERT INTO api_tokens (token_id, token_name, sha256, scopes, created_by)"
        " SELECT gen_random_uuid(), 'own', '', '{{read}}', 'me'"
    ),
    "UPDATE api_tokens SET scopes = '{{read,ask,operate}}'",
    "UPDATE api_tokens SET revoked_at = NULL",
    "UPDATE api_tokens SET expires_at = NULL",
    "DELETE FROM api_tokens",
    "SELECT refuse_to_rewrite()",
    "SELECT make_fidelity_partitions(120)",
    "SELECT make_fidelity_partitions(-1)",
    "SELECT make_fidelity_partitions(NULL)",
    "SELECT drop_aged_partitions('infinity')",
    "SELECT drop_aged_partitions(now() - interval '37 days')",
    "SELECT drop_aged_partitions(NULL)",
    "LOCK TABLE erasures IN EXCLUSIVE MODE",
    "SELECT erase_own_rows('a', '', 'model_ledger')",
    *(f"SELECT FROM {table}" for table in UNREADABLE),
]
# What Postgres forbids no user, and docs/runbook.md has a remedy for.
OF_ONESELF = [
    "ALTER ROLE {user} PASSWORD 'another'",
    "ALTER ROLE {user} SET search_path = pg_catalog",
    "ALTER ROLE {user} IN DATABASE {database} SET search_path = pg_catalog",
]
# Locks that the service works by: whoever may take them could stop it.
OF_THE_SERVICE = [
    f"SELECT pg_{verb}advisory_{kind}lock{mode}({key})"
    for key in ("1", "1, 2")
    for verb, kind, mode in (
        ("", "", ""),
        ("", "", "_shared"),
        ("", "xact_", ""),
        ("", "xact_", "_shared"),
        ("try_", "", ""),
        ("try_", "", "_shared"),
        ("try_", "xact_", ""),
        ("try_", "xact_", "_shared"),
    )
]
REFUSALS = (
    asyncpg.InsufficientPrivilegeError,
    asyncpg.InvalidParameterValueError,  # of a function with the rights of the owner: out of its bounds
    asyncpg.ActiveSQLTransactionError,  # of CREATE DATABASE and ALTER SYSTEM: see the next test
    asyncpg.UndefinedObjectError,  # a language that the server does not have
    asyncpg.FeatureNotSupportedError,  # an extension that the server does not have
)
COLUMNS = {"model_ledger": "reason", "fidelity_tracking": "fate", "schema_migrations": "sha256"}


@pytest.fixture
async def database(empty_database: str) -> str:
    """Address of a database as ``migrate`` leaves it, as a superuser; a copy of a template has no rights of the database itself."""
    await migrate(empty_database)
    return empty_database


@asynccontextmanager
async def user_of(database: str, user: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect(login_dsn(database, user))
    try:
        yield connection
    finally:
        await connection.close()


async def permitted(database: str, user: str, statements: Iterable[str], *, as_owner: bool = False) -> list[str]:
    """The statements that the user may execute; each is rolled back."""
    admin = await connect(database)
    superuser = await admin.fetchval("SELECT quote_ident(current_user)")
    name = await admin.fetchval("SELECT quote_ident(current_database())")
    await admin.close()
    executed = []
    async with user_of(database, user) as connection:
        if as_owner:
            await connection.execute(f"SET ROLE {OWNER}")
        for statement in statements:
            column = next((column for table, column in COLUMNS.items() if f" {table} " in f"{statement} "), "")
            transaction = connection.transaction()
            await transaction.start()
            try:
                await connection.execute(statement.format(database=name, superuser=superuser, user=user, column=column))
                executed.append(statement)
            except REFUSALS:
                pass
            finally:
                await transaction.rollback()
    return executed


async def test_the_service_may_do_nothing_that_needs_a_superuser_or_the_owner_and_cannot_change_what_has_happened(
    database: str, logins: Mapping[str, str]
) -> None:
    assert await permitted(database, logins[WRITER], [*OF_A_SUPERUSER, *OF_THE_OWNER, *OF_NOBODY]) == []


@pytest.mark.parametrize("statement", ["CREATE DATABASE another", "ALTER SYSTEM SET fsync = off"])
@pytest.mark.parametrize("role", ["twinstream_migrator", WRITER, READER])
async def test_what_no_transaction_allows_is_refused_outside_of_one_too(
    owned_database: str, logins: Mapping[str, str], role: str, statement: str
) -> None:
    async with user_of(owned_database, logins[role]) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)


async def test_a_reader_reads_every_table_and_may_do_nothing_else(database: str, logins: Mapping[str, str]) -> None:
    async with user_of(database, logins[READER]) as connection:
        for table in TABLES.keys() - set(UNREADABLE):
            await connection.fetch(f"SELECT * FROM {table} LIMIT 1")
    writes = [
        f"{verb} {table}{rest}" for table in TABLES for verb, rest in (("INSERT INTO", " DEFAULT VALUES"), ("DELETE FROM", ""))
    ]
    locks = [f"SELECT FROM {table} FOR {strength}" for table in TABLES for strength in ("UPDATE", "KEY SHARE")]
    calls = ["SELECT make_fidelity_partitions(3)", "UPDATE model_lines SET policy = 'off'", "UPDATE event_heads SET revision = 1"]
    statements = [*OF_A_SUPERUSER, *OF_THE_OWNER, *OF_NOBODY, *OF_THE_SERVICE, *writes, *locks, *calls]
    assert await permitted(database, logins[READER], statements) == []


async def test_the_locks_of_the_service_are_the_service_s_own_again_after_every_migration(
    database: str, logins: Mapping[str, str]
) -> None:
    async with user_of(database, logins[READER]) as connection:
        assert await shared_rights(connection) == ""
    admin = await connect(database)
    await admin.execute("GRANT EXECUTE ON FUNCTION pg_advisory_lock(bigint) TO PUBLIC")
    await admin.execute(f"REVOKE EXECUTE ON FUNCTION pg_advisory_xact_lock(bigint) FROM {WRITER}")
    assert "may take the advisory locks" in await shared_rights(admin)
    await admin.close()
    await migrate(database)
    assert await permitted(database, logins[READER], OF_THE_SERVICE) == []
    for role in (WRITER, "twinstream_migrator"):
        assert await permitted(database, logins[role], OF_THE_SERVICE) == OF_THE_SERVICE


async def test_the_holder_of_a_lock_is_named_and_not_one_of_those_who_wait(database: str, logins: Mapping[str, str]) -> None:
    settings = PostgresSettings(postgres_dsn=SecretStr(login_dsn(database, logins[WRITER])), postgres_lock_timeout_s=1.0)
    admin, pool = await connect(database), await open_pool(settings)
    await admin.execute("SELECT pg_advisory_lock(7)")
    holder, user = await admin.fetchrow("SELECT pg_backend_pid(), current_user::text")

    async def wait() -> None:
        async with transaction(pool) as connection:
            await connection.execute("LOCK TABLE model_lines IN ROW EXCLUSIVE MODE")  # so that it holds a lock itself
            await connection.execute("SELECT pg_advisory_xact_lock(7)")

    errors = await asyncio.gather(wait(), wait(), return_exceptions=True)
    with pytest.raises(asyncpg.LockNotAvailableError) as alone:
        await wait()
    await admin.close()
    await pool.close()
    for error in (*errors, alone.value):
        (note,) = error.__notes__
        assert f"process {holder} of user {user!r}" in note
        assert note.endswith("on an advisory lock")


@pytest.mark.parametrize("role", [WRITER, READER])
async def test_what_no_user_can_be_forbidden_is_known(database: str, logins: Mapping[str, str], role: str) -> None:
    assert await permitted(database, logins[role], OF_ONESELF) == OF_ONESELF


async def test_a_session_of_the_service_is_as_it_has_to_be_whatever_its_user_has_set_for_itself(
    database: str, logins: Mapping[str, str]
) -> None:
    wrong = {
        "default_transaction_isolation": "'serializable'",
        "default_transaction_read_only": "on",
        "synchronous_commit": "off",
        "timezone": "'Asia/Tokyo'",
    }
    user = logins[WRITER]
    async with user_of(database, user) as connection:
        for name, value in wrong.items():
            await connection.execute(f"ALTER ROLE {user} SET {name} = {value}")
    try:
        async with user_of(database, user) as connection:
            found = {name: await connection.fetchval(f"SHOW {name}") for name in wrong}
    finally:
        admin = await connect(database)
        await admin.execute(f"ALTER ROLE {user} RESET ALL")
        await admin.close()
    assert found == {
        "default_transaction_isolation": "read committed",
        "default_transaction_read_only": "off",
        "synchronous_commit": "on",
        "timezone": "UTC",
    }


async def test_a_bound_of_a_function_is_named_with_the_refused_value(database: str, logins: Mapping[str, str]) -> None:
    async with user_of(database, logins[WRITER]) as connection:
        with pytest.raises(asyncpg.InvalidParameterValueError, match="made for 0 to 12 months ahead, not 120"):
            await make_partitions(connection, months_ahead=120)
        with pytest.raises(asyncpg.InvalidParameterValueError, match="at the latest, not infinity: Kafka may deliver"):
            await connection.fetchval("SELECT drop_aged_partitions('infinity')")


async def test_a_head_only_rises(database: str, logins: Mapping[str, str]) -> None:
    async with user_of(database, logins[WRITER]) as connection:
        await connection.execute(
            "INSERT INTO event_heads (event_id, revision, digest, line, segments) VALUES (gen_random_uuid(), 3, 'b', 'x', '{}')"
        )
        for change in ("revision = 2", "digest = 'a'", "revision = 2, digest = 'c'", "contribution = '{1}'"):
            with pytest.raises(asyncpg.RestrictViolationError, match="is at revision 3: it only rises"):
                await connection.execute(f"UPDATE event_heads SET {change}")
        for change in ("digest = 'c'", "revision = 4, digest = 'a'"):
            await connection.execute(f"UPDATE event_heads SET {change}")


async def test_a_migrator_changes_tables_only_as_the_owner_and_may_do_nothing_that_needs_a_superuser(
    database: str, logins: Mapping[str, str]
) -> None:
    user = logins["twinstream_migrator"]
    reads = [f"SELECT FROM {table}" for table in TABLES]
    own = [statement for statement in OF_THE_OWNER if not statement.startswith("SET ROLE")]
    assert await permitted(database, user, [*OF_A_SUPERUSER, *own, *OF_NOBODY, *reads]) == []

    assert await permitted(database, user, OF_A_SUPERUSER, as_owner=True) == []
    change = ["ALTER TABLE digital_twins ADD COLUMN another integer", "CREATE TABLE another ()", "DROP TABLE replays"]
    assert await permitted(database, user, change, as_owner=True) == change
    async with user_of(database, user) as connection:
        await connection.execute(f"SET ROLE {OWNER}")
        for statement in ("UPDATE model_ledger SET reason = 'better'", "DELETE FROM model_ledger", "TRUNCATE model_ledger CASCADE"):
            with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
                await connection.execute(statement)


async def test_nobody_has_a_right_beyond_the_declared_ones(database: str) -> None:
    connection = await connect(database)
    try:
        grants = await connection.fetch(
            "SELECT grantee, table_name, privilege_type FROM information_schema.role_table_grants"
            " WHERE table_schema = 'public' AND grantee <> $1",
            OWNER,
        )
        assert {row["grantee"] for row in grants} == {WRITER, READER}
        assert {row["privilege_type"] for row in grants if row["grantee"] == READER} == {"SELECT"}
        assert {row["privilege_type"] for row in grants if row["grantee"] == WRITER} <= {"SELECT", "INSERT", "UPDATE", "DELETE"}
        callable_by_all = await connection.fetch(
            "SELECT proname FROM pg_proc"
            " WHERE pronamespace = 'public'::regnamespace AND has_function_privilege('public', oid, 'EXECUTE')"
        )
        assert callable_by_all == []
        unsafe = await connection.fetch(
            "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosecdef"
            " AND NOT EXISTS (SELECT FROM unnest(proconfig) c (setting) WHERE setting LIKE 'search\\_path=%, pg\\_temp')"
        )
        assert unsafe == [], "functions with the rights of the owner whose names a caller can redirect"
        foreign = await connection.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relowner <> $1::text::regrole", OWNER
        )
        assert foreign == []
    finally:
        await connection.close()


async def test_a_caller_cannot_make_a_function_of_the_owner_use_tables_of_the_caller(
    owned_database: str, logins: Mapping[str, str]
) -> None:
    async with user_of(
        owned_database, logins[WRITER]
    ) as connection:  # a copy of a template, in which all may create temporary tables
        await connection.execute("CREATE TEMPORARY TABLE fidelity_tracking_default (tracked_at timestamptz, secret text)")
        await connection.execute(
            "CREATE TEMPORARY TABLE fidelity_tracking (tracked_at timestamptz) PARTITION BY RANGE (tracked_at)"
        )
        await connection.execute("SET search_path = pg_temp, public")
        assert await make_partitions(connection, months_ahead=7) > 0
        parents = await connection.fetch(
            "SELECT DISTINCT inhparent::regclass::text FROM pg_inherits WHERE inhparent IN"
            " ('public.fidelity_tracking'::regclass, 'pg_temp.fidelity_tracking'::regclass)"
        )
        assert [row[0] for row in parents] == ["public.fidelity_tracking"]


async def test_partitions_that_the_service_makes_belong_to_the_owner_and_take_outcomes(
    fresh_database: str, owned_database: str
) -> None:
    service, admin = await connect(fresh_database), await connect(owned_database)
    try:
        assert await make_partitions(service, months_ahead=9) > 0
        owners = await admin.fetch("SELECT DISTINCT tableowner FROM pg_tables WHERE tablename LIKE 'fidelity_tracking%'")
        assert [row["tableowner"] for row in owners] == [OWNER]
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await service.execute("DROP TABLE fidelity_tracking_default")
    finally:
        await service.close()
        await admin.close()


async def test_a_migrator_sets_up_a_database_that_a_superuser_has_prepared(empty_database: str, logins: Mapping[str, str]) -> None:
    migrator = login_dsn(empty_database, logins["twinstream_migrator"])
    with pytest.raises(NotPermitted, match=rf"'{logins['twinstream_migrator']}' of TWIN_POSTGRES_MIGRATE_DSN .* schema public"):
        await migrate(migrator)
    admin = await connect(empty_database)
    await admin.execute("GRANT CREATE, USAGE ON SCHEMA public TO twinstream_owner")
    await admin.close()
    assert len(await migrate(migrator)) == len(migrations())
    assert await migrate(migrator) == []


async def test_a_user_without_rights_may_not_migrate(database: str, logins: Mapping[str, str]) -> None:
    for role in (WRITER, READER):
        with pytest.raises(NotPermitted, match="run `twinstream migrate` once as a superuser"):
            await migrate(login_dsn(database, logins[role]))


async def test_a_database_of_a_superuser_is_converted_and_tables_of_others_in_it_stay_theirs(
    empty_database: str, logins: Mapping[str, str]
) -> None:
    admin = await connect(empty_database)
    try:
        await admin.execute(MIGRATIONS_TABLE)
        for migration in migrations():
            if migration.number <= 23:
                await admin.execute(migration.text)
                await admin.execute(
                    "INSERT INTO schema_migrations VALUES ($1, $2, $3)", migration.number, migration.name, migration.sha256
                )
        await admin.fetchval("SELECT make_fidelity_partitions(3)")
        await admin.execute("CREATE TABLE of_another_program (number integer)")
        superuser = await admin.fetchval("SELECT current_user::text")

        await migrate(empty_database)

        rows = await admin.fetch("SELECT tableowner, tablename FROM pg_tables WHERE schemaname = 'public'")
        assert {row["tablename"] for row in rows if row["tableowner"] == superuser} == {"of_another_program"}
        assert {row["tableowner"] for row in rows} == {superuser, OWNER}
    finally:
        await admin.close()
    async with user_of(empty_database, logins[WRITER]) as connection:
        assert await make_partitions(connection, months_ahead=5) == 2


async def test_grants_that_were_changed_or_lost_are_as_declared_after_the_next_migrate(
    database: str, logins: Mapping[str, str]
) -> None:
    admin = await connect(database)
    await admin.execute(
        "GRANT UPDATE, DELETE ON model_ledger TO twinstream_writer; GRANT INSERT ON replays TO twinstream_reader, PUBLIC"
    )
    await admin.execute("REVOKE ALL ON source_positions FROM twinstream_writer")
    await admin.execute("ALTER TABLE replays OWNER TO CURRENT_USER")
    await admin.close()

    await migrate(database)

    async with user_of(database, logins[WRITER]) as connection:
        await connection.execute("UPDATE source_positions SET elements = 0")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("DELETE FROM model_ledger")
    assert await permitted(database, logins[READER], ["INSERT INTO replays DEFAULT VALUES"]) == []


async def test_databases_of_one_server_can_create_the_roles_at_the_same_time(postgres_dsn: str) -> None:
    prefix = f"race_{uuid4().hex[:8]}_"
    script = (files("sql") / "roles.sql").read_text(encoding="utf-8").replace("twinstream_", prefix)
    admin = await connect(postgres_dsn)
    databases = [f"{prefix}{number}" for number in range(6)]
    try:
        async with AsyncExitStack() as stack:
            for name in databases:
                await admin.execute(f"CREATE DATABASE {name}")
            connections = []
            for name in databases:
                connections.append(await connect(f"{postgres_dsn.rpartition('/')[0]}/{name}"))
                stack.push_async_callback(connections[-1].close)
            await asyncio.gather(*(connection.execute(script) for connection in connections))
        assert await admin.fetchval("SELECT count(*) FROM pg_roles WHERE starts_with(rolname, $1)", prefix) == 4
        assert await admin.fetchval(f"SELECT pg_has_role('{prefix}migrator', '{prefix}owner', 'SET')")
    finally:
        for name in databases:
            await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        for role in ("migrator", "owner", "writer", "reader"):
            await admin.execute(f"DROP ROLE IF EXISTS {prefix}{role}")
        await admin.close()


async def test_rights_beyond_those_of_the_service_are_described(owned_database: str, logins: Mapping[str, str]) -> None:
    reasons = {}
    for role, user in logins.items():
        async with user_of(owned_database, user) as connection:
            reasons[role] = await excess_rights(connection)
    admin = await connect(owned_database)
    reasons["superuser"] = await excess_rights(admin)
    await admin.close()
    assert reasons[WRITER] == reasons[READER] == ""
    assert "may become their owner" in reasons["twinstream_migrator"]
    assert "is a superuser" in reasons["superuser"]
