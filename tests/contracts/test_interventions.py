"""Requirements on every intervention and moderator of the catalogues; a new entry is tested without further work."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from engine.effects import build_design, catalogue_prior, dose_response, draw_dose, typical_dose
from engine.simulation_engine import SimulationEngine
from schemas import INTERVENTIONS, MODERATORS, TWIN_TYPES, Channel, Frequency, TwinType
from schemas.interventions import CONTACTS_PER_MONTH, UNCALIBRATED_SPREAD
from tests.populations import intervention, population

BY_CONTACTS = ("once", "quarterly", "monthly", "biweekly", "weekly")
for_each_intervention = pytest.mark.parametrize("name", INTERVENTIONS)
for_each_moderator = pytest.mark.parametrize("moderator", MODERATORS, ids=lambda moderator: moderator.column)


def response(name: str, **fields) -> np.ndarray:
    """Dose response at the typical parameters and at 200 drawn ones, shape (201,)."""
    config = intervention(name, **fields)
    return np.append(dose_response(config, draw_dose(config, 200, 0)), dose_response(config, typical_dose(config)))


def test_the_specified_interventions_exist_with_their_base_effects():
    effects = {name: entry.effect.mean for name, entry in INTERVENTIONS.items()}
    brief = {
        "email_campaign": 0.05,
        "call_frequency_increase": 0.08,
        "speaker_program_invitation": 0.12,
        "educational_content_share": 0.06,
        "peer_to_peer_referral": 0.10,
    }
    assert effects.items() >= brief.items()
    assert effects == SimulationEngine.INTERVENTION_EFFECTS


def test_every_frequency_has_its_contacts():
    assert set(CONTACTS_PER_MONTH) == set(Frequency)
    assert sorted(CONTACTS_PER_MONTH, key=CONTACTS_PER_MONTH.__getitem__) == list(BY_CONTACTS)


@for_each_intervention
def test_it_has_a_label_a_source_and_its_own_name(name):
    entry = INTERVENTIONS[name]
    assert entry.name == name
    assert entry.label
    assert entry.source


@for_each_intervention
def test_its_prior_has_the_spread_of_an_uncalibrated_effect(name):
    prior = catalogue_prior(name)
    assert prior.sd == pytest.approx(UNCALIBRATED_SPREAD * abs(prior.mean))
    assert (prior.version, prior.n_experiments) == (0, 0)
    assert 0 < prior.mean < 0.5


@for_each_intervention
def test_its_reference_dose_has_exactly_its_base_effect_under_every_draw(name):
    assert (response(name) == 1.0).all()
    assert (response(name, intensity=1.0) == 1.0).all()


@for_each_intervention
def test_it_has_a_factor_for_every_channel_and_the_largest_for_its_own(name):
    entry = INTERVENTIONS[name]
    assert set(entry.channels) == set(Channel)
    assert (entry.channels[entry.channel].mean, entry.channels[entry.channel].sd) == (0.0, 0.0)
    assert all(prior.mean <= 0 <= prior.sd for prior in entry.channels.values())


@for_each_intervention
@pytest.mark.parametrize("weeks", [1, 4, 12, 52, 104])
def test_more_frequent_contacts_never_reduce_the_effect(name, weeks):
    responses = [response(name, frequency=frequency, duration_weeks=weeks) for frequency in BY_CONTACTS]
    assert (np.diff(responses, axis=0) >= 0).all()


@for_each_intervention
@pytest.mark.parametrize("frequency", BY_CONTACTS)
def test_a_longer_campaign_has_a_larger_effect(name, frequency):
    responses = [response(name, frequency=frequency, duration_weeks=weeks) for weeks in (1, 2, 4, 8, 12, 26, 52, 104)]
    assert (np.diff(responses, axis=0) > 0).all()


@for_each_intervention
def test_a_stronger_contact_has_a_larger_effect(name):
    responses = [response(name, intensity=intensity) for intensity in (0.01, 0.5, 1.0, 1.5, 2.0, 3.0)]
    assert (np.diff(responses, axis=0) > 0).all()


@for_each_intervention
@pytest.mark.parametrize(("field", "steps"), [("duration_weeks", (12, 24, 36, 48, 60)), ("intensity", (0.5, 1.0, 1.5, 2.0, 2.5))])
def test_each_further_step_adds_less_than_the_one_before(name, field, steps):
    gains = np.diff([response(name, **{field: step}) for step in steps], axis=0)
    assert (np.diff(gains, axis=0) < 0).all()


@for_each_intervention
def test_the_largest_dose_stays_below_the_maximal_response(name):
    entry = INTERVENTIONS[name]
    maximum = math.prod(
        1 + half.median / usual
        for half, usual in ((entry.half_contacts, 12 * 12 / 52), (entry.half_weeks, 12), (entry.half_intensity, 1))
    )
    assert response(name, frequency="weekly", duration_weeks=104, intensity=3)[-1] < maximum


@for_each_intervention
@pytest.mark.parametrize("twin_type", TwinType)
def test_it_is_simulated_on_every_twin_type(name, twin_type):
    result = SimulationEngine(population(300, twin_type)).simulate(intervention(name))
    assert 0.7 < result.ate / INTERVENTIONS[name].effect.mean < 1.4
    assert result.ate_ci_lower < result.ate < result.ate_ci_upper


@for_each_intervention
@pytest.mark.parametrize("channel", Channel)
@pytest.mark.parametrize("frequency", Frequency)
def test_it_is_simulated_by_every_channel_and_frequency(name, channel, frequency):
    engine = SimulationEngine(population(100, TwinType.TERRITORY), n_draws=100)
    assert math.isfinite(engine.simulate(intervention(name, channel=channel, frequency=frequency)).ate)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("intervention_type", "free_samples", "unknown intervention_type 'free_samples': use one of call_frequency_increase"),
        ("channel", "fax", "unknown channel 'fax': use one of email, in_person"),
        ("frequency", "daily", "unknown frequency 'daily': use one of biweekly, monthly"),
        ("duration_weeks", 0, "duration_weeks"),
        ("duration_weeks", 105, "duration_weeks"),
        ("intensity", 0.0, "intensity"),
        ("intensity", 3.1, "intensity"),
        ("intensity", float("nan"), "intensity"),
        ("dosage", 1, "dosage"),
    ],
)
def test_values_outside_of_the_catalogue_are_refused_by_name(field, value, message):
    with pytest.raises(ValidationError, match=message):
        intervention("email_campaign", **{field: value})


def test_moderators_have_different_columns():
    assert len({moderator.column for moderator in MODERATORS}) == len(MODERATORS)


@for_each_moderator
def test_a_moderator_is_a_feature_of_some_twin_type_and_of_its_kind(moderator):
    kinds = {entry.by_name[moderator.column].kind for entry in TWIN_TYPES.values() if moderator.column in entry.by_name}
    assert kinds
    assert (moderator.slope is None) != (not moderator.levels)
    assert kinds <= ({"integer", "number"} if moderator.slope else {"category"})
    assert moderator.spread > 0


@for_each_moderator
def test_at_its_centre_or_at_an_unlisted_level_a_moderator_has_the_factor_1(moderator):
    value = moderator.center if moderator.slope else "an unlisted level"
    design = build_design(pd.DataFrame({moderator.column: [value]}))
    assert all(design.factors(channel).tolist() == [1.0] for channel in Channel)


@for_each_moderator
def test_every_level_of_a_moderator_has_its_factor(moderator):
    for level, prior in moderator.levels.items():
        factor = build_design(pd.DataFrame({moderator.column: [level]})).factors(Channel.EMAIL)
        assert factor.tolist() == pytest.approx([math.exp(prior.mean)])


@for_each_moderator
def test_coefficients_of_a_moderator_are_moderate(moderator):
    priors = [moderator.slope] if moderator.slope else list(moderator.levels.values())
    assert all(abs(prior.mean) <= 0.5 and 0 < prior.sd <= 0.25 for prior in priors)


def test_coefficients_of_adoption_stages_average_to_zero_over_the_shares_of_rogers():
    (stages,) = [moderator for moderator in MODERATORS if moderator.column == "adoption_stage"]
    shares = {"innovator": 0.025, "early_adopter": 0.135, "early_majority": 0.34, "late_majority": 0.34, "laggard": 0.16}
    assert sum(shares[level] * prior.mean for level, prior in stages.levels.items()) == pytest.approx(0, abs=0.002)
