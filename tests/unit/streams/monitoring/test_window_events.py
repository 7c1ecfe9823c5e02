"""What the metrics tell of a champion's baseline."""

from __future__ import annotations

import math

from streams.metrics import REGISTRY
from streams.monitoring.window_events import show_baseline
from tests.outcomes import make_card


def test_a_limit_that_is_held_against_the_baseline_finds_its_figures_and_no_number_where_there_is_none():
    baseline = make_card().baseline.model_copy(update={"correlation": None, "coverage_95pct": 0.94})
    show_baseline("a line", baseline)
    told = {
        name: REGISTRY.get_sample_value(f"twin_baseline_{name}", {"line": "a line"})
        for name in ("mae", "correlation", "coverage_ratio")
    }
    assert (told["mae"], told["coverage_ratio"]) == (baseline.mae, 0.94)
    assert math.isnan(told["correlation"] or 0.0)
