"""Puts a catalogue into effect: it is checked against what is stored, stored as a version, and announced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from schemas import Catalogue, CatalogueEvent
from sql.catalogue_store import AppliedVersion, apply_version, catalogue_history, catalogues_at, follow_catalogue, lock_catalogue
from sql.catalogue_uses import refuse_breaking
from sql.database import Pool, transaction
from streams.catalogue.comparison import Difference, differences
from streams.kafka import event_headers, event_value, open_producer, topic_of
from streams.settings import Settings

__all__ = ["Applied", "CatalogueConflict", "apply_catalogue", "catalogue_of_version", "losses", "preview_catalogue"]

_MOST_NAMED = 10
_KEY = b"catalogue"  # of every version: the compacted topic keeps the newest


class Applied(NamedTuple):
    """The newest version, None while none was applied; ``changes`` are empty when the catalogue was in effect before.

    ``warnings`` tell what they change for what is stored without breaking it.
    """

    version: AppliedVersion | None
    changes: list[Difference]
    warnings: Sequence[str] = ()


class CatalogueConflict(ValueError):
    """A catalogue that was made without a look at what is in effect; ``version`` is in effect."""

    def __init__(self, text: str, version: int) -> None:
        super().__init__(text)
        self.version = version


async def apply_catalogue(
    settings: Settings,
    pool: Pool,
    catalogue: Catalogue,
    *,
    applied_by: str,
    reason: str = "",
    expected: int | None = None,
    may_lose: bool = True,
) -> Applied:
    """Store a catalogue as the newest version, and announce it; one that is in effect already is only announced again.

    Everything that begins from then on is under it. The announcement is for those outside: the service itself asks Postgres.

    Args:
        settings: addresses of the service.
        pool: connections to its database.
        catalogue: the one to apply.
        applied_by: who does it, and ``reason`` why.
        reason: see above.
        expected: the version that it was made from, None for any.
        may_lose: whether it may undo what :func:`losses` names.

    Raises:
        CatalogueInUse: when it would break what is stored; nothing is changed.
        CatalogueConflict: when another version than ``expected`` is in effect, or it would undo something that it may not.
    """
    async with transaction(pool) as connection:
        await lock_catalogue(connection)
        before = await follow_catalogue(connection)
        newest = next(iter(await catalogue_history(connection)), None)
        warnings = await refuse_breaking(connection, before, catalogue)
        _refuse_conflict(newest, differences(before, catalogue), applied_by, expected=expected, may_lose=may_lose)
        version = await apply_version(connection, catalogue, applied_by=applied_by, reason=reason)
    changes = differences(before, catalogue)
    newest = version or newest
    if newest is not None:
        await _announce(settings, newest, changes)
    return Applied(newest, changes, warnings)


def losses(newest: AppliedVersion | None, changes: list[Difference], applied_by: str) -> list[str]:
    """Paths of what is undone by changes of the newest version: entries are taken out, and others' values are replaced.

    Nothing is without an applied version: what is built in is only changed by what a file says.
    """
    if newest is None:
        return []
    is_own = newest.applied_by == applied_by
    return [change.path for change in changes if change.after is None or (change.before is not None and not is_own)]


def _refuse_conflict(
    newest: AppliedVersion | None, changes: list[Difference], applied_by: str, *, expected: int | None, may_lose: bool
) -> None:
    version = newest.version if newest else 0
    if expected is not None and expected != version:
        raise CatalogueConflict(
            f"version {version} is in effect, not {expected}: see twinstream catalogue show --version {version} --diff, bring the"
            f" file up to date, and apply it with --expect {version}",
            version,
        )
    undone = losses(newest, changes, applied_by)
    if newest is None or may_lose or not undone:
        return
    paths = ", ".join(undone[:_MOST_NAMED]) + (f" and {len(undone) - _MOST_NAMED} more" if len(undone) > _MOST_NAMED else "")
    raise CatalogueConflict(
        f"it would undo what version {version} has, applied by {newest.applied_by} at {newest.applied_at:%Y-%m-%d %H:%M:%S} UTC:"
        f" {paths}. Take these into the file, or apply it with --yes if they are to go",
        version,
    )


async def preview_catalogue(pool: Pool, catalogue: Catalogue) -> Applied:
    """What :func:`apply_catalogue` would change; nothing is changed.

    Raises:
        CatalogueInUse: when it would break what is stored.
    """
    before = await follow_catalogue(pool)
    warnings = await refuse_breaking(pool, before, catalogue)
    return Applied(next(iter(await catalogue_history(pool)), None), differences(before, catalogue), warnings)


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
