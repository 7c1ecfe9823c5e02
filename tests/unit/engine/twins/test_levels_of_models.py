"""A row has the same prediction alone and in any company, in any spelling, and after it was written and read."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.sample_tables import sample_hcps
from engine.twin_generator import TwinGenerator
from engine.twins import TwinModel, build_training_table
from engine.twins.training_table import feature_frame
from schemas import TwinType
from schemas.levels import KnownLevels, frame_of_records

TARGET = "prescribing_change"
CODES = {"south": 1, "west": 2, "northeast": 3, "midwest": 4}


def coded_table() -> pd.DataFrame:
    """Regions as codes with a strong effect, one of them missing, and columns of the user's own."""
    table = sample_hcps(1500, np.random.default_rng(7))
    region = table["region"].map(CODES)
    table[TARGET] += region.map({1: 0.2, 2: -0.2, 3: 0.0, 4: 0.1})
    level = np.where(np.arange(len(table)) % 3 == 0, "Tier A", np.where(np.arange(len(table)) % 2 == 0, "TIER A", "tier b "))
    return table.assign(region=region.where(table.index != 5), formulary=level, calls=np.where(table.index == 9, np.nan, 3.0))


@pytest.fixture(scope="module")
def model() -> TwinModel:
    generator = TwinGenerator("hcp", "kisqali", model_type="RandomForest", n_jobs=1)
    generator.train(coded_table(), TARGET)
    return generator.model


ROWS: list[dict[str, Any]] = [
    {str(name): None if pd.isna(value) else value for name, value in row.items() if name != TARGET}
    for row in coded_table().head(40).to_dict("records")
]


def test_a_code_is_a_level_whatever_else_is_in_its_column(model: TwinModel) -> None:
    assert model.known_levels["region"].levels == ("1", "2", "3", "4")
    assert model.known_levels["formulary"].levels == ("TIER A", "tier b")
    assert model.kinds["calls"] == "integer"
    row = ROWS[0] | {"region": 1}
    alone = model.predict(pd.DataFrame([row]))[0]
    gap = {name: value for name, value in row.items() if name != "region"}
    for company in ([gap], [row | {"region": "x"}], [row | {"region": 2.5}], [row | {"region": True}], [row | {"region": None}]):
        for frame in (pd.DataFrame([row, *company]), frame_of_records([row, *company])):
            assert model.predict(frame)[0] == alone
    for spelling in (1.0, "1", " 1 ", "1.0"):
        assert model.predict(pd.DataFrame([row | {"region": spelling}]))[0] == alone
    assert model.predict(pd.DataFrame([row | {"region": "01"}]))[0] == model.predict(pd.DataFrame([row | {"region": "new"}]))[0]
    assert model.predict(pd.DataFrame([row | {"region": 2}]))[0] != alone


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(range(len(ROWS))), min_size=1, max_size=6), st.sets(st.sampled_from(sorted(ROWS[0])), max_size=4))
def test_a_row_is_predicted_alike_alone_in_company_and_after_it_was_written(
    model: TwinModel, numbers: list[int], lacking: set[str]
) -> None:
    rows = [ROWS[number] for number in numbers] + [{k: v for k, v in ROWS[numbers[0]].items() if k not in lacking}]
    alone = [model.predict(frame_of_records([row]))[0] for row in rows]
    frame = pd.DataFrame(rows)
    parquet = io.BytesIO()
    frame.to_parquet(parquet)
    written = [
        frame,
        frame[::-1].reset_index(drop=True)[::-1],
        frame_of_records(json.loads(json.dumps(rows))),
        pd.read_parquet(parquet),
        pd.read_csv(io.StringIO(frame.to_csv(index=False)), dtype=str, keep_default_na=False),
        pd.read_csv(io.StringIO(frame.to_csv(index=False))),
    ]
    for table in written:
        assert model.predict(table).tolist() == alone


def test_spellings_that_differ_in_case_and_blanks_are_one_level_and_it_is_told() -> None:
    table = sample_hcps(1500, np.random.default_rng(3))
    table["region"] = [
        f"{text} " if row % 5 == 0 else text.upper() if row % 7 == 0 else text for row, text in enumerate(table["region"])
    ]
    built = build_training_table(table, TwinType.HCP, TARGET)
    assert set(built.features["region"]) == set(CODES)
    assert any("levels of region that differ only in case are one level: 'MIDWEST' is 'midwest'" in w for w in built.warnings)
    assert (
        build_training_table(table[::-1], TwinType.HCP, TARGET).features["region"].iloc[::-1].tolist()
        == built.features["region"].tolist()
    )


def test_codes_with_and_without_a_fraction_of_zero_are_one_level_and_it_is_told() -> None:
    table = sample_hcps(1500, np.random.default_rng(3)).assign(region=["250", "250.0", "250.1"] * 500)
    built = build_training_table(table, TwinType.HCP, TARGET)
    assert set(built.features["region"]) == {"250", "250.1"}
    assert "levels of region with and without a fraction of zero are one level: 250.0" in built.warnings
    assert not any(
        "fraction" in w for w in build_training_table(table.assign(region=["1.0", "2", "3"] * 500), TwinType.HCP, TARGET).warnings
    )


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2, None], "integer"),
        ([1.0, 2.0, np.nan], "integer"),
        ([1, 2.5, None], "number"),
        ([True, False, None], "flag"),
        (["True", "false", None], "flag"),
        ([True, 0, None], "flag"),
        (["1", "2", None], "category"),
        ([1, "a", None], "category"),
        ([["list"], None, None], None),
    ],
)
def test_the_kind_of_a_column_does_not_depend_on_its_gaps(values: list[Any], kind: str | None) -> None:
    own = pd.Series(values * 500, dtype=object)
    table = sample_hcps(1500, np.random.default_rng(3))
    assert build_training_table(table.assign(own=own), TwinType.HCP, TARGET).kinds.get("own") == kind


def test_a_model_of_before_the_rule_keeps_the_levels_that_it_has() -> None:
    known = {"region": KnownLevels(["South", "south", "1.0"])}
    frame = pd.DataFrame({"region": ["South", "south", "SOUTH", 1, "1", None, "north"]})
    expected = ["South", "south", "South", "1.0", "1.0", None, "north"]
    converted = feature_frame(frame, {"region": "category"}, TwinType.HCP, known)["region"]
    assert [None if pd.isna(text) else text for text in converted] == expected


@pytest.mark.parametrize("value", ["1,240", "12%", True])
def test_what_is_no_number_is_refused_in_a_numeric_feature(model: TwinModel, value: object) -> None:
    with pytest.raises(ValueError, match=f"'decile' holds {value!r}: numbers are expected"):
        model.predict(pd.DataFrame([ROWS[0] | {"decile": value}]))


def test_levels_that_the_model_never_saw_and_features_without_a_value_are_told(model: TwinModel) -> None:
    rows = pd.DataFrame([ROWS[0] | {"region": region, "specialty": None} for region in (1, "California", "Mars", 1.0, None)])
    sentences = model.gap_sentences(rows)
    assert "specialty has no value in any row" in sentences
    assert "region has a level that the model never saw in 2 of 5 rows: 'California', 'Mars' (it counts as rare)" in sentences
    assert model.gap_sentences(rows, named=["specialty"]) == sentences[1:]
    assert model.gap_sentences(pd.DataFrame(ROWS)) == []
    assert model.card.baseline.levels["region"] == ("1", "2", "3", "4")
    *_, gaps = model.predict_rows(rows)
    assert dict(zip(gaps.names, gaps.unseen.sum(axis=0).tolist(), strict=True))["region"] == 2
