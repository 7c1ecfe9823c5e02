"""The requirements on built-in entries, checked for catalogues that meet them and for one that does not."""

from __future__ import annotations

import pytest

from schemas import BUILT_IN, Catalogue, TwinType, in_effect
from schemas.catalogue import laid_over
from streams.catalogue.deep_check import deep_check, sample_rows

OWN = {
    "campaigns": {"sample_drop": {"channel": "in_person", "effect": {"mean": 0.07, "sd": 0.03}, "twin_types": ["hcp"]}},
    "moderators": {
        "tenure": {"slope": {"mean": 0.05, "sd": 0.05}, "center": 30, "spread": 10},
        "account": {"levels": {"a": {"mean": 0.1, "sd": 0.1}}},
    },
    "twin_types": {
        "hcp": {
            "features": {"tenure": {"kind": "integer", "low": 0, "high": 60}, "account": {"kind": "category"}},
            "targets": {
                "prescribing_change": None,
                "new_patients": {
                    "unit": "patients a quarter",
                    "scale": "relative",
                    "direction": 1,
                    "plausible": {"low": 0, "high": 500, "other_units": {}},
                    "effect_unit": "of the expected patients",
                },
            },
            "filters": {"seniority": "tenure"},
            "segments": ["region", "account"],
        },
        "patient": {"targets": {"journey_progression_days": {}}},
    },
}


@pytest.fixture(scope="module")
def findings():
    return list(deep_check(Catalogue.model_validate(laid_over(OWN))))


def test_a_catalogue_of_ones_own_meets_every_requirement(findings):
    assert [finding for finding in findings if finding.problem] == []
    checked = {finding.entry for finding in findings}
    assert checked >= {
        "campaigns.sample_drop",
        "campaigns.email_campaign",
        "moderators.account.levels.a",
        "drift_rules.mae_increase",
        "twin_types.hcp.targets.new_patients",
        "twin_types.hcp.filters.seniority",
    }


def test_a_campaign_is_simulated_on_the_twins_that_it_is_for(findings):
    simulated = {finding.requirement for finding in findings if finding.entry == "campaigns.sample_drop"}
    assert "its effect on hcp twins is about its base effect" in simulated
    assert "its effect on patient twins is about its base effect" not in simulated


def test_sample_rows_keep_the_bounds_of_the_entry():
    catalogue = Catalogue.model_validate(laid_over(OWN))
    with in_effect(catalogue):
        entry = catalogue.entries[TwinType.HCP]
        rows = sample_rows(TwinType.HCP, entry, entry.default_target)
    assert set(rows) == {*entry.by_name, "new_patients"}
    assert rows["tenure"].between(0, 60).all()
    assert (rows["target_patient_volume"] <= rows["total_patient_volume"]).all()


def test_what_cannot_work_is_found(monkeypatch):
    fields = {
        "moderators": {"years_experience": {"slope": {"mean": 2.0, "sd": 0.1}, "center": 500, "spread": 200}},
        "drift_rules": {
            "tight": {"metric": "correlation", "limit": 0.95, "direction": "below", "relative": False, "action": "warn"}
        },
    }
    monkeypatch.setattr("streams.catalogue.deep_check._line", _no_line)
    problems = [finding for finding in deep_check(Catalogue.model_validate(laid_over(fields))) if finding.problem]
    assert {finding.entry for finding in problems if finding.entry.startswith("drift_rules")} == {"drift_rules.tight"}
    assert "breaks it from its first day" in problems[0].problem


def _no_line(*_arguments):
    return iter(())


@pytest.mark.parametrize(
    ("low", "high", "lowest", "highest"), [(None, -5, -105, -5), (7, None, 7, 107), (None, None, 0, 100), (2, 3, 2, 3)]
)
def test_sample_rows_lie_within_the_bounds_of_a_feature_also_of_one_bound(low, high, lowest, highest):
    bounds = {name: bound for name, bound in (("low", low), ("high", high)) if bound is not None}
    own = BUILT_IN.with_entries({"twin_types": {"hcp": {"features": {"depth": {"kind": "number", **bounds}}}}})
    entry = own.entries[TwinType.HCP]
    with in_effect(own):
        depth = sample_rows(TwinType.HCP, entry, entry.default_target)["depth"]
    assert lowest <= depth.min() < depth.max() <= highest
