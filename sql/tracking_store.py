"""Stores the pairs that a FidelityTracker tracks: rows of ``fidelity_tracking`` that enter no sum of the service.

Tracking is a plain call, and storing needs the event loop. Pairs are queued and stored soon after, and at the latest at the next
await of the repository or when it is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import numpy as np

from schemas.arrays import Floats
from sql.database import Pool
from sql.parts import parts

__all__ = ["TrackingQueue"]

# Twins that are not stored have no row: their model and line are not known here.
_ADD = """
INSERT INTO fidelity_tracking (tracking_id, event_id, twin_id, model_id, predicted_value, actual_value, metric_type, line,
                               tracked_at, observed_at, revision, digest, fate, source, source_offset, element)
SELECT x.tracking_id, x.tracking_id, t.twin_id, t.model_id, x.predicted, x.actual, m.target_variable,
       concat_ws(':', m.twin_type, m.brand, m.target_variable), now(), now(), 0, '', 'tracked', 'tracker', 0, 0
FROM (SELECT gen_random_uuid() AS tracking_id, twin_id, predicted, actual
      FROM unnest($1::uuid[], $2::float8[], $3::float8[]) AS u (twin_id, predicted, actual)) x
JOIN digital_twins t USING (twin_id) JOIN digital_twin_models m USING (model_id)"""


class TrackingQueue:
    """Pairs that are tracked and not stored yet.

    Args:
        open_pool: opens the pool, or returns the open one.
    """

    def __init__(self, open_pool: Callable[[], Awaitable[Pool]]) -> None:
        self._open_pool = open_pool
        self._pairs: list[tuple[UUID, float, float | None]] = []
        self._lock = asyncio.Lock()
        self._storing: asyncio.Task[None] | None = None

    def record(self, twin_ids: Sequence[UUID], predicted: Floats, actual: Floats) -> None:
        """Queue ``n`` pairs, and start to store them if an event loop runs."""
        values = (None if np.isnan(value) else value for value in actual.tolist())
        self._pairs += zip(twin_ids, predicted.tolist(), values, strict=True)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        if self._pairs and (self._storing is None or self._storing.done()):
            self._storing = loop.create_task(self.store())
            self._storing.add_done_callback(lambda task: task.cancelled() or task.exception())  # store() is called again: it raises

    async def store(self) -> None:
        """Store all queued pairs; those of a failed statement stay queued.

        Raises:
            asyncpg.PostgresError, OSError: when they cannot be stored.
        """
        async with self._lock:
            while self._pairs:
                pairs = next(parts(self._pairs))
                pool = await self._open_pool()
                await pool.execute(_ADD, *zip(*pairs, strict=True))
                del self._pairs[: len(pairs)]
