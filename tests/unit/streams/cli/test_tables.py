"""The options of commands that read a table, and what they print of it."""

import json
from pathlib import Path

import pandas as pd
import pytest
from typer.main import get_group
from typer.testing import CliRunner

from schemas import BUILT_IN, install
from streams.cli.app import app
from streams.tables.options import TableOptions

READERS = (["import"], ["train"], ["demo"], ["counterfactuals"], ["untreated"], ["outcomes", "publish"])


def options_of(words: list[str]) -> set[str]:
    command = get_group(app)
    for word in words:
        command = command.commands[word]
        command = command.load() if hasattr(command, "load") else command
    return {parameter.name for parameter in command.params}


@pytest.mark.parametrize("words", READERS, ids=" ".join)
def test_every_command_that_reads_a_table_has_every_option_of_the_reader(words: list[str]):
    named = {"kinds": "column", "ignores_mappings": "mapping"}
    assert {named.get(name, name) for name in TableOptions.__dataclass_fields__} <= options_of(words)


def test_what_was_converted_and_left_out_is_told_on_stderr(tmp_path: Path):
    source, out = tmp_path / "table.csv", tmp_path / "out.csv"
    rows = "".join(f'{row:05};"1.240";01/03/2025;0,5\n' for row in range(40))
    source.write_text(f"HCP ID;total_patient_volume;observed_at;prescribing_change\n{rows}41;x;01/03/2025;0,5\n")
    options = ["--date-order", "dmy", "--timezone", "UTC", "--json"]
    result = CliRunner().invoke(app, ["import", str(source), str(out), *options])
    assert (result.exit_code, json.loads(result.stdout)["rows"]) == (0, 40), result.stderr
    for text in ("the delimiter is semicolon", "1 of 41 rows left out", "row 42, total_patient_volume: 'x' is no number"):
        assert text in result.stderr
    frame = pd.read_csv(out, dtype={"entity_id": "str"})
    assert frame.loc[0].tolist() == ["00000", 1240, "2025-03-01 00:00:00+00:00", 0.5]
    strict = CliRunner().invoke(app, ["import", str(source), str(out), *options, "--strict"])
    assert strict.exit_code == 1
    assert strict.stderr.startswith("twinstream: table.csv: 1 of 41 rows bad, --strict allows none; row 42")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--column", "decile"], "is not NAME=KIND"),
        (["--column", "decile=banana"], "unknown kind of a column 'banana'"),
        (["--timezone", "Mars"], "unknown time zone 'Mars'"),
        (["--encoding", "klingon"], "unknown encoding 'klingon'"),
        (["--delimiter", "::"], "the delimiter is one character"),
        (["--column", "zap=category"], "no column 'zap'"),
    ],
)
def test_an_option_that_means_nothing_is_refused(tmp_path: Path, options: list[str], message: str):
    source = tmp_path / "table.csv"
    source.write_text("hcp_id,decile,prescribing_change\n1,3,0.5\n")
    result = CliRunner().invoke(app, ["import", str(source), str(tmp_path / "out.csv"), *options])
    assert result.exit_code == 1
    assert message in result.stderr


def test_a_table_is_checked_by_the_catalogue_of_the_file_whatever_that_of_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def champion_under_another_catalogue(_line: str) -> tuple[None, str]:
        install(BUILT_IN)  # as a connection to the service does
        return None, "it has no champion yet"

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("streams.cli.data._champion", champion_under_another_catalogue)
    Path("twinstream.yaml").write_text("twin_types: {hcp: {features: {stars: {kind: integer, low: 1, high: 5}}}}\n")
    rows = "".join(f"H{row},{row % 5 + 1},{row / 100}\n" for row in range(60))
    Path("hcps.csv").write_text(f"hcp_id,stars,prescribing_change\n{rows}", encoding="utf-8")
    try:
        result = CliRunner().invoke(app, ["data", "check", "hcps.csv", "--json"])
    finally:
        install(BUILT_IN)
    roles = {column["name"]: column["role"] for column in json.loads(result.stdout)["columns"]}
    assert roles["stars"] == "feature", result.stderr
