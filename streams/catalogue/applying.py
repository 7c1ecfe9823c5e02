"""Puts a catalogue into effect: it is checked against what is stored, stored as a version, and announced."""

from __future__ import annotations

from typing import NamedTuple

from schemas import Catalogue, CatalogueEvent
from sql.catalogue_store import AppliedVersion, apply_version, catalogue_history, catalogues_at, follow_catalogue, lock_catalogue
from sql.catalogue_uses import refuse_breaking
from sql.database import Pool, transaction
from streams.catalogue.comparison import Difference, differences
from streams.kafka import event_headers, event_value, open_producer, topic_of
from streams.settings import Settings

__all__ = ["Applied", "apply_catalogue", "catalogue_of_version", "preview_catalogue"]

_KEY = b"catalogue"  # of every version: the compacted topic keeps the newest


class Applied(NamedTuple):
    """The newest version, None while none was applied; ``changes`` are empty when the catalogue was in effect before."""

    version: AppliedVersion | None
    changes: list[Difference]


async def apply_catalogue(settings: Settings, pool: Pool, catalogue: Catalogue, *, applied_by: str, reason: str = "") -> Applied:
    """Store a catalogue as the newest version, and announce it; one that is in effect already is only announced again.

    Everything that begins from then on is under it. The announcement is for those outside: the service itself asks Postgres.

    Raises:
        CatalogueInUse: when it would break what is stored; nothing is changed.
    """
    async with transaction(pool) as connection:
        await lock_catalogue(connection)
        before = await follow_catalogue(connection)
        await refuse_breaking(connection, before, catalogue)
        version = await apply_version(connection, catalogue, applied_by=applied_by, reason=reason)
    changes = differences(before, catalogue)
    newest = version or next(iter(await catalogue_history(pool)), None)
    if newest is not None:
        await _announce(settings, newest, changes)
    return Applied(newest, changes)


async def preview_catalogue(pool: Pool, catalogue: Catalogue) -> Applied:
    """What :func:`apply_catalogue` would change; nothing is changed.

    Raises:
        CatalogueInUse: when it would break what is stored.
    """
    before = await follow_catalogue(pool)
    await refuse_breaking(pool, before, catalogue)
    return Applied(next(iter(await catalogue_history(pool)), None), differences(before, catalogue))


async def catalogue_of_version(pool: Pool, version: int) -> Catalogue:
    """The catalogue of a version, 0 for the built-in one.

    Raises:
        UnknownVersion: when there is none of this number.
    """
    return (await catalogues_at(pool, [version]))[version]


async def _announce(settings: Settings, version: AppliedVersion, changes: list[Difference]) -> None:
    event = CatalogueEvent(**version._asdict(), changes=tuple(map(str, changes)))
    async with open_producer(settings) as producer:
        await producer.send_and_wait(topic_of(CatalogueEvent), event_value(event), _KEY, headers=event_headers(event, "catalogue"))
