"""Tests of optional extras, each run in an environment of its own by ``make extras``; elsewhere there is nothing to collect."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore = [file for extra, file in {"dowhy": "test_causal.py", "feast": "test_feast.py"}.items() if find_spec(extra) is None]
