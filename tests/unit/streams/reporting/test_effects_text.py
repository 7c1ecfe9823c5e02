"""Effects of campaigns as they are shown: what they were, what they are, and what they rest on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from schemas import BUILT_IN, EffectPrior, in_effect
from schemas.effect_priors import LearnedParameters
from sql.effects_store import EffectsPin, EffectsVersion, ExperimentDecision, ExperimentRow
from streams.reporting.effects import LineEffects, campaign_cells, campaign_text, detailed_dict, history_cells, history_dict
from streams.reporting.experiments import experiment_cells, experiment_text, widening_reason

LINE = "hcp:kisqali:prescribing_change"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def version(number: int, mean: float, *experiments: str, learned: LearnedParameters | None = None) -> EffectsVersion:
    prior = EffectPrior(
        intervention_type="email_campaign", mean=mean, sd=0.01, version=number, n_experiments=len(experiments), learned=learned
    )
    return EffectsVersion(number, NOON + timedelta(hours=number), 0, experiments, {"email_campaign": (prior, experiments)})


def test_a_campaign_is_that_of_the_version_in_effect_or_of_the_one_asked_for() -> None:
    effects = LineEffects(LINE, (version(1, 0.02, "a"), version(2, 0.03, "a", "b")), (), in_effect=1)
    assert effects.campaign("email_campaign").posterior.mean == 0.02
    newest = effects.campaign("email_campaign", 2)
    assert (newest.posterior.mean, newest.is_in_effect, newest.experiments) == (0.03, False, ("a", "b"))
    assert campaign_cells(newest)[3:] == ("+3.0% (95% +1.0% to +5.0%)", "2", "2 (not in effect)", "0")
    assert effects.campaign("email_campaign", 0).posterior == effects.campaign("email_campaign", 0).prior
    with pytest.raises(LookupError, match=r"no effects version 3: 0 \(the catalogue\) to 2"):
        effects.campaign("email_campaign", 3)
    with pytest.raises(ValueError, match="unknown intervention 'fax_campaign'"):
        effects.campaign("fax_campaign")


def test_only_campaigns_with_experiments_are_listed_unless_all_are_asked_for() -> None:
    effects = LineEffects(LINE, (version(1, 0.02, "a"),), (), in_effect=1)
    assert [item.intervention for item in effects.campaigns(every=False)] == ["email_campaign"]
    assert len(effects.campaigns(every=True)) == 5
    assert LineEffects(LINE, (version(1, 0.02, "a"),), (), in_effect=0).campaigns(every=False) == []


def test_what_experiments_have_taught_beside_the_base_effect_is_shown_as_factors() -> None:
    learned = LearnedParameters(
        names=("decile",), levels=(("region", "south"),), mean=(0.0, 0.1), shared=(0.03, 0.0), factor=((0.04,), (0.0, 0.05))
    )
    campaign = LineEffects(LINE, (version(1, 0.02, "a", learned=learned),), (), in_effect=1).campaign("email_campaign")
    text = campaign_text(campaign, [])
    assert "decile        x 1.00  95% 0.91 to 1.10" in text  # exp(1.96 hypot(0.03, 0.04)) = 1.103
    assert "region=south  x 1.11  95% 1.00 to 1.22" in text
    assert [row["parameter"] for row in detailed_dict(campaign, [])["learned"]] == ["decile", "region=south"]


def test_a_learned_level_is_spelled_as_the_catalogue_or_else_the_experiment_has_it() -> None:
    levels = (("region", "podlasie"), ("region", "slaskie"))
    learned = LearnedParameters(levels=levels, mean=(0.1, 0.0), shared=(0.0, 0.0), factor=((0.05,), (0.0, 0.05)))
    campaign = LineEffects(LINE, (version(1, 0.02, "a", learned=learned),), (), in_effect=1).campaign("email_campaign")
    groups = [{"dimension": "region", "level": "Podlasie"}, {"dimension": "region", "level": "SL"}]
    row = ExperimentRow("b", LINE, "email_campaign", {"subgroups": groups}, b"", None, NOON, None, 0, 1)
    with in_effect(BUILT_IN.with_entries({"levels": {"region": {"Slaskie": ["SL"]}}})):
        names = [item["parameter"] for item in detailed_dict(campaign, [row])["learned"]]
    assert names == ["region=Podlasie", "region=Slaskie"]


def test_history_tells_who_withdrew_an_experiment_and_why() -> None:
    decision = ExperimentDecision("b", True, NOON, "ann@desk", "the arms were mixed up", 2)
    without = version(2, 0.02, "a")._replace(decision=decision)
    assert history_cells(without)[2] == "1 experiment: b withdrawn by ann@desk (the arms were mixed up)"
    assert history_cells(without._replace(decision=decision._replace(withdrawn=False, decided_by="", reason="")))[2].endswith(
        "b counts again"
    )
    assert history_dict(without)["decision"]["reason"] == "the arms were mixed up"


@pytest.mark.parametrize("observed", ["2026-09-30T00:00:00+02:00", "2026-09-29T22:00:00Z", "2026-09-29T22:00:00"])
def test_when_an_experiment_ended_is_told_in_utc_and_says_so(observed: str) -> None:
    body = {"observed_at": observed, "effect": 0.1, "standard_error": 0.02, "n_treated": 300, "n_control": 300, "twin_type": "hcp"}
    body |= {"intervention": {"channel": "mail", "frequency": "weekly", "duration_weeks": 8}}
    row = ExperimentRow("b", LINE, "email_campaign", body, b"", None, NOON, None, 0, 1)
    assert experiment_cells(row)[1] == "2026-09-29 22:00 UTC"
    assert "observed 2026-09-29 22:00 UTC, recorded 2026-03-01 12:00:00 UTC" in experiment_text(row, [], None, ())


def test_history_has_versions_and_rollbacks_the_newest_first() -> None:
    pin = EffectsPin(1, 1, NOON + timedelta(hours=3), "ann@desk", "b is doubted")
    effects = LineEffects(LINE, (version(1, 0.02, "a"), version(2, 0.03, "a", "b")), (pin,), in_effect=1)
    events = effects.events()
    assert [history_dict(event)["event"] for event in events] == ["rollback", "version", "version"]
    assert history_cells(events[0]) == ("", "2026-03-01 15:00:00", "rollback to version 1, by ann@desk (b is doubted)", "", "")
    assert history_cells(events[1])[2:] == ("2 experiments", "0", "email_campaign +3.0%")


def test_an_interval_that_has_grown_is_told_with_its_reason_and_one_that_has_not_is_not() -> None:
    before = EffectPrior(intervention_type="email_campaign", mean=0.05, sd=0.01, between_sd=0.005)
    apart = before.model_copy(update={"between_sd": 0.03})
    told = widening_reason(before, apart)
    assert told is not None
    assert told.startswith("the interval is 2.8 times as wide as before: its experiments, or these and the catalogue, differ")
    assert told.endswith("so the next campaign may too (standard deviation between campaigns 3%)")
    unsure = before.model_copy(update={"sd": 0.02})
    assert widening_reason(before, unsure) == (
        "the interval is 1.8 times as wide as before: what is believed of its mean has become less certain"
    )
    assert widening_reason(before, before) is None
    assert widening_reason(apart, before) is None
