"""Tracks the watermark of every source, and the watermark over all of them."""

from __future__ import annotations

from datetime import datetime

from schemas import SourceId

__all__ = ["Watermarks"]


class Watermarks:
    """Latest watermark of each source.

    Attributes:
        n_sources: number of partitions that the outcomes topic has on the broker, 0 before it was asked. A partition that no worker
            reads has no watermark, and keeps windows open.
    """

    def __init__(self, n_sources: int = 0) -> None:
        self.n_sources = n_sources
        self._by_partition: dict[int, tuple[int, datetime | None]] = {}

    def update(self, source: SourceId, watermark: datetime | None) -> None:
        """Set the watermark of a source.

        Older incarnations are ignored, and within one a watermark only rises; it is None before the first record.
        """
        incarnation, current = self._by_partition.get(source.partition, (-1, None))
        if source.incarnation == incarnation and current is not None:
            watermark = max(current, watermark or current)
        if source.incarnation >= incarnation:
            self._by_partition[source.partition] = (source.incarnation, watermark)

    def current(self) -> float | None:
        """Event time that all sources have reached, in seconds since the epoch; None until each of them has a watermark."""
        states = [self._by_partition.get(partition, (0, None)) for partition in range(self.n_sources)]
        watermarks = [watermark.timestamp() for _, watermark in states if watermark is not None]
        return min(watermarks) if watermarks and len(watermarks) == len(states) else None
