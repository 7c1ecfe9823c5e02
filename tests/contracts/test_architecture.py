"""Architecture rules that import-linter cannot check: SQL, Kafka clients, exports of packages, names, and links of documents."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = sorted(
    path.parent.relative_to(ROOT)
    for top in ("engine", "sql", "schemas", "streams", "deploy")
    for path in (ROOT / top).rglob("__init__.py")
)
VAGUE_NAMES = frozenset(
    [
        "said",
        "told",
        "found",
        "taken",
        "of",
        "each",
        "those",
        "one",
        "other",
        "known",
        "kept",
        "words",
        "made",
        "given",
        "wanted",
        "asked",
        "begun",
        "seen",
        "chosen",
    ]
)
SQL = re.compile(r"\b(SELECT\s.+\sFROM|INSERT\s+INTO|UPDATE\s+\w+\s+SET|DELETE\s+FROM)\s", re.DOTALL)
KAFKA_CLIENTS = frozenset({"AIOKafkaConsumer", "AIOKafkaProducer", "AIOKafkaAdminClient"})


def modules(*tops: str) -> Iterator[tuple[Path, ast.Module]]:
    for top in tops:
        for path in sorted((ROOT / top).rglob("*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def bound_names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg


@pytest.mark.parametrize("package", PACKAGES, ids=str)
def test_each_package_says_what_it_is_for_and_exports_what_it_lists(package: Path):
    module = import_module(".".join(package.parts))
    assert module.__doc__, f"{package} has no docstring"
    for name in getattr(module, "__all__", ()):
        assert getattr(module, name) is not None


def test_all_sql_is_in_the_sql_package():
    queries = [
        f"{path}:{node.lineno}"
        for path, tree in modules("schemas", "engine", "streams")
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and SQL.search(node.value)
    ]
    assert queries == []


def test_kafka_clients_are_opened_in_one_module():
    callers = {
        str(path)
        for path, tree in modules("streams", "deploy")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KAFKA_CLIENTS
    }
    assert callers == {"streams/kafka/clients.py"}


def test_names_say_what_they_hold():
    vague = [
        f"{path}: {name}"
        for path, tree in modules("schemas", "engine", "sql", "streams", "deploy")
        for name in bound_names(tree)
        if name in VAGUE_NAMES
    ]
    assert vague == []


def test_the_way_of_an_outcome_is_read_in_one_file():
    assert len((ROOT / "streams/ingestion/pipeline.py").read_text(encoding="utf-8").splitlines()) <= 200


@pytest.mark.parametrize("document", ["docs/architecture.md", "CONTRIBUTING.md", "README.md"])
def test_what_a_document_links_to_exists(document: str):
    text = (ROOT / document).read_text(encoding="utf-8")
    targets = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    missing = [target for target in targets if target and not ((ROOT / document).parent / target).exists()]
    assert missing == []


def test_each_step_of_the_architecture_is_linked_to_its_function():
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    links = re.findall(r"\[`([\w.]+)`\]\(\.\./([\w/]+\.py)\)", text)
    assert links
    missing = []
    for name, file in links:
        defined = {
            node.name
            for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8")))
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        }
        if not set(name.split(".")) <= defined:
            missing.append(f"{name} in {file}")
    assert missing == []
