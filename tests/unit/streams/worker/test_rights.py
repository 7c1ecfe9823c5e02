"""A service that runs as a user with too many rights logs one warning."""

from __future__ import annotations

import logging

import pytest
from pydantic import SecretStr

from streams.settings import Settings
from streams.worker.rights import warn_of_excess_rights


@pytest.mark.parametrize(("fixture", "n_warnings"), [("owned_database", 1), ("migrating_database", 1), ("fresh_database", 0)])
def test_a_superuser_and_a_migrator_are_warned_of_and_the_user_of_the_service_is_not(
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture, fixture: str, n_warnings: int
) -> None:
    dsn = request.getfixturevalue(fixture)
    with caplog.at_level(logging.WARNING):
        warn_of_excess_rights(Settings(postgres_dsn=SecretStr(dsn))).join(timeout=60.0)
    warnings = [record.getMessage() for record in caplog.records if record.name == "streams.worker.rights"]
    assert len(warnings) == n_warnings
    assert all("TWIN_POSTGRES_DSN" in warning and "twinstream_writer" in warning and dsn not in warning for warning in warnings)


def test_a_database_that_cannot_be_reached_gives_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(postgres_dsn=SecretStr("postgresql://nobody@127.0.0.1:1/none"))
    warn_of_excess_rights(settings).join(timeout=60.0)
    assert caplog.records == []
