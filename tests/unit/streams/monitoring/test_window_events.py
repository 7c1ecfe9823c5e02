"""The metrics of a champion's baseline."""

from __future__ import annotations

import math

from streams.metrics import REGISTRY
from streams.monitoring.window_events import set_baseline_metrics
from tests.outcomes import make_card


def test_the_metrics_of_a_baseline_are_its_values_and_nan_where_one_is_undefined():
    baseline = make_card().baseline.model_copy(update={"correlation": None, "coverage_95pct": 0.94})
    set_baseline_metrics("a line", baseline)
    values = {
        name: REGISTRY.get_sample_value(f"twin_baseline_{name}", {"line": "a line"})
        for name in ("mae", "correlation", "coverage_ratio")
    }
    assert (values["mae"], values["coverage_ratio"]) == (baseline.mae, 0.94)
    assert math.isnan(values["correlation"] or 0.0)
