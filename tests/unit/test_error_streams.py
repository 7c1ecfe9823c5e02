from __future__ import annotations

import math

import numpy as np
import pytest

from engine.fidelity.drift_rules import evaluate_rules
from engine.fidelity.e_detector import DetectorState, accumulate
from engine.fidelity.error_sums import add_sums, fidelity_metrics
from tests.error_streams import CELL, DRAWS, LOOK, known_baseline, log_evidence, looks_of, rule_fired, sampled_baseline

ERRORS = DRAWS["t3"](np.random.default_rng(3), (3, 1000)) * np.array([1.0, 1.25, 2.0])[:, None]
BASELINES = [known_baseline("t3"), sampled_baseline(DRAWS["t3"](np.random.default_rng(4), (3000,))), known_baseline("t3")]


def test_many_streams_in_one_step_are_the_fold_of_each():
    looks = looks_of(ERRORS, BASELINES)
    path = log_evidence(looks)
    for stream in range(3):
        for seen in (1, 7, 10, 11, 34, 50):
            rows = looks[stream, :seen].tolist()
            cells = [add_sums(rows[first : first + CELL // LOOK]) for first in range(0, seen, CELL // LOOK)]
            assert math.exp(path[stream, seen - 1]) == pytest.approx(accumulate(cells, DetectorState()).ratio(), rel=1e-12)


def test_the_rule_at_each_look_is_the_rule_of_the_service_on_the_fewest_latest_panes():
    looks = looks_of(ERRORS, BASELINES)
    fired = rule_fired(looks, BASELINES)
    assert 0 < fired.mean() < 1
    for stream, baseline in enumerate(BASELINES):
        for seen in range(1, 51):
            first = seen - 1 - (seen - 1) % 10
            if seen - first < 10:
                first = max(first - 10, 0)
            said = evaluate_rules(fidelity_metrics(add_sums(looks[stream, first:seen].tolist()), baseline), baseline)
            assert fired[stream, seen - 1] == next(verdict.fired for verdict in said if verdict.rule == "mae_increase")
