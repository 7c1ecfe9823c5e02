"""Reads a YAML text as plain data, with the line and column of every value.

PyYAML's safe loader parses it; this module builds the data from its nodes, because the loader drops the places, takes the last of
two equal keys in silence, and expands references, of which a few lines can make gigabytes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import yaml

__all__ = ["MAX_BYTES", "TOO_LARGE", "Mark", "Tree", "YamlProblem", "parse_yaml"]

MAX_BYTES = 1_000_000
TOO_LARGE = f"the file is larger than {MAX_BYTES:,} bytes"
_MAX_DEPTH = 50
_CORE = "tag:yaml.org,2002:"
Path = tuple[str | int, ...]


class Mark(NamedTuple):
    """A place in a text; both count from 1."""

    line: int
    column: int


class YamlProblem(ValueError):
    """The text cannot be read as YAML, with the place where that shows."""

    def __init__(self, mark: Mark, text: str) -> None:
        self.mark, self.text = mark, text
        super().__init__(f"line {mark.line}, column {mark.column}: {text}")


class Tree(NamedTuple):
    """Data, and the places of each value and of the key that it has, by path."""

    data: Any
    values: dict[Path, Mark]
    keys: dict[Path, Mark]


def parse_yaml(text: str) -> Tree:
    """The data of a YAML text with one document; None for one without content.

    Keys are texts as they are written. Values are what YAML's core types make of them, without dates.

    Raises:
        YamlProblem: for a text that is no YAML, names a key twice, or uses references, tags or several documents.
    """
    if len(text.encode()) > MAX_BYTES:
        raise YamlProblem(Mark(1, 1), TOO_LARGE)
    try:
        _check_events(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        raise YamlProblem(_mark_of_error(error), f"no YAML: {_problem(error)}") from error
    except yaml.reader.ReaderError as error:
        character = chr(error.character)  # in a text it is a number
        raise YamlProblem(_mark_at(text, error.position), f"no YAML: the character {character!r} is not allowed") from error
    except yaml.YAMLError as error:
        raise YamlProblem(Mark(1, 1), f"no YAML: {' '.join(str(error).split())}") from error
    tree = Tree(None, {(): Mark(1, 1)}, {})
    return tree if node is None else tree._replace(data=_build(node, (), tree))


def _check_events(text: str) -> None:
    """Refuse what would make the nodes of a text large or slow to build."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise YamlProblem(_mark(event), "references (*name) are not supported: write the value again")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise YamlProblem(_mark(event), f"values are nested more than {_MAX_DEPTH} deep")


def _build(node: Any, path: Path, tree: Tree) -> Any:
    tree.values[path] = _mark(node)
    if not node.tag.startswith(_CORE) or node.tag.startswith(f"{_CORE}python"):
        raise YamlProblem(_mark(node), f"the tag {node.tag} is not supported")
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, (*path, index), tree) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, tree)
    return _scalar(node)


def _mapping(node: Any, path: Path, tree: Tree) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == f"{_CORE}merge":
            raise YamlProblem(_mark(key), "a name is needed here")
        if key.value in entries:
            first = tree.keys[*path, key.value].line
            raise YamlProblem(_mark(key), f"{key.value!r} is here twice, first in line {first}: keep one of them")
        tree.keys[*path, key.value] = _mark(key)
        entries[key.value] = _build(value, (*path, key.value), tree)
    return entries


def _scalar(node: Any) -> Any:
    if node.tag == f"{_CORE}timestamp":
        return node.value
    try:
        return yaml.constructor.SafeConstructor().construct_object(node, deep=True)
    except (yaml.YAMLError, ValueError) as error:
        raise YamlProblem(_mark(node), f"{node.value!r} cannot be read: {' '.join(str(error).split())}") from error


def _mark(node: Any) -> Mark:
    return Mark(node.start_mark.line + 1, node.start_mark.column + 1)


def _problem(error: yaml.MarkedYAMLError) -> str:
    """What the parser says; where it stands at a tab, what to write in its place."""
    problem = error.problem or error.context or ""
    return "a tab cannot indent a line: use spaces" if "'\\t'" in problem else problem


def _mark_at(text: str, position: int) -> Mark:
    before = text[:position]
    return Mark(before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1)


def _mark_of_error(error: Any) -> Mark:
    mark = error.problem_mark or error.context_mark
    return Mark(mark.line + 1, mark.column + 1) if mark else Mark(1, 1)
