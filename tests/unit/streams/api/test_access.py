"""How often a sender may send, and what a scope includes."""

from __future__ import annotations

import pytest

from sql.api_token_store import SCOPES
from streams.api.access import RateLimit
from streams.operations.api_tokens import scopes_up_to
from streams.settings import Settings
from tests.clock import Clock


def test_a_bucket_gives_ten_seconds_of_requests_at_once_and_then_its_rate():
    clock = Clock()
    limit = RateLimit(2.0, clock)
    assert [limit.take("a") for _ in range(20)] == [0.0] * 20
    assert limit.take("a") == pytest.approx(0.5)
    clock.now += 0.5
    assert limit.take("a") == 0.0
    assert limit.take("a") == pytest.approx(0.5)


def test_a_sender_does_not_take_what_is_another_ones():
    limit = RateLimit(0.1, Clock())
    assert [limit.take(name) for name in ("a", "b")] == [0.0, 0.0]
    assert limit.take("a") > 0


def test_a_bucket_that_rested_for_long_holds_no_more_than_when_it_was_new():
    clock = Clock()
    limit = RateLimit(1.0, clock)
    limit.take("a")
    clock.now += 1000.0
    assert [limit.take("a") for _ in range(11)] == [0.0] * 10 + [pytest.approx(1.0)]


def test_a_scope_includes_those_before_it():
    assert scopes_up_to("operate") == SCOPES
    with pytest.raises(ValueError, match="unknown scope 'write': use one of ask, operate, read"):
        scopes_up_to("write")


@pytest.mark.parametrize(
    ("own", "is_needed"),
    [
        ({}, False),
        ({"api_host": "localhost"}, False),
        ({"api_host": "::1"}, False),
        ({"api_host": "0.0.0.0"}, True),
        ({"api_host": "twins.example"}, True),
        ({"web_behind_proxy": True}, True),
        ({"api_certificate_file": "c.pem", "api_key_file": "k.pem"}, True),
    ],
)
def test_a_token_is_needed_wherever_more_than_this_machine_may_ask(own: dict[str, object], is_needed: bool):
    assert Settings(**own).is_api_exposed is is_needed
