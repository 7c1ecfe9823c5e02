"""Numbers as people write them."""

import math

import pytest

from streams.tables import Decimal, TableRefused
from tests.unit.streams.tables.tables import column_text


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (['"1,240"', "980", '"2,001.5"'], [1240, 980, 2001.5]),
        (['"1,240,000"', "980"], [1_240_000, 980]),
        (["1.240.000", "980"], [1_240_000, 980]),
        (['"1.240,5"', "980"], [1240.5, 980]),
        (['"0,125"', '"1,250"'], [0.125, 1.25]),
        (["1 240", "980"], [1240, 980]),
        (["1\u202f240", "980"], [1240, 980]),
        (["1'240", "980"], [1240, 980]),
        (["$1240.50", "€ 5", "7 £", "-$3"], [1240.5, 5, 7, -3]),
        (["12%", "9 %", "0"], [0.12, 0.09, 0]),
        (["1e3", "-.5", "+7."], [1000, -0.5, 7]),
        (["NA", "5", "n/a", "-", "#N/A"], [None, 5, None, None, None]),
        ([" 5", "6 "], [5, 6]),
    ],
)
def test_a_number_is_read_as_it_is_written(read, cells, values):
    column = read(column_text("trx", cells)).frame["trx"]
    assert [None if math.isnan(value) else value for value in column] == values


def test_the_sign_of_decimals_of_one_column_settles_that_of_another(read):
    point = read('hcp_id,trx,prescribing_change\n1,"1,240",0.5\n2,980,0.25\n')
    comma = read("hcp_id;trx;prescribing_change\n1;1.240;0,5\n2;980;0,25\n")
    assert point.frame["trx"].tolist() == comma.frame["trx"].tolist() == [1240, 980]
    assert point.frame["prescribing_change"].tolist() == comma.frame["prescribing_change"].tolist() == [0.5, 0.25]
    assert "trx: 1 cell read with signs between thousands, '1,240' as 1240" in point.notes


@pytest.mark.parametrize(
    ("name", "cells", "values"),
    [
        ("total_patient_volume", ["1.240", "980"], [1240, 980]),  # whole numbers
        ("total_patient_volume", ['"1,000"', "980"], [1000, 980]),
        ("digital_engagement_score", ['"1,000"', "0"], [1, 0]),  # from 0 to 1
    ],
)
def test_what_is_declared_of_a_column_settles_its_sign_of_decimals(read, name, cells, values):
    assert read(column_text(name, cells)).frame[name].tolist() == values


@pytest.mark.parametrize("cell", ["1.240", '"1,240"'])
def test_a_column_that_can_be_read_in_two_ways_is_refused_with_both_and_the_option_settles_it(read, cell):
    content = column_text("trx", [cell, "980"])
    with pytest.raises(TableRefused, match=r"row 2, trx: '1.240' can be read as .*--decimal point.* or .*--decimal comma"):
        read(content)
    assert sorted(read(content, decimal=decimal).frame["trx"].tolist()[0] for decimal in Decimal) == [1.24, 1240]


def test_many_cells_show_a_sign_between_thousands_by_zeros_at_the_end_beside_whole_numbers(read):
    cells = [f"{number:,}" for number in range(0, 50_000, 1_010)]
    assert read(column_text("trx", [f'"{cell}"' for cell in cells])).frame["trx"].tolist() == list(range(0, 50_000, 1_010))
    three_places = [f"{number / 8:.3f}".replace(".", ",") for number in range(8, 8_000, 8)]  # 1,000 to 999,000: whole, with places
    with pytest.raises(TableRefused, match="--decimal"):
        read(column_text("trx", [f'"{cell}"' for cell in three_places]))


def test_signs_that_contradict_each_other_are_refused(read):
    with pytest.raises(TableRefused, match="1 cell with a decimal point and 1 with a decimal comma"):
        read("hcp_id;trx\n1;1,5\n2;0.5\n")
    with pytest.raises(TableRefused, match=r"trx: .*other columns a decimal comma"):
        read("hcp_id;trx;prescribing_change\n1;1.240;0,5\n2;2.5;0,25\n")


def test_a_percentage_is_a_fraction_where_the_unit_is_one_and_is_told(read):
    reading = read("hcp_id,digital_engagement_score,prescribing_change\n1,45%,12%\n2,50 %,-3.5%\n")
    assert reading.frame["digital_engagement_score"].tolist() == [0.45, 0.5]
    assert reading.frame["prescribing_change"].tolist() == [0.12, pytest.approx(-0.035)]
    assert "prescribing_change: 2 percentages read as fractions: 12% is 0.12" in reading.notes


def test_a_percentage_is_refused_where_the_unit_is_no_fraction(read):
    with pytest.raises(TableRefused, match="decile: '45%' is a percentage: the unit of the column is no fraction"):
        read(column_text("decile", ["45%"]))


def test_a_bare_number_among_percentages_is_bad(read):
    reading = read(column_text("prescribing_change", [*["5%"] * 40, "5"]))
    assert [(cell.row, cell.value) for cell in reading.bad_cells] == [(42, "5")]


def test_a_percentage_among_bare_numbers_is_bad_where_no_unit_is_declared(read):
    reading = read(column_text("own", [*["5"] * 40, "12%"]))
    assert [(cell.row, cell.value) for cell in reading.bad_cells] == [(42, "12%")]
    assert read(column_text("prescribing_change", ["0.05", "0.1", "12%"])).frame["prescribing_change"].tolist() == [0.05, 0.1, 0.12]


def test_whole_numbers_keep_every_digit_up_to_64_bits_and_are_refused_beyond(read):
    assert read(column_text("practice_size", [f"{2**63 - 1}"])).frame["practice_size"].tolist() == [2**63 - 1]
    for name in ("practice_size", "a_column_of_mine"):
        with pytest.raises(TableRefused, match=f"{name}: '{2**63}' is beyond the whole numbers of 64 bits"):
            read(column_text(name, [f"{2**63}"]))


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("x", "is no number"),
        ("11", "is out of bounds: allowed is 1 to 10"),
        ("3.5", "is no whole number"),
        ("inf", "is no number"),
        ("1_0", "is no number"),
        ("0x5", "is no number"),
        ("#DIV/0!", "is no number"),
    ],
)
def test_a_bad_cell_refuses_its_row_with_number_column_and_value_and_not_the_table(read, cell, reason):
    content = column_text("decile", [*["3"] * 40, cell, "5"])
    reading = read(content)
    assert reading.frame["decile"].tolist() == [*[3] * 40, 5]
    assert (reading.n_bad, reading.n_rows) == (1, 42)
    assert reading.remarks() == ["1 of 42 rows left out", f"  row 42, decile: '{cell}' {reason}"]
    with pytest.raises(TableRefused, match="1 of 42 rows bad, --strict allows none"):
        read(content, strict=True)


def test_more_than_five_in_a_hundred_bad_rows_refuse_the_table(read):
    assert read(column_text("decile", [*["3"] * 19, "y"])).n_bad == 1
    with pytest.raises(TableRefused, match="2 of 20 rows bad, at most 5% may be"):
        read(column_text("decile", [*["3"] * 18, "y", "11"]))


def test_large_tables_are_read_by_the_same_rules_as_small_ones(read):
    n = 5_000
    frame = read("".join(["hcp_id,trx,own\n", *(f'{row:05},"{row:,}",{row % 100}%\n' for row in range(n))])).frame
    assert frame["hcp_id"].tolist() == [f"{row:05}" for row in range(n)]
    assert frame["trx"].tolist() == list(range(n))
    assert frame["own"].tolist() == pytest.approx([row % 100 / 100 for row in range(n)])
