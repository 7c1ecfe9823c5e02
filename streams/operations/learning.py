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
from streams.training.mapped_import import Proposal
from streams.training.uploaded_table import (
    file_name,
    options_from,
    parse_mapping,
    propose_mapping,
    report_uploaded,
)

__all__ = [
    "CheckedTable",
    "ColumnField",
    "TableForm",
    "TableLine",
    "TableView",
    "checked_mapping",
    "fill_table_form",
    "table_fields",
    "table_id_of",
    "view_table",
]

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


class ColumnField(NamedTuple):
    """What a user has written for a column.

    Attributes:
        text: a feature, ``FEATURE:RULE``, or nothing for a column that is left out or open; as it was written.
        error: why it is not taken; empty where it is.
    """

    column: str
    text: str
    error: str = ""


class TableForm(NamedTuple):
    """An uploaded table with what a user has written for its columns.

    Attributes:
        fields: one for each column, in the order of the guesses.
        answers: what of it changes the guesses, such as ``NPI=entity_id``.
    """

    view: TableView
    fields: Sequence[ColumnField]
    answers: Sequence[str]


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


async def fill_table_form(database: Database, table_id: UUID, line: TableLine, written: Mapping[int, str]) -> TableForm:
    """An uploaded table with what a user has written for its columns; what cannot be read of it is told at its column.

    Args:
        database: a pool or a connection.
        table_id: of the table.
        line: that it is for.
        written: for columns by their place; the guess stands where nothing was.

    Raises:
        UnknownTable: when there is no such table.
        ValueError: when the file cannot be read, and for an unknown line.
    """
    table, champion = await find_table(database, table_id), await _champion(database, line)
    async with _file_of(database, table) as file:
        return await asyncio.to_thread(_fill, file, table, line, written, champion)


def _fill(file: Path, table: UploadedTable, line: TableLine, written: Mapping[int, str], champion: ModelCard | None) -> TableForm:
    guessed = propose_mapping(file, line.twin_type, options_from(table.options))
    proposal, answers, fields = guessed, list[str](), list[ColumnField]()
    for place, guess in enumerate(guessed.guesses):
        column, shown = guess.profile.name, _field_text(guess)
        text = written.get(place, shown).strip()
        error = ""
        if text != shown:
            try:
                proposal = guessed.answered([*answers, f"{column}={text}"])
                answers.append(f"{column}={text}")
            except ValueError as problem:
                error = describe_error(problem)
        fields.append(ColumnField(column, text, error))
    return TableForm(_view_of(file, table, line, proposal, champion), fields, answers)


def _field_text(guess: ColumnGuess) -> str:
    """What a user would write for the guess; nothing where the column is open or left out."""
    if guess.use is None:
        return ""
    return guess.use.feature if guess.use.rule == "value" else f"{guess.use.feature}:{guess.use.rule}"


def _view(file: Path, table: UploadedTable, line: TableLine, answers: Sequence[str], champion: ModelCard | None) -> TableView:
    proposal = propose_mapping(file, line.twin_type, options_from(table.options), answers)
    return _view_of(file, table, line, proposal, champion)


def _view_of(file: Path, table: UploadedTable, line: TableLine, proposal: Proposal, champion: ModelCard | None) -> TableView:
    options = options_from(table.options)
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
