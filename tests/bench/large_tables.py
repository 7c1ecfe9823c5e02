"""Training on a million rows, against scikit-learn's histogram boosting alone on the same rows."""

from __future__ import annotations

from tests.bench.measure import Aim, Figure
from tests.bench.sizes import in_process

__all__ = ["large_table_figure"]

ROWS = 1_000_000
NAMED = "scikit-learn's HistGradientBoosting, the same trees, rate and leaves, its own categories: one fit, no twins or intervals"
_MB = 2**20


def large_table_figure() -> Figure:
    """One training of each, in processes of their own, on one thread."""
    ours, baseline = (in_process(step, ROWS) for step in ("train", "boost"))
    note = f"{ours.peak / _MB:,.0f} MB at the peak beside the table, {baseline.peak / _MB:,.0f} MB for boosting"
    return Figure(f"train on {ROWS:,} rows", "sample", "s", ours.seconds, baseline.seconds, NAMED, 1, Aim("ours", 60.0), note)
