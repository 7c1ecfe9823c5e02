"""Identifiers are told from features by their names and values, in every entry of the system alike."""

from __future__ import annotations

import hashlib
from uuid import uuid5

import numpy as np
import pandas as pd
import pytest

from engine.sample_tables import sample_hcps
from engine.twin_generator import MODELS
from engine.twins.identifiers import identifier_columns
from engine.twins.training_table import build_training_table
from schemas.identifiers import entity_column
from schemas.twin_types import TWIN_TYPES, TwinType

N = 1200
RNG = np.random.default_rng(0)
ROWS = np.arange(N)


@pytest.mark.parametrize(
    "column",
    [
        pytest.param(ROWS, id="row numbers"),
        pytest.param(ROWS[::-1] * 10 + 5, id="numbers in steps, downwards"),
        pytest.param(RNG.choice(2_000_000, N, replace=False) + 1_000_000, id="account numbers"),
        pytest.param(1_000_000_000 + RNG.choice(999_999_999, N, replace=False), id="NPIs"),
        pytest.param(np.where(ROWS == 7, np.nan, ROWS + 0.0), id="row numbers with a gap, as floats"),
        pytest.param([hashlib.sha256(str(row).encode()).hexdigest() for row in ROWS], id="hashes"),
        pytest.param([hashlib.sha1(str(row // 4).encode()).hexdigest() for row in ROWS], id="hashes of several rows each"),
        pytest.param([str(uuid5(MODELS, str(row))) for row in ROWS], id="uuids"),
        pytest.param([f"{row:05}" for row in ROWS], id="numbers as text"),
        pytest.param(pd.Series(ROWS.tolist(), dtype=object), id="row numbers of JSON"),
        pytest.param([f"Dr {row}" for row in ROWS], id="names"),
    ],
)
def test_a_column_of_identifiers_is_found_by_its_values(column: object) -> None:
    assert list(identifier_columns(pd.DataFrame({"x": column}), ["x"], TwinType.HCP, N)) == ["x"]


@pytest.mark.parametrize(
    "name", ["npi", "NPI", "id", "hcpId", "HCP ID", "account_id", "Prscrbr_NPI", "Unnamed: 0", "index", "row_hash"]
)
def test_a_column_of_identifiers_is_found_by_its_name(name: str) -> None:
    frame = pd.DataFrame({name: RNG.integers(0, 9, N)})
    assert identifier_columns(frame, [name], TwinType.HCP, N) == {name: "named like one"}


@pytest.mark.parametrize(
    "column",
    [
        pytest.param(RNG.lognormal(12, 1.0, N).round(), id="costs in whole dollars"),
        pytest.param(RNG.choice(10_000, N, replace=False) ** 3 + 10_000, id="unique numbers spread over magnitudes"),
        pytest.param(RNG.normal(size=N), id="measurements"),
        pytest.param(RNG.poisson(30, N), id="counts"),
        pytest.param(RNG.choice(["a", "b", "c"], N), id="levels"),
        pytest.param(RNG.choice([f"{level:016x}" for level in range(20)], N), id="levels coded as hashes"),
        pytest.param(RNG.integers(501, 99_950, N), id="postal codes"),
        pytest.param(ROWS % 2 == 0, id="flags"),
        pytest.param(pd.Series([None] * N, dtype=object), id="nothing"),
    ],
)
@pytest.mark.parametrize("name", ["x", "paid", "price_index", "grid"])
def test_a_column_that_measures_something_is_none(name: str, column: object) -> None:
    assert identifier_columns(pd.DataFrame({name: column}), [name], TwinType.HCP, N) == {}


def test_an_identifier_of_entities_with_several_rows_is_found() -> None:
    frame = pd.DataFrame({"member": np.repeat([f"m{k}" for k in range(300)], 4), "number": np.repeat(np.arange(300) + 70, 4)})
    assert list(identifier_columns(frame, frame.columns, TwinType.HCP, 300)) == ["member", "number"]


@pytest.mark.parametrize("twin_type", TwinType)
def test_a_declared_feature_is_never_an_identifier(twin_type: TwinType) -> None:
    names = list(TWIN_TYPES[twin_type].by_name)
    frame = pd.DataFrame(dict.fromkeys(names, ROWS))
    assert identifier_columns(frame, names, twin_type, N) == {}


def test_the_declared_entity_column_comes_first_then_the_coarsest() -> None:
    frame = pd.DataFrame({"id": [1, 2, 3], "NPI": [5, 5, 6], "entity_id": ["a", "b", "c"]})
    assert entity_column(frame, TwinType.HCP) == "entity_id"
    assert entity_column(frame.drop(columns="entity_id"), TwinType.HCP) == "NPI"
    assert entity_column(frame[["id"]], TwinType.TERRITORY) == "id"
    assert entity_column(pd.DataFrame({"territory_id": [1]}), TwinType.HCP) is None


def test_identifiers_of_a_table_are_left_out_and_told() -> None:
    frame = sample_hcps(N, np.random.default_rng(1)).assign(npi=ROWS + 1_000_000_000, batch=ROWS, trx=RNG.poisson(40, N))
    table = build_training_table(frame, TwinType.HCP, "prescribing_change")
    assert {"npi", "batch", "entity_id"}.isdisjoint(table.kinds)
    assert "trx" in table.kinds
    (told,) = (warning for warning in table.warnings if "identifiers" in warning)
    assert "batch, numbered in sequence" in told
    assert "the column 'npi' names the entity of each row: it is no feature" in table.warnings
