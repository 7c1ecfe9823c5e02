"""Reads files as training tables.

Public Medicare Part D files are recognised by their columns, see ``part_d`` and ``part_d_drugs``. Any other table needs the target
and features of the twin type, and is used as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from schemas import TWIN_TYPES, TwinType
from schemas.identifiers import entity_column
from schemas.levels import level_text
from sql.training_data_store import ENTITY
from streams.tables import TableOptions, TableReading, convert_table, entity_columns, load_table, table_headers
from streams.tables.headers import header_key
from streams.tables.report import count_of
from streams.training import open_payments, part_d
from streams.training.imported_table import ImportedTable, features_without_column, require_features
from streams.training.part_d_drugs import DrugChoice, drug_dataset, drug_table

__all__ = [
    "as_training_table",
    "has_declared_names",
    "is_known_layout",
    "mapped_table",
    "read_training_table",
    "write_table",
]

_WRITABLE = ".csv, .csv.gz or .parquet"


def read_training_table(
    paths: Sequence[Path],
    twin_type: TwinType,
    target: str | None = None,
    options: TableOptions | None = None,
    *,
    needs_features: bool = True,
    drugs: DrugChoice | None = None,
) -> ImportedTable:
    """Read a file as a training table, or files of Medicare Part D, of one year and later ones.

    Args:
        paths: one file, or years of Medicare Part D.
        twin_type: of the entities.
        target: column of the outcome; the twin type's own by default.
        options: answers to what the files leave open.
        needs_features: false for a table of ids, times and outcomes whose features are in another place.
        drugs: which drugs make the target of files by drug; all of them by default.

    Raises:
        ValueError: when a file cannot be read, too many of its rows are bad, the target is missing, no column is a feature of the
            twin type, or ids are missing by which features would be looked up.
        FileNotFoundError: when there is no such file.
    """
    options = options or TableOptions()
    headers = [table_headers(path, options) for path in paths] if options.mapping is None else []
    if headers and any(map(drug_dataset, headers)) and not has_declared_names(headers[0], twin_type, target):
        return drug_table(paths, headers, drugs or DrugChoice(), twin_type, options)
    if drugs is not None:
        raise ValueError("--product and --market are for claims by month (--as-of) and Medicare Part D by drug: no file is one")
    if headers and all(map(open_payments.is_open_payments, headers)):
        return open_payments.open_payments_table(paths, twin_type, options)
    declared = entity_columns(twin_type)
    declared_keys = frozenset(map(header_key, declared)) | part_d.KNOWN_HEADERS
    raws = [load_table(path, options, declared_keys) for path in paths]
    has_target = header_key(TWIN_TYPES[twin_type].target(target).name) in map(header_key, raws[0].headers)
    if options.mapping is None and (len(raws) > 1 or (part_d.is_part_d(raws[0].headers) and not has_target)):
        return part_d.provider_table(raws, twin_type, options)
    if len(raws) > 1:
        raise ValueError("a mapping is of one table: give one file, or a folder of files with the same columns")
    reading = convert_table(raws[0], declared, options).require_usable(strict=options.strict)
    return as_training_table(reading, twin_type, target) if needs_features else _outcomes_table(reading, twin_type, target)


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write a CSV (also gzipped) or Parquet file, by the ending of its name."""
    if path.name.lower().endswith(".parquet"):
        frame.to_parquet(path, index=False)
    elif path.name.lower().endswith((".csv", ".csv.gz")):
        frame.to_csv(path, index=False)
    else:
        raise ValueError(f"cannot write {path.name!r}: give a name that ends in {_WRITABLE}")


def as_training_table(reading: TableReading, twin_type: TwinType, target: str | None = None) -> ImportedTable:
    """Convert a table to a training table of features and target.

    Raises:
        ValueError: when the target is missing, or no column is a feature of the twin type.
    """
    table, remarks = reading.frame, tuple(reading.remarks())
    if part_d.is_joined_years(table):
        part_d.require_hcp(twin_type)
        return part_d.joined_years_table(table, remarks)
    target_name = _existing_target(table, twin_type, target)
    require_features(table, twin_type)
    frame, unnamed = _with_entity_ids(reading, twin_type)
    return ImportedTable(
        frame, target_name, "table of features", features_without_column(twin_type, table), remarks=(*remarks, *unnamed)
    )


def mapped_table(reading: TableReading, twin_type: TwinType, target: str | None = None) -> ImportedTable:
    """Convert a table that was read by a mapping; without the target it is a table of features.

    Raises:
        ValueError: when no column is a feature of the twin type, or the target is not one of its targets.
    """
    name = TWIN_TYPES[twin_type].target(target).name
    if name in reading.frame:
        return as_training_table(reading, twin_type, target)
    require_features(reading.frame, twin_type)
    frame, unnamed = _with_entity_ids(reading, twin_type)
    notes = (f"no column is the target {name}: it can serve as features",)
    left_out = features_without_column(twin_type, frame)
    return ImportedTable(frame, name, "table of features", left_out, notes, (*reading.remarks(), *unnamed))


def is_known_layout(headers: Sequence[str]) -> bool:
    """Whether headers are those of public data that is read without a mapping."""
    is_part_d = part_d.is_part_d(headers) or part_d.has_joined_years(headers) or drug_dataset(headers) is not None
    return is_part_d or open_payments.is_open_payments(headers)


def has_declared_names(headers: Sequence[str], twin_type: TwinType, target: str | None = None) -> bool:
    """Whether a table has the target and a feature by their declared names."""
    keys = set(map(header_key, headers))
    names = [TWIN_TYPES[twin_type].target(target).name]
    return keys >= set(map(header_key, names)) and any(header_key(name) in keys for name in TWIN_TYPES[twin_type].by_name)


def _outcomes_table(reading: TableReading, twin_type: TwinType, target: str | None) -> ImportedTable:
    """A table of outcomes without features: each row needs its id."""
    table = reading.frame
    target_name = _existing_target(table, twin_type, target)
    id_column = entity_column(table, twin_type)
    if id_column is None or table[id_column].isna().any():
        where = (
            "no column of ids"
            if id_column is None
            else f"{count_of(int(table[id_column].isna().sum()), 'row')} without {id_column}"
        )
        raise ValueError(f"features are looked up by id: the table has {where}, expected is {ENTITY}")
    frame = table.rename(columns={id_column: ENTITY})
    return ImportedTable(frame, target_name, "table of outcomes", (), remarks=tuple(reading.remarks()))


def _existing_target(table: pd.DataFrame, twin_type: TwinType, target: str | None) -> str:
    name = TWIN_TYPES[twin_type].target(target).name
    if name not in table:
        raise ValueError(f"the table has no column {name!r}, the target: its columns are {', '.join(map(str, table))}")
    return name


def _with_entity_ids(reading: TableReading, twin_type: TwinType) -> tuple[pd.DataFrame, list[str]]:
    """The table with the ids of its rows in front, and a remark on rows without one, which are named by their number."""
    table = reading.frame
    id_column = entity_column(table, twin_type)
    numbers = pd.Series([f"row-{row}" for row in range(len(table))], index=table.index, dtype="str")
    if id_column is None:
        return table.assign(**{ENTITY: numbers}).loc[:, [ENTITY, *map(str, table.columns)]], []
    rest = table.drop(columns=[id_column])
    unnamed = int(table[id_column].isna().sum())
    frame = rest.assign(**{ENTITY: table[id_column].map(level_text).fillna(numbers)}).loc[:, [ENTITY, *map(str, rest.columns)]]
    remarks = [] if id_column == ENTITY else [f"{id_column} names the entity of each row: it is no feature"]
    return frame, remarks + [f"{count_of(unnamed, 'row')} without {id_column} named by number, such as row-0"] * bool(unnamed)
