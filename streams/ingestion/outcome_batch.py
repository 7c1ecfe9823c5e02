"""The outcomes of a poll batch as columns, so that no step of the pipeline needs a Python object for each of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import NAMESPACE_URL, UUID, uuid5

import numpy as np

from schemas import SourceId, TwinType
from schemas.arrays import Flags, Floats, Integers, Octets
from schemas.canonical import NUMBERS, encode_own_fields
from sql.park_store import PARKED
from streams.errors import describe_error, describe_traceback

if TYPE_CHECKING:
    from streams.kafka.batch_consumer import PollBatch

__all__ = [
    "DIGEST_BYTES",
    "REFUSAL_KINDS",
    "DecodedBatch",
    "ElementRefusal",
    "Entity",
    "Flags",
    "Floats",
    "Integers",
    "Octets",
    "OutcomeBatch",
    "RefusedElement",
    "SharedFields",
    "concatenate",
    "from_microseconds",
    "group_positions",
    "parked_element",
    "to_microseconds",
    "tracking_ids",
]


DIGEST_BYTES = 16
NAMESPACE = uuid5(NAMESPACE_URL, "twinstream:outcomes")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SharedFields(NamedTuple):
    """What many outcomes of a batch have in common.

    Attributes:
        segment: pairs of a declared dimension and its level, in the order of the names.
        canonical: all of it, as it enters the digest.
    """

    line: str
    twin_type: TwinType
    metric_type: str
    model_id: UUID | None
    segment: tuple[tuple[str, str], ...]
    canonical: bytes


class Entity(NamedTuple):
    """The entity of an outcome, and the features to predict it from, None where the prediction came with the outcome."""

    entity_id: str
    features: Mapping[str, Any] | None


@dataclass(frozen=True)
class OutcomeBatch:
    """Columns of the same length, in the order of the source.

    Attributes:
        record_index, element_index: which record of the batch an outcome came in, and which element of its array it is.
        event_id: octets, shape ``(n, 16)``.
        observed_us: microseconds since 1970.
        actual, predicted, lower, upper: NaN for null.
        treated: 1, 0, or -1 for null.
        shared_fields: those of outcome ``i`` are ``shared_fields[shared_index[i]]``.
        twins: simulation and twin, by the row of an outcome that names them.
        entities: by the row of an outcome that names one.
    """

    record_index: Integers
    element_index: Integers
    event_id: Octets
    observed_us: Integers
    revision: Integers
    actual: Floats
    predicted: Floats
    lower: Floats
    upper: Floats
    treated: Integers
    shared_fields: Sequence[SharedFields]
    shared_index: Integers
    twins: Mapping[int, tuple[UUID, UUID]]
    entities: Mapping[int, Entity]

    def __len__(self) -> int:
        """Number of outcomes."""
        return len(self.record_index)

    @property
    def observed(self) -> Floats:
        """Event time in seconds since 1970."""
        return self.observed_us / 1e6

    def shared_fields_of(self, row: int) -> SharedFields:
        """The shared fields of one outcome."""
        return self.shared_fields[int(self.shared_index[row])]

    def event_id_of(self, row: int) -> UUID:
        """The event of one outcome."""
        return UUID(bytes=self.event_id[row].tobytes())

    def rows_with_features(self) -> list[int]:
        """Rows of the outcomes that carry features, ascending."""
        return sorted(row for row, entity in self.entities.items() if entity.features is not None)

    def select(self, mask: Flags) -> OutcomeBatch:
        """The outcomes for which ``mask`` is true."""
        rows = np.flatnonzero(mask)
        new_row = dict(zip(rows.tolist(), range(len(rows)), strict=True)) if self.twins or self.entities else {}
        columns: dict[str, Any] = {name: column[rows] for name, column in vars(self).items() if isinstance(column, np.ndarray)}
        used, columns["shared_index"] = np.unique(columns["shared_index"], return_inverse=True)
        return replace(
            self,
            **columns,
            shared_fields=[self.shared_fields[index] for index in used.tolist()],
            twins={new_row[row]: twin for row, twin in self.twins.items() if row in new_row},
            entities={new_row[row]: entity for row, entity in self.entities.items() if row in new_row},
        )

    def digests(self) -> Octets:
        """The first octets of the SHA-256 of each outcome's canonical encoding, shape ``(n, DIGEST_BYTES)``."""
        numbers = np.empty(len(self), dtype=NUMBERS)
        numbers["event_id"] = np.ascontiguousarray(self.event_id).view("V16").ravel()
        columns = (self.observed_us, self.revision, self.actual, self.predicted, self.lower, self.upper, self.treated)
        for name, column in zip(NUMBERS.names[1:], columns, strict=True):  # type: ignore[index]  # it has names
            numbers[name] = column
        tails = [self.shared_fields[index].canonical for index in self.shared_index.tolist()]
        for row in self.twins.keys() | self.entities.keys():
            simulation_id, twin_id = self.twins.get(row, (None, None))
            entity = self.entities.get(row, Entity("", None))
            tails[row] += encode_own_fields(simulation_id, twin_id, entity.entity_id or None, entity.features)
        sha256, heads = hashlib.sha256, numbers.view(f"V{NUMBERS.itemsize}").tolist()
        digests = b"".join([sha256(head + tail).digest() for head, tail in zip(heads, tails, strict=True)])
        return np.frombuffer(digests, dtype=np.uint8).reshape(-1, sha256().digest_size)[:, :DIGEST_BYTES]


def concatenate(batches: Sequence[OutcomeBatch]) -> OutcomeBatch:
    """The outcomes of all of these batches, at least one, in their order."""
    numbers: dict[SharedFields, int] = {}
    shared_index = [
        np.array([numbers.setdefault(fields, len(numbers)) for fields in batch.shared_fields], dtype=np.int64)[batch.shared_index]
        for batch in batches
    ]
    first = np.cumsum([0, *map(len, batches)]).tolist()
    names = [name for name, column in vars(batches[0]).items() if isinstance(column, np.ndarray)]
    columns: dict[str, Any] = {name: np.concatenate([getattr(batch, name) for batch in batches]) for name in names}
    return replace(
        batches[0],
        **{**columns, "shared_index": np.concatenate(shared_index)},
        shared_fields=list(numbers),
        twins={at + row: twin for at, batch in zip(first, batches, strict=False) for row, twin in batch.twins.items()},
        entities={at + row: entity for at, batch in zip(first, batches, strict=False) for row, entity in batch.entities.items()},
    )


REFUSAL_KINDS = (
    *("empty", "json", "invalid", "past", "future", "segment", "features", "model", "champion", "simulation", "twin", "range"),
    *("bound", PARKED),
)
"""Every kind of :class:`ElementRefusal`, so that its counter exists before its first event."""


class ElementRefusal(NamedTuple):
    """Why an element is refused.

    Attributes:
        kind: short reason for the metric; ``reason`` is a sentence for people.
        exception: class of what was raised.
        traceback: where it was raised, for an element that is parked.
        whole_record: the record is refused as a whole: the element has all of its bytes.
    """

    kind: str
    reason: str
    exception: str = "Refusal"
    traceback: str = ""
    whole_record: bool = False


def parked_element(error: BaseException, reason: str = "") -> ElementRefusal:
    """The refusal that parks an element because of an error that no rule foresees."""
    return ElementRefusal(PARKED, reason or describe_error(error), type(error).__name__, describe_traceback(error))


class RefusedElement(NamedTuple):
    """A refused element: the index of its record in the batch, and its index in the array of the record."""

    record_index: int
    element_index: int
    refusal: ElementRefusal


@dataclass(frozen=True)
class DecodedBatch:
    """A poll batch as columns; each record has at least one element, if only a refused one.

    Attributes:
        offsets, arrived_us: of each record; ``arrived_us`` is Kafka's time in microseconds since 1970.
        ids, digests: of each outcome.
        refused_ids: of each refused element.
    """

    batch: PollBatch
    source: SourceId
    offsets: Integers
    arrived_us: Integers
    outcomes: OutcomeBatch
    ids: Octets
    digests: Octets
    refused: Sequence[RefusedElement]
    refused_ids: Octets

    @property
    def n_elements(self) -> int:
        """Number of outcomes and refused elements."""
        return len(self.outcomes) + len(self.refused)

    @property
    def lines(self) -> set[str]:
        """Model lines that the outcomes name."""
        return {fields.line for fields in self.outcomes.shared_fields}


def tracking_ids(source: SourceId, elements: Iterable[tuple[int, int]]) -> Octets:
    """Ids of elements, given as (offset, index in the array) of a source, shape ``(n, 16)``.

    An id is the uuid5 of exactly these, so that an element that is read again has the id of its stored row (rule 2).

    Example:
        >>> (octets,) = tracking_ids(SourceId(topic="outcome-events", partition=1), [(5, 0)])
        >>> UUID(bytes=octets.tobytes()) == uuid5(NAMESPACE, "outcome-events:1:0:5:0")
        True
    """
    prefix, sha1 = NAMESPACE.bytes + f"{source}:".encode(), hashlib.sha1
    digests = b"".join([sha1(b"%b%d:%d" % (prefix, *element), usedforsecurity=False).digest() for element in elements])
    ids = np.frombuffer(digests, dtype=np.uint8).reshape(-1, 20)[:, :16].copy()
    ids[:, 6] = ids[:, 6] & 0x0F | 0x50  # version 5
    ids[:, 8] = ids[:, 8] & 0x3F | 0x80  # variant of RFC 9562
    return ids


def group_positions(codes: Integers) -> Iterator[tuple[int, Integers]]:
    """Each code with the positions where it stands, ascending."""
    if len(codes):
        order = np.argsort(codes, kind="stable")
        unique, first = np.unique(codes[order], return_index=True)
        yield from zip(unique.tolist(), np.split(order, first[1:]), strict=True)


def to_microseconds(at: datetime) -> int:
    """Microseconds since 1970; exact, as no number of seconds would be."""
    since = at - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def from_microseconds(us: int) -> datetime:
    """The time of some microseconds since 1970.

    Example:
        >>> from_microseconds(to_microseconds(datetime.max.replace(tzinfo=UTC))).isoformat()
        '9999-12-31T23:59:59.999999+00:00'
    """
    return _EPOCH + timedelta(microseconds=us)
