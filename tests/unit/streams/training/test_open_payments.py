"""Files of general payments of Open Payments, in the layouts of several years."""

from pathlib import Path

import pandas as pd
import pytest

from schemas import TwinType
from streams.tables import TableOptions, TableRefused
from streams.tables.blocks import text_parts
from streams.training import read_training_table

SHARED = (
    "Recipient_State,Total_Amount_of_Payment_USDollars,Date_of_Payment,Number_of_Payments_Included_in_Total_Amount,"
    "Nature_of_Payment_or_Transfer_of_Value,Program_Year,Applicable_Manufacturer_or_Applicable_GPO_Making_Payment_ID"
)
SINCE_2021 = f"Covered_Recipient_Type,Covered_Recipient_Profile_ID,Covered_Recipient_NPI,Covered_Recipient_Specialty_1,{SHARED}"
BEFORE_2016 = f"Covered_Recipient_Type,Physician_Profile_ID,Physician_Specialty,{SHARED}"
DOCTOR = "Covered Recipient Physician"
CARDIOLOGY = "Allopathic & Osteopathic Physicians|Internal Medicine|Cardiovascular Disease"


def row(
    who: str, specialty: str, dollars: str, date: str, payments: int = 1, maker: str = "100", kind: str = DOCTOR, year: int = 2023
) -> str:
    return f"{kind},{who},{specialty},NY,{dollars},{date},{payments},Food and Beverage,{year},{maker}"


ROWS = (
    row("7,1234567893", CARDIOLOGY, "10.50", "03/04/2023"),
    row("7,1234567893", CARDIOLOGY, "1200", "12/02/2023", 2, "200"),
    row("8,", CARDIOLOGY, "5", "01/01/2023"),
    row("9,1987654321", "", "99", "12/31/2023"),
    row(",", "", "50000", "02/01/2023", kind="Covered Recipient Teaching Hospital"),
)


def write(folder: Path, header: str, rows: tuple[str, ...], name: str = "OP_DTL_GNRL.csv") -> Path:
    path = folder / name
    path.write_text("\n".join([header, *rows, ""]))
    return path


def test_payments_are_summed_up_by_physician_and_year(tmp_path: Path):
    imported = read_training_table([write(tmp_path, SINCE_2021, ROWS)], TwinType.HCP)
    frame = imported.frame.set_index("entity_id")
    assert frame.loc["1234567893"].to_dict() == {
        "year": 2023,
        "specialty": "cardiovascular_disease",
        "region": "northeast",
        "interaction_frequency": 3 / 12,
        "last_interaction_days": 30,
        "payment_dollars": 1210.5,
        "payment_makers": 2,
    }
    assert frame.loc["1987654321", "last_interaction_days"] == 1
    assert len(frame) == 2
    assert "2 payments to hospitals or without an id of the physician left out" in imported.notes
    assert not imported.has_target


def test_the_first_layout_has_the_id_of_the_profile(tmp_path: Path):
    rows = (row("7", CARDIOLOGY, "10", "08/04/2013", year=2013), row("7", CARDIOLOGY, "4", "09/04/2013", year=2013))
    frame = read_training_table([write(tmp_path, BEFORE_2016, rows)], TwinType.HCP).frame
    assert frame[["entity_id", "year", "payment_dollars"]].to_numpy().tolist() == [["7", 2013, 14.0]]


def test_years_in_several_files_and_blocks_are_summed_up_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    later = tuple(line.replace("2023", "2024") for line in ROWS)
    files = [write(tmp_path, SINCE_2021, ROWS, "a.csv"), write(tmp_path, SINCE_2021, later, "b.csv")]
    whole = read_training_table(files, TwinType.HCP).frame
    assert whole[["entity_id", "year"]].to_numpy().tolist() == [
        ["1234567893", 2023],
        ["1234567893", 2024],
        ["1987654321", 2023],
        ["1987654321", 2024],
    ]
    monkeypatch.setattr("streams.tables.files.text_parts", lambda path: text_parts(path, 150))
    pd.testing.assert_frame_equal(read_training_table(files, TwinType.HCP).frame, whole)


def test_a_file_without_a_needed_column_and_other_twins_are_refused(tmp_path: Path):
    header = "Total_Amount_of_Payment_USDollars,Date_of_Payment,Program_Year"
    with pytest.raises(TableRefused, match=r"missing are Covered_Recipient_NPI or .*, Number_of_Payments"):
        read_training_table([write(tmp_path, header, ("1,01/01/2023,2023",))], TwinType.HCP)
    with pytest.raises(ValueError, match="not patient twins"):
        read_training_table([write(tmp_path, SINCE_2021, ROWS)], TwinType.PATIENT)


def test_a_bad_amount_refuses_its_row_with_its_number(tmp_path: Path):
    rows = (*ROWS, *[ROWS[0]] * 40, row("7,1234567893", CARDIOLOGY, "banana", "03/04/2023"))
    imported = read_training_table([write(tmp_path, SINCE_2021, rows)], TwinType.HCP, options=TableOptions())
    assert "  row 47, dollars: 'banana' is no number" in imported.remarks


def test_payments_without_an_id_of_any_physician_are_refused(tmp_path: Path):
    rows = (row("7,", CARDIOLOGY, "5", "01/01/2023"),)
    with pytest.raises(TableRefused, match="no payment to a physician has an id") as refused:
        read_training_table([write(tmp_path, SINCE_2021, rows)], TwinType.HCP)
    assert "Covered_Recipient_Profile_ID" in str(refused.value)
