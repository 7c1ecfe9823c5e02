"""Log lines of a role: JSON on stderr, plain text in a folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[4]

SCRIPT = """
import logging, os, sys
from pathlib import Path
from streams.worker.log_setup import write_logs
write_logs("trainer", Path(sys.argv[1]) if len(sys.argv) > 1 else None)
logging.getLogger("streams.training.line_training").info("model %s\\nis better", 7)
logging.getLogger("aiokafka").info("chatter")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("streams").exception("broken")
os.write(2, b"from a library\\n")
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", SCRIPT, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)


def test_without_a_terminal_every_line_is_a_json_object():
    first, second, _ = run().stderr.splitlines()
    entry, failure = json.loads(first), json.loads(second)
    assert (entry["role"], entry["level"], entry["logger"]) == ("trainer", "INFO", "streams.training.line_training")
    assert entry["message"] == "model 7\nis better"
    assert entry["at"].endswith("+00:00")
    assert "ZeroDivisionError" in failure["error"]


def test_in_a_folder_lines_are_plain_and_all_of_stderr_is_in_the_file(tmp_path):
    completed = run(str(tmp_path / "logs"))
    text = (tmp_path / "logs" / "trainer.log").read_text()
    assert completed.stderr == ""
    assert "INFO    streams.training.line_training: model 7" in text
    assert "ZeroDivisionError" in text
    assert "from a library" in text
    assert "chatter" not in text


def test_a_log_file_is_appended_to(tmp_path):
    run(str(tmp_path))
    run(str(tmp_path))
    assert (tmp_path / "trainer.log").read_text().count("is better") == 2
