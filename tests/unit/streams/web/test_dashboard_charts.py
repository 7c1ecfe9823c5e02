"""What the charts of the page hold, beside what they look like."""

from __future__ import annotations

from dataclasses import replace

import pytest

from streams.web.dashboard_charts import simulations_chart
from tests.unit.streams.web.overviews import simulation


@pytest.mark.parametrize(("thresholds", "labels"), [((0.02, 0.02), ["worthwhile from 2.0%"]), ((0.02, 0.05), []), ((), [])])
def test_a_threshold_is_drawn_where_all_simulations_share_it(thresholds: tuple[float, ...], labels: list[str]):
    runs = [simulation(number, "email_campaign", "deploy", (0.01, 0.06, 0.11)) for number in range(len(thresholds))]
    judged = [
        replace(run, results={**run.results, "min_effect_threshold": threshold})
        for run, threshold in zip(runs, thresholds, strict=True)
    ]
    assert [line.label for line in simulations_chart(judged).lines] == labels
