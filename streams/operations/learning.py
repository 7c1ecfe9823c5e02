"""What the service makes of an uploaded table: what each column is taken for, and the check before a training on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from uuid import NAMESPACE_URL, UUID, uuid5

from schemas import ModelCard, TwinType, model_line
from sql.database import Database
from sql.ledger import Ledger
from sql.upload_store import UploadedTable, copy_table, find_table
from streams.errors import describe_error
from streams.mappings import ColumnGuess
from streams.tables import TableMapping
from streams.training.data_report import DataReport
from streams.training.uploaded_table import (
    file_name,
    options_from,
    parse_mapping,
    propose_mapping,
    report_uploaded,
)

__all__ = ["CheckedTable", "TableLine", "TableView", "checked_mapping", "table_fields", "table_id_of", "view_table"]

_NAMESPACE = uuid5(NAMESPACE_URL, "twinstream:uploaded tables")


class TableLine(NamedTuple):
    """The model line that a table is for; a target of None is the twin type's own."""

    twin_type: TwinType
    brand: str
    target: str | None = None

    @property
    def name(self) -> str:
        """Name of the line."""
        return model_line(self.twin_type, self.brand, self.target)


class TableView(NamedTuple):
    """An uploaded table with what becomes of it.

    Attributes:
        guesses: what each column is taken for.
        mapping: that these make; None where they make none.
        report: what a training would make of the table by that mapping; None without one.
        problem: why there is no mapping or no report; else empty.
    """

    table: UploadedTable
    guesses: Sequence[ColumnGuess]
    mapping: TableMapping | None
    report: DataReport | None
    problem: str


class CheckedTable(NamedTuple):
    """A table that was checked before a training, and the mapping by which it is read."""

    table: UploadedTable
    mapping: TableMapping
    report: DataReport


def table_id_of(digest: bytes, *parts: str) -> UUID:
    """The id of an uploaded table: the same bytes, read in the same way for the same person, are the same table."""
    return uuid5(_NAMESPACE, "\0".join([digest.hex(), *parts]))


def table_fields(table: UploadedTable) -> dict[str, Any]:
    """What is stored of a table, as JSON."""
    fields = table._asdict()
    return {**fields, "sha256": table.sha256.hex()}


@asynccontextmanager
async def _file_of(database: Database, table: UploadedTable) -> AsyncIterator[Path]:
    """The bytes of a table in a file, while the block runs."""
    with TemporaryDirectory(prefix="twinstream-") as folder:
        file = Path(folder) / file_name(table.name, table.ending)
        await copy_table(database, table, file)
        yield file


async def view_table(database: Database, table_id: UUID, line: TableLine, answers: Sequence[str]) -> TableView:
    """Guess the columns of a table and check it by the mapping that the guesses and the answers make.

    Raises:
        UnknownTable: when there is no such table.
        ValueError: for an answer that cannot be read, and an unknown line.
    """
    table, champion = await find_table(database, table_id), await _champion(database, line)
    async with _file_of(database, table) as file:
        return await asyncio.to_thread(_view, file, table, line, answers, champion)


def _view(file: Path, table: UploadedTable, line: TableLine, answers: Sequence[str], champion: ModelCard | None) -> TableView:
    options = options_from(table.options)
    proposal = propose_mapping(file, line.twin_type, options, answers)
    try:
        mapping = proposal.mapping(None)
    except ValueError as error:
        return TableView(table, proposal.guesses, None, None, describe_error(error))
    try:
        report = report_uploaded(file, line.twin_type, line.target, options, mapping, champion)
    except ValueError as error:
        return TableView(table, proposal.guesses, mapping, None, describe_error(error))
    return TableView(table, proposal.guesses, mapping, report, "")


async def checked_mapping(
    database: Database, table_id: UUID, line: TableLine, answers: Sequence[str], mapping: Mapping[str, Any] | None
) -> CheckedTable:
    """Check a table before a training on it, read by a mapping, or by that which the guesses and the answers make.

    Raises:
        UnknownTable: when there is no such table.
        ValueError: for a mapping or an answer that cannot be read, or a table that cannot be read by them.
    """
    table = await find_table(database, table_id)
    async with _file_of(database, table) as file:
        return await asyncio.to_thread(_check, file, table, line, answers, mapping)


def _check(
    file: Path, table: UploadedTable, line: TableLine, answers: Sequence[str], fields: Mapping[str, Any] | None
) -> CheckedTable:
    options = options_from(table.options)
    if fields is not None:
        mapping = parse_mapping(fields, line.twin_type)
    else:
        mapping = propose_mapping(file, line.twin_type, options, answers).mapping(None)
    return CheckedTable(table, mapping, report_uploaded(file, line.twin_type, line.target, options, mapping, None))


async def _champion(database: Database, line: TableLine) -> ModelCard | None:
    ledger = Ledger(database)
    champion = await ledger.champion(line.name)
    return None if champion is None else await ledger.card(champion)
