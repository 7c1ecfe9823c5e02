"""Outcomes as columns: a slice is read, scored, judged and stored without an object for each of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from uuid import NAMESPACE_URL, UUID, uuid5

import numpy as np
import numpy.typing as npt

from schemas import SourceId, TwinType
from schemas.canonical import NUMBERS, spell_way

__all__ = ["DIGEST_BYTES", "Entity", "Floats", "Integers", "Octets", "OutcomeBatch", "SharedFields", "tracking_ids"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Octets = npt.NDArray[np.uint8]

DIGEST_BYTES = 16
NAMESPACE = uuid5(NAMESPACE_URL, "twinstream:outcomes")


class SharedFields(NamedTuple):
    """What many outcomes of a slice have in common.

    Attributes:
        segment: pairs of a declared dimension and its level, in the order of the names.
        spelled: all of it, as it enters the digest.
    """

    line: str
    twin_type: TwinType
    metric_type: str
    model_id: UUID | None
    segment: tuple[tuple[str, str], ...]
    spelled: bytes


class Entity(NamedTuple):
    """Whom an outcome is about, where it says so."""

    entity_id: str
    features: Mapping[str, Any] | None


@dataclass(frozen=True)
class OutcomeBatch:
    """Columns of the same length, in the order of the source.

    Attributes:
        record, place: which record of the slice an outcome came in, and where in its array.
        event_id: octets, shape ``(n, 16)``.
        observed_us: microseconds since 1970.
        actual, predicted, lower, upper: NaN for null.
        treated: 1, 0, or -1 for null.
        words: the different ones; ``of`` tells which are an outcome's.
        twins: simulation and twin, by the row of an outcome that names them.
        entities: by the row of an outcome that names one.
    """

    record: Integers
    place: Integers
    event_id: Octets
    observed_us: Integers
    revision: Integers
    actual: Floats
    predicted: Floats
    lower: Floats
    upper: Floats
    treated: Integers
    words: Sequence[SharedFields]
    of: Integers
    twins: Mapping[int, tuple[UUID, UUID]]
    entities: Mapping[int, Entity]

    def __len__(self) -> int:
        """How many outcomes there are."""
        return len(self.record)

    @property
    def observed(self) -> Floats:
        """Seconds since 1970."""
        return self.observed_us / 1e6

    def words_of(self, row: int) -> SharedFields:
        """The words of one outcome."""
        return self.words[int(self.of[row])]

    def event_of(self, row: int) -> UUID:
        """The event of one outcome."""
        return UUID(bytes=self.event_id[row].tobytes())

    def where(self, kept: npt.NDArray[np.bool_]) -> OutcomeBatch:
        """Those outcomes only."""
        rows = np.flatnonzero(kept)
        now = dict(zip(rows.tolist(), range(len(rows)), strict=True)) if self.twins or self.entities else {}
        columns: dict[str, Any] = {name: column[rows] for name, column in vars(self).items() if isinstance(column, np.ndarray)}
        used, columns["of"] = np.unique(columns["of"], return_inverse=True)
        return replace(
            self,
            **columns,
            words=[self.words[of] for of in used.tolist()],
            twins={now[row]: said for row, said in self.twins.items() if row in now},
            entities={now[row]: said for row, said in self.entities.items() if row in now},
        )

    def digests(self) -> Octets:
        """The first octets of each outcome's canonical digest, shape ``(n, DIGEST_BYTES)``."""
        numbers = np.empty(len(self), dtype=NUMBERS)
        numbers["event_id"] = np.ascontiguousarray(self.event_id).view("V16").ravel()
        columns = (self.observed_us, self.revision, self.actual, self.predicted, self.lower, self.upper, self.treated)
        for name, column in zip(NUMBERS.names[1:], columns, strict=True):  # type: ignore[index]  # it has names
            numbers[name] = column
        tails = [self.words[of].spelled for of in self.of.tolist()]
        for row in self.twins.keys() | self.entities.keys():
            simulation_id, twin_id = self.twins.get(row, (None, None))
            entity = self.entities.get(row, Entity("", None))
            tails[row] += spell_way(simulation_id, twin_id, entity.entity_id or None, entity.features)
        sha256, rows = hashlib.sha256, numbers.view(f"V{NUMBERS.itemsize}").tolist()
        told = b"".join([sha256(row + tail).digest() for row, tail in zip(rows, tails, strict=True)])
        return np.frombuffer(told, dtype=np.uint8).reshape(-1, sha256().digest_size)[:, :DIGEST_BYTES]


def tracking_ids(source: SourceId, elements: Iterable[tuple[int, int]]) -> Octets:
    """Ids of elements, given as (offset, index in the array) of a source, shape ``(n, 16)``.

    They are uuid5 of exactly these, so that an element that is read again has the id of its stored row (rule 2).

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
