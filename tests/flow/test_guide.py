"""The commands of docs/guide.md, in its order, in an empty folder, with the real Kafka and Postgres."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from engine.sample_tables import sample_hcps
from tests.unit.streams.mappings.own_tables import npi

GUIDE = (Path(__file__).parents[2] / "docs/guide.md").read_text(encoding="utf-8")
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


def acme_pilot() -> pd.DataFrame:
    """The rows of the pilot: 600 physicians, every other one invited, who then prescribe 12 points more."""
    table = acme_hcps().sample(600, random_state=2, ignore_index=True)
    invited = table.index % 2 == 0
    return table.assign(**{"TRx Chg": (table["TRx Chg"] + 0.12 * invited).round(4), "Invited": np.where(invited, "yes", "no")})


def interval(text: str) -> tuple[float, float]:
    """The interval of the average effect, as a simulation prints it."""
    low, high = re.findall(r"([+-][\d.]+)% to ([+-][\d.]+)%", text)[0]
    return float(low), float(high)


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "analyst"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


async def test_the_commands_of_the_guide_lead_from_an_own_table_to_an_own_answer(twinstream, service_apart, empty_folder: Path):
    acme_hcps().to_csv("acme_hcps.csv", index=False)
    acme_pilot().to_csv("pilot.csv", index=False)
    (empty_folder / "twinstream.yaml").write_text(re.search(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)[1])
    printed = {}
    async with service_apart(["simulation", "experiments"]):
        for command in COMMANDS:
            printed[command[0], len(printed)] = await twinstream(*command)
    texts = {name: [text for (command, _), text in printed.items() if command == name] for name, _ in printed}
    assert "acme_hcps.csv: 1,200 rows, 9 columns" in texts["import"][0]
    assert "open:" not in texts["import"][0]
    assert "leakage: no suspect" in texts["data"][0]
    assert "promoted" in texts["train"][0]
    own, compared, after = texts["simulate"]
    assert own.startswith("test further: the effect reaches 5.0% of last year's prescriptions with probability")
    assert all(name in compared for name in ("alternative email_campaign", "alternative call_frequency_increase"))
    assert "to detect an effect of 5" in texts["design"][0]
    (pilot,), (shown,) = texts["experiments"], texts["effects"]
    assert "adjusted for the twin's prediction" in pilot
    assert "stored: effects version 0 -> 1" in pilot
    assert "pilot" in shown.partition("rests on:")[2]
    (low, high), (low_after, high_after) = interval(own), interval(after)
    assert high_after - low_after < high - low
    assert low_after > low
