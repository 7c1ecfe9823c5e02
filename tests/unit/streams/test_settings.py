"""Settings of the service: checks across several settings."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from streams.settings import Settings


@pytest.mark.parametrize("name", ["statement", "lock", "idle_in_transaction", "tcp_user"])
@pytest.mark.parametrize("seconds", [20, 30])
def test_a_database_timeout_above_the_session_timeout_is_refused(name: str, seconds: int) -> None:
    with pytest.raises(ValueError, match=rf"postgres_{name}_timeout_s is {seconds} .* below session_timeout_s, 20"):
        Settings(**{f"postgres_{name}_timeout_s": seconds}, session_timeout_s=20)


@pytest.mark.parametrize("name", ["event_limit_s", "progress_limit_s", "stop_limit_s", "probe_interval_s", "probe_timeout_s"])
def test_a_limit_of_liveness_is_read_from_the_environment_and_positive(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(f"TWIN_{name.upper()}", "7.5")
    assert getattr(Settings(), name) == 7.5
    monkeypatch.setenv(f"TWIN_{name.upper()}", "0")
    with pytest.raises(ValidationError, match=name):
        Settings()


def test_a_heartbeat_limit_leaves_time_for_a_heartbeat_a_second():
    with pytest.raises(ValidationError, match="heartbeat_limit_s"):
        Settings(heartbeat_limit_s=1.0)


@pytest.mark.parametrize(
    ("own", "address"),
    [
        ({}, "http://127.0.0.1:6072"),
        ({"api_host": "::1", "api_port": 7000}, "http://[::1]:7000"),
        ({"api_host": "10.0.0.1"}, None),
        ({"web_behind_proxy": True}, None),
        ({"api_certificate_file": "c.pem"}, None),
    ],
)
def test_pages_lead_to_the_api_where_a_browser_on_this_machine_reaches_it(own, address):
    assert Settings(**own).local_api == address
