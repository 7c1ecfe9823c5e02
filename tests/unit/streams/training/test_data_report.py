"""The page that tells what a model would make of a table."""

import json
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from engine.fidelity.input_drift import histogram
from schemas import BUILT_IN, Baseline, Brand, ModelCard, TwinModelMetrics, TwinType, in_effect
from streams.cli import data
from streams.cli.app import app
from streams.tables import TableOptions, convert_table, entity_columns, read_frame
from streams.tables.raw import frame_table
from streams.training.data_report import DataReport, _of_the_last_year, report_table

N = 1500


def prescribers(**changes: object) -> pd.DataFrame:
    rng = np.random.default_rng(7)
    frame = pd.DataFrame(
        {
            "npi": [f"{row // 2:05}" for row in range(N)],
            "specialty": np.where(rng.random(N) < 0.6, "cardiology", "urology"),
            "decile": rng.integers(1, 11, N),
            "observed_at": pd.date_range("2025-01-01", periods=N, freq="h", tz="UTC"),
            "prescribing_change": rng.normal(0, 0.1, N),
        }
    )
    return frame.assign(**changes)


def report(frame: pd.DataFrame, champion: ModelCard | None = None) -> DataReport:
    return report_table(read_frame(frame, entity_columns(TwinType.HCP)), TwinType.HCP, champion=champion)


def card(frame: pd.DataFrame) -> ModelCard:
    r2 = {"train_r2": 0.5, "train_mae": 0.1, "train_rmse": 0.1, "cv_r2_mean": 0.31, "cv_r2_std": 0.02}
    errors = {"n": 1500, "mae": 0.1, "rmse": 0.1, "clipped_mean": 0.1, "clipped_sd": 0.1}
    inputs = {name: histogram(frame[name]) for name in ("specialty", "decile")}
    return ModelCard(
        model_id=uuid4(),
        twin_type=TwinType.HCP,
        brand=Brand.KISQALI,
        target="prescribing_change",
        model_type="RandomForest",
        features=("specialty", "decile"),
        hyperparameters={},
        training_samples=N,
        metrics=TwinModelMetrics(**r2, training_samples=N, n_entities=300),
        baseline=Baseline(**errors, center=0, scale=1, clip=1, inputs=inputs),
        trained_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def test_facts_name_rows_entities_and_times():
    facts = report(prescribers()).facts
    assert facts[0] == "1,500 rows, 0 of them bad"
    assert facts[1] == "750 entities by npi, 750 of them with several rows, at most 2"
    assert facts[2] == "times from 2025-01-01 to 2025-03-04, 0 later than now"


def test_each_column_has_its_role_what_is_missing_and_what_was_refused():
    frame = prescribers(
        decile=lambda table: table["decile"].where(table.index >= 30, 77),
        zap=lambda table: table["decile"].where(table.index >= 750),
    )
    columns = {column.name: column for column in report(frame).columns}
    assert {name: column.role for name, column in columns.items()} == {
        "npi": "id",
        "specialty": "feature",
        "decile": "feature",
        "observed_at": "time",
        "prescribing_change": "target",
        "zap": "own feature",
    }
    assert columns["decile"].beyond == 30
    assert columns["zap"].missing == pytest.approx(720 / 1470)
    assert columns["decile"].content.startswith("1 .. ")
    assert columns["specialty"].content.startswith("2 levels: cardiology 6")


def test_a_feature_that_knows_the_target_is_a_suspect_and_a_clean_table_has_none():
    assert report(prescribers()).suspects == ()
    suspects = report(prescribers(seen=lambda table: table["prescribing_change"] * 10)).suspects
    assert [suspect for suspect in suspects if suspect.startswith("'seen' is nearly the target")]
    volumes = prescribers(
        v1=lambda table: np.arange(N) + 50.0, v2=lambda table: (np.arange(N) + 50.0) * (1 + table["prescribing_change"])
    )
    assert "'v2' / 'v1' - 1 is the target: leave 'v2' out" in report(volumes).suspects


def test_columns_of_the_last_year_are_suspects():
    suspects = report(prescribers(claims_2024=1.0, claims_2025=2.0, zip=3)).suspects
    assert suspects == (
        "of 2025, the last year that names of columns have: 'claims_2025'; leave out what is of the target's own period",
    )


def test_numbered_columns_are_no_years():
    assert _of_the_last_year([f"x{number}" for number in range(300)]) == []
    assert _of_the_last_year(["x1", "x2", "trx23", "trx24"])[0].startswith(
        "of 2024, the last year that names of columns have: 'trx24'"
    )
    assert _of_the_last_year(["sales_2098", "sales_2099"]) == []


def test_drift_is_told_against_the_training_rows_of_the_champion():
    champion = card(prescribers())
    same = report(prescribers(), champion)
    assert [shift.moved for shift in same.drift or ()] == [False, False]
    moved = report(prescribers(specialty="urology"), champion)
    assert [shift.name for shift in moved.drift or () if shift.moved] == ["specialty"]
    lacking = report(prescribers().drop(columns="decile"), champion)
    assert [shift.name for shift in lacking.drift or () if shift.moved] == ["decile"]
    assert report(prescribers()).drift is None


def test_a_table_that_cannot_be_trained_on_has_its_problem_and_no_search_for_leakage():
    result = report(prescribers().drop(columns="prescribing_change"))
    assert result.knowledge == ()
    assert any("no column 'prescribing_change'" in str(problem) for problem in result.check.problems)


def test_of_a_table_with_bad_rows_alone_nothing_is_told_but_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bad = prescribers(decile=77)
    result = report_table(
        convert_table(frame_table(bad), entity_columns(TwinType.HCP), TableOptions()), TwinType.HCP, champion=card(prescribers())
    )
    assert result.facts == (
        "1,500 rows, 1,500 of them bad",
        "no row can be used: nothing is told of the columns but what was refused",
    )
    assert {(column.missing, column.content) for column in result.columns} == {(None, "")}
    assert [column.beyond for column in result.columns if column.name == "decile"] == [N]
    assert (result.drift, result.suspects, result.knowledge) == (None, (), ())
    assert str(result.check.problems[0]).startswith("1,500 of 1,500 rows are bad")
    assert not any("too few" in str(problem) for problem in result.check.problems)
    monkeypatch.chdir(tmp_path)
    bad.to_csv("bad.csv", index=False)
    output = CliRunner().invoke(app, ["data", "check", "bad.csv"])
    assert output.exit_code == 1
    assert "no row can be used" in output.stdout
    assert "nan" not in output.stdout.lower()


def test_the_command_prints_one_page_and_starts_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    prescribers().to_csv("table.csv", index=False)
    result = CliRunner().invoke(app, ["data", "check", "table.csv"])
    assert result.exit_code == 0, result.output
    assert "table.csv: it can be trained on" in result.stdout
    assert "leakage: no suspect" in result.stdout
    assert "drift: the service is not running: no champion to compare with" in result.stdout
    assert len(result.stdout.splitlines()) < 40
    assert not (tmp_path / ".twinstream").exists()
    prescribers().iloc[:50].to_csv("few.csv", index=False)
    few = CliRunner().invoke(app, ["data", "check", "few.csv", "--json"])
    assert (few.exit_code, json.loads(few.stdout)["problems"][0]["rows"]) == (1, [])


def test_the_command_compares_with_the_champion_where_it_is_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    prescribers(specialty="urology").to_csv("table.csv", index=False)
    monkeypatch.setattr(data, "_champion", lambda line: (card(prescribers()), ""))
    output = CliRunner().invoke(app, ["data", "check", "table.csv"]).stdout
    assert "drift against the training rows of" in output
    assert "specialty (index" in output


def test_spellings_of_a_level_are_one_level():
    spelled = BUILT_IN.with_entries({"levels": {"specialty": {"kardiologia": ["KARDIO", "Choroby serca"]}}})
    frame = prescribers(specialty=np.resize(["KARDIO", "kardiologia", "Choroby serca", "Urologia", "UROLOGIA"], N))
    with in_effect(spelled):
        (line,) = [item for item in report(frame).columns if item.name == "specialty"]
    assert line.content.startswith("2 levels: kardiologia 60%, ")
