"""How a command ends: on Ctrl-C in its first moments, with a reader that has gone, and with threads that are left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

INTERRUPTED_AT_AN_IMPORT = """
import os, signal, sys
class Interrupting:
    def find_spec(self, name, path, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
from streams.cli import main
sys.argv[1:] = sys.argv[2:]
main()
"""
WITH_A_THREAD_THAT_WAITS = """
import logging, logging.handlers, sys, threading
from streams.cli import app, main
def run():
    memory = logging.handlers.MemoryHandler(1000, target=logging.StreamHandler(sys.stderr))
    logging.basicConfig(handlers=[memory], force=True)
    logging.warning("the last line of the log")
    threading.Thread(target=threading.Event().wait).start()
    sys.stdout.write("line of the result\\n" * 100_000)
    raise SystemExit(int(sys.argv[1]))
app.run = run
main()
"""
NEVER_S = 60.0


def run(script: str, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=NEVER_S, **options)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "module", ["streams.cli.ending", "streams.cli.app", "typer", "streams.cli.operations", "schemas", "pydantic"]
)
def test_ctrl_c_while_libraries_are_imported_ends_with_one_line(module: str) -> None:
    ended = run(INTERRUPTED_AT_AN_IMPORT, module, "schemas")
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "twinstream: interrupted\n")


def test_a_command_that_was_started_to_ignore_ctrl_c_ignores_it() -> None:
    ended = run(INTERRUPTED_AT_AN_IMPORT, "typer", "--version", preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    assert (ended.returncode, ended.stderr) == (0, "")


def output_to(descriptor: int, *arguments: str) -> tuple[int, str]:
    """Exit status and stderr of a command whose stdout is a descriptor, which is closed here."""
    command = [sys.executable, "-m", "streams", *arguments]
    ended = subprocess.run(command, stdout=descriptor, stderr=subprocess.PIPE, text=True, check=False, timeout=NEVER_S)
    os.close(descriptor)
    return ended.returncode, ended.stderr


def closed_pipe() -> int:
    """The end for writing of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def test_a_command_whose_reader_has_gone_ends_silently() -> None:
    assert output_to(closed_pipe(), "schemas") == (141, "")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["models", "--help"]])
def test_help_whose_reader_has_gone_ends_silently(arguments: list[str]) -> None:
    status, error = output_to(closed_pipe(), *arguments)
    assert status in {1, 141}
    assert error == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("arguments", [["schemas"], ["--version"], ["--help"]])
def test_output_to_a_full_disk_is_a_failure_with_one_line(arguments: list[str]) -> None:
    status, error = output_to(os.open("/dev/full", os.O_WRONLY), *arguments)
    assert status == 1
    assert "No space left on device" in error
    assert error.count("\n") == 1


def test_a_failure_with_a_thread_that_waits_ends_with_all_of_its_output() -> None:
    ended = run(WITH_A_THREAD_THAT_WAITS, "1")
    assert ended.returncode == 1
    assert ended.stdout == "line of the result\n" * 100_000
    assert "the last line of the log" in ended.stderr
