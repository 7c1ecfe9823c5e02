"""Stores versions of the catalogue, and lets a process follow the newest one.

Versions are only added. The newest is the catalogue of the service: whoever begins to process something asks for it, so that two
processes differ at most in what they began before it was applied.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from cachetools import LRUCache

from schemas.catalogue import BUILT_IN, Catalogue
from schemas.catalogue_in_effect import catalogue_of_process, install
from sql.database import Connection, Database, transaction

__all__ = [
    "AppliedVersion",
    "UnknownVersion",
    "apply_version",
    "catalogue_history",
    "catalogues_at",
    "follow_catalogue",
    "lock_catalogue",
]

_NEWEST = "SELECT version, sha256 FROM catalogue_versions ORDER BY version DESC LIMIT 1"
_CONTENT = "SELECT version, sha256, content FROM catalogue_versions WHERE version = ANY($1)"
_DIGESTS = "SELECT version, sha256 FROM catalogue_versions WHERE version = ANY($1)"
_HISTORY = "SELECT version, sha256, applied_at, applied_by, reason FROM catalogue_versions ORDER BY version DESC"
_INSERT = """
INSERT INTO catalogue_versions (version, sha256, content, applied_by, reason) VALUES ($1, $2, $3, $4, $5)
RETURNING version, sha256, applied_at, applied_by, reason"""
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('twinstream:catalogue', 0))"

_CACHE: LRUCache[tuple[int, str], Catalogue] = LRUCache(maxsize=50)


class UnknownVersion(LookupError):
    """There is no such version of the catalogue."""


class AppliedVersion(NamedTuple):
    """A version, with its digest, when and by whom it was applied, and why."""

    version: int
    sha256: str
    applied_at: datetime
    applied_by: str
    reason: str


async def follow_catalogue(database: Database) -> Catalogue:
    """Make the newest version the catalogue of this process, and return it; the built-in one where none was applied."""
    row = await database.fetchrow(_NEWEST)
    present = catalogue_of_process()
    version, sha256 = (row["version"], row["sha256"]) if row else (0, BUILT_IN.sha256)
    if (present.version, present.sha256) != (version, sha256):
        present = (await catalogues_at(database, [version]))[version]
        install(present)
    return present


async def catalogues_at(database: Database, versions: Iterable[int]) -> dict[int, Catalogue]:
    """The catalogues of these versions; 0 is the built-in one.

    Raises:
        UnknownVersion: when one is not stored.
    """
    wanted_versions = set(versions)
    catalogues = {0: BUILT_IN} if 0 in wanted_versions else {}
    stored = wanted_versions - {0}
    digests = {row["version"]: row["sha256"] for row in await database.fetch(_DIGESTS, list(stored))} if stored else {}
    absent = [key for key in digests.items() if key not in _CACHE]
    for row in await database.fetch(_CONTENT, [version for version, _ in absent]) if absent else ():
        _CACHE[row["version"], row["sha256"]] = Catalogue.from_text(row["content"], row["version"])
    for key in digests.items():
        catalogues[key[0]] = _CACHE[key]
    if missing := wanted_versions - catalogues.keys():
        raise UnknownVersion(f"there is no version {min(missing)} of the catalogue: see twinstream catalogue history")
    return catalogues


async def catalogue_history(database: Database) -> list[AppliedVersion]:
    """All versions, newest first."""
    return [AppliedVersion(*row) for row in await database.fetch(_HISTORY)]


async def lock_catalogue(connection: Connection) -> None:
    """Wait until no other transaction applies a catalogue, and let none do so before this one ends."""
    await connection.execute(_LOCK)


async def apply_version(database: Database, catalogue: Catalogue, *, applied_by: str, reason: str = "") -> AppliedVersion | None:
    """Store a catalogue as the newest version; None when it is that already."""
    async with transaction(database) as connection:
        await lock_catalogue(connection)
        newest = await connection.fetchrow(_NEWEST)
        if (newest["sha256"] if newest else BUILT_IN.sha256) == catalogue.sha256:
            return None
        version = newest["version"] + 1 if newest else 1
        row = await connection.fetchrow(_INSERT, version, catalogue.sha256, catalogue.to_text(), applied_by, reason)
    assert row is not None
    return AppliedVersion(*row)
