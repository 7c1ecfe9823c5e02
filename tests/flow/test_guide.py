"""The commands of docs/guide.md, in its order, in an empty folder, with the real Kafka and Postgres."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.guide_tables import GUIDE, write_tables

COMMANDS = [shlex.split(line)[1:] for line in re.findall(r"^\$ (twinstream .+)$", GUIDE, re.MULTILINE)]


def interval(text: str) -> tuple[float, float]:
    """The interval of the average effect, as a simulation prints it."""
    low, high = re.findall(r"interval ([+-][\d.]+)% to ([+-][\d.]+)%", text)[0]
    return float(low), float(high)


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "analyst"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


async def test_the_commands_of_the_guide_lead_from_an_own_table_to_an_own_answer(twinstream, service_apart, empty_folder: Path):
    write_tables(empty_folder)
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
    assert low_after + high_after > low + high
