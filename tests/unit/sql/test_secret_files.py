"""Secrets come from the environment or from files, and no error shows them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from sql.secret_files import SecretFileError
from sql.settings import PostgresSettings, server_address
from streams.errors import describe_error
from streams.settings import Settings

DSN = "postgresql://service:hunter2@db:5432/twins"
SECRETS = sorted(name for name, field in Settings.model_fields.items() if field.annotation is SecretStr)


@pytest.fixture(autouse=True)
def without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        for suffix in ("", "_FILE"):
            monkeypatch.delenv(f"TWIN_{name}{suffix}".upper(), raising=False)


def secret_file(folder: Path, content: bytes) -> Path:
    path = folder / "secret"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("content", [DSN.encode(), f"{DSN}\n".encode(), f"{DSN}\r\n".encode()])
def test_a_secret_is_read_from_a_file_without_the_newline_at_its_end(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWIN_POSTGRES_DSN_FILE", str(secret_file(tmp_path, content)))
    assert Settings().postgres_dsn.get_secret_value() == DSN


@pytest.mark.parametrize("name", SECRETS)
def test_every_secret_setting_can_be_in_a_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    value = DSN if name.endswith("_dsn") else " kept as it is "
    monkeypatch.setenv(f"TWIN_{name}_FILE".upper(), str(secret_file(tmp_path, f"{value}\n".encode())))
    assert getattr(Settings(), name).get_secret_value() == value


def test_an_address_that_may_have_a_password_can_be_in_a_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TWIN_MLFLOW_URI", raising=False)
    monkeypatch.setenv("TWIN_MLFLOW_URI_FILE", str(secret_file(tmp_path, b"http://ann:hunter2@mlflow:5000")))
    assert Settings().mlflow_uri == "http://ann:hunter2@mlflow:5000"


def test_an_empty_variable_names_no_file_and_an_empty_secret_gives_way_to_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWIN_KAFKA_PASSWORD_FILE", "")
    monkeypatch.setenv("TWIN_POSTGRES_DSN", "")
    monkeypatch.setenv("TWIN_POSTGRES_DSN_FILE", str(secret_file(tmp_path, DSN.encode())))
    assert Settings().kafka_password.get_secret_value() == ""
    assert Settings().postgres_dsn.get_secret_value() == DSN


@pytest.mark.parametrize(("content", "reason"), [
    (b"", "is empty"),
    (b"\n", "is empty"),
    (b" \n", "is empty"),
    (b"hunter2\nhunter3\n", "has several lines"),
    (b"hunter2\n\n", "has several lines"),
    (b"hunter2\0", "a control character"),
    (b"hunter2\xff", "is no UTF-8 text"),
    (b"hunter2" * 10_000, "is larger than 65,536 bytes"),
])  # fmt: skip
def test_a_file_that_has_no_usable_secret_is_refused_with_setting_and_path_and_without_its_content(
    content: bytes, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = secret_file(tmp_path, content)
    monkeypatch.setenv("TWIN_KAFKA_PASSWORD_FILE", str(path))
    with pytest.raises(SecretFileError) as refusal:
        Settings()
    assert str(refusal.value).startswith(f"TWIN_KAFKA_PASSWORD_FILE={path} ")
    assert reason in str(refusal.value)
    assert "hunter" not in str(refusal.value)
    assert refusal.value.__cause__ is None


@pytest.mark.parametrize(("path", "reason"), [
    ("missing", "No such file or directory"), (".", "Is a directory"), ("secret/below", "Not a directory"),
])  # fmt: skip
def test_a_file_that_cannot_be_read_is_refused_with_the_reason(
    path: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret_file(tmp_path, b"hunter2")
    monkeypatch.setenv("TWIN_POSTGRES_PASSWORD_FILE", str(tmp_path / path))
    with pytest.raises(SecretFileError, match=rf"TWIN_POSTGRES_PASSWORD_FILE=.* cannot be read: {reason}"):
        PostgresSettings()


def test_a_secret_that_is_set_twice_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWIN_POSTGRES_DSN", DSN)
    monkeypatch.setenv("TWIN_POSTGRES_DSN_FILE", str(secret_file(tmp_path, DSN.encode())))
    with pytest.raises(SecretFileError, match=r"TWIN_POSTGRES_DSN and TWIN_POSTGRES_DSN_FILE=.* are both set") as refusal:
        Settings()
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize(("dsn", "complete"), [
    ("postgresql://service@db/twins", "postgresql://service:p%40ss%2Fw%3Ard%20%25@db/twins"),
    ("postgres://service@db:5432,other:5433/twins?target_session_attrs=read-write",
     "postgres://service:p%40ss%2Fw%3Ard%20%25@db:5432,other:5433/twins?target_session_attrs=read-write"),
    ("postgresql://service@[::1]:5432/twins", "postgresql://service:p%40ss%2Fw%3Ard%20%25@[::1]:5432/twins"),
    ("postgresql://db/twins", "postgresql://:p%40ss%2Fw%3Ard%20%25@db/twins"),
])  # fmt: skip
def test_a_password_of_its_own_becomes_part_of_the_address(dsn: str, complete: str) -> None:
    settings = PostgresSettings(postgres_dsn=SecretStr(dsn), postgres_password=SecretStr("p@ss/w:rd %"))
    assert settings.postgres_dsn.get_secret_value() == complete
    assert PostgresSettings(**dict(settings)) == settings, "it is added once"


@pytest.mark.parametrize("dsn", [DSN, "postgresql://service@db/twins?password=hunter2"])
def test_an_address_with_another_password_is_refused(dsn: str) -> None:
    with pytest.raises(
        ValidationError, match="TWIN_POSTGRES_MIGRATE_DSN has a password, and TWIN_POSTGRES_MIGRATE_PASSWORD"
    ) as refusal:
        PostgresSettings(postgres_migrate_dsn=SecretStr(dsn), postgres_migrate_password=SecretStr("hunter3"))
    assert "hunter" not in str(refusal.value) + describe_error(refusal.value)


@pytest.mark.parametrize("dsn", [
    "mysql://service:hunter2@db/twins", "host=db password=hunter2", "postgresql://service:hunter2/@db/twins",
    "postgresql://service:hunter2#@db/twins", "postgresql://service:hunter2?@db/twins", "postgresql://service@db:hunter2/twins",
])  # fmt: skip
def test_what_is_no_address_is_refused_without_showing_a_part_of_it(dsn: str) -> None:
    with pytest.raises(ValidationError, match="TWIN_POSTGRES_DSN is not an address") as refusal:
        Settings(postgres_dsn=SecretStr(dsn))
    assert "hunter2" not in str(refusal.value) + describe_error(refusal.value)
    assert server_address(dsn) == "its address"


@pytest.mark.parametrize(("dsn", "address"), [
    (DSN, "db:5432"), ("postgresql://db?password=hunter2", "db"), ("postgresql:///twins?host=/run/postgresql", "its address"),
    ("postgresql://a:b@c@db:1/twins", "db:1"),
])  # fmt: skip
def test_messages_name_the_server_and_neither_user_nor_password(dsn: str, address: str) -> None:
    assert server_address(dsn) == address


def test_addresses_for_migrations_and_readers_default_to_that_of_the_service() -> None:
    one = PostgresSettings(postgres_dsn=SecretStr(DSN))
    assert (one.migrate_dsn, one.read_dsn, one.server_dsn) == (DSN, DSN, DSN)
    others = {name: SecretStr(f"postgresql://{name}@db/twins") for name in ("postgres_migrate_dsn", "postgres_read_dsn")}
    several = PostgresSettings(postgres_dsn=SecretStr(DSN), **others)
    assert several.migrate_dsn.startswith("postgresql://postgres_migrate_dsn@")
    assert several.read_dsn.startswith("postgresql://postgres_read_dsn@")


def test_no_text_of_the_settings_shows_a_secret() -> None:
    settings = Settings.model_validate({name: DSN if name.endswith("_dsn") else "hunter2" for name in SECRETS})
    assert "hunter2" not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"


def test_an_invalid_setting_beside_secrets_is_refused_without_showing_them() -> None:
    with pytest.raises(ValidationError) as refusal:
        Settings(postgres_dsn=SecretStr(DSN), postgres_lock_timeout_s=100.0)
    assert "hunter2" not in str(refusal.value) + repr(refusal.value) + describe_error(refusal.value)
