"""The thresholds of a model line, with those of the catalogue as its first version."""

from __future__ import annotations

from schemas import catalogue_in_effect
from sql.database import Pool
from sql.ledger import Ledger
from sql.threshold_store import ThresholdChange, threshold_changes

__all__ = ["threshold_history"]


async def threshold_history(pool: Pool, line: str) -> list[ThresholdChange]:
    """All versions of the thresholds of a line, newest first; those of the catalogue are the first one.

    Raises:
        UnknownLine: when there is no such line.
    """
    await Ledger(pool).policy(line)
    standard = ThresholdChange(catalogue_in_effect().thresholds_of(line), None, "the catalogue", "")
    return [*await threshold_changes(pool, line), standard]
