"""The map of the rules of exactness: whatever it names is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAP = (ROOT / "docs" / "exactness.md").read_text(encoding="utf-8")
A_FILE_OR_A_TEST = re.compile(r"`([\w/]+\.py)`|(?<!\*)\*([^*`]+)\*(?!\*)")


def named() -> Iterator[tuple[Path, str]]:
    """Files, and tests of the file that was named last; of a file alone there is no test."""
    path = ROOT
    for file, words in A_FILE_OR_A_TEST.findall(MAP):
        if file:
            path = next((each for each in (ROOT / file, ROOT / "tests" / file) if each.exists()), ROOT / file)
        yield path, " ".join(words.split())


def test_there_are_twenty_two_rules_in_their_order():
    assert re.findall(r"^\*\*(\d+)\. ", MAP, flags=re.MULTILINE) == [str(number) for number in range(1, 23)]


@pytest.mark.parametrize("path", sorted({path for path, _ in named()}), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_that_is_named_is_there(path: Path):
    assert path.is_file()


@pytest.mark.parametrize(("path", "words"), [(path, words) for path, words in named() if words])
def test_a_test_that_is_named_is_there(path: Path, words: str):
    parts = [re.sub(r"\W+", "_", part.strip().replace("'", "")).strip("_") for part in words.split("...")]
    names = re.findall(r"def test_(\w+)", path.read_text(encoding="utf-8"))

    assert any(all(part in name for part in parts) for name in names)
