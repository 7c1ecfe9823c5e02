"""Mappings as files, and which of them fits a table."""

from pathlib import Path

import pytest

from schemas import TwinType
from streams.mappings import load_mapping, mapping_name, matching_mappings, save_mapping
from streams.tables import ColumnUse, TableMapping

OWN = TableMapping(
    name="own",
    twin_type=TwinType.HCP,
    columns={
        "entity_id": ColumnUse(column="NPI"),
        "decile": ColumnUse(column="Tot Rx", by="decile", cuts=tuple(map(float, range(9)))),
        "region": ColumnUse(column="Área", levels={"N.E.": "northeast"}),
        "prescribing_change": ColumnUse(column="Rx 24", by="change from Rx 23"),
    },
    left_out={"Notes": "like no feature"},
)


def test_a_saved_mapping_is_read_as_it_was(tmp_path: Path):
    save_mapping(OWN, tmp_path / "mappings/own.yaml")
    assert load_mapping("own", tmp_path / "mappings") == OWN
    assert load_mapping(str(tmp_path / "mappings/own.yaml")) == OWN


def test_a_mapping_fits_a_table_with_its_columns_or_with_those_of_an_outcome(tmp_path: Path):
    save_mapping(OWN, tmp_path / "own.yaml")
    fits = {
        ("NPI", "tot_rx", "Área", "Rx 24", "Rx 23", "more"): True,
        ("NPI", "Rx 24", "Rx 23"): True,
        ("NPI", "Rx 24"): False,
        ("Tot Rx", "Área"): False,
    }
    assert {headers: matching_mappings(headers, tmp_path) == [OWN] for headers in fits} == fits


def test_a_mapping_that_changes_nothing_fits_no_table(tmp_path: Path):
    same = TableMapping(name="same", twin_type=TwinType.HCP, columns={"decile": ColumnUse(column="Decile")})
    save_mapping(same, tmp_path / "same.yaml")
    assert matching_mappings(["decile"], tmp_path) == []


def test_a_file_that_is_no_mapping_is_refused_by_name_and_field(tmp_path: Path):
    (tmp_path / "bad.yaml").write_text("name: bad\ntwin_type: hcp\ncolumns: {decile: {column: x, by: banana}}\n")
    with pytest.raises(ValueError, match=r"bad\.yaml: columns\.decile\.by: .*unknown rule 'banana'"):
        load_mapping("bad", tmp_path)
    (tmp_path / "worse.yaml").write_text("a: [")
    with pytest.raises(ValueError, match=r"worse\.yaml:1:5: no YAML"):
        load_mapping("worse", tmp_path)
    (tmp_path / "latin.yaml").write_bytes("name: Größe".encode("cp1252"))
    with pytest.raises(ValueError, match=r"latin\.yaml is no UTF-8 text"):
        load_mapping("latin", tmp_path)


@pytest.mark.parametrize(
    ("again", "place"),
    [
        ("  region: {column: Other}\n", r":5:3: 'region' is here twice, first in line 4"),
        ("  decile: {column: D, column: E}\n", r":5:23: 'column' is here twice"),
        ("  specialty: {column: S, levels: {A: b, A: c}}\n", r":5:41: 'A' is here twice"),
        ("twin_type: patient\n", r":5:1: 'twin_type' is here twice, first in line 2"),
    ],
)
def test_a_name_that_is_there_twice_is_refused_with_its_place(tmp_path: Path, again: str, place: str):
    (tmp_path / "own.yaml").write_text(f"name: own\ntwin_type: hcp\ncolumns:\n  region: {{column: ST}}\n{again}")
    with pytest.raises(ValueError, match=rf"own\.yaml{place}"):
        load_mapping("own", tmp_path)


@pytest.mark.parametrize("levels", ["{ja: true, nein: false}", "{nein: 'no', ja: yes}", "{ja: 1}", "{ja: }", "{ja: [yes]}"])
def test_what_a_text_stands_for_is_in_quotes(tmp_path: Path, levels: str):
    (tmp_path / "own.yaml").write_text(f"name: own\ntwin_type: hcp\ncolumns:\n  specialty: {{column: V, levels: {levels}}}\n")
    with pytest.raises(ValueError, match=r"specialty\.levels: .*what 'ja' stands for is to be in quotes, such as ja: \"yes\""):
        load_mapping("own", tmp_path)


def test_texts_that_yaml_would_read_otherwise_are_saved_and_read_as_they_were(tmp_path: Path):
    texts = {"yes": "no", "2024-01-01": "1", "NO": "null", "x" * 200: "y: z", "Ja\nNein": "#"}
    saved = TableMapping(name="own", twin_type=TwinType.HCP, columns={"specialty": ColumnUse(column="Yes", levels=texts)})
    save_mapping(saved, tmp_path / "own.yaml")
    assert load_mapping("own", tmp_path) == saved


def test_an_absent_mapping_is_told_with_those_that_there_are(tmp_path: Path):
    save_mapping(OWN, tmp_path / "own.yaml")
    with pytest.raises(FileNotFoundError, match="there are own"):
        load_mapping("other", tmp_path)


def test_a_name_of_a_file_is_a_name_of_a_mapping():
    assert mapping_name(Path("a/HCP master (2026).csv.gz")) == "HCP_master_2026"
    assert mapping_name(Path("…")) == "table"
