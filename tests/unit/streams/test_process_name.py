"""The name of a process is that of no other one, whatever its number."""

from __future__ import annotations

import os
import subprocess
import sys

from streams.process_name import process_name


def test_a_process_keeps_its_name_and_one_with_the_same_number_has_another():
    assert process_name() == process_name()
    code = f"import os; os.getpid = lambda: {os.getpid()}\nfrom streams.process_name import process_name; print(process_name())"
    other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    assert other.rpartition(":")[0] == process_name().rpartition(":")[0]
    assert other != process_name()
