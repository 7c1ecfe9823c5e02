"""What docker compose starts fits the code: settings, ports, commands, files and the image."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from streams.cli.app import app
from streams.settings import ROLES, Settings
from streams.worker.supervisor import KILL_S

ROOT = Path(__file__).resolve().parents[3]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]
OURS = ("migrate", "worker", "trainer", "web")
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def roles_of(name: str) -> list[str]:
    command = SERVICES[name]["command"]
    return command[2].split(",") if command[:2] == ["worker", "--role"] else []


def test_every_role_runs_in_one_service() -> None:
    assert sorted(role for name in OURS for role in roles_of(name)) == sorted(ROLES)


@pytest.mark.parametrize("name", OURS)
def test_every_variable_of_a_service_is_a_setting_or_the_file_of_one(name: str) -> None:
    names = [variable.removeprefix("TWIN_").lower() for variable in SERVICES[name]["environment"]]
    assert [field for field in names if field.removesuffix("_file") not in Settings.model_fields] == []


@pytest.mark.parametrize("name", OURS)
def test_the_variables_of_a_service_are_valid_settings(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in [variable for variable in os.environ if variable.startswith("TWIN_")]:
        monkeypatch.delenv(variable)
    for variable, value in SERVICES[name]["environment"].items():
        default = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value))
        if variable.endswith("_FILE"):
            secret = tmp_path / Path(default).name
            secret.write_text("a secret")
            default = str(secret)
        monkeypatch.setenv(variable, default)
    dsn = Settings().postgres_dsn if name != "migrate" else Settings().postgres_migrate_dsn
    assert "a%20secret@postgres:5432/twinstream" in dsn.get_secret_value()


@pytest.mark.parametrize("name", ["worker", "trainer", "web"])
def test_the_health_of_a_service_is_that_of_each_of_its_roles(name: str) -> None:
    check = SERVICES[name]["healthcheck"]["test"][-1]
    port = int(SERVICES[name]["environment"]["TWIN_WEB_PORT"])
    ports = [Settings(web_port=port).port_of(role) for role in roles_of(name)]
    stated = re.search(r"range\((\d+), (\d+)\)", check)
    assert (list(range(*map(int, stated.groups()))) if stated else [int(n) for n in re.findall(r":(\d+)/", check)]) == ports
    assert "'live'" in check
    assert "'ready'" in check


@pytest.mark.parametrize("name", ["worker", "trainer", "web"])
def test_a_service_has_the_time_that_its_roles_need_to_stop(name: str) -> None:
    grace_s = int(SERVICES[name]["stop_grace_period"].removesuffix("s"))
    assert grace_s > Settings().stop_limit_s + KILL_S + 5


@pytest.mark.parametrize("name", OURS)
def test_the_command_of_a_service_exists(name: str) -> None:
    assert SERVICES[name]["command"][0] in get_command(app).commands  # type: ignore[attr-defined]


def test_secrets_come_from_the_files_that_the_script_creates() -> None:
    script = (ROOT / "deploy" / "create_secrets.sh").read_text(encoding="utf-8")
    created = re.search(r"for name in ([\w ]+);", script)
    assert created is not None
    files = {f"{name}_password": {"file": f"./secrets/{name}_password"} for name in created[1].split()}
    assert COMPOSE["secrets"] == files
    assert {secret for service in SERVICES.values() for secret in service.get("secrets", [])} == files.keys()


def test_every_file_that_is_mounted_exists() -> None:
    mounted = [str(volume).split(":", maxsplit=1)[0] for service in SERVICES.values() for volume in service.get("volumes", [])]
    named = set(COMPOSE["volumes"])
    assert [source for source in mounted if source not in named and not (ROOT / source).exists()] == []


def test_the_image_has_every_package_and_runs_as_a_user_without_rights() -> None:
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert set(packages) == set(re.findall(r"^COPY (\w+) \1$", DOCKERFILE, re.MULTILINE))
    for path in re.findall(r"^COPY ((?!--from)[\w./ -]+) \S+$", DOCKERFILE, re.MULTILINE):
        assert all((ROOT / source).exists() for source in path.split())
    user = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)[-1]
    assert user not in ("root", "0", "0:0")
    (entrypoint,) = re.findall(r'^ENTRYPOINT \["(\w+)"\]$', DOCKERFILE, re.MULTILINE)
    assert entrypoint in PROJECT["project"]["scripts"]
    assert SERVICES["worker"]["build"] == {"context": ".", "dockerfile": "deploy/Dockerfile"}
    assert SERVICES["worker"]["image"] == f"twinstream:{PROJECT['project']['version']}"
