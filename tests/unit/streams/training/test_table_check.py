"""A check of a table finds everything at once, with the rows of the file, and agrees with the training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from engine.sample_tables import sample_hcps
from engine.twins import build_training_table
from schemas import TwinType
from streams.cli.app import app
from streams.tables import entity_columns, read_frame
from streams.training.imported_table import require_features
from streams.training.table_check import TableCheck, check_file, check_table

TARGET = "prescribing_change"


def prescribers(n: int = 1500) -> pd.DataFrame:
    frame = sample_hcps(n, np.random.default_rng(0)).drop(columns="entity_id", errors="ignore")
    frame.insert(0, "npi", np.random.default_rng(1).choice(900_000_000, n, replace=False) + 1_000_000_000)
    return frame


def check(frame: pd.DataFrame, folder: Path) -> TableCheck:
    frame.to_csv(folder / "table.csv", index=False)
    return check_file(folder / "table.csv", TwinType.HCP)


def test_a_good_table_has_no_problems(tmp_path: Path) -> None:
    found = check(prescribers(), tmp_path)
    assert (found.rows, found.problems) == (1500, ())
    assert list(map(str, found.notes)) == ["the column 'npi' names the entity of each row: it is no feature"]


def test_all_problems_are_found_at_once_with_their_rows(tmp_path: Path) -> None:
    frame = prescribers().assign(blood_pressure=1.0, rank=range(1500))
    frame[TARGET] *= 100
    frame.loc[[10, 20], "decile"] = 14
    frame.loc[30, TARGET] = np.nan
    frame = pd.concat([frame, frame.iloc[[5]], frame.iloc[[7]].assign(decile=3)])
    found = check(frame, tmp_path)
    problems, notes = "\n".join(map(str, found.problems)), "\n".join(map(str, found.notes))
    assert "column 'blood_pressure' is clinical" in problems
    assert f"{TARGET!r} looks like percent" in problems
    assert "decile is out of bounds: allowed is 1 to 10, such as '14': 2 rows, 12, 22" in notes
    assert f"without a value of {TARGET!r}, left out: 1 row, 32" in notes
    assert "equal to an earlier row in every column, kept: 1 row, 1502" in notes
    assert "with the npi of an earlier row, kept as rows of one entity: 1 row, 1503" in notes
    assert "columns left out as identifiers: rank, numbered in sequence" in notes


def test_a_feature_that_is_the_target_is_a_problem_and_one_that_nearly_is_a_note(tmp_path: Path) -> None:
    frame = prescribers()
    (problem,) = check(frame.assign(growth=frame[TARGET] * 100), tmp_path).problems
    assert str(problem).startswith(f"'growth' is the target {TARGET!r} in another form")
    near = check(frame.assign(growth=frame[TARGET] + np.random.default_rng(2).normal(0, 0.003, 1500)), tmp_path)
    assert near.problems == ()
    assert any(str(note).startswith("'growth' is nearly the target: rank correlation") for note in near.notes)


def test_more_bad_rows_than_are_allowed_are_a_problem(tmp_path: Path) -> None:
    frame = prescribers()
    frame.loc[:99, "decile"] = 14
    problems = list(map(str, check(frame, tmp_path).problems))
    assert problems[0] == "100 of 1,500 rows are bad, at most 5% may be"
    assert "such as '14': 100 rows, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 90 more" in problems[1]


def test_a_table_without_target_and_features_has_both_problems(tmp_path: Path) -> None:
    problems = "\n".join(map(str, check(pd.DataFrame({"npi": [1, 2], "shoe_size": [40, 41]}), tmp_path).problems))
    assert "no column is a feature of hcp twins" in problems
    assert f"the table has no column {TARGET!r}" in problems


def test_a_file_that_cannot_be_read_has_the_problems_of_its_reading(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_text("decile,decile,prescribing_change\n1,2,0.1\n", encoding="utf-8")
    assert any("decile" in problem.text for problem in check_file(file, TwinType.HCP).problems)


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: frame.assign(**{TARGET: 0.0}),
        lambda frame: frame.head(999),
        lambda frame: frame.assign(**{TARGET: frame[TARGET] + 1}),
        lambda frame: frame.assign(npi=frame.index % 20),
        lambda frame: frame.assign(biopsy=1),
        lambda frame: frame[["npi", TARGET]].assign(other="a"),
        lambda frame: frame,
    ],
)
def test_the_check_has_problems_exactly_where_the_training_refuses(change: object) -> None:
    frame = change(prescribers())  # type: ignore[operator]  # a function of a frame
    found = check_table(read_frame(frame, entity_columns(TwinType.HCP)), TwinType.HCP)
    try:
        require_features(frame, TwinType.HCP)
        build_training_table(frame, TwinType.HCP, TARGET)
    except ValueError:
        assert found.problems
    else:
        assert not found.problems


def test_the_command_tells_the_findings_and_its_status(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    prescribers().to_csv(file, index=False)
    good = CliRunner().invoke(app, ["train", str(file), "--check"])
    assert good.exit_code == 0
    assert good.output.splitlines()[0] == "table.csv: 1,500 rows, it can be trained on"
    prescribers().assign(**{TARGET: 0.5}).to_csv(file, index=False)
    bad = CliRunner().invoke(app, ["train", str(file), "--check"])
    assert bad.exit_code == 1
    assert f"problem: {TARGET!r} is 0.5 in every row" in bad.output
