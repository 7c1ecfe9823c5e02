"""Reads the content of a file."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from streams.tables import TableReading
from tests.unit.streams.tables.tables import read_text


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., TableReading]:
    return partial(read_text, tmp_path)
