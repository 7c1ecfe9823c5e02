"""The command line: answers on stdout, progress and refusals on stderr, and an exit status that means something."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from streams.cli.main import main
from streams.cli.options import filter_of


def run(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


def test_every_command_explains_itself() -> None:
    for name in main.commands:
        said = run(name, "--help")
        assert said.exit_code == 0, name
        assert said.output.startswith("Usage:")


def test_a_table_is_turned_into_features_and_what_it_lacks_is_named(tmp_path: Path) -> None:
    source = tmp_path / "table.csv"
    pd.DataFrame({"id": [1], "decile": [3], "prescribing_change": [0.5]}).to_csv(source, index=False)
    said = run("import", str(source), str(tmp_path / "out.parquet"), "--json")
    assert said.exit_code == 0
    answer = json.loads(said.stdout)
    assert answer["rows"] == 1
    assert "specialty" in answer["left_out"]
    assert pd.read_parquet(tmp_path / "out.parquet")["decile"].tolist() == [3]


def test_a_refusal_is_one_line_on_stderr_and_status_1(tmp_path: Path) -> None:
    said = run("import", str(tmp_path / "absent.csv"), str(tmp_path / "out.csv"))
    assert said.exit_code == 1
    assert said.stdout == ""
    assert said.stderr.splitlines() == [f"twinstream: there is no file {tmp_path / 'absent.csv'}"]


@pytest.mark.parametrize("words", [["simulate", "cold_calls"], ["import"], ["demo", "--brand", "nobody"], ["fly"]])
def test_wrong_usage_is_status_2(words: list[str]) -> None:
    assert run(*words).exit_code == 2


def test_an_unknown_role_is_refused_with_the_known_ones() -> None:
    said = run("worker", "--role", "simulation,painter")
    assert said.exit_code == 1
    assert "unknown role 'painter': use one of experiments, fidelity, outcomes, simulation, trainer" in said.stderr


def test_filters_of_the_command_line_say_values_lists_and_bounds() -> None:
    assert filter_of("region=south,west") == ("region", ["south", "west"])
    assert filter_of("min_decile=8") == ("min_decile", 8)
    assert filter_of("tier=1") == ("tier", [1])
    with pytest.raises(ValueError, match="'decile' is not WORD=VALUE"):
        filter_of("decile")
