"""Credentials of the Kafka clients: TLS and SASL from the settings."""

from __future__ import annotations

import ssl
from typing import Any

from streams.settings import Settings

__all__ = ["kafka_security"]


def kafka_security(settings: Settings) -> dict[str, Any]:
    """Return the security arguments of an aiokafka client.

    Raises:
        ValueError: for SASL without a user name, or a file of certificates that cannot be read.
    """
    arguments: dict[str, Any] = {"security_protocol": settings.kafka_security, "ssl_context": _ssl_context(settings)}
    if settings.kafka_security.startswith("SASL"):
        if not settings.kafka_username:
            raise ValueError(f"TWIN_KAFKA_SECURITY={settings.kafka_security} needs TWIN_KAFKA_USERNAME")
        arguments |= {
            "sasl_mechanism": settings.kafka_sasl_mechanism,
            "sasl_plain_username": settings.kafka_username,
            "sasl_plain_password": settings.kafka_password.get_secret_value(),
        }
    return arguments


def _ssl_context(settings: Settings) -> ssl.SSLContext | None:
    if not settings.kafka_security.endswith("SSL"):
        return None
    try:
        return ssl.create_default_context(cafile=str(settings.kafka_ca_file) if settings.kafka_ca_file else None)
    except OSError as error:
        raise ValueError(f"TWIN_KAFKA_CA_FILE={settings.kafka_ca_file} cannot be read: {error.strerror or error}") from error
