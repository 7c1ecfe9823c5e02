"""Effects that are stored and in effect are published until that succeeds: their experiment is no bad record."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import MessageSizeTooLargeError

from streams import retries
from streams.agents import experiments


async def test_effects_are_published_until_the_topic_takes_them_whatever_it_raised(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.001)
    errors, published = [MessageSizeTooLargeError(), RuntimeError("unforeseen"), MessageSizeTooLargeError()], []

    async def publish(event: Any, *, key: str) -> None:
        if errors:
            raise errors.pop()
        published.append((event, key))

    async def publish_choice(*_: Any, after: str) -> None:
        published.append(after)

    monkeypatch.setattr(experiments, "publish_choice", publish_choice)
    effects: Any = SimpleNamespace(key="a line", line="a line", prior=SimpleNamespace(intervention_type="email_campaign"))
    app: Any = SimpleNamespace(pool=None, publish=publish)
    await experiments._publish_new(app, effects)
    assert published == [(effects, "a line"), "email_campaign"]
