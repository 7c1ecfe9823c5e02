"""Asks a broker for the ids of topics: a topic that is deleted and created again has another id under the same name.

aiokafka knows no version of the request that has ids; a broker before Kafka 2.8 knows none either, and is asked in an older one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from io import BytesIO
from typing import ClassVar, TypeAlias

from aiokafka.errors import NoError, UnknownTopicOrPartitionError, for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest_v4, MetadataRequest_v5
from aiokafka.protocol.types import (
    AbstractType,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

__all__ = ["NO_ID", "TopicIdsRequest", "read_topic_ids"]

NO_ID = bytes(16)
"""The id of a topic on a broker that states none."""


class _Uuid(AbstractType[bytes]):  # type: ignore[misc]  # untyped
    """Sixteen bytes."""

    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: BytesIO) -> bytes:
        return data.read(16)


_PARTITION = (
    ("error_code", Int16),
    ("partition", Int32),
    ("leader", Int32),
    ("leader_epoch", Int32),
    ("replicas", CompactArray(Int32)),
    ("isr", CompactArray(Int32)),
    ("offline_replicas", CompactArray(Int32)),
    ("tags", TaggedFields),
)
_TOPIC = (
    ("error_code", Int16),
    ("topic", CompactString("utf-8")),
    ("topic_id", _Uuid),
    ("is_internal", Boolean),
    ("partitions", CompactArray(*_PARTITION)),
    ("authorized_operations", Int32),
    ("tags", TaggedFields),
)
_BROKER = (
    ("node_id", Int32),
    ("host", CompactString("utf-8")),
    ("port", Int32),
    ("rack", CompactString("utf-8")),
    ("tags", TaggedFields),
)


class _Response(Response):  # type: ignore[misc]  # untyped
    API_KEY = 3
    API_VERSION = 12
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", CompactArray(*_BROKER)),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        ("topics", CompactArray(*_TOPIC)),
        ("tags", TaggedFields),
    )


class _Request(RequestStruct):  # type: ignore[misc]  # untyped
    FLEXIBLE_VERSION: ClassVar[bool] = True
    API_KEY = 3
    API_VERSION = 12
    RESPONSE_TYPE = _Response
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", _Uuid), ("topic", CompactString("utf-8")), ("tags", TaggedFields))),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


_Structs: TypeAlias = MetadataRequest_v4 | MetadataRequest_v5 | _Request


class TopicIdsRequest(Request[_Structs]):  # type: ignore[misc]  # untyped
    """Asks for topics by name, and creates none."""

    API_KEY = 3

    def __init__(self, topics: Iterable[str]) -> None:
        self._topics = list(topics)

    def build(self, request_struct_class: type[_Structs]) -> _Structs:
        """Build the request in the newest version that the broker knows."""
        if request_struct_class is _Request:
            return _Request([(NO_ID, name, {}) for name in self._topics], False, False, {})
        return request_struct_class(self._topics, False)


def read_topic_ids(reply: Response) -> Mapping[str, bytes | None]:
    """The id of each topic of a reply, None for one that does not exist; a topic that cannot be described now is left out."""
    ids: dict[str, bytes | None] = {}
    for topic in reply.to_object()["topics"]:
        error = for_code(topic["error_code"])
        if error is NoError:
            ids[topic["topic"]] = topic.get("topic_id", NO_ID)
        elif error is UnknownTopicOrPartitionError:
            ids[topic["topic"]] = None
    return ids
