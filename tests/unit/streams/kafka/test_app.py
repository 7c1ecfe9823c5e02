"""Settings of the app of a role: its own consumer group, no lost messages, and no data on a web server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from faust.exceptions import NotReady
from pydantic import SecretStr

from streams import retries
from streams.agents import fidelity
from streams.kafka.app import TwinApp
from streams.kafka.topics import CHANGELOGS
from streams.metrics import OUTAGES, TASK_FAILURES
from streams.services import Services
from streams.settings import EVENT_ROLES, Role, Settings

SETTINGS = Settings(kafka_bootstrap="localhost:1")


def test_each_role_has_its_own_app_and_consumer_group():
    assert [TwinApp(role, SETTINGS).conf.id for role in EVENT_ROLES] == [f"twinstream-{role}" for role in EVENT_ROLES]


def test_the_changelog_of_every_table_is_created_with_the_topics():
    app = TwinApp("fidelity", SETTINGS)
    fidelity.attach(app, Services(app))

    changelogs = {(table.changelog_topic.get_topic_name(), table.partitions) for table in app.tables.values()}
    assert changelogs == {(topic.name, topic.partitions) for topic in CHANGELOGS}
    assert all(topic.compacted for topic in CHANGELOGS)


@pytest.mark.parametrize("role", EVENT_ROLES)
def test_no_role_has_standbys_transactions_or_a_web_server(role: Role):
    config = TwinApp(role, SETTINGS).conf

    assert config.table_standby_replicas == 0
    assert config.processing_guarantee.value == "at_least_once"
    assert config.producer_acks == -1
    assert not any((config.web_enabled, config.web_tables_enabled, config.web_router_enabled))


async def test_an_app_that_cannot_reach_postgres_raises_and_stops_cleanly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.001)
    unreachable = SETTINGS.model_copy(update={"postgres_dsn": SecretStr("postgresql://nobody@127.0.0.1:1/none"), "home": tmp_path})
    app = TwinApp("outcomes", unreachable)

    with pytest.raises(ConnectionRefusedError):
        await app.start()
    await app.stop()

    assert OUTAGES.labels(part="postgres")._value.get() > 0


async def test_a_repeated_action_overlaps_with_no_other_run_however_long_it_takes(monkeypatch: pytest.MonkeyPatch):
    app, tasks, steps = TwinApp("outcomes", SETTINGS), [], []

    async def sleep(seconds: float) -> None:
        steps.append(f"pause of {seconds} s")
        if len(steps) > 4:
            app._stopped.set()

    async def look() -> None:
        steps.append("begin")
        await asyncio.sleep(0.01)
        steps.append("end")

    monkeypatch.setattr(app, "task", tasks.append)
    monkeypatch.setattr(app, "sleep", sleep)
    app.run_every(0.001, look)
    await tasks[0]()

    pause, run = ["pause of 0.001 s"], ["begin", "end"]
    assert steps == pause + run + pause + run + pause


async def test_a_failed_timer_is_counted_and_runs_again():
    app = TwinApp("outcomes", SETTINGS)

    async def fail() -> None:
        raise NotReady("Producer service not yet started")

    failures = TASK_FAILURES.labels(role="outcomes", task="fail")
    run = app.run_every(1.0, fail)
    for _ in range(2):
        await run()
    assert failures._value.get() == 2
    app._stopped.set()
    await run()
    assert failures._value.get() == 2
