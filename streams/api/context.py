"""What all endpoints share: the settings, connections to Postgres, a producer of events, and the answers that are waited for."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager, suppress
from uuid import UUID

from cachetools import LRUCache, TTLCache

from schemas import Event
from sql.catalogue_store import follow_catalogue
from sql.database import Pool, open_pool
from streams.api.simulation_watch import SimulationWatch
from streams.api.unavailable import Unavailable, reach
from streams.client import KafkaUnavailable, TwinClient
from streams.errors import describe_error, is_waited_for
from streams.operations.learning import TableForm
from streams.operations.outcome_check import OutcomeCheck
from streams.outages import OUTAGES
from streams.registry import ModelLoader
from streams.reporting.overview import Overview, read_overview
from streams.settings import Settings
from streams.web.ask_pages import AskPages
from streams.web.change_feed import ChangeFeed
from streams.web.page_reader import PageReader
from streams.web.pages import Pages
from streams.web.rendering import PageState

__all__ = ["ApiContext"]

LOG = logging.getLogger(__name__)

_CATALOGUE_S = 2.0
_REMEMBERED = 10_000
_UPLOADS = 2
_FORMS, _FORMS_S = 8, 300.0
_RECENT_S = 1.0


class ApiContext:
    """The connections of the role, opened when they are first needed, and again after an outage.

    Attributes:
        settings: of this process.
        closing: set when the role stops, so that streams end.
        pages: the pages of the service.
        asking: those that ask.
        feed: tells open pages of changes.
        watch: the simulations that somebody waits for.
        uploads: limits how many tables are read at a time.
        forms: what was computed of uploaded tables last: an open page asks for it again and again.
        computing: limits what computes in this process to one at a time.
    """

    def __init__(self, settings: Settings) -> None:
        seconds = min(settings.api_statement_timeout_s, settings.postgres_statement_timeout_s)
        self.settings = settings
        self.closing = asyncio.Event()
        self._postgres = settings.model_copy(
            update={
                "postgres_pool_size": settings.api_pool_size,
                "postgres_statement_timeout_s": seconds,
                "postgres_lock_timeout_s": min(seconds, settings.postgres_lock_timeout_s),
            }
        )
        self._reader = PageReader(self._postgres)
        self.pages = Pages(self._reader, settings, self.page_state)
        self.asking = AskPages(self._reader, settings, self.page_state)
        self.feed = ChangeFeed(self.pages.change_mark)
        self.watch = SimulationWatch(self.pool, self.closing)
        self.uploads = asyncio.Semaphore(_UPLOADS)
        self.computing = asyncio.Semaphore(1)
        self.forms: TTLCache[Hashable, TableForm] = TTLCache(_FORMS, _FORMS_S)
        self._models: ModelLoader | None = None
        self._outcome_check: OutcomeCheck | None = None
        self._recent: tuple[float, Overview] | None = None
        self._published: LRUCache[UUID, bool] = LRUCache(_REMEMBERED)
        self._pool: Pool | None = None
        self._client: TwinClient | None = None
        self._opening = asyncio.Lock()

    def page_state(self, problem: str) -> PageState:
        """What a page of the role web shows beside its figures, which could not be read anew for this reason."""
        exposed = self.settings.is_api_exposed
        return PageState(outages=OUTAGES.current(), problem=problem, asks_at="", can_act=True, has_log_in=exposed)

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncIterator[ApiContext]:
        """A context that follows the catalogue while the block runs."""
        context = cls(settings)
        following = asyncio.create_task(context.follow_catalogue())
        try:
            async with context.feed.running():
                yield context
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await context.close()

    async def pool(self) -> Pool:
        """Connections to Postgres, few, and with a time limit for each statement.

        Raises:
            Unavailable: when Postgres does not answer.
        """
        async with self._opening:
            if self._pool is None:
                self._pool = await reach("Postgres", lambda: open_pool(self._postgres))
            return self._pool

    async def client(self) -> TwinClient:
        """The client that publishes events.

        Raises:
            Unavailable: when Kafka does not answer.
        """
        async with self._opening:
            if self._client is None:
                self._client = await reach("Kafka", TwinClient(self.settings, name="web").__aenter__)
            return self._client

    async def models(self) -> ModelLoader:
        """Loads models, and keeps some of them in memory."""
        if self._models is None:
            self._models = ModelLoader.from_settings(await self.pool(), self.settings)
        return self._models

    async def outcome_check(self) -> OutcomeCheck:
        """Checks outcomes as the role outcomes does."""
        if self._outcome_check is None:
            self._outcome_check = OutcomeCheck(self.settings, await self.pool())
        return self._outcome_check

    async def current_overview(self) -> Overview:
        """What the page shows, as it was at most a second ago.

        Raises:
            Unavailable: when Postgres does not answer.
        """
        now = time.monotonic()
        if self._recent is None or now - self._recent[0] > _RECENT_S:
            reading = await self._reader.read("overview", lambda pool: read_overview(pool, self.settings.n_min))
            if reading.value is None or reading.problem:
                raise Unavailable("Postgres", reading.problem)
            self._recent = now, reading.value
        return self._recent[1]

    async def publish(self, event: Event) -> None:
        """Publish an event, and wait until all replicas have it.

        Raises:
            Unavailable: when Kafka does not acknowledge it.
        """
        client = await self.client()
        try:
            await client.publish(event)
        except KafkaUnavailable as error:
            raise Unavailable("Kafka", describe_error(error)) from error

    def remember(self, simulation_id: UUID) -> None:
        """Note that a request was published, which is not stored before a worker has read it."""
        self._published[simulation_id] = True

    def was_published(self, simulation_id: UUID) -> bool:
        """Whether a request was published here lately."""
        return simulation_id in self._published

    async def follow_catalogue(self) -> None:
        """Put each new version of the catalogue into effect, for as long as the task runs."""
        while True:
            try:
                await follow_catalogue(await self.pool())
            except Unavailable:
                pass  # the monitor of the process reports the outage
            except Exception as error:  # noqa: BLE001  # the version in effect is kept
                if not is_waited_for(error):
                    LOG.warning("the catalogue could not be read: %s", describe_error(error))
            await asyncio.sleep(_CATALOGUE_S)

    def close_streams(self) -> None:
        """End what is streamed to readers."""
        self.closing.set()
        self.feed.end()

    async def close(self) -> None:
        """Close the connections."""
        self._reader.close()
        if self._client is not None:
            with suppress(Exception):
                await self._client.__aexit__(None, None, None)
        if self._pool is not None:
            self._pool.terminate()
