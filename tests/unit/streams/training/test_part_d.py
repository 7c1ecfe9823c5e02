"""Files of Medicare Part D by provider, in the layouts before and since 2021."""

from pathlib import Path

import pandas as pd
import pytest

from schemas import TwinType
from streams.tables import TableRefused
from streams.tables.us_regions import REGION_OF_STATE
from streams.training import ImportedTable, read_training_table

SINCE_2021 = "PRSCRBR_NPI,Prscrbr_Last_Org_Name,Prscrbr_Ent_Cd,Prscrbr_State_Abrvtn,Prscrbr_Type,Tot_Clms,Tot_Benes,GE65_Sprsn_Flag"
BEFORE_2021 = (
    "npi,nppes_provider_last_org_name,nppes_entity_code,nppes_provider_state,specialty_description,"
    "total_claim_count,bene_count,ge65_suppress_flag"
)
FIRST = (
    "1000000001,Doe,I,CA,Internal Medicine,1000,120,",
    "1000000002,Roe,I,TX,Nurse Practitioner,88,,*",
    "1000000003,Poe,I,NY,Urology,400,40,#",
)
SECOND = (
    "1000000003,Poe,I,NY,Urology,500,50,",
    "1000000001,Doe,I,CA,Internal Medicine,900,110,",
    "1000000009,New,I,OH,Urology,70,,*",
)


@pytest.fixture
def read(tmp_path: Path):
    def imported(*files: tuple[str, ...], names: tuple[str, ...] = ("first.csv", "second.csv", "third.csv")) -> ImportedTable:
        paths = [tmp_path / name for name in names[: len(files)]]
        for path, lines in zip(paths, files, strict=True):
            path.write_text("\n".join([*lines, ""]))
        return read_training_table(paths, TwinType.HCP)

    return imported


@pytest.mark.parametrize("header", [SINCE_2021, BEFORE_2021], ids=["since 2021", "before 2021"])
def test_one_year_gives_features_and_says_that_it_has_no_target(read, header):
    imported = read((header, *FIRST))
    frame = imported.frame
    assert frame["entity_id"].tolist() == ["1000000001", "1000000002", "1000000003"]
    assert frame["specialty"].tolist() == ["internal_medicine", "nurse_practitioner", "urology"]
    assert frame["region"].tolist() == ["west", "south", "northeast"]
    assert frame["decile"].tolist() == [10, 4, 7]  # of three: ranks 3, 1 and 2
    assert frame["priority_tier"].tolist() == [1, 4, 2]
    assert [None if pd.isna(count) else count for count in frame["total_patient_volume"]] == [120, None, 40]
    assert not imported.has_target
    assert any("one year has no target" in note for note in imported.notes)
    with pytest.raises(ValueError, match=r"one year has no target.*\(twinstream import FIRST SECOND OUT\)"):
        imported.require_target()


@pytest.mark.parametrize(("first", "second"), [(SINCE_2021, SINCE_2021), (BEFORE_2021, SINCE_2021), (BEFORE_2021, BEFORE_2021)])
def test_two_years_are_joined_by_provider_to_features_of_the_first_and_the_change_to_the_second(read, first, second):
    imported = read((first, *FIRST), (second, *SECOND))
    frame = imported.frame
    assert frame["entity_id"].tolist() == ["1000000001", "1000000003"]
    assert frame["prescribing_change"].tolist() == pytest.approx([-0.1, 0.25])
    assert frame["decile"].tolist() == [10, 7]  # as in the first year alone
    assert frame["total_patient_volume"].tolist() == [120, 40]
    assert any("2 providers are in both years, 1 only in the first" in note for note in imported.notes)


def test_a_tab_and_signs_in_the_counts_are_read(read):
    lines = (
        BEFORE_2021.replace(",", "\t"),
        "1000000001\tDoe\tI\tCA\tInternal Medicine\t1,000\t120\t",
        "7\tRoe\tI\tTX\tUrology\t88\t*\t*",
    )
    frame = read(lines, names=("PartD_Prescriber_PUF_NPI_13.txt",)).frame
    assert frame["decile"].tolist() == [10, 5]
    assert [None if pd.isna(count) else count for count in frame["total_patient_volume"]] == [120, None]


def test_organisations_and_providers_without_claims_are_no_twins(read):
    frame = read((SINCE_2021, *FIRST, "5,Clinic,O,CA,Pharmacy,9999,1,", "6,Moe,I,CA,Urology,,1,*")).frame
    assert frame["entity_id"].tolist() == ["1000000001", "1000000002", "1000000003"]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (("Prscrbr_NPI,Prscrbr_Type,Prscrbr_State_Abrvtn,Brnd_Name,Tot_Clms", "1,Urology,OH,X,12"), "it has a row for each drug"),
        (("Prscrbr_Geo_Lvl,Prscrbr_Geo_Desc,Tot_Clms", "State,Ohio,12"), "missing are PRSCRBR_NPI or npi"),
        (
            ("Prscrbr_NPI,Prscrbr_Type", "1,Urology"),
            "missing are Prscrbr_State_Abrvtn or nppes_provider_state, Tot_Clms or total_claim_count",
        ),
        ((SINCE_2021, FIRST[0], FIRST[0]), "1 row repeated for a provider, such as 1000000001"),
    ],
)
def test_another_file_is_refused_with_what_is_expected_and_missing(read, lines, reason):
    with pytest.raises(TableRefused, match=reason):
        read(lines)
    with pytest.raises(TableRefused, match=reason):
        read((SINCE_2021, *FIRST), lines)


def test_a_second_file_that_is_no_part_d_file_is_refused(read):
    with pytest.raises(
        TableRefused, match=r"second.csv: expected is Medicare Part D by provider, .*missing are PRSCRBR_NPI or npi"
    ):
        read((SINCE_2021, *FIRST), ("hcp_id,specialty,prescribing_change", "1,urology,0.1"))


def test_each_of_three_years_but_the_last_gives_rows_with_the_change_to_the_next(read):
    names = tuple(f"PartD_Prescriber_PUF_NPI_{year}.csv" for year in (13, 14, 16))
    imported = read((BEFORE_2021, *FIRST), (BEFORE_2021, *SECOND), (SINCE_2021, *FIRST), names=names)
    frame = imported.frame.set_index("entity_id")
    assert frame.loc["1000000001", "prescribing_change"].tolist() == pytest.approx([-0.1, 1000 / 900 - 1])
    assert frame.loc["1000000003", "prescribing_change"].tolist() == pytest.approx([0.25, -0.2])
    assert "prescribing_change is over 2 years, from 2014 to 2016" in imported.notes


def test_years_in_the_wrong_order_and_no_provider_in_common_are_refused(read):
    with pytest.raises(TableRefused, match="give the earlier year first"):
        read(
            (SINCE_2021, *SECOND),
            (SINCE_2021, *FIRST),
            names=("MUP_DPR_RY23_P04_V10_DY21_NPI.csv", "MUP_DPR_RY22_P04_V10_DY20_NPI.csv"),
        )
    with pytest.raises(ValueError, match="no provider in common"):
        read((SINCE_2021, *FIRST), (SINCE_2021, SECOND[2]))


def test_a_table_of_providers_with_a_target_of_its_own_is_used_as_it_is(read):
    frame = read(("npi,specialty,Tot_Clms,prescribing_change", "0001,urology,1200,0.1")).frame
    assert frame.to_dict("list") == {
        "entity_id": ["0001"],
        "specialty": ["urology"],
        "Tot_Clms": [1200],
        "prescribing_change": [0.1],
    }


def test_providers_are_hcps(tmp_path):
    path = tmp_path / "partd.csv"
    path.write_text("\n".join([SINCE_2021, *FIRST, ""]))
    with pytest.raises(ValueError, match="hcp twins, not patient"):
        read_training_table([path], TwinType.PATIENT)


def test_every_state_lies_in_one_census_region():
    assert len(REGION_OF_STATE) == 51
    assert set(REGION_OF_STATE.values()) == {"northeast", "midwest", "south", "west"}
