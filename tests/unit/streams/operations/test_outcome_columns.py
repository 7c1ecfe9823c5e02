"""Columns of files of outcomes: names of a training table, and the unit of the numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from schemas import TwinType
from streams.operations.outcome_columns import named_as_outcomes, outcome_scale, without_left_out

HCP = {"twin_type": "hcp", "brand": "kisqali", "metric_type": "prescribing_change"}


def test_the_columns_of_a_training_table_are_those_of_an_outcome():
    frame = pd.DataFrame({"NPI": ["1"], "prescribing_change": [0.1], "decile": [3]})
    renamed, notes = named_as_outcomes(frame, TwinType.HCP, "prescribing_change")
    assert list(renamed) == ["entity_id", "actual_value", "decile"]
    assert notes == ["NPI read as entity_id", "prescribing_change read as actual_value"]
    assert named_as_outcomes(renamed, TwinType.HCP, "prescribing_change")[1] == []


def test_what_training_left_out_is_not_sent_but_fields_and_features_of_the_catalogue_are():
    frame = pd.DataFrame({"entity_id": ["1"], "observed_at": ["2026-01-01"], "notes": ["x"], "decile": [3]})
    rest, notes = without_left_out(frame, TwinType.HCP, {"entity_id", "observed_at", "notes", "decile", "other"})
    assert list(rest) == ["entity_id", "observed_at", "decile"]
    assert notes == ["not sent, as training left them out: notes"]


@pytest.mark.parametrize("column", ["actual_value", "predicted_value"])
def test_outcomes_in_percent_are_found_where_a_fraction_is_meant(column: str):
    frame = pd.DataFrame({"actual_value": np.full(50, 0.182), "predicted_value": np.full(50, 0.214)})
    assert outcome_scale(frame, HCP) == ((), ())
    (problem,) = outcome_scale(frame.assign(**{column: frame[column] * 100}), HCP).problems
    assert problem.startswith(f"{column}: 'prescribing_change' looks like percent: 50 of 50 values")
    assert problem.endswith("divide it by 100")


def test_each_target_of_a_file_has_its_own_scale():
    frame = pd.DataFrame(
        {"twin_type": ["hcp", "patient"] * 20, "metric_type": ["prescribing_change", "journey_progression_days"] * 20}
    ).assign(actual_value=[0.2, 48.0] * 20)
    assert outcome_scale(frame, {}) == ((), ())
    assert len(outcome_scale(frame.assign(actual_value=[20.0, 48.0] * 20), {}).problems) == 1
    assert outcome_scale(frame.assign(metric_type="unknown"), {}) == ((), ())


def test_one_implausible_outcome_among_many_is_told_and_not_refused():
    frame = pd.DataFrame({"actual_value": [0.2] * 49 + [20.0]})
    problems, warnings = outcome_scale(frame, HCP)
    assert not problems
    assert warnings[0].startswith("actual_value: 1 values of prescribing_change are beyond the plausible")
