"""Mappings as files in the folder ``mappings``, beside the catalogue: written once, reused for later files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from pydantic import ValidationError

from schemas.twin_types import TwinType
from streams.tables.headers import header_key
from streams.tables.mapping import RULES, TableMapping
from streams.yaml_tree import YamlProblem, parse_yaml

__all__ = ["FOLDER", "absent_columns", "load_mapping", "mapping_name", "mapping_path", "matching_mappings", "save_mapping"]

FOLDER = Path("mappings")
"""Where mappings are, in the working folder."""

_ENDING = ".yaml"


def mapping_name(source: Path) -> str:
    """Name of the mapping of a file: its own without endings.

    >>> mapping_name(Path("exports/HCP master 2026.csv.gz"))
    'HCP_master_2026'
    """
    return re.sub(r"[^\w-]+", "_", source.name.split(".")[0]).strip("_") or "table"


def mapping_path(name: str, folder: Path = FOLDER) -> Path:
    """File of a mapping, by its name or as its path."""
    return Path(name) if name.endswith((_ENDING, ".yml")) else folder / f"{name}{_ENDING}"


def save_mapping(mapping: TableMapping, path: Path) -> None:
    """Write a mapping, with a comment that explains it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = mapping.model_dump(mode="json", exclude_defaults=True)
    rules = "".join(f"#   {rule}: {meaning}\n" for rule, meaning in RULES.items())
    comment = (
        f"# Which column of a table is which feature. `by` is the rule by which a cell is read, by default as written:\n{rules}"
    )
    path.write_text(comment + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120), encoding="utf-8")


def load_mapping(name: str, folder: Path = FOLDER) -> TableMapping:
    """Read a mapping by its name, or by the path of its file.

    Raises:
        FileNotFoundError: when there is no such file; it names those that there are.
        ValueError: for a file that is no mapping.
    """
    path = mapping_path(name, folder)
    if not path.is_file():
        names = sorted(item.stem for item in folder.glob(f"*{_ENDING}")) if folder.is_dir() else []
        have = f"there are {', '.join(names)}" if names else f"twinstream import FILE writes one to {folder}/"
        raise FileNotFoundError(f"there is no mapping {path}: {have}")
    return _read(path)


def _read(path: Path) -> TableMapping:
    try:
        return TableMapping.model_validate(parse_yaml(path.read_text(encoding="utf-8")).data)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ValueError(f"{path}: {problems}") from error
    except YamlProblem as error:
        raise ValueError(f"{path}:{error.mark.line}:{error.mark.column}: {error.text}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text: save the file as UTF-8") from error


def matching_mappings(headers: Sequence[str], folder: Path = FOLDER) -> list[TableMapping]:
    """The mappings in the folder that fit a table, in the order of their names.

    One fits when the table has all of its columns, or those of the id and of a target, as a table of outcomes may have.
    A mapping that only repeats declared names fits no table, as it changes nothing.
    """
    keys = set(map(header_key, headers))
    mappings = [_read(path) for path in sorted(folder.glob(f"*{_ENDING}"))] if folder.is_dir() else []
    return [mapping for mapping in mappings if _renames(mapping) and any(keys >= needed for needed in _needed_keys(mapping))]


def absent_columns(headers: Sequence[str], folder: Path, twin_type: TwinType) -> list[str]:
    """Why a mapping in the folder does not fit a table that has most of its columns, and what applies it; a sentence each."""
    keys = set(map(header_key, headers))
    sentences = []
    for mapping in map(_read, sorted(folder.glob(f"*{_ENDING}"))) if folder.is_dir() else []:
        columns = list(dict.fromkeys(mapping.headers()))
        absent = [column for column in columns if header_key(column) not in keys]
        if mapping.twin_type is twin_type and _renames(mapping) and 0 < len(absent) < len(columns) / 2:
            names = ", ".join(map(repr, absent))
            sentences.append(
                f"the saved mapping {mapping.name!r} is not used, as there is no column {names}: --mapping {mapping.name} reads the"
                f" others by it"
            )
    return sentences


def _renames(mapping: TableMapping) -> bool:
    return any(use.rule.name != "value" or header_key(use.column) != header_key(name) for name, use in mapping.columns.items())


def _needed_keys(mapping: TableMapping) -> Iterator[set[str]]:
    yield set(map(header_key, mapping.headers()))
    ids = mapping.columns.get("entity_id")
    for target in mapping.targets if ids else ():
        yield {header_key(column) for use in (ids, mapping.columns[target]) if use for column in use.columns}
