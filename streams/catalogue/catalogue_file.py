"""A user's catalogue file: where it is found, and what it makes of the built-in catalogue, or where it is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from schemas.base import shorten
from schemas.catalogue import BUILT_IN, Catalogue, entry_problems, laid_over
from schemas.catalogue_checks import CatalogueProblems
from streams.catalogue.json_schema import catalogue_schema
from streams.catalogue.written_numbers import number_advice
from streams.yaml_tree import MAX_BYTES, TOO_LARGE, Mark, Tree, YamlProblem, parse_yaml

__all__ = ["DEFAULT_FILE", "CatalogueFileError", "FileProblem", "find_catalogue_file", "parse_catalogue", "read_catalogue"]

DEFAULT_FILE = Path("twinstream.yaml")
_KEY = "[key]"
_NEEDED = {
    **dict.fromkeys(("dict_type", "mapping_type", "model_type", "dataclass_type"), "entries by name are needed here, one a line"),
    **dict.fromkeys(("tuple_type", "list_type", "frozen_set_type"), "a list is needed here, in square brackets: [one, another]"),
}
"""By the type of an error, what is needed in place of a value of another form."""
_MOST_SHOWN = 20
_MOST_ROUNDS = 5


class FileProblem(NamedTuple):
    """One thing that is wrong in a file, and where: ``path`` is the dotted name of the entry."""

    mark: Mark
    path: str
    text: str


class CatalogueFileError(ValueError):
    """A catalogue file that cannot be used, with everything that is wrong in it, in the order of its lines."""

    def __init__(self, file: str, problems: Iterable[FileProblem]) -> None:
        self.file, self.problems = file, tuple(sorted(problems))
        lines = [f"{file}:{mark.line}:{mark.column}: {path + ': ' if path else ''}{text}" for mark, path, text in self.problems]
        more = len(lines) - _MOST_SHOWN
        super().__init__("\n".join([*lines[:_MOST_SHOWN], *([f"and {more} more"] if more > 0 else [])]))


def find_catalogue_file(named: Path | None, folder: Path = Path()) -> Path | None:
    """The file of a user's catalogue: the one that is named, else ``twinstream.yaml`` in the folder; None where there is none."""
    if named is not None:
        return named
    return folder / DEFAULT_FILE if (folder / DEFAULT_FILE).is_file() else None


def read_catalogue(file: Path | None, base: Catalogue = BUILT_IN) -> Catalogue:
    """The catalogue of a file laid over another one; that one itself without a file.

    Raises:
        CatalogueFileError: when the file is not valid; it names every line and column, and what is allowed there.
        ValueError: when the file cannot be read.
    """
    if file is None:
        return base
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)  # of a larger one the rest is not read
    except OSError as error:
        raise ValueError(f"the catalogue {file} cannot be read: {error.strerror} (TWIN_CATALOGUE)") from error
    return parse_catalogue(_decoded(content, str(file)), str(file), base)


def _decoded(content: bytes, name: str) -> str:
    if len(content) > MAX_BYTES:
        raise CatalogueFileError(name, [FileProblem(Mark(1, 1), "", TOO_LARGE)])
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        before = content[: error.start].decode()
        mark = Mark(before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)
        problem = FileProblem(mark, "", f"the byte 0x{content[error.start]:02x} is no UTF-8 text: save the file as UTF-8")
        raise CatalogueFileError(name, [problem]) from error


def parse_catalogue(text: str, name: str = str(DEFAULT_FILE), base: Catalogue = BUILT_IN) -> Catalogue:
    """The catalogue of a YAML text laid over another one.

    Args:
        text: YAML; only what is added or changed needs to be in it.
        name: of the file, for messages.
        base: the catalogue below it.

    Raises:
        CatalogueFileError: when the text is not valid.
    """
    try:
        tree = parse_yaml(text)
    except YamlProblem as error:
        raise CatalogueFileError(name, [FileProblem(error.mark, "", error.text)]) from error
    if tree.data is None:
        return base
    if not isinstance(tree.data, dict):
        sections = ", ".join(section for section in Catalogue.model_fields if section != "version")
        raise CatalogueFileError(name, [FileProblem(Mark(1, 1), "", f"a file has sections by name: {sections}")])
    if "version" in tree.data:
        place = tree.keys["version",]
        raise CatalogueFileError(name, [FileProblem(place, "version", "the version is given by apply: leave it out")])
    entries = entry_problems(tree.data, base)
    contradictions = [FileProblem(_place(path, tree, at_key=True), _dotted(path), text) for path, text in entries]
    try:
        catalogue = Catalogue.model_validate(laid_over(tree.data, base))
    except ValidationError as error:
        raise CatalogueFileError(name, [*contradictions, *_all_problems(error, tree, base)]) from error
    if contradictions:
        raise CatalogueFileError(name, contradictions)
    return catalogue


def _all_problems(error: ValidationError, tree: Tree, base: Catalogue) -> list[FileProblem]:
    """What is wrong, in its fields and between its entries: these are checked without the entries whose own fields are wrong."""
    problems = [*_file_problems(error, tree, base)]
    data, absent = tree.data, set[str]()
    for _ in range(_MOST_ROUNDS):
        paths = [details["loc"] for details in error.errors(include_url=False) if not _is_between_entries(details)]
        if not paths:
            break
        for path in dict.fromkeys(_entry_path(path) for path in paths):
            data = _without(data, path)
            absent.add(str(path[-1]))
        try:
            Catalogue.model_validate(laid_over(data, base))
        except ValidationError as next_error:
            error = next_error
            problems += [item for item in _file_problems(error, tree, base) if not _is_about(item, absent)]
        else:
            break
    return list(dict.fromkeys(problems))


def _entry_path(path: Sequence[str | int]) -> tuple[str | int, ...]:
    """The entry that a wrong field belongs to: of a section, or of a part of a twin type."""
    return tuple(step for step in path if step != _KEY)[: 4 if path[0] == "twin_types" else 2]


def _is_between_entries(details: ErrorDetails) -> bool:
    return isinstance(details.get("ctx", {}).get("error"), CatalogueProblems)


def _is_about(problem: FileProblem, absent: set[str]) -> bool:
    """Whether a problem may only be there because an entry that is wrong itself was left out."""
    return any(repr(name) in problem.text or name in problem.path.split(".") for name in absent)


def _without(data: Any, path: Sequence[str | int]) -> Any:
    """A tree without the entry at a path, or without the nearest entry around it that it has."""
    if not isinstance(data, Mapping) or not path or path[0] not in data:
        return data
    if len(path) == 1 or not isinstance(data[path[0]], Mapping) or path[1] not in data[path[0]]:
        return {key: value for key, value in data.items() if key != path[0]}
    return {**data, path[0]: _without(data[path[0]], path[1:])}


def _file_problems(error: ValidationError, tree: Tree, base: Catalogue) -> Iterator[FileProblem]:
    for details in error.errors(include_url=False):
        inner = details.get("ctx", {}).get("error")
        if isinstance(inner, CatalogueProblems):
            for path, text in inner.problems:
                yield FileProblem(_place(path, tree, at_key=False), _dotted(path), text)
        else:
            path = _path_in_file([step for step in details["loc"] if step != _KEY], tree, base)
            at_key = _KEY in details["loc"] or details["type"] in ("unexpected_keyword_argument", "extra_forbidden")
            yield FileProblem(_place(path, tree, at_key=at_key), _dotted(path), _text(details, path))


def _path_in_file(path: Sequence[str | int], tree: Tree, base: Catalogue) -> tuple[str | int, ...]:
    """The path of an entry in the file: there, clinical terms are counted without those below them."""
    if path[:1] != ["clinical_terms"] or len(path) < 2:
        return tuple(path)
    own = [index for index, term in enumerate(tree.data["clinical_terms"]) if term not in base.clinical_terms]
    return ("clinical_terms", own[int(path[1]) - len(base.clinical_terms)], *path[2:])


def _place(path: Sequence[str | int], tree: Tree, *, at_key: bool) -> Mark:
    """The place of an entry, or of the nearest one around it that the file has."""
    exact = tuple(path)
    if at_key and exact in tree.keys:
        return tree.keys[exact]
    if exact in tree.values and exact:
        return tree.values[exact]
    while exact and exact not in tree.keys and exact not in tree.values:
        exact = exact[:-1]
    return tree.keys.get(exact) or tree.values.get(exact, Mark(1, 1))


def _dotted(path: Sequence[str | int]) -> str:
    return ".".join(map(str, path))


def _text(details: ErrorDetails, path: Sequence[str | int]) -> str:
    """What is wrong with one value, and what is allowed."""
    kind, value = details["type"], shorten(details["input"])
    if kind == "missing":
        return f"item {path[-1] + 1} is missing" if isinstance(path[-1], int) else f"{path[-1]!r} is missing"
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return _unknown_field(path)
    if kind == "string_pattern_mismatch":
        letters = "small letters" if "A-Z" not in details["ctx"]["pattern"] else "letters"
        return f"{value} is no name here: {letters}, digits and underscores are allowed, a letter first"
    if kind in _NEEDED:
        return f"{value} is not allowed: {_NEEDED[kind]}"
    if kind == "string_type" and isinstance(details["input"], bool | int | float):
        return f"{value} is not allowed: it should be a text, which needs quotes where it looks like a number, or like yes or no"
    message = details["msg"].removeprefix("Value error, ")
    if kind in ("float_parsing", "float_type") and isinstance(details["input"], str):
        message, kind = f"{value} is no number here: {number_advice(details['input'])}", "value_error"
    return message if kind == "value_error" else f"{value} is not allowed: {re.sub(r'^[A-Z][a-z]+ should', 'it should', message)}"


def _unknown_field(path: Sequence[str | int]) -> str:
    names = _allowed_fields(path[:-1])
    if str(path[-1]).isdigit():
        return f"{str(path[-1])!r} is no field: a decimal has a point, as 0.{path[-1]}"
    close = get_close_matches(str(path[-1]), names, n=1)
    advice = f"did you mean {close[0]!r}? " if close else ""
    return f"unknown field {str(path[-1])!r}: {advice}use one of {', '.join(names)}" if names else f"unknown field {path[-1]!r}"


def _allowed_fields(path: Sequence[str | int]) -> list[str]:
    """Names of the fields of the entry at a path, by the published schema."""
    root = catalogue_schema()
    schema: Any = root
    for step in path:
        schema = _resolved(schema, root)
        schema = schema.get("properties", {}).get(step) or _entry_schema(schema)
    return sorted(_resolved(schema, root).get("properties", {}))


def _entry_schema(schema: Any) -> Any:
    """Schema of the entries that a field has by any name, or of the items of a list."""
    by_name = [*schema.get("patternProperties", {}).values(), schema.get("additionalProperties"), schema.get("items")]
    return next((entry for entry in by_name if entry), {})


def _resolved(schema: Any, root: Any) -> Any:
    """A schema without references and without the choice of null."""
    while isinstance(schema, dict) and ("$ref" in schema or "anyOf" in schema):
        if "$ref" in schema:
            schema = root["$defs"][schema["$ref"].rsplit("/", 1)[-1]]
        else:
            schema = next((choice for choice in schema["anyOf"] if choice.get("type") != "null"), {})
    return schema if isinstance(schema, dict) else {}
