"""Time from a clone to the first answer on an own table: the commands of docs/guide.md up to the first simulation.

``python3 tests/bench/first_answer.py [FOLDER]``, the folder of a repository, by default this one. Run it in an empty folder, by any
Python 3.11; it needs nothing that is installed.
The packages come from where pip takes them, so that a warm cache shortens the installation.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

READY = "running; press Ctrl-C to stop"
LAST = "simulate"


def commands(guide: str) -> Iterator[list[str]]:
    """The commands of the guide up to the first simulation."""
    for line in re.findall(r"^\$ (twinstream .+)$", guide, re.MULTILINE):
        command = shlex.split(line)[1:]
        yield command
        if command[0] == LAST:
            return


def timed(name: str, arguments: list[str], folder: Path) -> float:
    """Run a command, which must succeed, and print its seconds."""
    begun = time.monotonic()
    subprocess.run(arguments, cwd=folder, check=True, stdout=subprocess.DEVNULL if LAST not in arguments else None)
    seconds = time.monotonic() - begun
    print(f"{seconds:7.1f} s  {name}", flush=True)
    return seconds


@contextlib.contextmanager
def service(program: str, folder: Path) -> Iterator[float]:
    """The service while the block runs; the block gets the seconds until it was ready."""
    begun = time.monotonic()
    with (folder / "up.log").open("w+") as log, subprocess.Popen([program, "up"], cwd=folder, stdout=log, stderr=log) as process:
        try:
            while READY not in (folder / "up.log").read_text():
                if process.poll() is not None:
                    raise RuntimeError((folder / "up.log").read_text())
                time.sleep(0.2)
            seconds = time.monotonic() - begun
            print(f"{seconds:7.1f} s  twinstream up, until it is ready", flush=True)
            yield seconds
        finally:
            process.terminate()  # a shell that started this in the background has it ignore SIGINT


def main(repository: str) -> None:
    """Measure and print the seconds of each step, and their sum."""
    with tempfile.TemporaryDirectory() as name:
        clone, folder = Path(name) / "twinstream", Path(name) / "analyst"
        folder.mkdir()
        total = timed("git clone", ["git", "clone", "--quiet", repository, str(clone)], folder)
        total += timed("make install", ["make", "--no-print-directory", "install"], clone)
        program = str(clone / ".venv/bin/twinstream")
        subprocess.run([str(clone / ".venv/bin/python"), "-m", "tests.guide_tables", str(folder)], cwd=clone, check=True)
        steps = list(commands((clone / "docs/guide.md").read_text(encoding="utf-8")))
        n_before = next(index for index, step in enumerate(steps) if step[:2] == ["catalogue", "apply"])
        total += sum(timed(shlex.join(step), [program, *step], folder) for step in steps[:n_before])
        with service(program, folder) as ready_s:
            total += ready_s + sum(timed(shlex.join(step), [program, *step], folder) for step in steps[n_before:])
        print(f"{total:7.1f} s  from clone to the first own answer, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main(str(Path(sys.argv[1]).resolve()) if len(sys.argv) > 1 else str(Path(__file__).parents[2]))
