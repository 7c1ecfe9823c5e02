"""Checks docs/exactness.md: every file, code name and test that the document refers to exists.

The document writes code as `path/file.py` (`name`, `Class.method`) and tests as `tests/path/test_file.py`: *sentence*; *sentence*,
where a sentence is the name of a test without ``test_`` and with spaces for underscores.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "exactness.md").read_text(encoding="utf-8")
SEARCHED = ("streams", "engine", "sql", "schemas", "tests/chaos", "deploy")

_PATH = r"`([\w./-]+\.py)`"
_NAMES = r"\s+\(((?:`[\w.]+`(?:,\s+)?)+)\)"
_SENTENCE = r"(?<!\*)\*([^*`]+)\*(?!\*)"


def named_paths() -> set[str]:
    return set(re.findall(_PATH, DOCUMENT))


def named_code() -> list[tuple[str, str]]:
    """Code names in parentheses after a path, with the path."""
    return [
        (path, name)
        for path, parenthesis in re.findall(_PATH + _NAMES, DOCUMENT)
        for name in re.findall(r"`([\w.]+)`", parenthesis)
    ]


def named_tests() -> list[tuple[str, str]]:
    """Sentences in italics, with the path before them."""
    path, sentences = "", []
    for file, sentence in re.findall(f"{_PATH}|{_SENTENCE}", DOCUMENT):
        path = file or path
        if sentence:
            sentences.append((path, " ".join(sentence.split())))
    return sentences


def quoted_code() -> set[str]:
    """Code in the text besides paths, names in parentheses and commands: tables, topics, columns and expressions."""
    text = re.sub(_PATH + _NAMES, "", DOCUMENT)
    return {code for code in re.findall(r"`([^`\n]+)`", text) if "/" not in code and not code.startswith(("make ", "twinstream "))}


@cache
def defined_in(path: str) -> frozenset[str]:
    """Functions, classes, ``Class.method`` and constants that a module defines."""
    defined = set()
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        defined |= _names_of(node)
        if isinstance(node, ast.ClassDef):
            defined |= {f"{node.name}.{name}" for inner in node.body for name in _names_of(inner)}
    return frozenset(defined)


def _names_of(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}


@cache
def source_text() -> str:
    files = [path for folder in SEARCHED for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".sql"}]
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


def test_there_are_twenty_two_rules_in_order():
    assert re.findall(r"^\*\*(\d+)\. ", DOCUMENT, flags=re.MULTILINE) == [str(number) for number in range(1, 23)]


def test_every_rule_refers_to_code_and_to_a_test():
    rules = re.split(r"^\*\*\d+\. |^## Algebra", DOCUMENT, flags=re.MULTILINE)[1:23]
    for rule in rules:
        assert re.search(r"`(?:streams|engine|sql)/[\w/]+\.py`", rule), rule
        assert re.search(r"`tests/[\w/]+\.py`", rule), rule


@pytest.mark.parametrize("path", sorted(named_paths()))
def test_a_file_in_the_document_exists(path: str):
    assert (ROOT / path).is_file()


@pytest.mark.parametrize(("path", "name"), named_code())
def test_a_name_in_the_document_is_defined_in_its_file(path: str, name: str):
    assert name in defined_in(path)


@pytest.mark.parametrize(("path", "sentence"), named_tests())
def test_a_test_in_the_document_exists(path: str, sentence: str):
    assert f"test_{re.sub(r'[^a-z0-9]+', '_', sentence.lower())}" in defined_in(path)


@pytest.mark.parametrize("code", sorted(quoted_code()))
def test_code_quoted_in_the_document_occurs_in_the_sources(code: str):
    assert code in source_text()
