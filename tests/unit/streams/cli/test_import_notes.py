"""What an import tells and saves of how a file was read, and which saved mapping nearly fits another file."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from click.testing import Result
from typer.testing import CliRunner

from schemas import TwinType
from streams.cli.app import app
from streams.mappings import load_mapping
from streams.mappings.saved import absent_columns
from streams.tables import TableOptions, entity_columns, read_table

N = 30
ANSWERS = ("--map", "Nr=entity_id", "--map", "Decyl=decile", "--map", "Data=observed_at", "--map", "Łóżka=own:beds")


@pytest.fixture
def doctors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    monkeypatch.chdir(tmp_path)
    return pd.DataFrame(
        {
            "Nr": [f"A{row}" for row in range(N)],
            "Decyl": [row % 10 + 1 for row in range(N)],
            "Data": [f"2025-01-{row % 28 + 1:02} 12:00" for row in range(N)],
            "Łóżka": ["Łódź", "Śląsk"] * (N // 2),
        }
    )


def run(*words: str) -> Result:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, result.output
    return result


def test_an_encoding_that_is_guessed_is_told_also_without_a_file_to_write(doctors: pd.DataFrame):
    doctors.rename(columns={"Łóżka": "Ulica"}).to_csv("own.csv", index=False, encoding="cp1250")
    answers = [text.replace("Łóżka", "Ulica") for text in ANSWERS]
    guessed = run("import", "own.csv", *answers, "--timezone", "UTC").stderr
    assert "read as cp1252, guessed as it is not UTF-8" in guessed
    assert "--encoding" in guessed
    stated = run("import", "own.csv", *answers, "--timezone", "UTC", "--encoding", "cp1250").stderr
    assert "read as cp1250" in stated
    assert "guessed" not in stated


def test_the_zone_of_times_is_saved_and_later_files_are_read_by_it(doctors: pd.DataFrame):
    doctors.to_csv("own.csv", index=False)
    run("import", "own.csv", *ANSWERS, "--timezone", "Europe/Warsaw")
    mapping = load_mapping("own")
    assert mapping.timezone == "Europe/Warsaw"
    later = read_table(Path("own.csv"), entity_columns(TwinType.HCP), TableOptions(mapping=mapping))
    assert later.frame["observed_at"].iloc[0] == pd.Timestamp("2025-01-01 11:00", tz="UTC")
    assert "observed_at: times without a zone read as times of Europe/Warsaw" in later.notes
    stated = read_table(Path("own.csv"), entity_columns(TwinType.HCP), TableOptions(mapping=mapping, timezone="UTC"))
    assert stated.frame["observed_at"].iloc[0] == pd.Timestamp("2025-01-01 12:00", tz="UTC")
    run("import", "own.csv", "own.parquet", "--map", "Łóżka=")
    assert load_mapping("own").timezone == "Europe/Warsaw"


def test_a_mapping_that_lacks_a_column_of_the_file_is_told_with_the_way_to_apply_it(doctors: pd.DataFrame):
    doctors.to_csv("own.csv", index=False)
    run("import", "own.csv", *ANSWERS, "--timezone", "UTC")
    (sentence,) = absent_columns(["Decyl", "Data", "Łóżka"], Path("mappings"), TwinType.HCP)
    assert "'own' is not used, as there is no column 'Nr': --mapping own reads" in sentence
    assert absent_columns(["Decyl"], Path("mappings"), TwinType.HCP) == []
    assert absent_columns(["Decyl", "Data", "Łóżka"], Path("mappings"), TwinType.PATIENT) == []
    frame = doctors.drop(columns="Nr")
    frame.to_csv("later.csv", index=False)
    result = CliRunner().invoke(app, ["train", "later.csv", "--check"])
    assert "--mapping own" in result.output
