"""Clients without a broker: the error reaches the caller, and no client stays open."""

from __future__ import annotations

import gc
import warnings
from typing import Any

import pytest
from aiokafka import codec
from aiokafka.errors import KafkaConnectionError

from streams.kafka import open_admin, open_consumer, open_producer
from streams.settings import Settings

UNREACHABLE = Settings(kafka_bootstrap="127.0.0.1:1")


@pytest.mark.parametrize("open_client", [open_producer, open_consumer, open_admin])
async def test_a_client_that_cannot_connect_raises_and_is_closed(open_client: Any) -> None:
    gc.collect()  # clients of other tests
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        with pytest.raises(KafkaConnectionError):
            async with open_client(UNREACHABLE):
                pass
        gc.collect()
    assert [warning for warning in caught if "Unclosed AIOKafka" in str(warning.message)] == []


@pytest.mark.parametrize("open_client", [open_producer, open_consumer, open_admin])
async def test_every_client_has_the_credentials_of_the_settings(open_client: Any) -> None:
    with pytest.raises(ValueError, match="TWIN_KAFKA_USERNAME"):
        async with open_client(UNREACHABLE.model_copy(update={"kafka_security": "SASL_SSL"})):
            pass


CODECS = sorted(name.removeprefix("has_") for name in vars(codec) if name.startswith("has_"))


@pytest.mark.parametrize("name", CODECS)
def test_every_codec_of_kafka_is_installed(name: str) -> None:
    assert getattr(codec, f"has_{name}")()
    text = b"a batch of outcomes " * 100
    assert bytes(getattr(codec, f"{name}_decode")(getattr(codec, f"{name}_encode")(text))) == text


def test_the_client_has_all_four_codecs_of_the_kafka_protocol() -> None:
    assert CODECS == ["gzip", "lz4", "snappy", "zstd"]
