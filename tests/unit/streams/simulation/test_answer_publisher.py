"""Answers that their topic does not take: the role tells so until it takes some."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from aiokafka.errors import MessageSizeTooLargeError

from streams.errors import is_waited_for
from streams.metrics import REGISTRY
from streams.outages import OUTAGES
from streams.simulation.answer_publisher import AnswerRefused, publish_answers
from streams.simulation.simulator import failed

ANSWER = failed(UUID(int=1), "its bounds")


def an_app(*errors: Exception | None) -> Any:
    """An app whose sends end with these errors, one after another."""
    outcomes = iter(errors)

    async def send_event(_event: object, key: str) -> asyncio.Future[None]:
        sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        error = next(outcomes)
        if error is not None:
            sent.set_exception(error)
        else:
            sent.set_result(None)
        return sent

    return SimpleNamespace(role="simulation", send_event=send_event)


async def test_a_topic_that_takes_no_answer_at_all_is_an_outage_until_it_takes_one():
    labels = {"role": "simulation", "task": "publication of answers"}
    before = REGISTRY.get_sample_value("twin_task_failures_total", labels) or 0.0
    app = an_app(*[MessageSizeTooLargeError("1100 bytes")] * 5, None)
    for n_failed in range(5):
        assert (n_failed, OUTAGES.has("kafka")) == (n_failed, False)
        with pytest.raises(AnswerRefused, match="1100 bytes") as refused:
            await publish_answers(app, [ANSWER])
        assert not is_waited_for(refused.value)  # the answer is replaced by a short one, and holds up no other
    assert "MessageSizeTooLarge" in OUTAGES.current()[0].error
    assert REGISTRY.get_sample_value("twin_task_failures_total", labels) == before + 5

    await publish_answers(app, [ANSWER])
    assert not OUTAGES.has("kafka")
