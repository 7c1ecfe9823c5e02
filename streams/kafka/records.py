"""How an event becomes a Kafka record: key, JSON value and CloudEvents headers."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from schemas import Event

__all__ = ["MAX_RECORD_BYTES", "Headers", "RawRecord", "event_headers", "event_value"]

MAX_RECORD_BYTES = 8 * 1024 * 1024
"""Most bytes of a batch of records that a topic takes, as it is sent."""

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
