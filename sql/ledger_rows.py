"""Reads and appends the events of a model line while its row is locked.

``model_lines`` has one row per line with its present state; ``model_ledger`` is append-only and has one row per event.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from schemas.events import ModelEvent
from sql.database import Connection, Database
from sql.line_lock import queue_for_line
from sql.model_card_rows import UnknownModel
from sql.retrain_store import TrainingOutcome, close_request

__all__ = [
    "EVENTS",
    "Cause",
    "ChampionChanged",
    "JudgedAgainst",
    "LockedLine",
    "NoPredecessor",
    "StaleRetrain",
    "UnknownLine",
    "append_event",
    "change_champion",
    "check_judged_against",
    "check_model",
    "check_still_champion",
    "close_retrain",
    "find_event",
    "line_names",
    "lines_with_champion",
    "lock_line",
]

LINES = "SELECT line FROM model_lines ORDER BY line"
WITH_CHAMPION = "SELECT line FROM model_lines WHERE champion IS NOT NULL ORDER BY line"

LOCK_LINE = "SELECT champion, generation FROM model_lines WHERE line = $1 FOR UPDATE"

_EVENT = "line, generation, happened, at, model_id, champion, effective_from, retrain_id, reason, comparison, decided_by"

EVENTS = f"SELECT {_EVENT} FROM model_ledger"  # noqa: S608  # our own constant

FIND_EVENT = f"""{EVENTS}
WHERE line = $1 AND happened = $2 AND model_id = $3 AND ($4::uuid IS NULL OR retrain_id = $4)
ORDER BY generation DESC LIMIT 1"""

CHAMPION_SINCE = """
SELECT effective_from FROM model_ledger
WHERE line = $1 AND happened IN ('promoted', 'rolled_back') ORDER BY generation DESC LIMIT 1"""

# Later than every watermark, so that no outcome that is already scored would get another champion.
EFFECTIVE_FROM = """
SELECT greatest(clock_timestamp(), $2::timestamptz, (SELECT max(watermark) FROM source_positions) + interval '1 microsecond',
                (SELECT max(effective_from) FROM model_ledger WHERE line = $1) + interval '1 microsecond')"""

APPEND_EVENT = f"""
INSERT INTO model_ledger (line, generation, happened, model_id, champion, effective_from, retrain_id, reason, comparison,
                          decided_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
RETURNING {_EVENT}"""  # noqa: S608  # our own constant

UPDATE_LINE = """
UPDATE model_lines
SET generation = $2, champion = $3, first_effective_from = coalesce(first_effective_from, $4)
WHERE line = $1"""

DEPRECATE_PREDECESSOR = """
UPDATE digital_twin_models SET deprecated_at = CASE WHEN model_id = $1 THEN NULL ELSE $3::timestamptz END
WHERE model_id = $1 OR model_id = $2"""


class UnknownLine(LookupError):
    """No model of this line was ever registered."""

    def __init__(self, line: str, lines: Sequence[str]) -> None:
        hint = f"there is {', '.join(lines)}" if lines else "train a model of it first"
        super().__init__(f"no model line {line!r} yet: {hint}")


class StaleRetrain(RuntimeError):
    """The model that a retrain was requested against is no longer champion."""


class ChampionChanged(RuntimeError):
    """Another model became champion after a challenger was judged."""


class NoPredecessor(LookupError):
    """The line had no earlier champion to roll back to."""


class JudgedAgainst(NamedTuple):
    """The champion that a challenger was judged against; None where the line had none."""

    champion: UUID | None


@dataclass(frozen=True)
class Cause:
    """Why a line changes: the reason in words, the comparison behind it, and the retrain with its holder's fencing number.

    ``decided_by`` is the person or the program whose decision it is; empty for what the service does by itself.
    """

    reason: str = ""
    retrain_id: UUID | None = None
    fence: int | None = None
    comparison: Mapping[str, Any] = field(default_factory=dict)
    decided_by: str = ""


@dataclass(frozen=True)
class LockedLine:
    """A line's row while it is locked: its champion, and since when."""

    line: str
    champion: UUID | None
    generation: int
    since: datetime | None


async def line_names(database: Database) -> list[str]:
    """Names of all lines."""
    return [row[0] for row in await database.fetch(LINES)]


async def lines_with_champion(database: Database) -> list[str]:
    """Names of the lines that have a champion."""
    return [row[0] for row in await database.fetch(WITH_CHAMPION)]


async def lock_line(connection: Connection, line: str) -> LockedLine:
    """Lock a line's row to the end of the transaction, in the order in which transactions request it.

    Raises:
        UnknownLine: when there is no such line.
    """
    await queue_for_line(connection, line)
    row = await connection.fetchrow(LOCK_LINE, line)
    if row is None:
        raise UnknownLine(line, await line_names(connection))
    return LockedLine(line, row["champion"], row["generation"], await connection.fetchval(CHAMPION_SINCE, line))


async def find_event(
    connection: Connection, line: str, happened: str, model_id: UUID, retrain_id: UUID | None = None
) -> ModelEvent | None:
    """The newest event of this kind about a model, of one retrain where it is named; None when there is none."""
    row = await connection.fetchrow(FIND_EVENT, line, happened, model_id, retrain_id)
    return ModelEvent(**row) if row is not None else None


async def check_model(connection: Connection, line: str, model_id: UUID) -> None:
    """Check that a model belongs to a line.

    Raises:
        UnknownModel: when the line has no such model.
    """
    if await connection.fetchval("SELECT line FROM digital_twin_models WHERE model_id = $1", model_id) != line:
        raise UnknownModel(model_id)


async def check_still_champion(connection: Connection, state: LockedLine, cause: Cause) -> None:
    """Check that the model that the cause's retrain was requested against is still champion.

    Raises:
        StaleRetrain: when another model is.
    """
    if cause.retrain_id is None:
        return
    incumbent = await connection.fetchval("SELECT model_id FROM retrain_requests WHERE retrain_id = $1", cause.retrain_id)
    if incumbent != state.champion:
        raise StaleRetrain(
            f"retrain {cause.retrain_id} was requested against {incumbent}, but {state.champion} is champion of {state.line}"
        )


def check_judged_against(state: LockedLine, judged: JudgedAgainst | None) -> None:
    """Check that a challenger was judged against the model that is champion now; None for a decision without that condition.

    Raises:
        ChampionChanged: when another model is champion.
    """
    if judged is not None and judged.champion != state.champion:
        raise ChampionChanged(f"{state.champion} became champion of {state.line} in the meantime, after {judged.champion}")


async def close_retrain(connection: Connection, line: str, cause: Cause, outcome: TrainingOutcome) -> None:
    """Close the retrain of a cause, where there is one.

    Raises:
        ValueError: when only one of retrain and fencing number is given.
        LostLease: when the fencing number is not the newest.
    """
    if (cause.retrain_id is None) != (cause.fence is None):
        raise ValueError("retrain_id and fence belong together")
    if cause.retrain_id is not None and cause.fence is not None:
        await close_request(connection, line, cause.retrain_id, cause.fence, outcome, cause.reason)


async def change_champion(
    connection: Connection, state: LockedLine, happened: str, model_id: UUID, cause: Cause, not_before: datetime | None = None
) -> ModelEvent:
    """Make a model champion from the earliest time at which no outcome is scored yet; its predecessor becomes deprecated."""
    since = await connection.fetchval(EFFECTIVE_FROM, state.line, not_before)
    await connection.execute(DEPRECATE_PREDECESSOR, model_id, state.champion, since)
    return await append_event(connection, LockedLine(state.line, model_id, state.generation, since), happened, model_id, cause)


async def append_event(connection: Connection, state: LockedLine, happened: str, model_id: UUID, cause: Cause) -> ModelEvent:
    """Append one event, which repeats the state of the line after it.

    Raises:
        UnknownModel: when no such model is stored.
    """
    generation = state.generation + 1
    await connection.execute(UPDATE_LINE, state.line, generation, state.champion, state.since)
    fields = (model_id, state.champion, state.since, cause.retrain_id, cause.reason, dict(cause.comparison), cause.decided_by)
    try:
        rows = await connection.fetch(APPEND_EVENT, state.line, generation, happened, *fields)
    except asyncpg.ForeignKeyViolationError:
        raise UnknownModel(model_id) from None
    return ModelEvent(**rows[0])
