"""Transient failures are retried, other ones are refused, and no exception leaves an agent."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from aiokafka.errors import MessageSizeTooLargeError, UnsupportedForMessageFormatError
from stamina.instrumentation import get_on_retry_hooks, set_on_retry_hooks

from schemas import BUILT_IN, Catalogue, catalogue_in_effect, install
from streams import retries
from streams.metrics import OUTAGES, REGISTRY
from streams.outages import OUTAGES as CURRENT_OUTAGES
from streams.retries import any_error, oldest_unfinished_s, process_event, retry_transient, track_unfinished


@dataclass
class App:
    role: str = "simulation"
    should_stop: bool = False
    version: int = 0

    async def newest_catalogue(self) -> Catalogue:
        return BUILT_IN.model_copy(update={"version": self.version})


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.001)


def failing(*errors):
    pending = list(errors)

    async def action():
        if pending:
            raise pending.pop(0)
        return "done"

    return action


async def test_transient_failures_are_retried_and_counted():
    before = OUTAGES.labels(part="trial")._value.get()
    assert await retry_transient(failing(ConnectionError(), TimeoutError(), OSError()), part="trial") == "done"
    assert OUTAGES.labels(part="trial")._value.get() - before == 3


async def test_what_kafka_refuses_again_and_again_is_told_as_an_outage_until_it_is_done():
    errors = [MessageSizeTooLargeError(), MessageSizeTooLargeError(), UnsupportedForMessageFormatError()]
    for error in errors:
        error.add_note("the topic fidelity-errors does not take 1100 bytes of this service")
    out = []

    async def publish():
        out.extend(f"{outage.part}: {outage.error}" for outage in CURRENT_OUTAGES.current())
        if errors:
            raise errors.pop(0)

    await retry_transient(publish, part="kafka", waits_for=any_error)
    (text,) = out
    assert text.startswith("kafka: UnsupportedForMessageFormatError")
    assert "the topic fidelity-errors does not take 1100 bytes" in text
    assert CURRENT_OUTAGES.current() == []


async def test_other_failures_are_raised_at_once():
    with pytest.raises(ValueError, match="no"):
        await retry_transient(failing(ValueError("no")), part="trial")


async def test_a_transient_failure_is_raised_after_the_last_attempt():
    with pytest.raises(ConnectionError):
        await retry_transient(failing(*[ConnectionError()] * 3), part="trial", attempts=3)
    assert await retry_transient(failing(*[ConnectionError()] * 2), part="trial", attempts=3) == "done"


async def test_waits_double_up_to_a_limit_and_are_spread(monkeypatch):
    monkeypatch.setattr(retries, "LONGEST_WAIT_S", 0.008)
    waits = []
    hooks = get_on_retry_hooks()
    set_on_retry_hooks([lambda retry: waits.append(retry.wait_for)])
    try:
        await retry_transient(failing(*[ConnectionError()] * 6), part="trial")
    finally:
        set_on_retry_hooks(hooks)
    assert all(0 <= wait - base <= 0.001 + 1e-9 for wait, base in zip(waits, [0.001, 0.002, 0.004], strict=False))
    assert waits[3:] == pytest.approx([0.008] * 3)
    assert len({wait % 0.001 for wait in waits[:3]}) == 3


async def test_a_wait_and_an_attempt_can_be_cancelled(monkeypatch):
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 60.0)
    for action in (failing(ConnectionError()), asyncio.Event().wait):
        task = asyncio.create_task(retry_transient(action, part="trial"))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_the_exception_of_the_work_is_passed_to_the_refusal():
    refused = []

    async def refuse(error):
        refused.append(error)

    reason = ValueError("no")
    await process_event(App(), failing(reason), refuse)
    await process_event(App(), failing(ConnectionError()), refuse)
    assert refused == [reason]


async def test_a_refusal_is_retried_too():
    errors = []
    action = failing(ConnectionError(), ConnectionError())

    async def refuse(error):
        await action()
        errors.append(error)

    await process_event(App(), failing(ValueError("no")), refuse)
    assert len(errors) == 1


async def test_a_refusal_is_repeated_whatever_it_raises():
    errors = []
    action = failing(RuntimeError("cannot refuse"), KeyError("x"))

    async def refuse(error):
        await action()
        errors.append(error)

    await process_event(App(), failing(ValueError("no")), refuse)
    assert len(errors) == 1


async def test_an_unforeseen_failure_is_tried_again_until_it_has_failed_often_enough():
    refused, failures = [], [RuntimeError("1"), RuntimeError("2"), RuntimeError("3")]

    async def refuse(error):
        refused.append(error)

    await process_event(App(), failing(*failures), refuse, attempts=lambda _: 4)
    assert refused == []
    await process_event(App(), failing(*failures), refuse, attempts=lambda _: 3)
    assert refused == failures[2:]


async def test_an_expected_failure_is_refused_at_once_and_an_outage_does_not_count_as_a_failure():
    refused = []

    async def refuse(error):
        refused.append(error)

    expected = ValueError("invalid")
    await process_event(App(), failing(expected), refuse, attempts=lambda _: 5, expected=(ValueError,))
    await process_event(App(), failing(*[ConnectionError()] * 4, KeyError("x")), refuse, attempts=lambda _: 2)
    assert refused == [expected]


async def test_a_cancellation_from_inside_is_a_failure_of_the_event_and_one_from_outside_ends_its_task():
    refused = []

    async def refuse(error):
        refused.append(type(error).__name__)

    async def interrupted():
        inner = asyncio.ensure_future(asyncio.sleep(60))
        inner.cancel()
        await inner

    await process_event(App(), interrupted, refuse)
    assert refused == ["InterruptedWork"]
    task = asyncio.create_task(process_event(App(), asyncio.Event().wait, refuse))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert refused == ["InterruptedWork"]


async def test_a_role_that_is_stopping_refuses_no_event_for_an_unforeseen_reason():
    refused = []

    async def refuse(error):
        refused.append(error)

    task = asyncio.create_task(process_event(App(should_stop=True), failing(RuntimeError("closed")), refuse))
    await asyncio.sleep(0.01)
    assert not task.done()
    assert refused == []
    task.cancel()


def test_the_metric_is_the_age_of_the_oldest_unfinished_event(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(retries.time, "monotonic", lambda: now[0])
    app = App(role="outcomes")

    def metric():
        return REGISTRY.get_sample_value("twin_oldest_unfinished_seconds", {"role": "outcomes"})

    with track_unfinished(app):
        now[0] = 103.0
        with track_unfinished(app):
            now[0] = 104.0
            assert metric() == oldest_unfinished_s("outcomes") == 4.0
        assert metric() == 4.0
    assert metric() == 0.0


async def test_an_event_sees_one_version_of_the_catalogue_from_begin_to_end_whatever_is_applied_meanwhile():
    seen: list[int] = []

    async def work() -> None:
        seen.append(catalogue_in_effect().version)
        install(BUILT_IN.model_copy(update={"version": 8}))  # another task of the process follows a newer version
        await asyncio.sleep(0)
        seen.append(await asyncio.to_thread(lambda: catalogue_in_effect().version))

    app = App(version=7)
    await process_event(app, work, failing(AssertionError()))
    assert seen == [7, 7]
    assert catalogue_in_effect().version == 8


async def test_a_repeated_attempt_begins_under_the_version_that_is_then_the_newest():
    app, seen = App(version=1), []

    async def work() -> None:
        seen.append(catalogue_in_effect().version)
        app.version += 1
        if len(seen) < 3:
            raise ConnectionError

    await process_event(app, work, failing(AssertionError()))
    assert seen == [1, 2, 3]


async def test_work_that_waits_for_every_failure_ends_when_it_is_cancelled():
    started = asyncio.Event()

    async def wait_for_ever() -> None:
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(retry_transient(wait_for_ever, part="kafka", waits_for=any_error))
    await started.wait()
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=5)
    assert done == {task}
    assert task.cancelled()
