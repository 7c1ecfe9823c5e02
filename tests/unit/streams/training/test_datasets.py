"""Files of users are read as training tables."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from schemas import TwinType
from streams.tables import Decimal, TableOptions, TableReading, TableRefused
from streams.training.datasets import as_training_table, read_training_table, write_table

DATA = Path(__file__).resolve().parents[5] / "shared" / "data" / "hcp_partd_2013_2014.csv.gz"


def reading_of(table: pd.DataFrame) -> TableReading:
    return TableReading("table.csv", table, np.arange(len(table)) + 2, len(table))


def part_d(**columns: list[object]) -> pd.DataFrame:
    rows: dict[str, list[object]] = {
        "hcp_id": ["a", "b", "c", "d"],
        "specialty_2013": ["Hematology/Oncology", "Family Practice", "Family Practice", "Urology"],
        "state_2013": ["CA", "NY", "TX", "OH"],
        "grad_year_2013": [1990, 2000, 1980, 2010],
        "group_size_2013": [1.0, 0.0, 12.0, np.nan],
        "bene_count_2013": [100.0, 200.0, 300.0, 400.0],
        "total_claims_2013": [1000, 2000, 3000, 4000],
        "total_claims_2014": [1100, 1000, 3000, 8000],
    }
    return pd.DataFrame({**rows, **columns})


def test_the_prescriber_table_is_recognised_and_converted_to_features_of_hcps() -> None:
    imported = as_training_table(reading_of(part_d()), TwinType.HCP)
    frame = imported.frame
    assert imported.target == "prescribing_change"
    assert frame["prescribing_change"].tolist() == pytest.approx([0.1, -0.5, 0.0, 1.0])
    assert frame["specialty"].tolist() == ["hematology_oncology", "family_practice", "family_practice", "urology"]
    assert frame["years_experience"].tolist() == [23, 13, 33, 3]
    assert frame["practice_type"].tolist() == ["solo", "solo", "group", "unknown"]
    assert frame["region"].tolist() == ["west", "northeast", "south", "midwest"]
    assert frame["decile"].tolist() == [3, 5, 8, 10]
    assert frame["priority_tier"].tolist() == [4, 3, 2, 1]


def test_features_that_the_table_lacks_are_named() -> None:
    left_out = as_training_table(reading_of(part_d()), TwinType.HCP).left_out
    assert "adoption_stage" in left_out
    assert "specialty" not in left_out


def test_the_prescriber_table_is_refused_for_patients() -> None:
    with pytest.raises(ValueError, match="hcp twins, not patient"):
        as_training_table(reading_of(part_d()), TwinType.PATIENT)


def test_any_other_table_needs_the_target_and_a_feature() -> None:
    table = pd.DataFrame({"specialty": ["x"], "prescribing_change": [0.1], "id": ["7"]})
    imported = as_training_table(reading_of(table), TwinType.HCP)
    assert imported.frame.columns.tolist() == ["entity_id", "specialty", "prescribing_change"]
    assert imported.frame["entity_id"].tolist() == ["7"]
    with pytest.raises(ValueError, match="the table has no column 'prescribing_change', the target: its columns are "):
        as_training_table(reading_of(table.drop(columns="prescribing_change")), TwinType.HCP)
    with pytest.raises(ValueError, match="no column is a feature of hcp twins"):
        as_training_table(reading_of(table.drop(columns="specialty")), TwinType.HCP)


def test_a_row_without_an_id_is_named_by_its_number_which_is_told(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("hcp_id,specialty,prescribing_change\n00123,oncology,0.1\n,urology,0.2\n")
    imported = read_training_table([path], TwinType.HCP)
    assert imported.frame["entity_id"].tolist() == ["00123", "row-1"]
    assert any("1 row without hcp_id" in remark for remark in imported.remarks)


def test_outcomes_whose_features_are_elsewhere_need_an_id_in_every_row(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.csv"
    path.write_text("entity_id,observed_at,prescribing_change\n00123,2026-01-31T12:00:00Z,0.1\n7,2026-02-01T12:00:00Z,0.2\n")
    frame = read_training_table([path], TwinType.HCP, needs_features=False).frame
    assert frame["entity_id"].tolist() == ["00123", "7"]
    assert frame["observed_at"].tolist() == [pd.Timestamp("2026-01-31T12:00Z"), pd.Timestamp("2026-02-01T12:00Z")]
    path.write_text("entity_id,observed_at,prescribing_change\n,2026-01-31T12:00:00Z,0.1\n")
    with pytest.raises(ValueError, match="1 row without entity_id"):
        read_training_table([path], TwinType.HCP, needs_features=False)


def test_options_reach_the_reader(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text('specialty,volume,prescribing_change\nurology,"1,240",1\noncology,"2,001",2\n')
    with pytest.raises(TableRefused, match="--decimal"):
        read_training_table([path], TwinType.HCP)
    frame = read_training_table([path], TwinType.HCP, options=TableOptions(decimal=Decimal.COMMA)).frame
    assert frame["volume"].tolist() == [1.24, 2.001]


@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz", "table.parquet"])
def test_a_table_that_is_written_is_read_unchanged(tmp_path: Path, name: str) -> None:
    table = pd.DataFrame({"entity_id": ["01", "2"], "specialty": ["a", "b"], "decile": [1, 10], "prescribing_change": [0.5, -0.25]})
    write_table(table, tmp_path / name)
    pd.testing.assert_frame_equal(read_training_table([tmp_path / name], TwinType.HCP).frame, table)


@pytest.mark.skipif(not DATA.is_file(), reason=f"the public prescriber table is not at {DATA}")
def test_the_public_prescriber_table_is_converted_completely() -> None:
    table = pd.read_csv(DATA)
    imported = read_training_table([DATA], TwinType.HCP)
    frame = imported.frame
    assert len(frame) == 30_582
    assert imported.remarks == ()
    assert frame["entity_id"].is_unique
    assert (frame["region"] != "other").all()
    assert frame["decile"].value_counts().between(3000, 3120).all()
    np.testing.assert_allclose(
        (frame["prescribing_change"] + 1) * table["total_claims_2013"], table["total_claims_2014"], rtol=1e-12
    )
