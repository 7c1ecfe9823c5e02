"""Stores what the fidelity agent would have stored, and compares all counts, for tests of several modules."""

from __future__ import annotations

from datetime import timedelta

from sql import window_store
from sql.database import Pool, clock
from streams.ingestion import ContextLoader, OutcomePipeline
from streams.kafka import PARTITIONS
from streams.monitoring.drift_detection import DriftEvaluator
from streams.monitoring.line_state import load_line
from streams.monitoring.restatement_floor import raise_floor
from streams.monitoring.window_events import window_event
from streams.operations.findings import Findings
from streams.operations.recomputation import recompute
from streams.operations.window_audit import WindowAudit
from streams.settings import Settings
from tests.outcomes import START, TOPIC, make_card

RESTATEMENT_S = 1200.0


def make_pipeline(pool: Pool) -> OutcomePipeline:
    return OutcomePipeline(pool, ContextLoader(pool, None, None), skew_s=300.0, restatement_s=RESTATEMENT_S)  # type: ignore[arg-type]


async def store_all_windows(pool: Pool) -> None:
    """Do what the fidelity agent would have done by now; sources without records hold no floor back."""
    await pool.execute("UPDATE source_positions SET watermark = $1 WHERE partition > 0", START + timedelta(seconds=3590))
    await store_windows(pool)
    await pool.execute("UPDATE source_positions SET watermark = NULL WHERE partition > 0")


async def store_windows(pool: Pool) -> None:
    """Store a snapshot of every window, and raise the floor as far as the sources allow."""
    (state,) = await window_store.monitored_lines(pool)
    line = await load_line(pool, state, make_evaluator(), await clock(pool))
    events = [window_event(line, window, closed=True) for window in line.pending_snapshots]
    await window_store.save_snapshots(pool, events)
    line.pending_snapshots.clear()
    await raise_floor(pool, line, Settings(restatement_s=RESTATEMENT_S), PARTITIONS[TOPIC])


def make_evaluator() -> DriftEvaluator:
    return DriftEvaluator(50, 1e6, {make_card().model_id: make_card()})


async def audited(dsn: str) -> tuple[Findings, WindowAudit]:
    findings = Findings()
    state = await recompute(dsn, findings)
    windows = WindowAudit(state.windows, state.grids, findings)
    windows.check_snapshots(state.snapshots)
    return findings, windows


async def mismatches(dsn: str) -> tuple[str, ...]:
    """What does not agree with the stored outcomes."""
    findings = Findings()
    await recompute(dsn, findings)
    return findings.mismatches()
