"""Encodes events as Kafka records: key, JSON value and CloudEvents headers."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from schemas import Event

__all__ = ["MAX_RECORD_BYTES", "Headers", "RawRecord", "event_headers", "event_value"]

MAX_RECORD_BYTES = 8 * 1024 * 1024
"""Most bytes of a batch of records that a topic takes, as it is sent."""

Headers = list[tuple[str, bytes | None]]
_RECORD_OVERHEAD, _HEADER_OVERHEAD = 1024, 16  # upper bounds of the bytes that Kafka adds to a record and to a header


class RawRecord(NamedTuple):
    """Content of a record; aiokafka does not send one whose key and value are both null."""

    key: bytes | None
    value: bytes | None
    headers: Headers

    @property
    def size(self) -> int:
        """Upper bound of its bytes on the wire, uncompressed."""
        headers = sum(len(name.encode()) + len(value or b"") + _HEADER_OVERHEAD for name, value in self.headers)
        return len(self.key or b"") + len(self.value or b"") + headers + _RECORD_OVERHEAD


def event_value(event: Event) -> bytes:
    """Encode an event as JSON."""
    return event.model_dump_json().encode()


def event_headers(event: Event, source: str) -> Headers:
    """Return the headers of CloudEvents in binary mode; equal events of one source have equal ids.

    Args:
        event: the event.
        source: its publisher: a role, or the name of a client.

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
