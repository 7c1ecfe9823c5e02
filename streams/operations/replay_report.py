"""The result of replaying ranges of a topic, as text and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sql.replay_store import OffsetRange
from streams.operations.dead_letter_view import DeadLetter

__all__ = ["PublishedRecord", "ReplayReport"]

_CATEGORY_TEXTS = {
    "in already": "already stored",
    "refused, and in since a replay": "refused before, stored since by a replay",
    "refused, and accepted now": "refused before, accepted now",
    "left no trace, asked again": "not stored, requested again",
    "left no trace, told again": "not stored, published again",
    "pinned, and not answered yet": "stored, not answered yet",
}
"""Texts of categories on screen, where they differ from the keys in JSON."""


class PublishedRecord(NamedTuple):
    """The original position of a record that was published again, and the reason."""

    partition: int
    offset: int
    reason: str


@dataclass
class ReplayReport:
    """What a replay did, or would do in a dry run.

    Attributes:
        ranges: offsets that were examined.
        counts: number of elements by category, such as ``not read yet``.
        published: records that were published again, or would be.
        dead_letters: refused outcomes that were replayed, with their results.
    """

    topic: str
    dry_run: bool
    ranges: Sequence[OffsetRange] = ()
    counts: Counter[str] = field(default_factory=Counter)
    published: list[PublishedRecord] = field(default_factory=list)
    dead_letters: Sequence[DeadLetter] = ()

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON."""
        return {
            "topic": self.topic,
            "dry_run": self.dry_run,
            "stretches": [offsets._asdict() for offsets in self.ranges],
            "found": dict(self.counts),
            "published_again": [
                {"partition": record.partition, "offset": record.offset, "because": record.reason} for record in self.published
            ],
            "came_of_it": dict(Counter(dead_letter.state for dead_letter in self.dead_letters)),
        }

    def format_text(self) -> str:
        """The report as lines of text."""
        results = Counter(dead_letter.state or "no result stored yet" for dead_letter in self.dead_letters)
        return "\n".join(
            [
                *map(str, self.ranges),
                *_count_lines(self.counts),
                f"{len(self.published):,} {'would be' if self.dry_run else 'were'} published again",
                *_count_lines(results),
            ]
        )


def _count_lines(counts: Counter[str]) -> list[str]:
    return [f"{count:>9,}  {_category_text(category)}" for category, count in counts.most_common()]


def _category_text(category: str) -> str:
    return _CATEGORY_TEXTS.get(category, category).replace("refused, still: ", "would be refused again: ")
