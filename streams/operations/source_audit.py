"""Checks the stored position of every source against the rows and gaps that were stored from it."""

from __future__ import annotations

from collections.abc import Iterable

import asyncpg

from sql import audit_store
from sql.database import Connection
from streams.operations.findings import Findings

__all__ = ["check_sources"]


async def check_sources(connection: Connection, findings: Findings) -> None:
    """Check that every element has its row, every offset its record or gap, and that positions agree with them."""
    positions = {row["source"]: row async for row in audit_store.positions(connection)}
    coverage = {row["source"]: row async for row in audit_store.source_coverage(connection)}
    for source in sorted(positions.keys() | coverage.keys()):
        if source in positions:
            _check_source(source, positions[source], coverage.get(source), findings)
        else:
            findings.add("source", f"{source} has rows but no position")
    for source in _missing_sources(positions.values()):
        findings.add("source", f"{source} has no position, though a later one of its topic has")
    findings.counts["sources"] = len(positions)


def _check_source(source: str, position: asyncpg.Record, coverage: asyncpg.Record | None, findings: Findings) -> None:
    findings.counts["elements"] += position["elements"]
    findings.compare("source", f"elements of {source}", position["elements"], coverage["elements"] if coverage else 0)
    if coverage and coverage["aged"]:
        findings.counts["aged elements"] += coverage["aged"]
    if coverage is None:
        findings.compare("source", f"last offset of {source}", position["last_offset"], -1)
        return
    for name in ("last_offset", "watermark", *(["last_time"] if coverage["last_time"] else [])):  # the last row may have aged out
        findings.compare("source", f"{name} of {source}", position[name], coverage[name])
    uncovered = position["last_offset"] + 1 - coverage["covered"]
    findings.compare("source", f"number of offsets of {source} without a row or a gap", uncovered, 0)


def _missing_sources(positions: Iterable[asyncpg.Record]) -> list[str]:
    """Sources that must exist because a higher partition of their topic, or a higher incarnation of their partition, does."""
    stored = {(row["topic"], row["partition"], row["incarnation"]) for row in positions}
    newest: dict[tuple[str, int], int] = {}
    for topic, partition, incarnation in stored:
        newest[topic, partition] = max(incarnation, newest.get((topic, partition), 0))
        for lower in range(partition):
            newest.setdefault((topic, lower), 0)
    expected = {(*partition, number) for partition, highest in newest.items() for number in range(highest + 1)}
    return sorted(f"{topic}:{partition}:{incarnation}" for topic, partition, incarnation in expected - stored)
