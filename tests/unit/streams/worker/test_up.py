"""The start of the whole service on the local stack, before its roles run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from streams.settings import Settings
from streams.worker import up


async def test_a_server_that_ends_while_it_is_prepared_is_waited_for(monkeypatch: pytest.MonkeyPatch):
    attempts = []

    async def prepare(_settings: Settings, on_step: Callable[[str], None]) -> None:
        attempts.append(on_step)
        if len(attempts) < 3:
            raise ConnectionResetError("the server has ended")

    monkeypatch.setattr(up, "prepare", prepare)
    await up._prepare(Settings(), lambda _line: None)
    assert len(attempts) == 3


async def test_what_no_waiting_helps_ends_the_start(monkeypatch: pytest.MonkeyPatch):
    async def prepare(_settings: Settings, _on_step: Callable[[str], None]) -> None:
        raise ValueError("a migration was edited")

    monkeypatch.setattr(up, "prepare", prepare)
    with pytest.raises(ValueError, match="a migration was edited"):
        await up._prepare(Settings(), lambda _line: None)
