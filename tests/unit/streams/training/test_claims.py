"""Claims extracts that are long by month."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas import BUILT_IN, TwinType, in_effect
from streams.tables import DateOrder, Decimal, TableOptions, TableRefused
from streams.tables.blocks import text_parts
from streams.training.claims import ClaimsWindows, claims_table, parse_month

AS_OF = parse_month("2024-06")


def extract(**changes: object) -> pd.DataFrame:
    """Two prescribers over 2024: the first has 10 claims a month, then 15; the second 4 of two products until September."""
    rows = []
    for month in range(1, 13):
        rows.append(("A", f"2024-{month:02}", 10 if month <= 6 else 15, "x", "Cardiology", "NY"))
        if month < 10:
            rows.append(("B", f"2024-{month:02}", 3, "x", "Urology" if month <= 6 else "Oncology", "CA"))
            rows.append(("B", f"2024-{month:02}", 1, "y", "Urology" if month <= 6 else "Oncology", "CA"))
    return pd.DataFrame(rows, columns=["Prscrbr NPI", "Month", "TRx", "Brand", "Specialty", "State"]).assign(**changes)


def imported(tmp_path: Path, frame: pd.DataFrame, windows: ClaimsWindows, **options: object):
    path = tmp_path / "claims.csv"
    frame.to_csv(path, index=False)
    return claims_table([path], windows, TwinType.HCP, TableOptions(**options))


def test_sums_before_are_features_and_the_change_after_is_the_target(tmp_path: Path):
    table = imported(tmp_path, extract(), ClaimsWindows(AS_OF, 6, 6))
    frame = table.frame.set_index("entity_id")
    assert frame["prescribing_change"].to_dict() == pytest.approx({"A": 0.5, "B": -0.5})
    assert frame["claims_a_month"].to_dict() == {"A": 10, "B": 4}
    assert frame["active_months"].to_dict() == {"A": 6, "B": 6}
    assert frame["specialty"].to_dict() == {"A": "Cardiology", "B": "Urology"}
    assert frame["region"].to_dict() == {"A": "northeast", "B": "west"}
    assert "features of 2024-01 to 2024-06, target: claims a month of 2024-07 to 2024-12 against these, less 1" in table.notes


def test_windows_of_other_lengths_are_compared_by_the_month(tmp_path: Path):
    frame = imported(tmp_path, extract(), ClaimsWindows(AS_OF, 3, 1)).frame.set_index("entity_id")
    assert frame["prescribing_change"].to_dict() == pytest.approx({"A": 0.5, "B": 0.0})


def test_a_product_makes_the_target_and_all_claims_the_volume(tmp_path: Path):
    table = imported(tmp_path, extract(), ClaimsWindows(AS_OF, 6, 3, "Y"))
    frame = table.frame.set_index("entity_id")
    assert frame["product_share"].to_dict() == {"A": 0, "B": 0.25}
    assert frame["prescribing_change"].isna().to_dict() == {"A": True, "B": False}
    assert any("1 entities without claims of the product" in note for note in table.notes)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from("ABC"), st.integers(7, 12), st.integers(0, 99)), max_size=20))
def test_no_feature_knows_of_a_month_after_the_last_one_of_its_window(tmp_path: Path, later: list[tuple[str, int, int]]):
    base = extract()
    changed = [(who, f"2024-{month:02}", n, "x", "Wizardry", "HI") for who, month, n in later]
    is_late = base["Month"] > "2024-06"
    other = pd.concat([base[~is_late], base[is_late].assign(TRx=7), pd.DataFrame(changed, columns=base.columns)])
    windows = ClaimsWindows(AS_OF, 6, 6)
    first, second = (imported(tmp_path, frame, windows).frame.drop(columns="prescribing_change") for frame in (base, other))
    pd.testing.assert_frame_equal(first, second)


def test_blocks_sum_up_to_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = imported(tmp_path, extract(), ClaimsWindows(AS_OF, 6, 6)).frame
    monkeypatch.setattr("streams.tables.files.text_parts", lambda path: text_parts(path, 200))
    pd.testing.assert_frame_equal(imported(tmp_path, extract(), ClaimsWindows(AS_OF, 6, 6)).frame, whole)


def test_months_that_the_extract_lacks_are_no_months_without_claims(tmp_path: Path):
    with pytest.raises(TableRefused, match=r"there is no row of 2023-07, .* it has 2024-01 to 2024-12"):
        imported(tmp_path, extract(), ClaimsWindows(AS_OF, 12, 6))
    without = extract()
    with pytest.raises(TableRefused, match="no row of 2024-03;"):
        imported(tmp_path, without[without["Month"] != "2024-03"], ClaimsWindows(AS_OF, 6, 6))


def test_suppressed_counts_and_rows_outside_are_counted(tmp_path: Path):
    frame = extract(TRx=lambda table: table["TRx"].astype(object).where(table["Prscrbr NPI"] != "B", "<11"))
    table = imported(tmp_path, frame, ClaimsWindows(AS_OF, 3, 3))
    assert table.frame["entity_id"].tolist() == ["A"]
    assert [note.split(" rows")[0] for note in table.notes if " rows " in note] == ["12", "12"]
    wider = imported(tmp_path, frame, ClaimsWindows(AS_OF, 6, 3))
    assert [note.split(" rows")[0] for note in wider.notes if " rows " in note] == ["3", "18"]


def test_columns_that_are_not_used_are_told(tmp_path: Path):
    frame = extract(Payer="Medicare", Notes="-")
    assert "columns that are not used: Payer, Notes" in imported(tmp_path, frame, ClaimsWindows(AS_OF, 6, 3, "x")).notes
    assert "columns that are not used: Brand, Payer, Notes" in imported(tmp_path, frame, ClaimsWindows(AS_OF, 6, 3)).notes
    assert not any("not used" in note for note in imported(tmp_path, extract(), ClaimsWindows(AS_OF, 6, 3, "x")).notes)


def test_a_bad_month_is_a_bad_row_with_its_number(tmp_path: Path):
    frame = extract(Month=lambda table: table["Month"].where(table.index != 4, "2024-13"))
    table = imported(tmp_path, frame, ClaimsWindows(AS_OF, 6, 6))
    assert "  row 6, month: '2024-13' is no month such as 2024-12" in table.remarks
    with pytest.raises(TableRefused, match="--strict allows none"):
        imported(tmp_path, frame, ClaimsWindows(AS_OF, 6, 6), strict=True)


@pytest.mark.parametrize(
    "months", [["202401", "202402"], ["2024-01-31", "2024-02-29"], ["1/2024", "02/2024"], ["2024.01", "2024 02"]]
)
def test_months_are_read_in_their_usual_forms(tmp_path: Path, months: list[str]):
    frame = pd.DataFrame({"NPI": ["A", "A"], "Mth": months, "Claims": [2, 3]})
    assert imported(tmp_path, frame, ClaimsWindows(parse_month("2024-01"), 1, 1)).frame["prescribing_change"].tolist() == [0.5]


def test_months_of_parquet_may_be_dates(tmp_path: Path):
    path = tmp_path / "claims.parquet"
    pd.DataFrame({"npi": ["A", "A"], "month": pd.to_datetime(["2024-01-01", "2024-02-01"]), "claims": [2.0, 1.0]}).to_parquet(path)
    table = claims_table([path], ClaimsWindows(parse_month("2024-01"), 1, 1), TwinType.HCP, TableOptions())
    assert table.frame["prescribing_change"].tolist() == [-0.5]


def test_columns_that_are_not_clear_are_asked_for(tmp_path: Path):
    windows = ClaimsWindows(AS_OF, 6, 6)
    with pytest.raises(TableRefused, match="no column is like claims: say which with --map COLUMN=claims"):
        imported(tmp_path, extract().rename(columns={"TRx": "zap"}), windows)
    with pytest.raises(TableRefused, match="claims may be 'TRx' or 'claims': say it with --map COLUMN=claims"):
        imported(tmp_path, extract(claims=1), windows)
    path = tmp_path / "claims.csv"
    extract(claims=1).to_csv(path, index=False)
    table = claims_table([path], windows, TwinType.HCP, TableOptions(decimal=Decimal.POINT), {"claims": "TRx"})
    assert table.frame["claims_a_month"].tolist() == [10, 4]
    with pytest.raises(TableRefused, match="it has no column 'wombat'"):
        claims_table([path], windows, TwinType.HCP, TableOptions(), {"claims": "wombat"})


def test_windows_without_a_month_and_other_twins_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="at least 1 month"):
        ClaimsWindows(AS_OF, 0, 1)
    with pytest.raises(ValueError, match="is no month"):
        parse_month("June")
    with pytest.raises(ValueError, match="not patient twins"):
        claims_table([tmp_path / "x.csv"], ClaimsWindows(AS_OF), TwinType.PATIENT, TableOptions())


def test_deciles_of_many_are_tenths_of_their_claims_before(tmp_path: Path):
    n = 200
    frame = pd.DataFrame(
        {
            "NPI": np.tile([f"{row:04}" for row in range(n)], 2),
            "Month": ["2024-01"] * n + ["2024-02"] * n,
            "Claims": [*range(1, n + 1), *[5] * n],
        }
    )
    table = imported(tmp_path, frame, ClaimsWindows(parse_month("2024-01"), 1, 1)).frame
    assert table["decile"].value_counts().to_dict() == dict.fromkeys(range(1, 11), n // 10)
    assert table["decile"].is_monotonic_increasing


WRITTEN = ("%b-%y", "%b %Y", "%B %Y", "%d-%b-%Y", "%b%Y", "%YM%m", "%Y %b", "%m-%Y", "%d.%m.%Y", "%m/%d/%Y", "%Y-%m-%dT00:00:00")


@pytest.mark.parametrize("written", WRITTEN)
def test_a_month_means_the_same_however_it_is_written(tmp_path: Path, written: str):
    ends = pd.PeriodIndex(extract()["Month"], freq="M").to_timestamp(how="end")  # of 31 days, which show the order
    table = imported(tmp_path, extract(Month=ends.strftime(written)), ClaimsWindows(AS_OF, 6, 6))
    pd.testing.assert_frame_equal(table.frame, imported(tmp_path, extract(), ClaimsWindows(AS_OF, 6, 6)).frame)


def test_dates_whose_order_nothing_shows_are_refused_until_it_is_stated(tmp_path: Path):
    first_days = extract(Month=pd.PeriodIndex(extract()["Month"], freq="M").to_timestamp().strftime("%d/%m/%Y"))
    with pytest.raises(TableRefused, match="'01/01/2024' may be read in two ways: say which"):
        imported(tmp_path, first_days, ClaimsWindows(AS_OF, 6, 6))
    table = imported(tmp_path, first_days, ClaimsWindows(AS_OF, 6, 6), date_order=DateOrder.DMY)
    pd.testing.assert_frame_equal(table.frame, imported(tmp_path, extract(), ClaimsWindows(AS_OF, 6, 6)).frame)


@pytest.mark.parametrize("month", ["23-Jan", "Q1 2024", "13/2024", "Smarch 2024", "31.13.2024"])
def test_what_may_be_another_month_is_none(month: str):
    with pytest.raises(ValueError, match="is no month"):
        parse_month(month)


def test_own_regions_are_those_of_the_catalogue(tmp_path: Path):
    """A column of regions is read by the declared levels, one of states too; what has no region is told with counts."""
    polish = BUILT_IN.with_entries({"levels": {"region": {"mazowieckie": ["MAZ"]}}})
    with in_effect(polish):
        for role in ("State", "Region"):
            frame = extract().rename(columns={"State": role}).replace({"NY": "MAZ", "CA": "Kujawy"})
            table = imported(tmp_path, frame, ClaimsWindows(AS_OF, 6, 6))
            regions = table.frame.set_index("entity_id")["region"].to_dict()
            assert regions == {"A": "mazowieckie", "B": "other" if role == "State" else "Kujawy"}
            assert any("1 row of 2" in note and "'Kujawy' 1" in note for note in table.notes)
