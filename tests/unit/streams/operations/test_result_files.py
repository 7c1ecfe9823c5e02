"""Results of experiments in a file, as YAML or JSON, with errors by line and column."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from streams.operations.result_files import ResultFileError, read_results

DEFAULTS: dict[str, Any] = {"twin_type": "hcp", "brand": "kisqali", "observed_at": datetime(2026, 3, 1, tzinfo=UTC)}
SPRING = {
    "experiment_id": "spring",
    "intervention": "email_campaign",
    "effect": 0.02,
    "standard_error": 0.01,
    "n_treated": 400,
    "n_control": 300,
}


def written(folder: Path, text: str) -> Path:
    path = folder / "results.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_campaign_by_its_name_has_its_usual_channel_and_dose(tmp_path: Path) -> None:
    (result,) = read_results(written(tmp_path, json.dumps(SPRING)), DEFAULTS)
    campaign = result.intervention
    assert (campaign.channel, campaign.frequency, campaign.duration_weeks) == ("email", "monthly", 12)
    assert (result.observed_at, result.line) == (DEFAULTS["observed_at"], "hcp:kisqali:prescribing_change")


def test_several_results_may_differ_from_the_defaults_and_have_subgroups(tmp_path: Path) -> None:
    text = """
- {experiment_id: spring, intervention: email_campaign, effect: 0.02, standard_error: 0.01, n_treated: 400, n_control: 300}
- experiment_id: autumn
  observed_at: 2026-09-01T00:00:00Z
  intervention: {intervention_type: email_campaign, frequency: weekly}
  effect: 0.03
  standard_error: 0.01
  n_treated: 400
  n_control: 300
  subgroups:
    - {dimension: specialty, level: Surgery, effect: 0.05, standard_error: 0.02, n_treated: 100, n_control: 100}
"""
    spring, autumn = read_results(written(tmp_path, text), DEFAULTS)
    assert spring.subgroups == ()
    assert (autumn.observed_at, autumn.intervention.frequency) == (datetime(2026, 9, 1, tzinfo=UTC), "weekly")
    assert autumn.subgroups[0].level == "Surgery"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("effect: [", "results.yaml:1:"),
        ("", "results.yaml:1:1: a result has fields by name"),
        ("- 5", "results.yaml:1:3: a result has fields by name"),
        (json.dumps([SPRING, SPRING]), "'spring' names 2 results"),
        ("experiment_id: a\neffect: big", "results.yaml:2:9: effect: 'big' is no number: a number is written with digits"),
        ("experiment_id: a\neffect: 8%", "results.yaml:2:9: effect: '8%' is no number: write 0.08, a fraction"),
        ("standard_error: 0,02", "results.yaml:1:17: standard_error: '0,02' is no number: write 0.02, with a point for decimals"),
        ("n_treated: '1,5'", "results.yaml:1:12: n_treated: '1,5' is no number: write 1.5, with a point"),
        (
            "subgroups: [{dimension: region, level: x, effect: 5 %, standard_error: 1, n_treated: 9, n_control: 9}]",
            "results.yaml:1:51: subgroups.0.effect: '5 %' is no number: write 0.05, a fraction",
        ),
        (
            "observed_at: 30.09.2026",
            "results.yaml:1:14: observed_at: '30.09.2026' is no time: write .* and the zone, such as 2026-01-31T12:00:00Z",
        ),
        (
            "observed_at: 2026-09-30",
            "observed_at: '2026-09-30' is no time: write the day, the hour and the zone, such as 2026-09-30T00:00:00Z",
        ),
        ("observed_at: 2026-09-30 14:30", "such as 2026-09-30T14:30:00Z"),
        (
            "experiment_id: a\nintervention: fax_campaign",
            "results.yaml:2:15: intervention.intervention_type: unknown intervention_type 'fax_campaign'",
        ),
        ("experiment_id: a\np_value: 0.01", "results.yaml:2:10: p_value: unknown field"),
    ],
)
def test_what_is_wrong_is_told_by_line_and_column(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ResultFileError, match=message):
        read_results(written(tmp_path, text), DEFAULTS)
