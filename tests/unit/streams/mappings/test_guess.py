"""Which column is taken for which feature, and what is left open."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from schemas import BUILT_IN, TwinType, in_effect
from streams.mappings import ACCEPTED, ColumnGuess, guess_columns, parse_choice, profile_table
from streams.mappings.names import likeness, name_parts
from streams.tables import TableOptions, frame_table
from tests.unit.streams.mappings.own_tables import N, own_table

REAL = Path(__file__).resolve().parents[5] / "shared/data/hcp_partd_2013_2014.csv.gz"


def guesses(frame: pd.DataFrame, twin_type: TwinType = TwinType.HCP) -> dict[str, ColumnGuess]:
    profiles = profile_table(frame_table(frame), TableOptions())
    return {guess.profile.name: guess for guess in guess_columns(profiles, twin_type)}


def uses(frame: pd.DataFrame, twin_type: TwinType = TwinType.HCP) -> dict[str, tuple[str, str]]:
    return {name: (guess.use.feature, guess.use.rule) for name, guess in guesses(frame, twin_type).items() if guess.use}


def test_columns_of_own_names_are_recognised_by_names_and_values():
    assert uses(own_table()) == {
        "NPI": ("entity_id", "value"),
        "Spec Desc": ("specialty", "value"),
        "ST": ("region", "us_region"),
        "Tot Rx": ("decile", "decile"),
        "Pts": ("total_patient_volume", "value"),
        "Rx Chg": ("prescribing_change", "value"),
    }


def test_amounts_of_money_are_no_feature():
    assert guesses(own_table())["Rx $"].use is None


def test_a_rule_that_lacks_what_only_the_user_knows_is_left_open():
    guess = guesses(own_table())["Grad Yr"]
    assert (guess.use, guess.best and guess.best.feature, guess.best and guess.best.rule) == (
        None,
        "years_experience",
        "years_before YEAR",
    )


def test_fields_of_a_crm_are_recognised_without_their_endings():
    frame = own_table().rename(columns={"NPI": "NPI_vod__c", "Spec Desc": "Specialty_1_vod__c", "ST": "Primary_State__c"})
    frame["Target_Decile__c"] = np.arange(N) % 10 + 1
    assert uses(frame) | {"NPI_vod__c": ("entity_id", "value")} == uses(frame)
    assert uses(frame)["Specialty_1_vod__c"] == ("specialty", "value")
    assert uses(frame)["Primary_State__c"] == ("region", "us_region")
    renamed = frame.rename(columns={"Primary_State__c": "administrative_area__v"})
    assert uses(renamed)["administrative_area__v"] == ("region", "us_region")
    assert uses(frame)["Target_Decile__c"] == ("decile", "value")


def test_two_columns_that_are_as_likely_are_both_left_open():
    frame = own_table().assign(Patients=np.arange(N) + 5)
    both = [guesses(frame)[name] for name in ("Pts", "Patients")]
    assert [guess.use for guess in both] == [None, None]
    assert [guess.reason for guess in both] == ["'Patients' is as likely", "'Pts' is as likely"]


def test_values_beyond_the_bounds_of_a_feature_are_not_taken_for_it():
    assert "decile" not in {feature for feature, _ in uses(own_table().rename(columns={"Pts": "decile"})).values()} - {"decile"}
    frame = own_table()[["NPI", "Pts"]].rename(columns={"Pts": "decile"})
    guess = guesses(frame)["decile"]
    assert guess.use is None


def test_ten_digits_without_the_check_digit_are_no_npi():
    frame = own_table()[["NPI"]].rename(columns={"NPI": "zz"})
    assert "check digit" in str(guesses(frame)["zz"].best)
    frame["zz"] = frame["zz"].map(lambda npi: npi[:-1] + str((int(npi[-1]) + 1) % 10))
    assert "check digit" not in str(guesses(frame)["zz"].best)


def test_the_change_of_two_years_is_the_target_and_the_later_year_no_feature():
    frame = pd.DataFrame(
        {
            "NPI": own_table()["NPI"],
            "TRx 23": np.arange(N) + 50,
            "TRx 24": np.arange(N) + 60,
            "Benes 23": np.arange(N) + 20,
            "Benes 24": np.arange(N) + 21,
        }
    )
    assert uses(frame) == {
        "NPI": ("entity_id", "value"),
        "TRx 23": ("decile", "decile"),
        "TRx 24": ("prescribing_change", "change from TRx 23"),
        "Benes 23": ("total_patient_volume", "value"),
    }
    assert guesses(frame)["Benes 24"].reason == "of the target's own period: it would know the outcome"


def test_percentages_are_read_as_hundredths_and_doubtful_ones_left_open():
    sure = own_table()[["NPI"]].assign(**{"Digital Engagement %": np.arange(N) % 100})
    assert uses(sure)["Digital Engagement %"] == ("digital_engagement_score", "percent")
    doubtful = sure.assign(**{"Digital Engagement %": np.arange(N) / N})
    guess = guesses(doubtful)["Digital Engagement %"]
    assert guess.use is None
    assert "percent by its name, fractions by its values" in str(guess.best)


def test_what_is_left_open_has_a_score_below_the_limit_or_a_reason():
    for guess in guesses(own_table()).values():
        assert guess.use is None or guess.use.score >= ACCEPTED
        assert guess.use is not None or guess.reason


@pytest.mark.skipif(not REAL.exists(), reason="the real prescribers are not on this machine")
def test_real_prescribers_under_other_names_are_recognised():
    real = pd.read_csv(REAL, nrows=5_000)
    frame = pd.DataFrame(
        {
            "Acct ID": real["hcp_id"],
            "Prim Spclty": real["specialty_2013"],
            "State": real["state_2013"],
            "TRx 2013": real["total_claims_2013"],
            "TRx 2014": real["total_claims_2014"],
            "Bene Cnt 2013": real["bene_count_2013"],
            "Drug Cost": real["total_drug_cost_2013"],
            "Grp Size": real["group_size_2013"],
        }
    )
    assert uses(frame) == {
        "Acct ID": ("entity_id", "value"),
        "Prim Spclty": ("specialty", "value"),
        "State": ("region", "us_region"),
        "TRx 2013": ("decile", "decile"),
        "TRx 2014": ("prescribing_change", "change from TRx 2013"),
        "Bene Cnt 2013": ("total_patient_volume", "value"),
        "Grp Size": ("practice_size", "value"),
    }


def test_territories_and_patients_have_names_of_their_own():
    territories = pd.DataFrame({"Terr ID": [f"T{row}" for row in range(N)], "Mkt Shr %": np.arange(N) / N * 90 + 2})
    assert uses(territories, TwinType.TERRITORY) == {
        "Terr ID": ("entity_id", "value"),
        "Mkt Shr %": ("market_share", "percent"),
    }
    patients = pd.DataFrame({"Member ID": [f"M{row}" for row in range(N)], "Payer": ["hmo", "ppo"] * (N // 2)})
    assert uses(patients, TwinType.PATIENT) == {"Member ID": ("entity_id", "value"), "Payer": ("insurance_type", "value")}


# -- answers


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("NPI", "is not COLUMN=FEATURE"),
        ("Zap=decile", "unknown column 'Zap'"),
        ("NPI=wombat", "unknown feature 'wombat'"),
        ("ST=region:banana", "unknown rule 'banana'"),
        ("Grad Yr=years_experience", "needs an answer: Grad Yr=years_experience:years_before YEAR"),
        ("Spec Desc=practice_size", "are no practice_size"),
        ("Grad Yr=years_experience:years_before", "is written 'years_before YEAR'"),
    ],
)
def test_an_answer_that_cannot_be_meant_is_refused_with_what_can(answer: str, message: str):
    profiles = profile_table(frame_table(own_table()), TableOptions())
    with pytest.raises(ValueError, match=message):
        parse_choice(answer, profiles, TwinType.HCP)


def test_an_answer_settles_a_column_and_finds_the_rule():
    profiles = profile_table(frame_table(own_table()), TableOptions())
    assert parse_choice("st = region", profiles, TwinType.HCP)[1][1:3] == ("region", "us_region")
    assert parse_choice("Rx $=own", profiles, TwinType.HCP)[1][1:3] == ("prescriptions_dollars", "value")
    assert parse_choice("Rx $=", profiles, TwinType.HCP) == ("Rx $", None)


# -- names


def test_abbreviations_are_written_out_and_years_set_apart():
    assert name_parts("totalPatientVolume") == (("total", "patients", "volume"), None)
    assert name_parts("Tot_Rx_2024") == (("total", "prescriptions"), 2024)
    assert name_parts("claims_65") == (("claims", "65"), None)
    assert likeness("Prscrbr_Type", ["prescriber type"]) == (1.0, "prescriber type")
    assert likeness("wombat", ["prescriber type"])[0] == 0


CODES = BUILT_IN.with_entries(
    {
        "twin_types": {"hcp": {"features": {"account_type": {"kind": "category"}}, "filters": {"account": "account_type"}}},
        "levels": {
            "account_type": {"academic": ["AMC", "Uni-Klinik"], "community": ["CH"], "private": ["PP"]},
            "practice_type": {"solo": ["n"], "group": ["y"]},
        },
    }
)


def test_codes_that_the_catalogue_declares_as_spellings_tell_a_column_of_any_name():
    codes = np.resize(["amc", "CH", " PP", "uni-klinik"], N)
    frame = own_table().assign(Klass=codes)
    assert guesses(frame)["Klass"].use is None
    with in_effect(CODES):
        use = guesses(frame)["Klass"].use
        assert use is not None
        assert (use.feature, use.rule) == ("account_type", "value")
        assert "100% of its values are levels of the catalogue" in use.reason
        two = guesses(frame.assign(Other=codes[::-1]))
        assert two["Klass"].use is None
        assert two["Other"].reason == "'Klass' is as likely"
        assert guesses(frame.assign(Klass=np.resize(["x1", "x2", "x3"], N)))["Klass"].use is None


def test_yes_and_no_tell_no_column_though_a_level_is_spelled_so():
    with in_effect(CODES):
        assert guesses(own_table().assign(Klass=np.resize(["y", "n"], N)))["Klass"].use is None


def test_a_column_named_as_a_filter_of_the_catalogue_is_its_feature():
    frame = own_table().assign(Account=np.resize(["A", "B", "C"], N))
    with in_effect(CODES):
        assert uses(frame)["Account"] == ("account_type", "value")


@pytest.mark.parametrize("header", ["Calls_Last_12_Months__c", "Calls (3 mo)", "Calls 12m"])
def test_calls_of_several_months_are_not_taken_for_calls_a_month(header):
    assert name_parts(header).year is None
    guess = guesses(own_table().assign(**{header: np.arange(N) % 24}))[header]
    assert guess.use is None
    assert uses(own_table().assign(**{"Calls per month": np.arange(N) % 24}))["Calls per month"] == (
        "interaction_frequency",
        "value",
    )


def test_a_master_of_a_crm_needs_an_answer_only_where_two_ids_and_dates_leave_a_choice():
    def levels(*texts: str) -> object:
        return np.resize(list(texts), N)

    master = pd.DataFrame(
        {
            "Id": [f"0016A00000{row:05}QA1" for row in range(N)],
            "LastName": [f"Doe{row}" for row in range(N)],
            "NPI_vod__c": own_table()["NPI"],
            "Credentials_vod__c": levels("MD", "DO", "NP"),
            "Specialty_1_vod__c": levels("Cardiology", "Medical Oncology"),
            "Specialty_2_vod__c": levels("Hematology", ""),
            "State_vod__c": levels("NY", "CA", "TX"),
            "Country_vod__c": "us",
            "Do_Not_Call_vod__c": levels("Yes_vod", "No_vod"),
            "Tier__c": np.arange(N) % 5 + 1,
            "Adopter_Type_vod__c": levels("Innovator", "Early Adopter", "Late Majority"),
            "Preferred_Channel__c": levels("Email", "Rep", "Video"),
            "Last_Call_Date__c": levels("2025-01-31", "2025-02-28"),
        }
    )
    assert uses(master) == {
        "Specialty_1_vod__c": ("specialty", "value"),
        "State_vod__c": ("region", "us_region"),
        "Tier__c": ("priority_tier", "value"),
        "Adopter_Type_vod__c": ("adoption_stage", "value"),
        "Preferred_Channel__c": ("preferred_channel", "value"),
    }
    reasons = {name: guess.reason for name, guess in guesses(master).items()}
    assert (reasons["Id"], reasons["NPI_vod__c"]) == ("'NPI_vod__c' is as likely", "'Id' is as likely")
    assert reasons["Last_Call_Date__c"] == "the rule needs an answer: days_before DATE"
