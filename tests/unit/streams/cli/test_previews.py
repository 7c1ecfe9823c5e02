"""What commands say before anything is changed: doubts about results of experiments, and about a catalogue."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from schemas import BUILT_IN, ExperimentResult, in_effect
from streams.catalogue.applying import Applied
from streams.catalogue.comparison import Difference
from streams.cli.catalogue import _applied_text
from streams.cli.results import _publish, _Result
from streams.operations.result_files import completed_result

FIELDS = {
    "experiment_id": "autumn",
    "observed_at": datetime(2026, 9, 30, tzinfo=UTC),
    "twin_type": "hcp",
    "brand": "kisqali",
    "intervention": "email_campaign",
    "effect": 0.08,
    "standard_error": 0.02,
    "n_treated": 300,
    "n_control": 300,
    "subgroups": [
        {"dimension": "region", "level": level, "effect": 0.1, "standard_error": 0.03, "n_treated": 90, "n_control": 85}
        for level in ("Kraków", "Cracow")
    ],
}


def preview(capsys, *, as_json: bool) -> str:
    with in_effect(BUILT_IN.with_entries({"levels": {"region": {"małopolskie": ["MP", "Kraków"]}}})):
        result: ExperimentResult = completed_result(FIELDS, {})
        _publish([_Result(result)], 1.0, dry_run=True, as_json=as_json)
    return capsys.readouterr().out


def test_a_dry_run_of_a_result_shows_its_subgroups_and_the_levels_that_nobody_declares(capsys):
    lines = preview(capsys, as_json=False).splitlines()
    assert [line.split()[0] for line in lines if "+10" in line] == ["region=małopolskie", "region=Cracow"]
    doubt = "warning: subgroup region = 'Cracow' is no level that is declared: nearest is małopolskie (kraków), or declare it"
    assert [doubt in line for line in lines].count(True) == 1
    assert lines[-1] == "nothing is published (--dry-run)"
    (result,) = json.loads(preview(capsys, as_json=True))
    assert [doubt.removeprefix("warning: ") in warning for warning in result["warnings"]] == [True]


def test_what_a_catalogue_sets_aside_is_told_before_its_state():
    applied = Applied(None, [Difference("brands.acme", None, "{}")], ("1 of 10 stored values lies beyond",))
    assert _applied_text(applied, "ann@desk", dry_run=True).splitlines() == [
        "+ brands.acme: {}",
        "warning: 1 of 10 stored values lies beyond",
        "nothing is stored that it would break",
    ]
