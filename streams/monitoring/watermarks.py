"""How far event time has come over all sources."""

from __future__ import annotations

from datetime import datetime

from schemas import SourceId

__all__ = ["Watermarks"]


class Watermarks:
    """What each source has told of itself last.

    Args:
        sources: how many partitions outcomes come from; one without a worker tells nothing, and holds windows open.
    """

    def __init__(self, sources: int) -> None:
        self._sources = sources
        self._told: dict[int, tuple[int, datetime | None]] = {}

    def note(self, source: SourceId, watermark: datetime | None) -> None:
        """Keep what the newest incarnation of a source says; a null says nothing of one that has begun already."""
        incarnation, known = self._told.get(source.partition, (-1, None))
        if source.incarnation > incarnation or (source.incarnation == incarnation and (watermark or known is None)):
            self._told[source.partition] = (source.incarnation, watermark)

    def reached(self) -> float | None:
        """Event time that all sources have reached, in seconds since the epoch; null while one of them has told nothing."""
        known = [at.timestamp() for _, at in self._told.values() if at is not None]
        return min(known) if len(known) == self._sources else None
