"""The command ``import``: what it shows, saves and writes, and that other commands read by what it saved."""

import json
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from schemas.catalogue_in_effect import catalogue_of_process, install
from streams.cli.app import app
from streams.settings import settings
from tests.unit.streams.mappings.own_tables import N, own_table


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    own_table().to_csv(tmp_path / "own.csv", index=False)
    return tmp_path


def run(*words: str, status: int = 0) -> Result:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == status, result.output
    return result


def test_a_file_alone_is_shown_with_scores_and_reasons_and_its_mapping_saved(folder: Path):
    output = run("import", "own.csv").stdout
    assert "own.csv: 400 rows, 8 columns" in output
    assert "name 100% like 'specialty'" in output
    assert "mapping saved to mappings/own.yaml" in output
    assert "--map 'Grad Yr=years_experience:years_before YEAR'" in output
    assert [path.name for path in folder.iterdir() if path.suffix in {".csv", ".parquet"}] == ["own.csv"]


def test_a_file_of_own_names_becomes_a_training_table(folder: Path):
    payload = json.loads(
        run("import", "own.csv", "out.parquet", "--map", "Grad Yr=years_experience:years_before 2026", "--json").stdout
    )
    frame = pd.read_parquet("out.parquet")
    assert (payload["rows"], payload["target"]) == (N, "prescribing_change")
    assert frame["years_experience"].equals(2026 - own_table()["Grad Yr"].rename("years_experience"))
    assert set(frame["region"]) == {"northeast", "west", "south", "other", "midwest"}
    assert frame["decile"].value_counts().max() == N / 10


def test_later_files_are_read_by_the_saved_mapping_and_told_so(folder: Path):
    run("import", "own.csv", "out.parquet")
    first = pd.read_parquet("out.parquet")
    own_table().iloc[:7].to_csv("later.csv", index=False)
    result = run("import", "later.csv", "later.parquet")
    assert "by the saved mapping own" in result.stdout
    assert pd.read_parquet("later.parquet")["decile"].tolist() == first["decile"].tolist()[:7]
    assert "read by the mapping 'own'" in run("train", "later.csv", "--check", status=1).stdout


def test_a_mapping_can_be_refused_named_and_is_of_one_twin_type(folder: Path):
    run("import", "own.csv", "--save-as", "hcps")
    assert "no column 'prescribing_change'" in run("train", "own.csv", "--check", "--mapping", "none", status=1).stdout
    run("import", "own.csv", "--save-as", "again", "--mapping", "none")
    assert "several saved mappings fit, again, hcps" in run("train", "own.csv", "--check", status=1).stderr
    assert "read by the mapping 'hcps'" in run("train", "own.csv", "--check", "--mapping", "hcps", status=1).stdout
    wrong = run("train", "own.csv", "--check", "--mapping", "hcps", "--twin-type", "patient", status=1)
    assert "the mapping 'hcps' is for hcp twins, not patient twins" in wrong.stderr


def test_a_table_without_a_target_is_a_table_of_features(folder: Path):
    own_table().drop(columns="Rx Chg").to_csv("master.csv", index=False)
    output = run("import", "master.csv", "features.csv").stdout
    assert "no column is the target prescribing_change: it can serve as features" in output


def test_declared_names_need_no_mapping_and_keep_columns_of_the_user(folder: Path):
    frame = pd.DataFrame({"hcp_id": np.arange(50), "decile": 3, "zap": 1.5, "prescribing_change": 0.1})
    frame.to_csv("plain.csv", index=False)
    run("import", "plain.csv", "out.csv")
    assert "zap" in pd.read_csv("out.csv")
    assert not (folder / "mappings").exists()


def test_an_answer_that_cannot_be_read_saves_nothing(folder: Path):
    assert "unknown column 'Zap'" in run("import", "own.csv", "--map", "Zap=decile", status=1).stderr
    assert not (folder / "mappings").exists()


def test_an_import_that_fails_leaves_the_saved_mapping_as_it_was(folder: Path):
    unreadable = ["--map", "Spec Desc=years_experience:value"]
    assert "400 of 400 rows bad" in run("import", "own.csv", "out.parquet", *unreadable, status=1).stderr
    assert not (folder / "mappings").exists()
    run("import", "own.csv", "out.parquet", "--map", "Rx $=own:sales")
    before = (folder / "mappings/own.yaml").read_bytes()
    assert "400 of 400 rows bad" in run("import", "own.csv", "again.parquet", *unreadable, status=1).stderr
    assert (folder / "mappings/own.yaml").read_bytes() == before
    assert not (folder / "again.parquet").exists()
    run("import", "own.csv", "again.parquet", "--map", "Rx $=")
    assert "sales" not in (folder / "mappings/own.yaml").read_text()


def test_two_columns_of_one_feature_are_refused(folder: Path):
    answers = ["--map", "Tot Rx=total_patient_volume", "--map", "Pts=total_patient_volume"]
    assert "'Tot Rx' and 'Pts' would both be total_patient_volume" in run("import", "own.csv", *answers, status=1).stderr
    assert not (folder / "mappings").exists()


def test_a_later_file_without_some_columns_leaves_the_mapping_as_it_is(folder: Path):
    run("import", "own.csv", "--map", "Grad Yr=years_experience:years_before 2026")
    before = (folder / "mappings/own.yaml").read_text()
    own_table().drop(columns=["Grad Yr", "ST"]).to_csv("later.csv", index=False)
    assert "mapping of mappings/own.yaml" in run("import", "later.csv", "later.parquet", "--mapping", "own").stdout
    assert (folder / "mappings/own.yaml").read_text() == before
    run("import", "later.csv", "--mapping", "own", "--map", "Pts=")
    after = (folder / "mappings/own.yaml").read_text()
    assert "years_before 2026" in after
    assert "total_patient_volume" not in after


def test_a_folder_and_a_query_are_tables_too(folder: Path, monkeypatch: pytest.MonkeyPatch):
    (folder / "parts").mkdir()
    own_table().iloc[:200].to_csv("parts/a.csv", index=False)
    own_table().iloc[200:].to_csv("parts/b.csv", index=False)
    payload = json.loads(run("import", "parts", "out.csv", "--json").stdout)
    assert (payload["rows"], payload["mapping"]) == (N, "mappings/parts.yaml")
    with sqlite3.connect(folder / "crm.db") as connection:
        own_table().to_sql("hcp", connection, index=False)
    (folder / "hcps.sql").write_text("select * from hcp")
    monkeypatch.setenv("TWIN_TABLES_URL", f"sqlite:///{folder / 'crm.db'}")
    settings.cache_clear()
    assert json.loads(run("import", "hcps.sql", "out.csv", "--json").stdout)["rows"] == N
    settings.cache_clear()


def test_a_claims_extract_is_imported_by_its_windows(folder: Path):
    rows = [(f"{who:03}", f"2024-{month:02}", who + month) for who in range(20) for month in range(1, 13)]
    pd.DataFrame(rows, columns=["NPI", "Month", "Scripts"]).to_csv("claims.csv", index=False)
    windows = ["--as-of", "2024-06", "--months", "6", "--then", "6"]
    payload = json.loads(run("import", "claims.csv", "out.csv", *windows, "--json").stdout)
    assert (payload["recognised"], payload["rows"], payload["target"]) == ("claims by month", 20, "prescribing_change")
    assert pd.read_csv("out.csv")["prescribing_change"][0] == pytest.approx(57 / 21 - 1)
    assert (
        "unknown column of a claims extract 'banana'"
        in run("import", "claims.csv", "--as-of", "2024-06", "--map", "NPI=banana", status=1).stderr
    )
    assert "'June' is no month" in run("import", "claims.csv", "--as-of", "June", status=1).stderr


def test_features_of_the_users_catalogue_are_recognised_and_mappings_are_beside_it(folder: Path, monkeypatch: pytest.MonkeyPatch):
    (folder / "conf").mkdir()
    (folder / "conf/own.yaml").write_text(
        "twin_types: {hcp: {features: {congress_visits: {kind: integer, unit: visits a year, low: 0}}}}\n"
    )
    monkeypatch.setenv("TWIN_CATALOGUE", "conf/own.yaml")
    settings.cache_clear()
    built_in = catalogue_of_process()
    try:
        own_table().assign(**{"Congress Visitors": 3, "Congress Visits": np.arange(N)}).to_csv("own.csv", index=False)
        payload = json.loads(run("import", "own.csv", "--json").stdout)
    finally:
        install(built_in)
        settings.cache_clear()
    assert payload["mapping"] == "conf/mappings/own.yaml"
    assert {item["column"] for item in payload["columns"] if item["feature"] == "congress_visits" and item["used"]} == {
        "Congress Visits"
    }


@pytest.mark.parametrize("columns", [["Prscrbr_NPI", "Brnd_Name", "Gnrc_Name", "Tot_Clms"], ["NPI", "Zap"]])
def test_a_file_like_the_source_is_not_written_over_where_out_was_forgotten(folder: Path, columns: list[str]):
    for name in ("a_2019.csv", "a_2020.csv"):
        pd.DataFrame([["1", "X", "Y", 20][: len(columns)]], columns=columns).to_csv(name, index=False)
    before = Path("a_2020.csv").read_bytes()
    output = run("import", "a_2019.csv", "a_2020.csv", status=1).stderr
    assert "a_2020.csv is a table like a_2019.csv, and OUT, the file that is written, comes last: name another one" in output
    assert Path("a_2020.csv").read_bytes() == before


def test_what_was_written_before_is_written_again(folder: Path):
    for _ in range(2):
        run("import", "own.csv", "out.csv")
