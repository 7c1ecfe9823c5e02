"""Which Kafka a client finds: the one in the settings, else the local stack that is running, and none is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.stack import StackAddresses
from streams.client import NoKafkaAddress, TwinClient, discovery
from streams.settings import Settings
from streams.worker.local_stack import NoLocalStack, connected

ADDRESSES = StackAddresses(1, "127.0.0.1:9", "postgresql://twin@127.0.0.1:8/twins", "sqlite:///mlflow.db")


def run_in(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setattr(discovery, "running_stack", lambda folder: ADDRESSES if folder == home else None)


def test_a_client_uses_the_kafka_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWIN_KAFKA_BOOTSTRAP", "broker:9092")
    assert TwinClient()._settings.kafka_bootstrap == "broker:9092"


def test_a_client_finds_the_local_stack_that_the_command_line_finds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TWIN_HOME", str(tmp_path))
    for home in (tmp_path, tmp_path / "demo"):
        home.mkdir(exist_ok=True)
        discovery.write_last_home(tmp_path, home)
        run_in(monkeypatch, home)
        with connected(Settings(), print) as found_by_command_line:
            assert TwinClient()._settings == found_by_command_line
        assert found_by_command_line.kafka_bootstrap == ADDRESSES.kafka_bootstrap
        assert found_by_command_line.postgres_dsn.get_secret_value() == ADDRESSES.postgres_dsn
        assert found_by_command_line.home == home


def test_a_folder_elsewhere_is_remembered_too(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    discovery.write_last_home(tmp_path / "home", elsewhere)
    assert discovery.last_home(tmp_path / "home") == elsewhere


def test_a_command_about_stored_things_makes_no_stack_in_a_folder_that_never_had_one(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "other" / ".twinstream")
    with (
        pytest.raises(NoLocalStack, match=r"no local stack in .*/other/.twinstream: .* TWIN_HOME"),
        connected(settings, print, may_create=False),
    ):
        pass
    assert not settings.home.exists()


def test_settings_win_over_a_running_stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run_in(monkeypatch, tmp_path)
    settings = Settings(kafka_bootstrap="broker:9092", home=tmp_path)
    assert TwinClient(settings)._settings is settings


def test_without_a_kafka_the_error_names_the_setting_and_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TWIN_KAFKA_BOOTSTRAP", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NoKafkaAddress, match=r"set TWIN_KAFKA_BOOTSTRAP.*`twinstream up`"):
        TwinClient()
    assert list(tmp_path.iterdir()) == []
