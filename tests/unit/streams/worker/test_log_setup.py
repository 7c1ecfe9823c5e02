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


FORGERY = """
import logging, sys
from pathlib import Path
from streams.worker.log_setup import write_logs
write_logs("outcomes", Path(sys.argv[1]) if len(sys.argv) > 1 else None)
evil = "id\\n2026-01-01 00:00:00,000 ERROR   streams: forged\\r\\u2028\\x1b[2J\\x9b\\u202eend"
logging.getLogger("streams").info("refused %s", evil)
try:
    raise ValueError(evil)
except ValueError:
    logging.getLogger("streams").exception("failed at %s", evil)
logging.getLogger("streams").info("last")
"""


def run_forgery(*arguments: str) -> str:
    command = [sys.executable, "-c", FORGERY, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stderr


def test_no_text_of_a_message_forges_a_line_of_a_plain_log(tmp_path: Path):
    run_forgery(str(tmp_path))

    text = (tmp_path / "outcomes.log").read_text()
    records = [line for line in text.split("\n") if line and not line.startswith("    ")]
    assert [" ".join(line.split()[2:5]) for line in records] == [
        "INFO streams: refused",
        "ERROR streams: failed",
        "INFO streams: last",
    ]
    assert r"id\n2026-01-01 00:00:00,000 ERROR   streams: forged\r\u2028\x1b[2J\x9b\u202eend" in records[0]
    assert not set(text) & set("\r\u2028\x1b\x9b\u202e")


def test_a_traceback_stays_readable_below_its_line(tmp_path: Path):
    run_forgery(str(tmp_path))

    lines = (tmp_path / "outcomes.log").read_text().split("\n")
    start = next(number for number, line in enumerate(lines) if "failed at" in line)
    assert lines[start + 1] == "    Traceback (most recent call last):"
    assert lines[start + 2].startswith("      File ")
    assert "    ValueError: id" in lines


def test_a_json_log_has_one_line_a_record_whatever_it_quotes():
    lines = run_forgery().split("\n")

    assert [json.loads(line)["message"].split()[0] for line in lines if line] == ["refused", "failed", "last"]


PASSWORD_SCRIPT = """
import logging, sys
from pathlib import Path
from streams.worker.log_setup import write_logs
write_logs("trainer", Path(sys.argv[1]) if len(sys.argv) > 1 else None)
try:
    raise ValueError("http://ann:" + "hunter2@mlflow:5000/api")
except ValueError as error:
    logging.getLogger("streams").exception("no answer: %s", error)
"""


def test_no_log_shows_the_password_of_an_address(tmp_path: Path):
    for arguments in ([], [str(tmp_path)]):
        command = [sys.executable, "-c", PASSWORD_SCRIPT, *arguments]
        log = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stderr
        log += "".join(file.read_text() for file in tmp_path.iterdir())
        assert log.count("http://ann:***@mlflow:5000/api") == 2
        assert "hunter2@" not in log.replace('"hunter2@mlflow:5000/api")', "")


LONG = """
import logging, sys
from pathlib import Path
from streams.worker.log_setup import write_logs
write_logs("trainer", Path(sys.argv[1]) if len(sys.argv) > 1 else None)
logging.getLogger("streams").warning("filters %s", "x" * 1_000_000)
try:
    raise ValueError("y" * 1_000_000)
except ValueError:
    logging.getLogger("streams").exception("broken")
"""


def test_what_came_in_is_quoted_up_to_a_length(tmp_path):
    command = [sys.executable, "-c", LONG]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stderr
    subprocess.run([*command, str(tmp_path)], cwd=ROOT, check=True)
    for text in (lines, (tmp_path / "trainer.log").read_text()):
        assert len(text) < 60_000
        assert "filters xxx" in text
        assert "characters) ... " in text
        assert "ValueError: yyy" in text
