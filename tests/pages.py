"""The pages of a database, without a server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from multidict import MultiDict

from streams.settings import Settings
from streams.web.page_reader import PageReader
from streams.web.pages import Pages
from streams.web.rendering import PageState

__all__ = ["NO_PARAMETERS", "pages_of"]

NO_PARAMETERS: MultiDict[str] = MultiDict()


@asynccontextmanager
async def pages_of(dsn: str) -> AsyncIterator[Pages]:
    """The pages of what is stored in a database."""
    settings = Settings(postgres_dsn=dsn, postgres_read_dsn=dsn)
    reader = PageReader(settings)
    try:
        yield Pages(reader, settings, lambda problem: PageState(problem=problem))
    finally:
        reader.close()
