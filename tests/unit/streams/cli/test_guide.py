"""The commands of docs/guide.md, in its order, in an empty folder."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from engine.sample_tables import sample_hcps
from streams.cli.app import app
from tests.unit.streams.mappings.own_tables import npi

GUIDE = (Path(__file__).parents[4] / "docs/guide.md").read_text(encoding="utf-8")
COMMANDS = [shlex.split(line)[1:] for line in re.findall(r"^\$ (twinstream .+)$", GUIDE, re.MULTILINE)]
STATES = {"northeast": "NY", "midwest": "OH", "south": "TX", "west": "CA"}


def acme_hcps() -> pd.DataFrame:
    """The table of the guide: physicians in columns of a company's own names; every fourth one is a cardiologist."""
    sample = sample_hcps(1200, np.random.default_rng(1))
    return pd.DataFrame(
        {
            "NPI": [npi(row) for row in range(len(sample))],
            "Spec Desc": sample["specialty"].where(sample.index % 4 > 0, "Cardiology"),
            "ST": sample["region"].map(STATES),
            "TRx Decile": sample["decile"],
            "Pts": sample["total_patient_volume"],
            "Grad Yr": 2025 - sample["years_experience"],
            "Last Call Days": sample["last_interaction_days"],
            "Digital Eng %": (100 * sample["digital_engagement_score"]).round(1),
            "TRx Chg": sample["prescribing_change"].round(4),
        }
    )


def test_the_commands_of_the_guide_lead_from_an_own_table_to_a_training_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    acme_hcps().to_csv("acme_hcps.csv", index=False)
    yaml = re.search(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    assert yaml
    (tmp_path / "twinstream.yaml").write_text(yaml[1])
    printed = {}
    for command in COMMANDS:
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
        printed[command[0]] = result.stdout
    assert list(printed) == ["import", "data", "catalogue"]
    assert "acme_hcps.csv: 1,200 rows, 9 columns" in printed["import"]
    assert "open:" not in printed["import"]
    assert "history.parquet: it can be trained on" in printed["data"]
    assert "leakage: no suspect" in printed["data"]
    assert "twinstream.yaml is valid: 4 brands, 6 campaigns" in printed["catalogue"]
    assert not (tmp_path / ".twinstream").exists()
