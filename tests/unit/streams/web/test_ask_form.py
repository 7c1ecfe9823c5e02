"""The form that asks: what it offers of any catalogue, how what is typed becomes a request, and what is wrong with it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from schemas import BUILT_IN, SimulationRequest, install
from schemas.filters import canonical_filters
from schemas.thresholds import DEFAULT_THRESHOLDS
from streams.settings import Settings
from streams.web.ask_form import AskForm, AskOffer, request_parameters
from streams.web.ask_pages import AskPages, Offered, PilotForm
from streams.web.page_reader import PageReader, Reading
from streams.web.rendering import PageState
from tests.models import hcp_model

OWN = {
    "brands": {"acmezumab": {"label": "Acme <mab>"}},
    "campaigns": {
        "sample_drop": {
            "label": "Samples & more",
            "channel": "in_person",
            "effect": {"mean": 0.07, "sd": 0.03},
            "twin_types": ["hcp"],
        },
        "leaflets": {"channel": "mail", "effect": {"mean": 0.01, "sd": 0.01}, "twin_types": ["patient"]},
    },
}


def offer(**changes: Any) -> AskOffer:
    card = hcp_model().card.model_copy(update=changes)
    return AskOffer((card.line, "hcp:fabhalta:prescribing_change"), card.line, card, DEFAULT_THRESHOLDS)


def request_of(form: AskForm) -> SimulationRequest:
    assert form.errors == {}
    own = {"simulation_id": str(UUID(int=1)), "requested_at": datetime(2026, 3, 1, tzinfo=UTC).isoformat()}
    return SimulationRequest.model_validate_json(json.dumps({**own, **form.request}))


def page(form: AskForm | None, offered: AskOffer | None) -> str:
    pages = AskPages(PageReader(Settings()), Settings(), lambda problem: PageState(problem=problem, asks_at=""))
    return pages.form(Reading(Offered(offered), ""), form).html


def test_levels_on_offer_have_the_number_of_their_rows_and_small_numbers_are_levels():
    fields = {field.name: field for field in offer().filters}
    assert [field.name for field in offer().filters if field.is_declared] == ["specialty", "region", "decile", "priority_tier"]
    assert sum(level.rows or 0 for level in fields["region"].levels) == 1500
    assert [level.value for level in fields["priority_tier"].levels] == ["1", "2", "3", "4", "5"]
    assert fields["years_experience"].levels == ()
    assert fields["years_experience"].note == "years"


def test_a_campaign_alone_takes_its_usual_dose():
    request = request_of(AskForm([("campaign", "email_campaign")], offer()))
    campaign = request.intervention
    assert (campaign.channel, campaign.frequency, campaign.duration_weeks) == ("email", "monthly", 12)
    assert (request.alternatives, request.filters.model_dump(exclude_none=True)) == ((), {})


FILLED = [
    ("campaign", "email_campaign"),
    *(("channel", "web"), ("frequency", "weekly"), ("weeks", "8"), ("intensity", "1.5"), ("variant", "B")),
    ("campaign1", ""),
    *(("campaign2", "peer_to_peer_referral"), ("weeks2", "20")),
    *(("in.region", "south"), ("in.region", "west"), ("in.decile", "9"), ("in.decile", "10")),
    *(("min.years_experience", "5"), ("max.years_experience", "30")),
    *(("twins", "20,000"), ("min_effect", "2.5 %"), ("confidence", "95")),
]


def test_everything_that_is_filled_in_is_asked():
    request = request_of(AskForm(FILLED, offer()))
    assert request.intervention.model_dump() == {
        "intervention_type": "email_campaign",
        "channel": "web",
        "frequency": "weekly",
        "duration_weeks": 8,
        "intensity": 1.5,
        "variant": "B",
    }
    assert [campaign.duration_weeks for campaign in request.alternatives] == [20]
    assert canonical_filters(request.twin_type, request.filters) == {
        "region": ["south", "west"],
        "decile": [10, 9],
        "min_years_experience": 5,
        "max_years_experience": 30,
    }
    assert (request.twin_count, request.min_effect_threshold, request.confidence_threshold) == (20_000, 0.025, 0.95)


def test_an_earlier_request_fills_the_form_that_asks_for_the_same_again():
    request = request_of(AskForm(FILLED, offer()))
    again = request_of(AskForm(request_parameters(request, offer()), offer()))
    assert again.model_dump() == request.model_dump()


def test_a_bound_on_a_feature_with_levels_picks_those_within_it():
    request = request_of(AskForm(FILLED, offer())).model_copy(
        update={"filters": SimulationRequest.model_fields["filters"].annotation.model_validate({"min_decile": 8, "max_decile": 9})}
    )
    parameters = request_parameters(request, offer())
    assert [pair for pair in parameters if pair[0].endswith("decile")] == [("in.decile", "8"), ("in.decile", "9")]


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("campaign", "email_campain", "There is no campaign for this line called 'email_campain': choose one of email_campaign,"),
        ("campaign", "", "Choose a campaign: email_campaign,"),
        ("channel", "pigeon", "There is no channel 'pigeon': choose one of email, phone,"),
        ("frequency", "hourly", "There is no frequency 'hourly': choose one of once, weekly,"),
        ("weeks", "0", "'0' is not possible here: a whole number from 1 to 104."),
        ("weeks", "12.5", "'12.5' is not possible here: a whole number from 1 to 104."),
        ("weeks", "9" * 20, "is not possible here: a whole number from 1 to 104."),
        ("intensity", "9", "'9' is not possible here: a number above 0, at most 3; 1 is usual."),
        ("intensity", "nan", "'nan' is not possible here: a number above 0, at most 3; 1 is usual."),
        ("twins", "99", "'99' is not possible here: a whole number from 100 to 1,000,000,000."),
        ("min_effect", "100", "'100' is not possible here: a percentage from 0.01 to 99.99."),
        ("confidence", "50", "'50' is not possible here: a percentage from 50.01 to 99.99."),
        ("min.years_experience", "many", "'many' is not possible here: a number, such as 0.5."),
        ("max.years_experience", "2", "Nobody is at least 5 and at most 2: raise this, or lower the other."),
        ("line", "hcp:none:x", "No line 'hcp:none:x' has a model: choose one of hcp:kisqali:prescribing_change,"),
    ],
)
def test_what_cannot_be_is_told_beside_its_field_and_everything_typed_is_still_there(name: str, value: str, sentence: str):
    pairs = [*((field, typed) for field, typed in FILLED if field != name), (name, value)]
    form = AskForm(pairs, offer())
    assert list(form.errors) == [name]
    assert sentence in form.errors[name]
    html = page(form, offer())
    assert f'id="problem-{name}"' in html
    assert f'aria-describedby="problem-{name}"' in html
    kept = {"twins": "20,000", "min_effect": "2.5 %", "variant": 'value="B"', "campaign2": 'value="peer_to_peer_referral" selected'}
    assert [typed for field, typed in kept.items() if field != name and typed not in html] == []
    assert 'value="west" checked' in html


def test_a_catalogue_of_ones_own_is_on_offer_as_text_and_campaigns_of_other_twins_are_not():
    install(BUILT_IN.with_entries(OWN))
    own = offer(brand="acmezumab")
    html = page(AskForm([], own), own)
    assert "Samples &amp; more, usually by in person" in html
    assert "HCP · Acme &lt;mab&gt;" in html
    assert "leaflets" not in html
    assert request_of(AskForm([("campaign", "sample_drop")], own)).brand == "acmezumab"


def test_a_level_that_is_not_on_offer_stays_picked():
    form = AskForm([("campaign", "email_campaign"), ("in.region", "south"), ("in.region", "atlantis")], offer())
    assert 'value="atlantis" checked' in page(form, offer())


def test_another_alternative_has_fields_when_it_is_asked_for():
    assert AskForm(FILLED, offer()).alternatives == 2
    assert AskForm([*FILLED, ("more", "1")], offer()).alternatives == 3


def test_without_a_model_the_page_tells_what_to_do_first():
    html = page(None, None)
    assert "No model can be asked yet" in html
    assert "twinstream train FILE" in html
    assert "<form" not in html


def test_a_pilot_has_defaults_and_refuses_what_cannot_be_planned():
    form = PilotForm([("effect", "2"), ("control", "2"), ("icc", "5")], 0.05)
    assert (form.effect, form.power, form.available, form.errors) == (0.02, 0.8, None, {})
    assert (form.assignment.control_ratio, form.assignment.cluster_size, form.assignment.intraclass_correlation) == (2.0, 1.0, 0.05)
    refused = PilotForm(
        [("effect", "0"), ("power", "100"), ("available", "3"), ("control", "0"), ("cluster", "x"), ("icc", "-1")], 0.05
    )
    assert sorted(refused.errors) == ["available", "cluster", "control", "effect", "icc", "power"]
