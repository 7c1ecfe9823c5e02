"""Collects the counts and mismatches of a verification."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

__all__ = ["Findings"]

_LISTED_PER_KIND = 50


class Findings:
    """Counts of what was checked, and the mismatches by kind.

    Attributes:
        counts: how many rows or messages of each name were checked.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._listed: defaultdict[str, list[str]] = defaultdict(list)
        self._unlisted: Counter[str] = Counter()

    def add(self, kind: str, mismatch: str) -> None:
        """Add a mismatch; the first 50 of a kind are listed, the others only counted."""
        if len(self._listed[kind]) < _LISTED_PER_KIND:
            self._listed[kind].append(f"{kind}: {mismatch}")
        else:
            self._unlisted[kind] += 1

    def compare(self, kind: str, name: str, stored: Any, expected: Any) -> None:
        """Add a mismatch unless both values are equal."""
        if stored != expected:
            self.add(kind, f"{name} is {stored}, recomputed from the outcomes it is {expected}")

    def mismatches(self) -> tuple[str, ...]:
        """A sentence for each listed mismatch, and one for the rest of each kind."""
        listed = [mismatch for mismatches in self._listed.values() for mismatch in mismatches]
        return (*listed, *(f"{kind}: and {count} more" for kind, count in self._unlisted.items()))
