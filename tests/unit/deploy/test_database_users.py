"""The users of the database in the local stack and in docker compose: who exists, who knows which password, who may do what."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
import yaml

from deploy.stack.logins import LOGINS
from deploy.stack.part import free_port
from deploy.stack.postgres import Postgres, binaries
from sql.database import connect
from sql.migrate import MIGRATIONS_TABLE, migrate, migrations

ROOT = Path(__file__).resolve().parents[3]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
PASSWORDS = {"admin": "admin's", "migrate": 'a "quoted" one', "write": "w$(id)`id`", "read": "r\\"}


@pytest.fixture(scope="module")
def new_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a server was started once and stopped; a copy is made in a fraction of the time."""
    home = tmp_path_factory.mktemp("new")
    server = Postgres(home, free_port())
    server.start()
    server.stop()
    return home


@pytest.fixture
def postgres(new_home: Path, tmp_path: Path) -> Iterator[Postgres]:
    shutil.copytree(new_home, tmp_path, dirs_exist_ok=True)
    server = Postgres(tmp_path, free_port())
    server.start()
    yield server
    server.stop()


async def fetch_value(dsn: str, statement: str) -> object:
    connection = await connect(dsn)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def execute(dsn: str, *statements: str) -> None:
    connection = await connect(dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


IS_SUPERUSER = "SELECT rolsuper OR rolcreaterole OR rolcreatedb FROM pg_roles WHERE rolname = current_user"


async def test_every_user_of_a_new_stack_has_a_password_of_its_own_and_none_is_a_superuser(postgres: Postgres) -> None:
    passwords = [urlsplit(postgres.dsn_of(user)).password for user in LOGINS] + [urlsplit(postgres.admin_dsn).password]
    assert len(set(passwords)) == 4
    for user in LOGINS:
        assert await fetch_value(postgres.dsn_of(user), IS_SUPERUSER) is False
    assert postgres.passwords.stat().st_mode & 0o077 == 0
    log = postgres.log.read_text(encoding="utf-8", errors="replace")
    assert not any(str(password) in log for password in passwords)


async def test_a_user_who_only_reads_takes_no_lock_that_the_service_waits_for(postgres: Postgres) -> None:
    statement = "SELECT pg_advisory_xact_lock(1), pg_try_advisory_lock(1), pg_advisory_xact_lock_shared(2)"
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await execute(postgres.dsn_of("twinstream_read"), statement)
    for user in ("twinstream_write", "twinstream_migrate"):
        await execute(postgres.dsn_of(user), statement)


@pytest.mark.parametrize("user", [*LOGINS, "twinstream", "postgres", "nobody"])
async def test_naming_another_user_is_no_way_to_become_that_user(postgres: Postgres, user: str) -> None:
    own = urlsplit(postgres.dsn)
    for password in ("", str(own.password) if user != own.username else "guess"):
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
            await asyncpg.connect(host=own.hostname, port=own.port, user=user, password=password, database="twinstream")


async def test_a_folder_without_users_is_converted_when_it_is_opened(postgres: Postgres) -> None:
    """As a version has left it that did everything as the superuser."""
    files = [migration for migration in migrations() if migration.number <= 23]
    await execute(postgres.admin_dsn, MIGRATIONS_TABLE, *(migration.text for migration in files))
    for file in files:
        values = f"({file.number}, '{file.name}', '{file.sha256}')"
        await execute(postgres.admin_dsn, f"INSERT INTO schema_migrations VALUES {values}")
    await execute(
        postgres.admin_dsn, "DROP OWNED BY twinstream_write", "DROP ROLE twinstream_write", "SELECT make_fidelity_partitions(3)"
    )
    postgres.stop()
    postgres.passwords.unlink()

    postgres.start()

    assert len(await migrate(postgres.dsn_of("twinstream_migrate"))) == len(migrations()) - len(files)
    owners = "SELECT string_agg(DISTINCT tableowner, ', ') FROM pg_tables WHERE schemaname = 'public'"
    assert await fetch_value(postgres.dsn, owners) == "twinstream_owner"
    assert await fetch_value(postgres.dsn, "SELECT make_fidelity_partitions(5)") == 2


async def test_the_users_and_passwords_of_a_folder_stay_when_it_is_opened_again(postgres: Postgres) -> None:
    before = json.loads(postgres.passwords.read_text(encoding="ascii"))
    postgres.stop()
    postgres.start()
    assert json.loads(postgres.passwords.read_text(encoding="ascii")) == before
    assert await fetch_value(postgres.dsn, "SELECT current_user") == "twinstream_write"


async def test_a_folder_with_the_roles_of_an_earlier_version_has_those_of_this_one_when_it_is_opened(postgres: Postgres) -> None:
    before = json.loads(postgres.passwords.read_text(encoding="ascii"))
    await execute(postgres.admin_dsn, "GRANT EXECUTE ON FUNCTION pg_advisory_lock(bigint) TO PUBLIC")
    await execute(postgres.dsn_of("twinstream_read"), "SELECT pg_advisory_lock(1)")
    postgres.stop()
    (postgres.folder / "roles.sha256").write_text("an earlier one", encoding="ascii")

    postgres.start()

    assert json.loads(postgres.passwords.read_text(encoding="ascii")) == before
    await execute(postgres.dsn, "SELECT pg_advisory_lock(1)")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await execute(postgres.dsn_of("twinstream_read"), "SELECT pg_advisory_lock(1)")


def create_users(postgres: Postgres, secrets: Path) -> subprocess.CompletedProcess[str]:
    """Run the script of compose as the image of Postgres does, on another server."""
    scripts = secrets.parent / "scripts"
    scripts.mkdir(exist_ok=True)
    for volume in COMPOSE["services"]["postgres"]["volumes"][2:]:
        source, target, _ = volume.split(":")
        assert target == f"/etc/twinstream/{Path(source).name}"
        (scripts / Path(source).name).write_bytes((ROOT / source).read_bytes())
    settings = {"PGHOST": "127.0.0.1", "PGPORT": str(postgres.port), "SECRETS": str(secrets), "SCRIPTS": str(scripts)}
    names = {"POSTGRES_USER": "twinstream", "POSTGRES_DB": "twinstream", "PATH": f"{binaries()}:{os.environ['PATH']}"}
    return subprocess.run(
        ["sh", ROOT / "deploy" / "postgres" / "create_users.sh"], env=settings | names, capture_output=True, text=True, check=False
    )


def test_the_script_of_compose_creates_the_users_with_the_passwords_of_the_files(postgres: Postgres, tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    for user, password in PASSWORDS.items():
        (secrets / f"postgres_{user}_password").write_text(f"{password}\n")
    (secrets / "postgres_admin_password").write_text(str(urlsplit(postgres.admin_dsn).password))
    asyncio.run(execute(postgres.admin_dsn, "DROP ROLE twinstream_write", "DROP ROLE twinstream_read"))

    for _ in range(2):  # the second time as for an older volume
        completed = create_users(postgres, secrets)
        assert completed.returncode == 0, completed.stderr
        assert completed.stdout == ""

    async def user_with(password: str, user: str) -> object:
        port = postgres.port
        connection = await asyncpg.connect(host="127.0.0.1", port=port, user=user, password=password, database="twinstream")
        try:
            return await connection.fetchval(IS_SUPERUSER)
        finally:
            await connection.close()

    for user in ("migrate", "write", "read"):
        assert asyncio.run(user_with(PASSWORDS[user], f"twinstream_{user}")) is False
    log = postgres.log.read_text(encoding="utf-8", errors="replace")
    assert not any(password in log for password in PASSWORDS.values())

    (secrets / "postgres_read_password").write_text("")
    refused = create_users(postgres, secrets)
    assert refused.returncode == 1
    assert "postgres_read_password is missing or empty" in refused.stderr


def test_no_service_of_compose_has_the_password_of_the_superuser_and_each_has_only_its_own() -> None:
    secrets = {name: set(service.get("secrets", [])) for name, service in COMPOSE["services"].items()}
    assert [name for name, mounted in secrets.items() if "postgres_admin_password" in mounted] == ["postgres"]
    assert secrets["worker"] == secrets["trainer"] == secrets["web"] == {"postgres_write_password", "postgres_read_password"}
    assert secrets["migrate"] == {"postgres_migrate_password"}
    assert set().union(*secrets.values()) == COMPOSE["secrets"].keys()


def test_the_addresses_in_compose_name_existing_users_and_have_no_password() -> None:
    for name in ("worker", "trainer", "web", "migrate"):
        environment = COMPOSE["services"][name]["environment"]
        for setting in [key for key in environment if key.endswith("_DSN")]:
            address = urlsplit(environment[setting])
            assert address.username in LOGINS
            assert address.password is None
            file = environment[f"{setting.removesuffix('DSN')}PASSWORD_FILE"]
            assert file == f"/run/secrets/{address.username.replace('twinstream', 'postgres')}_password"


def test_the_script_creates_each_password_once_and_for_nobody_else(tmp_path: Path) -> None:
    (tmp_path / "deploy").mkdir()
    script = tmp_path / "deploy" / "create_secrets.sh"
    script.write_bytes((ROOT / "deploy" / "create_secrets.sh").read_bytes())
    subprocess.run(["sh", script], check=True, capture_output=True)
    created = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert created.keys() == COMPOSE["secrets"].keys()
    assert len(set(created.values())) == len(created)
    assert all(len(password) == 48 for password in created.values())
    assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0
    subprocess.run(["sh", script], check=True, capture_output=True)
    assert {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()} == created
