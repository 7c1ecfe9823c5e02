"""Reads uploaded tables: what each column is taken for, the check before a training, and the table itself."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from schemas import ModelCard, TwinType
from schemas.base import shorten
from streams.errors import describe_error
from streams.mappings import ColumnGuess
from streams.tables import TableMapping, TableOptions
from streams.tables.options import DateOrder, Decimal
from streams.training.data_report import DataReport, report_table
from streams.training.datasets import read_training_table
from streams.training.imported_table import ImportedTable
from streams.training.mapped_import import Proposal, propose
from streams.training.table_check import read_for_check

__all__ = [
    "cell_texts",
    "column_fields",
    "file_name",
    "options_fields",
    "options_from",
    "parse_mapping",
    "propose_mapping",
    "read_uploaded",
    "report_uploaded",
]

_NO_FOLDER = Path("/nonexistent")  # saved mappings are files of whoever runs a command
_NO_NAME = re.compile(r"[^\w.-]+")


def options_fields(options: TableOptions) -> dict[str, Any]:
    """The options that a request may state, as JSON; those that are not stated are left out."""
    fields = {
        "decimal": options.decimal,
        "timezone": options.timezone,
        "date_order": options.date_order,
        "delimiter": options.delimiter,
        "encoding": options.encoding,
        "missing": list(options.missing),
    }
    return {name: value for name, value in fields.items() if value}


def options_from(fields: Mapping[str, Any]) -> TableOptions:
    """The options that :func:`options_fields` has written."""
    return TableOptions(
        decimal=Decimal(fields["decimal"]) if "decimal" in fields else None,
        timezone=fields.get("timezone"),
        date_order=DateOrder(fields["date_order"]) if "date_order" in fields else None,
        delimiter=fields.get("delimiter"),
        encoding=fields.get("encoding"),
        missing=tuple(fields.get("missing", ())),
    )


def file_name(name: str, ending: str) -> str:
    """A name for the file of a table that is safe in every file system.

    >>> file_name("../Zürich 2026.csv", ".csv"), file_name("..", ".parquet")
    ('Zürich_2026.csv', 'table.parquet')
    """
    stem = _NO_NAME.sub("_", name.removesuffix(ending)).strip("._-")[:80]
    return f"{stem or 'table'}{ending}"


def parse_mapping(fields: Mapping[str, Any], twin_type: TwinType) -> TableMapping:
    """A mapping as JSON has it.

    Raises:
        ValueError: for one that is not valid, or of another twin type.
    """
    try:
        mapping = TableMapping.model_validate(fields)
    except ValidationError as error:
        raise ValueError(f"mapping: {describe_error(error)}") from None
    if mapping.twin_type is not twin_type:
        raise ValueError(f"the mapping {shorten(mapping.name)} is of {mapping.twin_type} twins, not of {twin_type} twins")
    return mapping


def propose_mapping(path: Path, twin_type: TwinType, options: TableOptions, answers: Sequence[str] = ()) -> Proposal:
    """What each column of a table is taken for, with answers such as ``NPI=entity_id``.

    Raises:
        TableRefused: when the file cannot be read.
        ValueError: for an answer that cannot be read, or two that contradict each other.
    """
    return propose(path, twin_type, replace(options, ignores_mappings=True), _NO_FOLDER, answers)


def column_fields(guess: ColumnGuess) -> dict[str, Any]:
    """What a column is taken for, as JSON; ``open`` where it waits for an answer."""
    candidate = guess.use or guess.best
    return {
        "column": guess.profile.name,
        "samples": list(guess.profile.samples),
        "missing": guess.profile.missing,
        "used": guess.use is not None,
        "open": guess.use is None and guess.best is not None,
        "feature": candidate.feature if candidate else None,
        "rule": candidate.rule if candidate else None,
        "score": candidate.score if candidate else None,
        "reason": "; ".join(filter(None, (guess.reason, candidate.reason if candidate else ""))),
    }


def cell_texts(proposal: Proposal) -> set[str]:
    """The different texts of the cells of the columns that may be ids."""
    columns = [guess.profile for guess in proposal.guesses]
    return {str(text) for profile in columns for text in profile.levels.index}


def report_uploaded(
    path: Path, twin_type: TwinType, target: str | None, options: TableOptions, mapping: TableMapping, champion: ModelCard | None
) -> DataReport:
    """What a training would make of a table that is read by a mapping.

    Raises:
        ValueError: when the file cannot be read by it at all.
    """
    reading, remarks = read_for_check(path, twin_type, target, replace(options, mapping=mapping))
    return report_table(reading, twin_type, target, champion, remarks)


def read_uploaded(
    path: Path, twin_type: TwinType, target: str | None, options: TableOptions, mapping: TableMapping
) -> ImportedTable:
    """A table, read by a mapping, to train on.

    Raises:
        ValueError: when the file cannot be read, or cannot be trained on.
    """
    return read_training_table([path], twin_type, target, replace(options, mapping=mapping)).require_target()
