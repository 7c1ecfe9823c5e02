"""What the app of a role sets: a group of its own, nothing that Faust would lose, nothing that it would show to everybody."""

from __future__ import annotations

from pathlib import Path

import pytest
from faust.exceptions import NotReady
from pydantic import SecretStr

from streams import retries
from streams.agents import fidelity
from streams.kafka.app import TwinApp
from streams.kafka.topics import CHANGELOGS
from streams.metrics import OUTAGES
from streams.services import Services
from streams.settings import ROLES, Role, Settings

SETTINGS = Settings(kafka_bootstrap="localhost:1")


def test_each_role_is_an_app_and_a_consumer_group_of_its_own():
    assert [TwinApp(role, SETTINGS).conf.id for role in ROLES] == [f"twinstream-{role}" for role in ROLES]


def test_the_changelog_of_every_table_is_made_with_the_topics_and_not_by_faust_while_it_starts():
    app = TwinApp("fidelity", SETTINGS)
    fidelity.attach(app, Services(app))

    asked = {(table.changelog_topic.get_topic_name(), table.partitions) for table in app.tables.values()}
    assert asked == {(topic.name, topic.partitions) for topic in CHANGELOGS}
    assert all(topic.compacted for topic in CHANGELOGS)


@pytest.mark.parametrize("role", ROLES)
def test_no_role_keeps_standbys_promises_transactions_or_serves_its_tables(role: Role):
    chosen = TwinApp(role, SETTINGS).conf

    assert chosen.table_standby_replicas == 0
    assert chosen.processing_guarantee.value == "at_least_once"
    assert chosen.producer_acks == -1
    assert not any((chosen.web_enabled, chosen.web_tables_enabled, chosen.web_router_enabled))


async def test_an_app_that_finds_no_postgres_says_so_and_ends_in_good_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.001)
    nowhere = SETTINGS.model_copy(update={"postgres_dsn": SecretStr("postgresql://nobody@127.0.0.1:1/none"), "home": tmp_path})
    app = TwinApp("outcomes", nowhere)

    with pytest.raises(ConnectionRefusedError):
        await app.start()
    await app.stop()

    assert OUTAGES.labels(part="postgres")._value.get() > 0


async def test_a_timer_that_fails_ends_the_app_unless_it_is_leaving(monkeypatch: pytest.MonkeyPatch):
    app, timers = TwinApp("outcomes", SETTINGS), []
    monkeypatch.setattr(app, "timer", lambda _interval: timers.append)

    async def speak() -> None:
        raise NotReady("Producer service not yet started")

    app.run_every(1.0, speak)
    with pytest.raises(NotReady):
        await timers[0]()
    app._stopped.set()
    await timers[0]()
