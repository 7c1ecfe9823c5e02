"""A user corrects a mapping on a terminal, here a pseudo terminal: what is shown, asked, refused and saved."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.unit.streams.mappings.own_tables import own_table

ROOT = Path(__file__).parents[4]
_DEADLINE_S = 90


class Terminal:
    """The command under a pseudo terminal: what it printed so far, and what is typed to it."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.screen, tty = pty.openpty()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "TERM": "xterm"}
        command = [sys.executable, "-m", "streams", "import", *arguments]
        self.process = subprocess.Popen(command, cwd=folder, env=environment, stdin=tty, stdout=tty, stderr=tty)
        os.close(tty)

    def read_until(self, text: str) -> str:
        """What is printed until ``text`` is."""
        printed, ends = "", time.monotonic() + _DEADLINE_S
        while text not in printed:
            assert select.select([self.screen], [], [], max(0.0, ends - time.monotonic()))[0], printed
            printed += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", os.read(self.screen, 65536).decode())
        return printed

    def answer(self, line: str) -> None:
        os.write(self.screen, f"{line}\n".encode())

    def close(self) -> int:
        status = self.process.wait(_DEADLINE_S)
        os.close(self.screen)
        return status


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    own_table().to_csv(tmp_path / "own.csv", index=False)
    opened = Terminal(tmp_path, "own.csv", "out.csv")
    yield opened
    if opened.process.poll() is None:
        opened.process.kill()
        opened.process.wait()


def test_lines_are_corrected_one_by_one_a_wrong_answer_is_told_and_enter_saves(terminal: Terminal, tmp_path: Path):
    first = terminal.read_until("change: ")
    assert re.search(r"Grad Yr .*open: years_experience\?", first)
    assert "Enter saves" in " ".join(first.split())
    terminal.answer("Grad Yr=shoe_size")
    refused = terminal.read_until("change: ")
    assert "unknown feature 'shoe_size': use one of" in refused
    terminal.answer("Grad Yr=years_experience:years_before 2026")
    assert re.search(r"Grad Yr .* years_experience +years_before 2026", terminal.read_until("change: "))
    terminal.answer("Rx $=own")
    terminal.read_until("change: ")
    terminal.answer("Pts=")
    assert "left out by the mapping or your answer" in terminal.read_until("change: ")
    terminal.answer("")
    assert "mapping saved to mappings/own.yaml" in terminal.read_until("rows written to out.csv")
    assert terminal.close() == 0
    frame = pd.read_csv(tmp_path / "out.csv")
    assert frame["years_experience"].tolist() == (2026 - own_table()["Grad Yr"]).tolist()
    assert "total_patient_volume" not in frame
    assert {"prescriptions_dollars", "decile", "specialty"} <= set(frame)
