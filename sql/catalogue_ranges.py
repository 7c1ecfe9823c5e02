"""What a catalogue with narrower ranges would shut out: stored values of features that champions predict from, and outcomes."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable
from typing import NamedTuple

from schemas.base import count_of
from schemas.catalogue import Catalogue
from schemas.twin_types import TwinType
from sql.database import Database

__all__ = ["RangeFinding", "range_findings"]

_COUNTS = """
SELECT count(value) AS n, count(value) FILTER (WHERE value < $2 OR value > $3) AS outside,
       min(value) AS lowest, max(value) AS highest
FROM ({values}) AS stored"""
_OF_FEATURE = _COUNTS.format(
    values="""
SELECT CASE WHEN jsonb_typeof(features -> $4) = 'number' THEN (features ->> $4)::double precision END AS value
FROM entity_history WHERE line = $1"""
)
_OF_TARGET = _COUNTS.format(
    values="""
SELECT target AS value FROM entity_history WHERE line = $1
UNION ALL
SELECT actual_value FROM fidelity_tracking WHERE line = $1 AND fate = 'counted'"""
)
_MOST = 0.5

_Range = tuple[float, float]


class RangeFinding(NamedTuple):
    """What a narrower range does to stored values, in a sentence; ``refuses`` where it would break what is stored."""

    text: str
    refuses: bool


class _Beyond(NamedTuple):
    """Stored values beyond a range, as the begin of a sentence, and their share of all."""

    text: str
    share: float


async def range_findings(
    database: Database,
    targets: Iterable[tuple[str, TwinType, str]],
    features: Iterable[tuple[str, TwinType, str]],
    before: Catalogue,
    after: Catalogue,
) -> AsyncIterator[RangeFinding]:
    """Narrower bounds and plausible values that stored values lie beyond, for the targets and learned features of lines.

    One value beyond the bounds of a feature refuses: no table with it can be trained on. Beyond plausible values outcomes are only
    set aside, so fewer than half of them are a warning.
    """
    for line, twin_type, name in features:
        old, new = before.entries[twin_type].by_name.get(name), after.entries[twin_type].by_name.get(name)
        if not old or not new or old.kind != new.kind:
            continue
        allowed = _range(new.low, new.high)
        is_narrower = _is_narrower(_range(old.low, old.high), allowed)
        if is_narrower and (stored := await _beyond(database, name, line, allowed, _OF_FEATURE, name)):
            yield RangeFinding(
                f"{stored.text} beyond the bounds {_text(allowed)}, and its champion predicts from {name}: keep bounds that hold"
                " them, or declare a feature of another name and train with it",
                refuses=True,
            )
    for line, twin_type, name in targets:
        was, becomes = before.entries[twin_type].declared.get(name), after.entries[twin_type].declared.get(name)
        if was is None or becomes is None:
            continue
        allowed = (becomes.plausible.low, becomes.plausible.high)
        is_narrower = _is_narrower((was.plausible.low, was.plausible.high), allowed)
        if is_narrower and (stored := await _beyond(database, name, line, allowed, _OF_TARGET)):
            yield RangeFinding(
                f"{stored.text} beyond the plausible values {_text(allowed)}: outcomes like these will be set aside;"
                " plausible values that hold them keep them",
                refuses=stored.share > _MOST,
            )


def _range(low: float | None, high: float | None) -> _Range:
    return -math.inf if low is None else float(low), math.inf if high is None else float(high)


def _is_narrower(old: _Range, new: _Range) -> bool:
    return new[0] > old[0] or new[1] < old[1]


def _text(allowed: _Range) -> str:
    return f"{allowed[0]:g} to {allowed[1]:g}"


async def _beyond(database: Database, name: str, line: str, allowed: _Range, query: str, *further: str) -> _Beyond | None:
    """The stored values of a feature or target of a line that lie beyond a range; None where all lie in it."""
    for row in await database.fetch(query, line, *allowed, *further):
        if row["outside"]:
            lie = "lies" if row["outside"] == 1 else "lie"
            values = f"{row['outside']:,} of {count_of(row['n'], 'stored value')} of {name} of {line}"
            return _Beyond(f"{values}, {row['lowest']:g} to {row['highest']:g}, {lie}", row["outside"] / row["n"])
    return None
