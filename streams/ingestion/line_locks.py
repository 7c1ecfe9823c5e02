"""Locks the lines of a batch, and names the conflicts for which its transaction starts again."""

from __future__ import annotations

from sql.database import Connection
from sql.line_lock import LineGrid, share_lines
from streams.ingestion.scoring import ScoredBatch

__all__ = ["LinesChanged", "LinesMissing", "lock_lines"]


class _LineConflict(Exception):
    def __init__(self, lines: set[str]) -> None:
        super().__init__(", ".join(sorted(lines)))
        self.lines = lines


class LinesChanged(_LineConflict):
    """Lines have another champion than the one that the batch was scored by."""


class LinesMissing(_LineConflict):
    """Events of the batch are counted in lines that the transaction has not locked."""


async def lock_lines(connection: Connection, scored: ScoredBatch, others: set[str]) -> dict[str, LineGrid]:
    """Lock the lines of a batch and ``others`` against promotion and a raised floor.

    Raises:
        LinesChanged: when a batch would not be scored by the champion of its transaction (rule 19).
    """
    named = scored.decoded.lines
    lines = await share_lines(connection, named | others)
    changed = {line for line in named & lines.keys() if lines[line].generation != scored.generations.get(line)}
    if changed:
        raise LinesChanged(changed)
    return lines
