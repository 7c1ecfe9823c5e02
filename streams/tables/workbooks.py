"""Reads the cells of an Excel workbook."""

from __future__ import annotations

import re
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
from openpyxl.utils.cell import range_boundaries
from openpyxl.utils.exceptions import InvalidFileException

from schemas.base import require_one_of
from streams.tables.raw import RawTable, mixed_array
from streams.tables.report import BadCell

__all__ = ["workbook_table"]

_MERGED = re.compile(rb'<(?:\w+:)?mergeCell [^>]*?ref="([A-Z]+[0-9]+:[A-Z]+[0-9]+)"')
_BLOCK_BYTES, _LONGEST_TAG = 1 << 20, 200
_ZERO_PADDED = re.compile(r"0{2,}")


def workbook_table(path: Path, sheet: str | None) -> RawTable:
    """Read the cells of a sheet; numbers that are shown with leading zeros are text as they are shown.

    Raises:
        ValueError: for a file that is no workbook, an unknown sheet, several sheets with cells and no ``sheet``, or formulas whose
            results are not in the file.
    """
    try:
        workbook = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (InvalidFileException, zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"it is no Excel workbook ({error})") from error
    try:
        title = sheet or _only_sheet(workbook)
        require_one_of("sheet", title, workbook.sheetnames)
        rows = [[_value(cell) for cell in row] for row in _rows(workbook[title])]
        merged = _merged_ranges(workbook[title])
    finally:
        workbook.close()
    _refuse_formulas(path, title, rows)
    return _without_merged(_table(path.name, rows), merged, rows)


def _only_sheet(workbook: Any) -> str:
    """Name of the only sheet that has cells."""
    filled = [sheet.title for sheet in workbook.worksheets if any(cell.value is not None for row in _rows(sheet) for cell in row)]
    if len(filled) > 1:
        raise ValueError(f"it has {len(filled)} sheets with cells, {', '.join(filled)}: choose one with --sheet")
    if not filled:
        raise ValueError("no sheet has a cell")
    return str(filled[0])


def _rows(sheet: Any) -> Any:
    """All rows of a sheet, whatever size the file states: some programs state a wrong one."""
    sheet.reset_dimensions()
    return sheet.iter_rows()


def _value(cell: Any) -> Any:
    value = cell.value
    if isinstance(value, int) and not isinstance(value, bool) and _ZERO_PADDED.fullmatch(cell.number_format or ""):
        return f"{value:0{len(cell.number_format)}d}"
    return None if value == "" else value


def _merged_ranges(sheet: Any) -> list[tuple[int, int, int, int]]:
    """Ranges of merged cells as first column, first row, last column and last row: sheets that are read cell by cell lack them."""
    ranges: list[str] = []
    rest = b""
    with sheet.parent._archive.open(sheet._worksheet_path) as file:  # noqa: SLF001  # it has no public name
        while block := file.read(_BLOCK_BYTES):
            rest = rest[-_LONGEST_TAG:] + block
            ranges += [cells.decode() for cells in _MERGED.findall(rest)]
    return [range_boundaries(text) for text in dict.fromkeys(ranges)]


def _without_merged(table: RawTable, merged: list[tuple[int, int, int, int]], rows: list[list[Any]]) -> RawTable:
    """The table without rows that have a merged cell with a value: only one of them has it, and the others would be missing."""
    bad: dict[int, BadCell] = {}
    for left, top, _right, bottom in merged:
        value = rows[top - 1][left - 1] if top <= len(rows) and left <= len(rows[top - 1]) else None
        if value is not None and left <= len(table.headers):
            cell = partial(
                BadCell, column=table.headers[left - 1], value=str(value), reason="is a merged cell: give each row its own"
            )
            bad |= {row: cell(row) for row in range(top, bottom + 1)}
    is_bad = np.isin(table.rows, list(bad))
    return replace(table.take(~is_bad), bad_rows=tuple(bad[row] for row in table.rows[is_bad].tolist())) if is_bad.any() else table


def _refuse_formulas(path: Path, title: str, rows: list[list[Any]]) -> None:
    """A formula whose result was never saved would be read as an empty cell."""
    if all(value is not None for row in rows for value in row):
        return
    workbook = openpyxl.load_workbook(path, read_only=True)
    try:
        for row, values in zip(_rows(workbook[title]), rows, strict=False):
            for cell, value in zip(row, values, strict=False):
                if value is None and cell.data_type == "f":
                    raise ValueError(
                        f"cell {cell.coordinate} is a formula without a saved result: open it in a spreadsheet and save it"
                    )
    finally:
        workbook.close()


def _table(name: str, rows: list[list[Any]]) -> RawTable:
    filled = [number for number, row in enumerate(rows, start=1) if any(value is not None for value in row)]
    header, *numbers = filled
    width = max((place + 1 for number in filled for place, value in enumerate(rows[number - 1]) if value is not None), default=0)
    padded = {number: [*rows[number - 1], *[None] * width][:width] for number in filled}
    headers = tuple("" if value is None else str(value) for value in padded[header])
    columns = tuple(mixed_array([padded[number][place] for number in numbers]) for place in range(width))
    return RawTable(name, headers, columns, np.array(numbers, dtype=np.int64))
