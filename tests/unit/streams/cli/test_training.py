"""What the command ``train`` prints of a verdict, and its exit status."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from uuid import uuid4

import pandas as pd
import pytest
from typer.testing import CliRunner

from schemas import Baseline, Brand, ModelCard, ModelEvent, TwinModelMetrics, TwinType
from sql.model_card_rows import Artifact
from streams.cli import training
from streams.cli.app import app
from streams.training import ImportedTable
from streams.training.line_training import TrainedLine

REASON = "MAE 0.12 against 0.11: not significantly better"


def trained(happened: str) -> TrainedLine:
    errors = {"n": 1500, "mae": 0.1, "rmse": 0.1, "clipped_mean": 0.1, "clipped_sd": 0.1}
    r2 = {"train_r2": 0.5, "train_mae": 0.1, "train_rmse": 0.1, "cv_r2_mean": 0.31, "cv_r2_std": 0.02}
    card = ModelCard(
        model_id=uuid4(),
        twin_type=TwinType.HCP,
        brand=Brand.KISQALI,
        target="prescribing_change",
        model_type="RandomForest",
        features=("decile",),
        hyperparameters={},
        training_samples=1500,
        metrics=TwinModelMetrics(**r2, training_samples=1500, n_entities=300, warnings=("R2 on unseen rows is 0.31, below 0.5",)),
        baseline=Baseline(**errors, center=0, scale=1, clip=1),
    )
    champion = card.model_id if happened == "promoted" else uuid4()
    event = ModelEvent(
        line=card.line,
        generation=3,
        happened=happened,
        at=datetime(2026, 1, 1, tzinfo=UTC),
        model_id=card.model_id,
        champion=champion,
        reason=REASON,
    )
    return TrainedLine(card, Artifact("run", "sha"), event, None)


@pytest.mark.parametrize(("happened", "status"), [("promoted", 0), ("rejected", 1)])
def test_a_verdict_is_printed_with_its_reason_and_decides_the_status(
    monkeypatch: pytest.MonkeyPatch, happened: str, status: int
) -> None:
    imported = ImportedTable(pd.DataFrame(), "prescribing_change", "table of features", ())
    monkeypatch.setattr(training, "_train", lambda *_: (imported, trained(happened)))
    result = CliRunner().invoke(app, ["train", "table.csv"])
    assert result.exit_code == status
    first, second, third, *_ = result.output.splitlines()
    assert first.startswith(f"{happened}: RandomForest ")
    assert second == REASON
    assert third.startswith("trained on 1,500 rows of 300 entities")
    assert "note: R2 on unseen rows is 0.31, below 0.5" in result.output
    as_json = CliRunner().invoke(app, ["train", "table.csv", "--json"])
    assert (as_json.exit_code, json.loads(as_json.output)["event"]["reason"]) == (status, REASON)
