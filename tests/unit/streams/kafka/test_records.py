"""Credentials of the clients, and the encoding of events as records."""

from __future__ import annotations

import json
import ssl
from datetime import UTC, datetime
from uuid import UUID

import faust
import pytest
from pydantic import SecretStr

from schemas import ModelEvent
from streams.kafka import event_headers, event_value
from streams.kafka.app import faust_credentials
from streams.kafka.security import kafka_security
from streams.settings import Settings

SASL = {"kafka_username": "twin", "kafka_password": SecretStr("secret")}


def test_without_settings_there_is_no_encryption_and_no_user():
    assert kafka_security(Settings()) == {"security_protocol": "PLAINTEXT", "ssl_context": None}
    assert faust_credentials(Settings()) is None


def test_tls_verifies_the_certificate_and_name_of_the_server():
    context = kafka_security(Settings(kafka_security="SSL"))["ssl_context"]
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert isinstance(faust_credentials(Settings(kafka_security="SSL")), faust.SSLCredentials)


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_sasl_over_tls_is_the_same_for_aiokafka_and_faust(mechanism):
    settings = Settings(kafka_security="SASL_SSL", kafka_sasl_mechanism=mechanism, **SASL)
    arguments = kafka_security(settings)
    credentials = faust_credentials(settings)
    assert arguments["ssl_context"].verify_mode is ssl.CERT_REQUIRED
    assert credentials.ssl_context.verify_mode is ssl.CERT_REQUIRED
    assert credentials.protocol.value == arguments["security_protocol"] == "SASL_SSL"
    assert credentials.mechanism.value == arguments["sasl_mechanism"] == mechanism
    assert credentials.username == arguments["sasl_plain_username"] == "twin"
    assert credentials.password == arguments["sasl_plain_password"] == "secret"


def test_sasl_without_a_user_is_refused_with_the_missing_setting():
    with pytest.raises(ValueError, match="TWIN_KAFKA_USERNAME"):
        kafka_security(Settings(kafka_security="SASL_SSL"))


def make_event(generation: int = 1) -> ModelEvent:
    return ModelEvent(
        line="hcp:kisqali:prescribing_change",
        generation=generation,
        happened="promoted",
        at=datetime(2025, 3, 1, tzinfo=UTC),
        model_id=UUID(int=1),
        champion=UUID(int=1),
    )


def test_an_event_is_encoded_as_json_and_decoded_to_an_equal_event():
    assert ModelEvent.model_validate_json(event_value(make_event())) == make_event()
    assert json.loads(event_value(make_event()))["schema_version"] == 1


def test_headers_follow_cloud_events_in_binary_mode():
    headers = dict(event_headers(make_event(), "trainer"))
    assert headers["ce_specversion"] == b"1.0"
    assert headers["ce_type"] == b"twinstream.ModelEvent.v1"
    assert headers["ce_source"] == b"/twinstream/trainer"
    assert headers["content-type"] == b"application/json"


def test_equal_events_have_equal_ids_and_different_events_different_ids():
    first, repeated, different = (dict(event_headers(make_event(n), "trainer"))["ce_id"] for n in (1, 1, 2))
    assert first == repeated != different
