"""What became of the rows of a publication, counted from what is stored: an exact answer at any time, whatever was sent twice."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from schemas import OutcomeEvent
from sql import publication_store as store
from sql.database import Pool
from sql.publication_store import Publication
from streams.kafka import topic_of

__all__ = ["Receipt", "await_receipt"]

_OUTCOMES = topic_of(OutcomeEvent)
_POLL_S = 0.5
_REFUSED = "refused: "
_WORDS = {
    "missing": "without an actual value",
    "too_late": "too late",
    "on_the_way": "on the way",
    "not_sent": "not sent",
    "left_out": "left out",
}


@dataclass(frozen=True)
class Receipt:
    """The rows of a publication by what became of them; all numbers but ``rows`` add up to ``rows``.

    Attributes:
        counted: outcomes that are counted.
        corrected: those that are counted in the place of an earlier revision.
        duplicate: rows that repeat a row of the file, or an outcome that was published before.
        missing: stored without an actual value, which no window counts.
        superseded: stored, and a higher revision had come before.
        too_late: stored, and too late to be counted.
        refused: by kind.
        on_the_way: sent, and not processed yet.
        not_sent: the publication was interrupted before them.
        left_out: bad or too late, and left out on request.
    """

    publication: Publication
    rows: int
    counted: int = 0
    corrected: int = 0
    duplicate: int = 0
    missing: int = 0
    superseded: int = 0
    too_late: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    on_the_way: int = 0
    not_sent: int = 0
    left_out: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The receipt as JSON."""
        numbers = {name: value for name, value in vars(self).items() if name != "publication"}
        about = self.publication
        return {
            "receipt": about.publication_id,
            "file": about.name,
            "by": about.published_by,
            "begun_at": about.begun_at,
            **numbers,
        }

    def format_text(self) -> str:
        """The receipt in words."""
        names = ("corrected", "duplicate", "missing", "superseded", "too_late", "on_the_way", "not_sent", "left_out")
        parts = [f"{self.counted:,} counted", *(f"{n:,} {_WORDS.get(name, name)}" for name in names if (n := getattr(self, name)))]
        parts += [f"{n:,} refused ({kind})" for kind, n in sorted(self.refused.items())]
        lines = [f"receipt {self.publication.publication_id}, {self.publication.name}: {self.rows:,} rows: {', '.join(parts)}"]
        if self.not_sent:
            lines.append("the publication was interrupted: publish the file again to complete it")
        if self.on_the_way:
            lines.append(f"see later what became of all: twinstream outcomes receipt {self.publication.publication_id}")
        return "\n".join(lines)


async def await_receipt(pool: Pool, publication_id: UUID, timeout_s: float) -> Receipt:
    """Wait until every row of a publication is processed, at most for ``timeout_s``, and count what became of them.

    Raises:
        LookupError: when there is no publication with this id.
    """
    deadline = time.monotonic() + timeout_s
    tallies: dict[tuple[UUID, UUID], Counter[tuple[str, str]]] = {}
    pending = await store.stated_ranges(pool, publication_id)
    while pending:
        for events in pending:
            tallies[events] = await store.tally(pool, publication_id, events, _OUTCOMES)
        pending = [events for events in pending if any(not fate for _, fate in tallies[events])]
        if time.monotonic() >= deadline:
            break
        await asyncio.sleep(_POLL_S if pending else 0)
    publication = await store.find_publication(pool, publication_id)
    if publication is None:
        raise LookupError(f"there is no receipt {publication_id}: twinstream outcomes receipts lists them")
    return _receipt(publication, sum(tallies.values(), Counter()))


def _receipt(publication: Publication, counts: Counter[tuple[str, str]]) -> Receipt:
    totals: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    for (origin, fate), n in counts.items():
        if fate.startswith(_REFUSED):
            refused[fate.removeprefix(_REFUSED)] += n
        elif fate == "counted":
            totals[{"new": "counted", "correction": "corrected", "known": "duplicate"}[origin]] += n
        elif fate in {"superseded", "missing"} and origin == "known":
            totals["duplicate"] += n
        else:
            totals[fate or "on_the_way"] += n
    totals["duplicate"] += publication.repeated
    rest = max(publication.rows - publication.repeated - publication.stated, 0)
    totals["not_sent" if publication.sent_at is None else "left_out"] += rest
    return Receipt(publication, publication.rows, refused=dict(refused), **totals)
