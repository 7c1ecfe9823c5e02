"""How a client of ours proves to Kafka who it is, and how an event is laid on a topic."""

from __future__ import annotations

import hashlib
import ssl
from typing import Any, NamedTuple

import faust

from schemas import Event
from streams.settings import Settings

__all__ = ["Headers", "RawRecord", "event_headers", "event_value", "faust_credentials", "kafka_security"]

Headers = list[tuple[str, bytes | None]]
_FRAME, _FRAME_OF_HEADER = 1024, 16  # more than Kafka needs around a record and around each of its headers


class RawRecord(NamedTuple):
    """What a record carries; key and value are not both null, which aiokafka does not send."""

    key: bytes | None
    value: bytes | None
    headers: Headers

    @property
    def size(self) -> int:
        """Bytes that it takes on its way, at most, where nothing is compressed."""
        headers = sum(len(name.encode()) + len(value or b"") + _FRAME_OF_HEADER for name, value in self.headers)
        return len(self.key or b"") + len(self.value or b"") + headers + _FRAME


def kafka_security(settings: Settings) -> dict[str, Any]:
    """Keyword arguments of every aiokafka client.

    Raises:
        ValueError: for SASL without a user name.
    """
    arguments: dict[str, Any] = {"security_protocol": settings.kafka_security, "ssl_context": _tls(settings)}
    if settings.kafka_security.startswith("SASL"):
        if not settings.kafka_username:
            raise ValueError(f"TWIN_KAFKA_SECURITY={settings.kafka_security} needs TWIN_KAFKA_USERNAME")
        arguments |= {
            "sasl_mechanism": settings.kafka_sasl_mechanism,
            "sasl_plain_username": settings.kafka_username,
            "sasl_plain_password": settings.kafka_password.get_secret_value(),
        }
    return arguments


def faust_credentials(settings: Settings) -> faust.Credentials | None:
    """The same as :func:`kafka_security`, as ``broker_credentials`` of a Faust app."""
    known = kafka_security(settings)
    if "sasl_mechanism" in known:
        return faust.SASLCredentials(
            username=known["sasl_plain_username"],
            password=known["sasl_plain_password"],
            mechanism=known["sasl_mechanism"],
            ssl_context=known["ssl_context"],
        )
    return faust.SSLCredentials(known["ssl_context"]) if known["ssl_context"] else None


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if not settings.kafka_security.endswith("SSL"):
        return None
    return ssl.create_default_context(cafile=str(settings.kafka_ca_file) if settings.kafka_ca_file else None)


def event_value(event: Event) -> bytes:
    """An event as JSON bytes."""
    return event.model_dump_json().encode()


def event_headers(event: Event, source: str) -> Headers:
    """CloudEvents in binary mode; equal events of one source have equal ids.

    Args:
        event: what is said.
        source: who says it: a role, or a client's name.

    References:
        CloudEvents 1.0.2, Kafka Protocol Binding, section 3.2.
    """
    attributes = {
        "ce_specversion": "1.0",
        "ce_type": f"twinstream.{type(event).__name__}.v{event.schema_version}",
        "ce_source": f"/twinstream/{source}",
        "ce_id": hashlib.sha256(event_value(event)).hexdigest()[:32],
        "content-type": "application/json",
    }
    return [(name, text.encode()) for name, text in attributes.items()]
