"""A value of a feature means the same alone and in company, before and after it was written and read."""

from __future__ import annotations

import io
import json
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.levels import KnownLevels, frame_of_records, level_key, level_text, levels_of, numbers_of

PRINTABLE = st.characters(codec="utf-8", exclude_categories=("C", "Zl", "Zp"))
VALUES = st.one_of(
    st.integers(-(10**17), 10**17),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-1000, 1000).map(float),
    st.text(PRINTABLE, max_size=8),
    st.sampled_from(["1", "01", "1.0", "1.50", "South", "south ", " SOUTH", "NA", "null", "true", "1e5", "1e+16"]),
    st.none(),
)


def texts_of(values: list[object], dtype: object = object) -> list[str | None]:
    return [None if pd.isna(text) else text for text in levels_of(pd.Series(values, dtype=dtype)).texts()]


@pytest.mark.parametrize(
    ("value", "level"),
    [
        (1, "1"),
        (1.0, "1"),
        (np.float64(1), "1"),
        (np.float32(0.1), "0.1"),
        (np.int8(4), "4"),
        (Decimal("1.0"), "1"),
        ("1.0", "1"),
        ("1", "1"),
        ("01", "01"),
        ("1.00", "1.00"),
        ("1e5", "1e5"),
        (1e16, "10000000000000000"),
        ("1e+16", "10000000000000000"),
        (-0.0, "0"),
        (2.5, "2.5"),
        (True, "true"),
        (np.bool_(False), "false"),
        ("\u00a0South\t", "South"),
        ("NA", "NA"),
        ("Zu\u0308rich", "Z\u00fcrich"),
        (" ", None),
        ("", None),
        (None, None),
        (pd.NA, None),
        (pd.NaT, None),
        (float("nan"), None),
        (Decimal("NaN"), None),
    ],
)
def test_a_value_is_the_level_that_the_rule_says(value: object, level: str | None) -> None:
    assert level_text(value) == level


@given(VALUES, st.lists(VALUES, max_size=5), st.sampled_from([object, None]))
def test_a_level_is_the_same_alone_and_in_any_company(value: object, company: list[object], dtype: object) -> None:
    if dtype is None and any(isinstance(v, int) and abs(v) > 2**53 for v in [value, *company]):
        return  # a frame that took integers for floats has lost their last digits before anyone could read them
    if dtype is None and {bool, int, float} & set(map(type, company)) and isinstance(value, bool):
        return  # and one that took flags for numbers has lost that they were flags
    alone = texts_of([value])
    assert texts_of([*company, value])[-1:] == alone
    assert texts_of([value, *company])[:1] == alone


@given(st.lists(VALUES, min_size=1, max_size=6))
def test_a_level_is_the_same_after_it_was_written_as_json(values: list[object]) -> None:
    assert texts_of(json.loads(json.dumps(values))) == texts_of(values)


@given(st.lists(VALUES, min_size=1, max_size=6))
def test_a_level_keeps_its_key_after_it_was_written_as_csv_and_read_as_text(values: list[object]) -> None:
    frame = pd.DataFrame({"id": range(len(values)), "level": pd.Series(values, dtype=object)})
    read = pd.read_csv(io.StringIO(frame.to_csv(index=False)), dtype=str, keep_default_na=False)
    assert [text and level_key(text) for text in texts_of(read["level"].tolist())] == [
        text and level_key(text) for text in texts_of(values)
    ]


@pytest.mark.parametrize(
    "values",
    [[1, 2, None], [1.0, 2.5, None], ["a", None, "01"], [True, False, None], [10**17 + 1, None]],
)
def test_a_level_is_the_same_after_it_was_written_as_parquet(values: list[object]) -> None:
    content = io.BytesIO()
    pd.DataFrame({"level": pd.Series(values, dtype=object)}).to_parquet(content)
    for backend in ("numpy_nullable", "pyarrow"):
        read = pd.read_parquet(content, dtype_backend=backend)["level"]
        assert [None if pd.isna(text) else text for text in levels_of(read).texts()] == texts_of(values)


@given(st.text(PRINTABLE, max_size=10))
def test_case_and_surrounding_blanks_do_not_make_another_level(text: str) -> None:
    key = level_key(text)
    assert level_key(f"  {text}\t") == level_key(key) == key
    assert level_key(text.casefold()) == key


def test_a_flag_and_the_number_one_are_two_levels_in_one_column() -> None:
    assert texts_of([True, 1, 1.0, "1", "True"]) == ["true", "1", "1", "1", "True"]


def test_the_most_frequent_spelling_is_kept_whatever_the_order_of_rows() -> None:
    column = pd.Series(["SOUTH", "south ", "South", "south", "NY", "ny"])
    expected = {"SOUTH": "south", "South": "south", "south": "south", "NY": "NY", "ny": "NY"}
    assert levels_of(column).spellings() == expected
    assert levels_of(column[::-1]).spellings() == expected
    levels = levels_of(column)
    assert levels.texts(levels.spellings()).tolist() == ["south"] * 4 + ["NY"] * 2


def test_a_known_level_is_found_in_any_spelling_and_an_unknown_one_is_not() -> None:
    known = KnownLevels(["Oncology", "1", "true"])
    assert [known.find(text) for text in ("oncology", "ONCOLOGY ", "1.0", "TRUE", "01", "urology")] == [
        "Oncology",
        "Oncology",
        "1",
        "true",
        None,
        None,
    ]


def test_a_model_of_before_the_rule_keeps_two_spellings_as_two_levels() -> None:
    known = KnownLevels(["South", "south", "1.0"])
    assert [known.find(text) for text in ("South", "south", "SOUTH", "1")] == ["South", "south", "South", "1.0"]


@given(st.one_of(st.integers(-(10**6), 10**6), st.floats(-1e6, 1e6)), st.lists(st.sampled_from([1, 2.5, None, "3", " 4 ", " "])))
def test_a_number_is_the_same_alone_in_company_and_as_text(number: float, company: list[object]) -> None:
    for value in (number, str(number), f" {number}\u00a0", Decimal(str(number))):
        assert numbers_of(pd.Series([value, *company], dtype=object), "x")[0] == number
        assert numbers_of(pd.Series([value], dtype=object), "x")[0] == number


@pytest.mark.parametrize("value", ["1,240", "12%", "x", True, "true", "NA", "nan", pd.Timestamp("2026-01-01"), [1]])
@pytest.mark.parametrize("company", [[], [1], [2.5, None], ["3", " "], [" 4\u00a0"]])
def test_what_is_no_number_is_refused_by_name_in_any_company(value: object, company: list[object]) -> None:
    with pytest.raises(ValueError, match=r"'x' holds .*: numbers are expected"):
        numbers_of(pd.Series([*company, value], dtype=object), "x")


@pytest.mark.parametrize("dtype", ["datetime64[ns]", "timedelta64[ns]"])
def test_a_column_of_times_is_no_column_of_numbers(dtype: str) -> None:
    with pytest.raises(ValueError, match="numbers are expected"):
        numbers_of(pd.Series([1, 2]).astype(dtype), "x")


def test_a_flag_is_true_or_false_in_words_and_numbers() -> None:
    flags = pd.Series([True, "True", " FALSE", 1, 0.0, "1.0", "0", None, ""], dtype=object)
    np.testing.assert_array_equal(numbers_of(flags, "x", "flag"), [1, 1, 0, 1, 0, 1, 0, np.nan, np.nan])


@pytest.mark.parametrize("value", [2, "yes", -1, 0.5])
def test_another_flag_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="'x' holds"):
        numbers_of(pd.Series([True, value], dtype=object), "x", "flag")


def test_records_become_columns_of_their_own_values() -> None:
    frame = frame_of_records([{"a": 10**17 + 1, "b": True}, {}, {"b": 1}])
    assert frame["a"].tolist() == [10**17 + 1, None, None]
    assert frame["b"].tolist() == [True, None, 1]
    assert len(frame_of_records([{}, {}])) == 2
