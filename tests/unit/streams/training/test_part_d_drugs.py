"""Files of Medicare Part D by provider and drug, and by geography and drug, in the layouts before and since 2021."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from schemas import TwinType
from streams.tables import TableOptions, TableRefused
from streams.training import ImportedTable, read_training_table
from streams.training.part_d_drugs import DrugChoice

SINCE_2021 = ("Prscrbr_NPI", "Prscrbr_State_Abrvtn", "Prscrbr_Type", "Brnd_Name", "Gnrc_Name", "Tot_Clms", "Tot_Benes")
BEFORE_2021 = (
    "NPI", "NPPES_PROVIDER_STATE", "specialty_description", "drug_name", "generic_name", "total_claim_count", "bene_count"
)  # fmt: skip
KISQALI, IBRANCE, WATER = ("Kisqali", "Ribociclib Succinate"), ("Ibrance", "Palbociclib"), ("Metformin Hcl", "Metformin Hcl")

YEAR = (
    ("1", "NY", "Hematology-Oncology", *KISQALI, 20, ""),
    ("1", "NY", "Hematology-Oncology", *IBRANCE, 60, 12),
    ("1", "NY", "Hematology-Oncology", *WATER, 20, 11),
    ("2", "CA", "Internal Medicine", *WATER, 300, 90),
    ("3", "TX", "Medical Oncology", *KISQALI, 40, 15),
)
NEXT = (
    ("1", "NY", "Hematology-Oncology", *KISQALI, 25, ""),
    ("3", "TX", "Medical Oncology", *IBRANCE, 900, 100),
    ("2", "CA", "Internal Medicine", *KISQALI, 11, ""),
    ("2", "CA", "Internal Medicine", *WATER, 330, ""),
)
GEO = ("Prscrbr_Geo_Lvl", "Prscrbr_Geo_Cd", "Prscrbr_Geo_Desc", "Brnd_Name", "Gnrc_Name", "Tot_Prscrbrs", "Tot_Clms")


@pytest.fixture
def read(tmp_path: Path):
    def imported(
        *years: pd.DataFrame, twin_type: TwinType = TwinType.HCP, names: tuple[str, ...] = (), **choice: object
    ) -> ImportedTable:
        paths = [tmp_path / name for name in (names or ("a.csv", "b.csv", "c.csv")[: len(years)])]
        for path, year in zip(paths, years, strict=True):
            year.to_csv(path, index=False)
        return read_training_table(paths, twin_type, drugs=DrugChoice(**choice) if choice else None)

    return imported


def year(rows=YEAR, header=SINCE_2021) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=header)


@pytest.mark.parametrize("later", [SINCE_2021, BEFORE_2021])
@pytest.mark.parametrize("earlier", [SINCE_2021, BEFORE_2021])
@pytest.mark.parametrize("product", ["KISQALI", "ribociclib succinate"])
def test_a_product_has_its_share_in_the_year_and_its_change_to_the_next_as_target(read, earlier, later, product):
    table = read(year(header=earlier), year(NEXT, later), product=product)
    frame = table.frame.set_index("entity_id")
    assert frame["prescribing_change"].dropna().to_dict() == pytest.approx({"1": 0.25})
    assert frame["product_share"].dropna().to_dict() == pytest.approx({"1": 0.2, "3": 1.0})
    assert frame["brand_share"].to_dict() == pytest.approx({"1": 0.8, "2": 0.0, "3": 1.0})
    assert frame["drugs"].to_dict() == {"1": 3, "2": 1, "3": 1}
    assert frame["target_patient_volume"].dropna().to_dict() == {"3": 15}
    assert frame["specialty"].to_dict() == {"1": "hematology_oncology", "2": "internal_medicine", "3": "medical_oncology"}
    assert frame["region"].to_dict() == {"1": "northeast", "2": "west", "3": "south"}
    assert any("2 of 3 rows without a target: fewer than 11 claims" in note for note in table.notes)


def test_a_product_that_has_no_row_in_a_year_is_not_zero_claims(read):
    frame = read(year(), year(NEXT), product="Kisqali").frame.set_index("entity_id")
    assert frame["prescribing_change"].isna().to_dict() == {"1": False, "2": True, "3": True}
    assert np.isnan(frame.loc["2", "product_share"])


def test_a_market_of_named_drugs_is_what_shares_and_deciles_are_of(read):
    table = read(year(), year(NEXT), product="Kisqali", market=("palbociclib",))
    frame = table.frame.set_index("entity_id")
    assert frame["product_share"].to_dict() == pytest.approx({"1": 0.25, "3": 1.0})
    assert "2" not in frame.index  # without claims of the market in the year of the features
    assert "claims of Kisqali, market: Kisqali, palbociclib; features are of the year of the file" in table.notes[0]


def test_without_a_product_the_target_is_the_change_of_all_drugs(read):
    frame = read(year(), year(NEXT)).frame.set_index("entity_id")
    assert frame["prescribing_change"].to_dict() == pytest.approx({"1": 25 / 100 - 1, "2": 341 / 300 - 1, "3": 900 / 40 - 1})
    assert "product_share" not in frame


def test_three_years_give_a_row_for_each_provider_and_pair(read):
    names = ("MUP_DPR_RY24_P04_V10_DY13_NPIBN.csv", "MUP_DPR_RY24_P04_V10_DY14_NPIBN.csv", "MUP_DPR_RY24_P04_V10_DY17_NPIBN.csv")
    table = read(year(), year(NEXT), year(), product="Kisqali", names=names)
    assert table.frame.query("entity_id == '1'")["prescribing_change"].tolist() == pytest.approx([0.25, -0.2])
    assert "prescribing_change is over 3 years, from 2014 to 2017" in table.notes
    with pytest.raises(TableRefused, match="give the earlier year first"):
        read(year(), year(NEXT), names=names[1::-1])


def test_no_row_of_the_later_year_touches_a_feature(read):
    rng = np.random.default_rng(0)
    features = read(year(), product="Kisqali").frame
    for _ in range(20):
        rows = [(*row[:5], int(rng.integers(11, 1000)), "") for row in NEXT if rng.random() < 0.8]
        later = year([("1", "NY", "Hematology-Oncology", *KISQALI, 25, ""), *[row for row in rows if row[0] != "1"]])
        joined = read(year(), later, product="Kisqali").frame
        pd.testing.assert_frame_equal(joined.drop(columns="prescribing_change"), features.reset_index(), check_like=True)


def test_one_year_gives_features_and_says_that_it_has_no_target(read):
    table = read(year(), product="Kisqali")
    assert not table.has_target
    assert any("one year has no target" in note for note in table.notes)


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        ({"product": "Kisquali"}, "no drug has the brand or generic name 'Kisquali': did you mean Kisqali"),
        ({"product": "Kisqali", "market": ("Verzenio",)}, "no drug has the brand or generic name 'Verzenio'"),
    ],
)
def test_a_name_that_no_drug_has_is_refused_with_those_that_are_alike(read, choice, reason):
    with pytest.raises(TableRefused, match=reason):
        read(year(), **choice)


def test_a_drug_that_is_there_twice_is_refused_and_not_counted_twice(read):
    with pytest.raises(TableRefused, match="has this drug in an earlier row"):
        read(year((*YEAR, YEAR[0])), product="Kisqali")


def test_files_of_two_kinds_and_a_product_where_there_are_no_drugs_are_refused(read):
    providers = pd.DataFrame(
        [("1", "NY", "Urology", 12)], columns=("Prscrbr_NPI", "Prscrbr_State_Abrvtn", "Prscrbr_Type", "Tot_Clms")
    )
    with pytest.raises(TableRefused, match=r"b.csv: it is another table: give files of one kind, here .* by provider and drug"):
        read(year(), providers)
    with pytest.raises(ValueError, match="no file is one"):
        read(providers, product="Kisqali")


def geography(share: float, *, is_old: bool = False) -> pd.DataFrame:
    rows = [
        (level, code, name, *drug, 5, claims)
        for level, code, name in (("National", "", "National"), ("State", "36", "New York"), ("State", "72", "Puerto Rico"))
        for drug, claims in ((KISQALI, 1000 * share), (IBRANCE, 1000 * (1 - share)), (WATER, 9000))
        if (name, drug) != ("Puerto Rico", KISQALI)
    ]
    frame = pd.DataFrame(rows, columns=GEO)
    old = {
        "Prscrbr_Geo_Desc": "nppes_provider_state",
        "Brnd_Name": "drug_name",
        "Gnrc_Name": "generic_name",
        "Tot_Prscrbrs": "number_of_prescribers",
        "Tot_Clms": "total_claim_count",
    }
    return frame[frame["Prscrbr_Geo_Lvl"] == "State"][[*old]].rename(columns=old) if is_old else frame


@pytest.mark.parametrize("is_old", [False, True])
def test_states_have_the_share_of_a_product_in_its_market_and_the_points_to_the_next_year(read, is_old):
    table = read(
        geography(0.2, is_old=is_old), geography(0.3), twin_type=TwinType.TERRITORY, product="Kisqali", market=("Ibrance",)
    )
    frame = table.frame.set_index("entity_id")
    assert frame["market_share"].dropna().to_dict() == pytest.approx({"New York": 0.2})
    assert frame["market_share_change"].dropna().to_dict() == pytest.approx({"New York": 0.1})
    assert frame["region"].to_dict() == {"New York": "northeast", "Puerto Rico": "other"}
    assert frame["product_prescribers"].dropna().to_dict() == {"New York": 5}
    assert any("a training needs 1,000 rows" in note for note in table.notes)


def test_states_are_territories_and_their_target_is_of_a_product(read):
    with pytest.raises(ValueError, match="is for territory twins, not hcp twins"):
        read(geography(0.2), product="Kisqali")
    with pytest.raises(ValueError, match="name it with --product"):
        read(geography(0.2), twin_type=TwinType.TERRITORY)


def test_rows_in_blocks_are_summed_as_in_one(read, monkeypatch, tmp_path: Path):
    rng = np.random.default_rng(1)
    rows = [
        (str(npi), "NY", "Urology", *drug, int(rng.integers(11, 99)), "")
        for npi in rng.permutation(400)
        for drug in (KISQALI, IBRANCE, WATER)
    ]
    whole = read(year(rows), product="Kisqali").frame
    path = tmp_path / "year.parquet"
    year(rows).sample(frac=1, random_state=0).to_parquet(path)
    monkeypatch.setattr("streams.tables.blocks.parquet_blocks.__defaults__", (97,))
    monkeypatch.setattr("streams.training.part_d_drugs._COMPACTED_ROWS", 50)
    in_blocks = read_training_table([path], TwinType.HCP, options=TableOptions(), drugs=DrugChoice("Kisqali")).frame
    pd.testing.assert_frame_equal(in_blocks, whole)
