"""What the app of a role sets: a group of its own, nothing that Faust would lose, nothing that it would show to everybody."""

from __future__ import annotations

import pytest

from streams.app import make_app
from streams.settings import ROLES, Role, Settings

SETTINGS = Settings(kafka_bootstrap="localhost:1")


def test_each_role_is_an_app_and_a_consumer_group_of_its_own():
    assert [make_app(role, SETTINGS).conf.id for role in ROLES] == [f"twinstream-{role}" for role in ROLES]


@pytest.mark.parametrize("role", ROLES)
def test_no_role_keeps_standbys_promises_transactions_or_serves_its_tables(role: Role):
    chosen = make_app(role, SETTINGS).conf

    assert chosen.table_standby_replicas == 0
    assert chosen.processing_guarantee.value == "at_least_once"
    assert chosen.producer_acks == -1
    assert not any((chosen.web_enabled, chosen.web_tables_enabled, chosen.web_router_enabled))
