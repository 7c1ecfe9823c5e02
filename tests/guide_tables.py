"""The tables of docs/guide.md; run as a program it writes them into a folder, with the catalogue of the guide."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from engine.sample_tables import sample_hcps
from tests.unit.streams.mappings.own_tables import npi

GUIDE = (Path(__file__).parents[1] / "docs/guide.md").read_text(encoding="utf-8")
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


def write_tables(folder: Path) -> None:
    """Write what the guide starts from: the table, the rows of the pilot, and the catalogue."""
    acme_hcps().to_csv(folder / "acme_hcps.csv", index=False)
    acme_pilot().to_csv(folder / "pilot.csv", index=False)
    catalogue = re.search(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    assert catalogue is not None
    (folder / "twinstream.yaml").write_text(catalogue[1], encoding="utf-8")


if __name__ == "__main__":
    write_tables(Path(sys.argv[1]))
