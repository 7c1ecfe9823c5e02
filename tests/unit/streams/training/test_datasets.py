"""Tables of users are converted to training tables."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from schemas import TwinType
from streams.training.datasets import REGION_OF_STATE, as_training_table, read_table, write_table

DATA = Path(__file__).resolve().parents[5] / "shared" / "data" / "hcp_partd_2013_2014.csv.gz"


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
    imported = as_training_table(part_d(), TwinType.HCP)
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
    assert "adoption_stage" in as_training_table(part_d(), TwinType.HCP).left_out
    assert "specialty" not in as_training_table(part_d(), TwinType.HCP).left_out


def test_the_prescriber_table_is_refused_for_patients() -> None:
    with pytest.raises(ValueError, match="hcp twins, not patient"):
        as_training_table(part_d(), TwinType.PATIENT)


def test_every_state_lies_in_one_census_region() -> None:
    assert len(REGION_OF_STATE) == 51
    assert set(REGION_OF_STATE.values()) == {"northeast", "midwest", "south", "west"}


def test_any_other_table_needs_the_target_and_a_feature() -> None:
    table = pd.DataFrame({"specialty": ["x"], "prescribing_change": [0.1], "id": [7]})
    imported = as_training_table(table, TwinType.HCP)
    assert imported.frame.columns.tolist() == ["entity_id", "specialty", "prescribing_change"]
    assert imported.frame["entity_id"].tolist() == ["7"]
    with pytest.raises(ValueError, match="the table has no column 'prescribing_change', the target: its columns are "):
        as_training_table(table.drop(columns="prescribing_change"), TwinType.HCP)
    with pytest.raises(ValueError, match="no column is a feature of hcp twins"):
        as_training_table(table.drop(columns="specialty"), TwinType.HCP)


@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz", "table.parquet"])
def test_a_table_that_is_written_is_read_unchanged(tmp_path: Path, name: str) -> None:
    table = pd.DataFrame({"specialty": ["a", "b"], "decile": [1, 10], "prescribing_change": [0.5, -0.25]})
    write_table(table, tmp_path / name)
    pd.testing.assert_frame_equal(read_table(tmp_path / name), table)


def test_another_kind_of_file_is_refused_with_the_kinds_that_can_be_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'table.xlsx'.*\.csv, \.csv\.gz, \.parquet"):
        read_table(tmp_path / "table.xlsx")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_table(tmp_path / "absent.csv")
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="cannot be read as parquet"):
        read_table(tmp_path / "broken.parquet")


@pytest.mark.skipif(not DATA.is_file(), reason=f"the public prescriber table is not at {DATA}")
def test_the_public_prescriber_table_is_converted_completely() -> None:
    table = read_table(DATA)
    frame = as_training_table(table, TwinType.HCP).frame
    assert len(frame) == 30_582
    assert frame["entity_id"].is_unique
    assert (frame["region"] != "other").all()
    assert frame["decile"].value_counts().between(3000, 3120).all()
    np.testing.assert_allclose(
        (frame["prescribing_change"] + 1) * table["total_claims_2013"], table["total_claims_2014"], rtol=1e-12
    )
