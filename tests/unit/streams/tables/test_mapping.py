"""Tables that are read by a mapping."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas import BUILT_IN, TwinType, in_effect
from streams.tables import (
    ColumnUse,
    TableMapping,
    TableOptions,
    TableReading,
    TableRefused,
    entity_columns,
    outcome_columns,
    read_frame,
    read_table,
)
from streams.tables.mapping import Rule
from streams.tables.us_regions import is_state, region_of


def mapping(**columns: str | ColumnUse) -> TableMapping:
    """A mapping of features to a column, or ``column|rule``."""

    def use(text: str | ColumnUse) -> ColumnUse:
        if isinstance(text, ColumnUse):
            return text
        column, _, rule = text.partition("|")
        return ColumnUse(column=column, by=rule or "value")

    return TableMapping(name="own", twin_type=TwinType.HCP, columns={name: use(text) for name, text in columns.items()})


def read(frame: pd.DataFrame, used: TableMapping, *, outcomes: bool = False) -> TableReading:
    declared = outcome_columns(TwinType.HCP) if outcomes else entity_columns(TwinType.HCP)
    return read_frame(frame, declared, TableOptions(mapping=used))


def test_columns_get_their_declared_names_and_the_conversion_of_their_kinds():
    frame = pd.DataFrame({"NPI": ["0012"], "Spec": [" Cardiology "], "Pts": ["1,200"], "Junk": ["x"]})
    result = read(frame, mapping(entity_id="NPI", specialty="Spec", total_patient_volume="Pts"))
    assert result.frame.iloc[0].to_dict() == {"entity_id": "0012", "specialty": "Cardiology", "total_patient_volume": 1200}
    assert "left out by the mapping: Junk" in result.notes


@pytest.mark.parametrize(
    ("rule", "cells", "feature", "values"),
    [
        ("us_region", ["ny", "California", "PR"], "region", ["northeast", "west", "other"]),
        ("percent", ["12", "100", ""], "digital_engagement_score", [0.12, 1.0, None]),
        ("years_before 2026", ["1996", "2026", ""], "years_experience", [30, 0, None]),
        (
            "days_before 2026-01-01",
            ["2025-12-31T00:00:00Z", "2025-12-31T18:00:00Z", "2026-01-02T00:00:00Z"],
            "last_interaction_days",
            [1, 0, None],
        ),
    ],
)
def test_each_rule_makes_values_of_cells(rule: str, cells: list[str], feature: str, values: list[object]):
    result = read(pd.DataFrame({"c": cells}), mapping(**{feature: f"c|{rule}"}))
    column = result.frame[feature]
    assert [None if pd.isna(value) else value for value in column] == values


def test_a_change_is_the_later_by_the_earlier_less_one_and_missing_where_that_is_zero():
    frame = pd.DataFrame({"y1": ["10", "0", "4"], "y2": ["15", "3", ""]})
    result = read(frame, mapping(prescribing_change="y2|change from y1"))
    np.testing.assert_array_equal(result.frame["prescribing_change"], [0.5, np.nan, np.nan])
    assert "prescribing_change: 1 row without a change, as y1 is 0" in result.notes


def test_a_cell_beyond_the_bounds_of_a_feature_refuses_its_row_in_the_unit_of_the_file():
    cells = [str(row) for row in range(100)]
    result = read(pd.DataFrame({"score": [*cells, "101"]}), mapping(digital_engagement_score="score|percent"))
    assert (len(result.frame), result.n_bad) == (100, 1)
    assert "digital_engagement_score from 'score': '101'" in result.examples()[0]


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30))
def test_a_decile_means_the_same_alone_and_in_company(numbers: list[float]):
    used = mapping(decile=ColumnUse(column="v", by="decile", cuts=tuple(float(cut) for cut in range(-4, 5))))
    together = read(pd.DataFrame({"v": numbers}), used).frame["decile"].tolist()
    assert together == [read(pd.DataFrame({"v": [number]}), used).frame["decile"][0] for number in numbers]
    assert together == [1 + sum(number > cut for cut in range(-4, 5)) for number in numbers]


def test_tiers_run_from_5_for_the_smallest_to_1_for_the_largest():
    frame = read(pd.DataFrame({"v": np.arange(1, 101)}), mapping(priority_tier="v|tier", decile="v|decile")).frame
    assert frame["priority_tier"].value_counts().to_dict() == dict.fromkeys(range(1, 6), 20)
    assert frame["decile"].value_counts().to_dict() == dict.fromkeys(range(1, 11), 10)
    assert (frame["priority_tier"].iloc[0], frame["priority_tier"].iloc[-1]) == (5, 1)


def test_levels_that_are_written_otherwise_are_the_levels_of_the_mapping():
    used = mapping(region=ColumnUse(column="area", levels={"N.E.": "northeast"}))
    assert read(pd.DataFrame({"area": ["n.e. ", "south"]}), used).frame["region"].tolist() == ["northeast", "south"]


@pytest.mark.parametrize("outcomes", [False, True])
@pytest.mark.parametrize("yes", ["yes", "true", "1", "Y"])
def test_yes_and_no_in_another_language_are_true_and_false_for_a_flag_of_the_catalogue(yes: str, outcomes: bool):
    own = BUILT_IN.with_entries({"twin_types": {"hcp": {"features": {"umowa": {"kind": "flag"}, "visits": {"kind": "integer"}}}}})
    used = mapping(
        entity_id="Id",
        umowa=ColumnUse(column="Umowa", levels={"TAK": yes, "NIE": "no"}),
        visits=ColumnUse(column="Wizyty", levels={"brak": "0"}),
        specialty=ColumnUse(column="Spec", levels={"tak": "yes"}),
        ours=ColumnUse(column="Nasz", levels={"TAK": "yes"}),
    )
    cells = {"Umowa": ["TAK", "nie ", "", "true"], "Wizyty": ["brak", "3", "2", "1"], "Spec": ["tak", "b", "b", "b"]}
    with in_effect(own):
        frame = read(pd.DataFrame({"Id": list("abcd"), **cells, "Nasz": "Tak"}), used, outcomes=outcomes).frame
    assert frame["umowa"].astype(object).where(frame["umowa"].notna(), None).tolist() == [True, False, None, True]
    assert frame["visits"].tolist() == [0, 3, 2, 1]
    assert frame["specialty"].tolist() == ["yes", "b", "b", "b"]
    assert frame["ours"].tolist() == ["yes"] * 4


def test_a_cell_of_a_flag_that_the_levels_do_not_have_is_refused_as_it_is_written():
    own = BUILT_IN.with_entries({"twin_types": {"hcp": {"features": {"umowa": {"kind": "flag"}}}}})
    used = mapping(entity_id="Id", umowa=ColumnUse(column="Umowa", levels={"TAK": "yes"}))
    with in_effect(own), pytest.raises(TableRefused, match="umowa: 'NIE' is neither true nor false"):
        read(pd.DataFrame({"Id": ["a", "b"], "Umowa": ["TAK", "NIE"]}), used)


def test_levels_of_cells_that_are_no_text_and_under_a_rule_are_read_too():
    frame = pd.DataFrame({"code": [1, 2], "since": ["unknown", "1996"]})
    used = mapping(
        specialty=ColumnUse(column="code", levels={"1": "cardiology", "2": "urology"}),
        years_experience=ColumnUse(column="since", by="years_before 2026", levels={"unknown": ""}),
    )
    result = read(frame, used).frame
    assert result["specialty"].tolist() == ["cardiology", "urology"]
    assert result["years_experience"].tolist()[1] == 30
    assert result["years_experience"].isna().tolist() == [True, False]


def test_the_target_is_what_was_observed_in_a_table_of_outcomes():
    frame = pd.DataFrame({"NPI": ["7"], "Rx Chg": ["0.1"], "observed_at": ["2026-01-01T00:00:00Z"]})
    result = read(frame, mapping(entity_id="NPI", prescribing_change="Rx Chg", specialty="Spec"), outcomes=True)
    assert result.frame.columns.tolist() == ["entity_id", "actual_value", "observed_at"]
    assert "columns of the mapping that the table lacks: Spec" in result.notes


def test_a_declared_name_that_the_mapping_leaves_out_is_not_read():
    frame = pd.DataFrame({"NPI": ["7"], "decile": ["3"], "Dec": ["4"]})
    used = mapping(entity_id="NPI").model_copy(update={"left_out": {"decile": "it is of last year"}})
    assert "decile" not in read(frame, used).frame
    assert read(frame, mapping(entity_id="NPI", decile="Dec")).frame["decile"].tolist() == [4]


def test_a_table_without_any_column_of_the_mapping_is_refused_with_those_expected():
    with pytest.raises(TableRefused, match="none of its columns is in the mapping 'own': it expects NPI, Spec"):
        read(pd.DataFrame({"a": ["1"]}), mapping(entity_id="NPI", specialty="Spec"))


def test_headers_are_matched_whatever_their_case_and_signs_but_never_twice():
    frame = pd.DataFrame({"tot_rx": ["5"]})
    assert read(frame, mapping(total_patient_volume="Tot Rx")).frame["total_patient_volume"].tolist() == [5]
    with pytest.raises(TableRefused, match="several columns are 'Tot Rx'"):
        read(frame.assign(**{"TOT RX": ["6"]}), mapping(total_patient_volume="Tot Rx"))


def test_the_delimiter_is_found_by_the_columns_of_the_mapping(tmp_path: Path):
    path = tmp_path / "own.csv"
    path.write_text("NPI;Name, first\n7;a\n")
    options = TableOptions(mapping=mapping(entity_id="NPI"))
    assert read_table(path, entity_columns(TwinType.HCP), options).frame["entity_id"].tolist() == ["7"]


@pytest.mark.parametrize("rule", ["banana", "years_before", "years_before MMXX", "days_before 2026-13-01", "change y1", "value 7"])
def test_a_rule_that_means_nothing_is_refused(rule: str):
    with pytest.raises(ValidationError):
        ColumnUse(column="c", by=rule)


def test_cuts_are_as_many_as_the_rule_needs_and_ascend():
    for cuts in ((1.0, 2.0), tuple(float(10 - place) for place in range(9))):
        with pytest.raises(ValidationError, match="9 cuts in ascending order"):
            ColumnUse(column="c", by="decile", cuts=cuts)


def test_a_rule_is_written_as_it_is_read():
    for text in ("value", "change from Tot Rx 23", "days_before 2026-01-01"):
        assert str(Rule.parse(text)) == text


def test_states_are_in_the_census_regions():
    assert {region_of(state) for state in ("WA", "tx", "Ohio", "VT")} == {"west", "south", "midwest", "northeast"}
    assert [is_state(text) for text in ("PR", "ny", "Bavaria")] == [True, True, False]
