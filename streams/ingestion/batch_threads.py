"""Computes batches beside the event loop: small ones, or small parts of one, do not queue behind large ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

from streams.kafka.batch_consumer import PollBatch

__all__ = ["BatchThreads", "is_small"]

Result = TypeVar("Result")
_SMALL_RECORDS, _SMALL_BYTES = 512, 512 * 1024


def is_small(batch: PollBatch) -> bool:
    """Whether a batch, or a part of one, is little work beside a full one, so that it waits for none."""
    return len(batch.records) <= _SMALL_RECORDS and batch.n_bytes <= _SMALL_BYTES


class BatchThreads:
    """One thread for large batches, as Python computes in one at a time, and one for small ones."""

    def __init__(self) -> None:
        self._large, self._small = (ThreadPoolExecutor(1, thread_name_prefix="ingestion") for _ in range(2))

    async def compute(self, batch: PollBatch, work: Callable[[], Result]) -> Result:
        """The result of work on a batch."""
        executor = self._small if is_small(batch) else self._large
        return await asyncio.get_running_loop().run_in_executor(executor, copy_context().run, work)
