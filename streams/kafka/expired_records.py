"""Tells of records that Kafka removed by retention before a role has read them."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from faust.types import TP

from streams.metrics import RECORDS_EXPIRED, start_at_zero

__all__ = ["ExpiredRecords", "report_expired"]

LOG = logging.getLogger(__name__)


def report_expired(tp: TP, first: int, end: int) -> None:
    """Log and count the offsets from ``first`` up to ``end``, itself left out, as removed before they were read."""
    RECORDS_EXPIRED.labels(topic=tp.topic).inc(end - first)
    LOG.error(
        "%s %d: the offsets %d to %d were removed by the retention of the topic before they were read; reading goes on behind them",
        tp.topic,
        tp.partition,
        first,
        end - 1,
    )


class ExpiredRecords:
    """Follows which offsets of each partition are delivered, and finds in the jumps between them what has expired.

    Markers of transactions and compaction leave jumps too: only offsets below the first one of the log are expired.
    """

    def __init__(self) -> None:
        self._next: dict[TP, int] = {}
        self._jumps: list[tuple[TP, int, int]] = []

    @property
    def has_jumps(self) -> bool:
        """Whether there are jumps that :meth:`report` has not seen."""
        return bool(self._jumps)

    def start(self, tp: TP, offset: int) -> None:
        """Reading of a partition starts at an offset."""
        start_at_zero(RECORDS_EXPIRED, topic=[tp.topic])
        self._next[tp] = offset

    def deliver(self, tp: TP, first: int, last: int) -> None:
        """The offsets ``first`` to ``last`` are delivered."""
        if first > (expected := self._next.get(tp, first)):
            self._jumps.append((tp, expected, first))
        self._next[tp] = last + 1

    def report(self, beginnings: Mapping[TP, int]) -> None:
        """Report the jumps over offsets below the present first one of their partition."""
        for tp, expected, first in self._jumps:
            if (end := min(first, beginnings.get(tp, 0))) > expected:
                report_expired(tp, expected, end)
        self._jumps.clear()
