from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from engine.effects.base_effect import draw_base_effect, prior_interval
from engine.effects.effect_model import (
    build_design,
    catalogue_prior,
    contacts,
    dose_response,
    draw_dose,
    typical_dose,
)
from engine.effects.normal_draws import normal_draws
from schemas import EffectPrior
from tests.populations import hcps, intervention


def typical(**fields) -> float:
    config = intervention("email_campaign", **fields)
    return float(dose_response(config, typical_dose(config)))


def test_draws_are_normal_and_their_mean_is_exactly_zero():
    drawn = normal_draws(3, 1000, seed=5, purpose="test")
    assert drawn.shape == (3, 1000)
    assert drawn.mean(axis=1) == pytest.approx([0, 0, 0], abs=1e-14)
    assert np.sort(drawn[0]) == pytest.approx(stats.norm.ppf((np.arange(1000) + 0.5) / 1000), abs=1e-12)
    assert np.abs(np.corrcoef(drawn) - np.eye(3)).max() < 0.1


def test_draws_depend_on_seed_and_purpose_only():
    first = normal_draws(2, 500, seed=1, purpose="a")
    normal_draws(9, 300, seed=1, purpose="other")
    assert (normal_draws(2, 500, seed=1, purpose="a") == first).all()
    assert (normal_draws(2, 500, seed=2, purpose="a") != first).any()
    assert (normal_draws(2, 500, seed=1, purpose="b") != first).any()


def test_changing_returned_draws_does_not_change_later_ones():
    spoiled = normal_draws(1, 100, seed=1, purpose="a")
    spoiled[:] = 7
    assert (normal_draws(1, 100, seed=1, purpose="a") != 7).all()


@pytest.mark.parametrize(
    ("frequency", "weeks", "n_contacts"),
    [
        ("once", 12, 1),
        ("once", 104, 1),
        ("weekly", 26, 26),
        ("biweekly", 26, 13),
        ("monthly", 52, 12),
        ("quarterly", 52, 4),
        ("quarterly", 4, 1),
    ],
)
def test_a_campaign_has_the_contacts_of_its_frequency_and_at_least_one(frequency, weeks, n_contacts):
    assert contacts(frequency, weeks) == pytest.approx(n_contacts)


def test_the_response_follows_its_closed_form():
    hyperbola = lambda amount, usual, half: (amount / (amount + half)) / (usual / (usual + half))  # noqa: E731
    expected = hyperbola(26, 12 * 12 / 52, 3.0) * hyperbola(26, 12, 4.0) * hyperbola(2.0, 1.0, 1.0) * np.exp(-0.2)
    assert typical(channel="web", frequency="weekly", duration_weeks=26, intensity=2.0) == pytest.approx(expected)


def test_without_an_intensity_it_is_1():
    assert typical(intensity=None) == typical(intensity=1.0) == 1.0


def test_two_doses_of_one_intervention_share_their_draws():
    weak, strong = (intervention("email_campaign", intensity=x) for x in (0.5, 2.0))
    assert (draw_dose(weak, 300, 1).half_intensity == draw_dose(strong, 300, 1).half_intensity).all()
    referral = intervention("peer_to_peer_referral")
    assert (draw_dose(weak, 300, 1).half_intensity != draw_dose(referral, 300, 1).half_intensity).any()


def test_a_new_campaign_has_the_variance_of_the_mean_and_between_campaigns():
    prior = EffectPrior(intervention_type="email_campaign", mean=0.05, sd=0.03, between_sd=0.04)
    assert draw_base_effect(prior, 2000, 0).effect.mean() == pytest.approx(0.05)
    assert draw_base_effect(prior, 2000, 0).effect.std() == pytest.approx(0.05, rel=0.01)


def test_the_catalogues_prior_is_version_zero():
    prior = catalogue_prior("email_campaign")
    assert (prior.mean, prior.sd, prior.version, prior.n_experiments) == (0.05, pytest.approx(0.02), 0, 0)


def test_an_untested_effect_has_the_mean_of_the_catalogue_and_tails_on_both_sides():
    prior = catalogue_prior("email_campaign")
    drawn = draw_base_effect(prior, 1000, 0).effect
    assert drawn.mean() == pytest.approx(0.05, rel=0.01)
    assert np.quantile(drawn, [0.25, 0.5, 0.75]) == pytest.approx([0.03, 0.045, 0.06], abs=0.004)
    assert 0.03 < np.mean(drawn <= 0) < 0.08
    assert 0.015 < np.mean(drawn >= 0.15) < 0.04
    low, high = prior_interval(prior)
    assert np.mean((low <= drawn) & (drawn <= high)) == pytest.approx(0.95, abs=0.01)


def test_draws_of_a_normal_prior_are_those_of_the_first_method_bit_for_bit():
    prior = EffectPrior(intervention_type="email_campaign", mean=0.05, sd=0.03, between_sd=0.04)
    drawn = draw_base_effect(prior, 500, seed=7)
    expected = 0.05 + float(np.hypot(0.03, 0.04)) * normal_draws(1, 500, 7, "email_campaign effect")[0]
    assert (drawn.effect == expected).all()
    assert (drawn.contacts, drawn.weeks, drawn.intensity) == (1.0, 1.0, 1.0)


def test_campaigns_with_two_untested_variants_share_a_part_of_their_effect():
    prior = catalogue_prior("email_campaign")
    first, second = (draw_base_effect(prior, 4000, 0, name).effect for name in "AB")
    correlation = stats.spearmanr(first, second).statistic
    assert correlation == pytest.approx(prior.correlation**2, abs=0.05)
    assert (draw_base_effect(prior, 4000, 0, "A").effect == first).all()


def test_the_design_centres_and_scales_numbers_and_marks_levels():
    frame = pd.DataFrame({"decile": [5.5, 8.4, np.nan], "specialty": ["oncology", "dermatology", None]})
    design = build_design(frame)
    assert dict(zip(design.names, design.terms.tolist(), strict=True)) == {
        "specialty=oncology": [1, 0, 0],
        "decile": [0, pytest.approx(1.0), 0],
    }


@pytest.mark.parametrize("spelled", ["Early Adopters", "early_adopter", "EARLY-ADOPTER"])
def test_levels_are_matched_whatever_their_case_and_punctuation(spelled):
    assert build_design(pd.DataFrame({"adoption_stage": [spelled]})).names == ("adoption_stage=early_adopter",)


@pytest.mark.parametrize("kind", ["object", "category", "string"])
def test_the_design_does_not_depend_on_the_dtype_of_text(kind):
    plain, stored = hcps(200), hcps(200).astype({"specialty": kind, "adoption_stage": kind})
    assert (build_design(plain).terms == build_design(stored).terms).all()


def test_digital_engagement_matters_in_digital_channels_only():
    design = build_design(pd.DataFrame({"digital_engagement_score": [0.0, 0.5, 1.0]}))
    assert design.factors("email").tolist() == pytest.approx(np.exp([-0.16, 0.0, 0.16]).tolist())
    assert design.factors("in_person").tolist() == [1, 1, 1]
    assert (design.deviations("in_person", 100, 0) == 0).all()


def test_twins_without_any_moderator_all_have_the_factor_one():
    design = build_design(pd.DataFrame({"practice_size": [1, 2]}))
    assert design.factors("email").tolist() == [1, 1]
    assert design.deviations("email", 100, 0).shape == (0, 100)
