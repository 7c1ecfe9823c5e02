"""Measures how closely the twins of stored populations resemble real entities, for each model and filters once, newest first."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Self
from uuid import UUID

from engine.twins import TwinModel
from sql.database import Database
from sql.ledger import Ledger
from sql.population_realism_store import FilteredModel, FilterRealism, known_realism, next_to_assess, save_realism
from streams.errors import describe_error, is_waited_for
from streams.registry import MlflowRegistry, ModelLoader

__all__ = ["RealismAssessor", "measure_filters"]

LOG = logging.getLogger(__name__)

IDLE_S = 2.0
"""Seconds between two looks for populations that are not measured."""

_REST = 4.0  # after a measurement, in durations of it: at most a fifth of a processor is used
_MAX_REASON_CHARACTERS = 500
_NICENESS = 15


class RealismAssessor:
    """Measures stored populations one after the other, on one thread of low priority.

    Args:
        database: where they are stored.
        load_model: loads a registered model by its id.
    """

    def __init__(self, database: Database, load_model: Callable[[UUID], Awaitable[TwinModel]]) -> None:
        self._database = database
        self._load_model = load_model
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="realism", initializer=_lower_priority)

    @classmethod
    def create(cls, database: Database, registry: MlflowRegistry) -> Self:
        """An assessor that keeps one model in memory."""
        return cls(database, ModelLoader(database, registry, size=1).load)

    async def assess_next(self) -> float:
        """Measure the newest population that is not, and those with equal filters; returns the seconds to rest afterwards.

        Two workers may measure the same: their figures are equal.
        """
        filtered = await next_to_assess(self._database)
        if filtered is None:
            return IDLE_S
        realism, rest_s = await self._stored(filtered), 0.0
        if realism is None:
            started = time.monotonic()
            realism = await self._measure(filtered)
            rest_s = max(IDLE_S, _REST * (time.monotonic() - started))
        n = await save_realism(self._database, filtered.model_id, realism)
        LOG.info("%d populations of model %s with the filters %s: %s", n, filtered.model_id, filtered.filters, realism.verdict)
        return rest_s

    async def _stored(self, filtered: FilteredModel) -> FilterRealism | None:
        """What is known already: of equal filters, or of the model's twins without filters, from its training."""
        if filtered.filters:
            return await known_realism(self._database, filtered)
        report = (await Ledger(self._database).card(filtered.model_id)).metrics.realism
        return None if report is None else FilterRealism(filtered.filters, report)

    async def _measure(self, filtered: FilteredModel) -> FilterRealism:
        """Measure it; a failure is stored as well, or one population that cannot be measured would hold up the others."""
        try:
            model = await self._load_model(filtered.model_id)
            return await asyncio.get_running_loop().run_in_executor(self._threads, measure_filters, model, filtered)
        except Exception as error:
            if is_waited_for(error):
                raise
            LOG.exception(
                "twins of model %s with the filters %s cannot be compared with real rows", filtered.model_id, filtered.filters
            )
            return FilterRealism(
                filtered.filters, unassessed="the comparison with real rows failed: the log of the role trainer says why"
            )


def measure_filters(model: TwinModel, filtered: FilteredModel) -> FilterRealism:
    """The realism of a model's twins with these filters, with the seed of its training; the reason where none can be measured."""
    try:
        return FilterRealism(filtered.filters, model.assess(filtered.filters, model.seed))
    except ValueError as error:
        return FilterRealism(filtered.filters, unassessed=describe_error(error)[:_MAX_REASON_CHARACTERS])


def _lower_priority() -> None:
    """Let every other thread go first; only Linux has a priority by thread."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
