"""Settings of the service: checks across several settings."""

from __future__ import annotations

import pytest

from streams.settings import Settings


@pytest.mark.parametrize("name", ["statement", "lock", "idle_in_transaction", "tcp_user"])
@pytest.mark.parametrize("seconds", [20, 30])
def test_a_database_timeout_above_the_session_timeout_is_refused(name: str, seconds: int) -> None:
    with pytest.raises(ValueError, match=rf"postgres_{name}_timeout_s is {seconds} .* below session_timeout_s, 20"):
        Settings(**{f"postgres_{name}_timeout_s": seconds}, session_timeout_s=20)
