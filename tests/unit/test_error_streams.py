from __future__ import annotations

import math

import numpy as np
import pytest

from engine.fidelity.drift_rules import evaluate_rules
from engine.fidelity.e_detector import DetectorState, accumulate, series_reference
from engine.fidelity.error_sums import add_sums, fidelity_metrics
from tests.error_streams import CELL, DRAWS, STEP, known_baseline, log_evidence, rule_fired, sampled_baseline, step_sums

ERRORS = DRAWS["t3"](np.random.default_rng(3), (3, 1000)) * np.array([1.0, 1.25, 2.0])[:, None]
BASELINES = [known_baseline("t3"), sampled_baseline(DRAWS["t3"](np.random.default_rng(4), (3000,))), known_baseline("t3")]


def test_vectorised_streams_equal_the_detector_of_each_stream():
    steps = step_sums(ERRORS, BASELINES)
    evidence = log_evidence(steps, BASELINES)
    for stream in range(3):
        for n_steps in (1, 7, 10, 11, 34, 50):
            rows = steps[stream, :n_steps].tolist()
            cells = [add_sums(rows[first : first + CELL // STEP]) for first in range(0, n_steps, CELL // STEP)]
            state = accumulate(cells, DetectorState(reference=series_reference(BASELINES[stream])))
            assert math.exp(evidence.total[stream, n_steps - 1]) == pytest.approx(state.ratio(), rel=1e-9)
            alone = {name: math.exp(values[stream, n_steps - 1]) for name, values in evidence.by_loss.items()}
            assert alone == pytest.approx(state.loss_ratios(), rel=1e-9)


def test_the_vectorised_rule_equals_the_rule_of_the_service_on_the_fewest_latest_panes():
    steps = step_sums(ERRORS, BASELINES)
    fired = rule_fired(steps, BASELINES)
    assert 0 < fired.mean() < 1
    for stream, baseline in enumerate(BASELINES):
        for n_steps in range(1, 51):
            first = n_steps - 1 - (n_steps - 1) % 10
            if n_steps - first < 10:
                first = max(first - 10, 0)
            verdicts = evaluate_rules(fidelity_metrics(add_sums(steps[stream, first:n_steps].tolist()), baseline), baseline)
            assert fired[stream, n_steps - 1] == next(verdict.fired for verdict in verdicts if verdict.rule == "mae_increase")
