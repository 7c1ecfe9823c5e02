"""Files as people export them, and how they are read."""

from pathlib import Path
from typing import Any

from schemas import TwinType
from streams.tables import TableOptions, TableReading, entity_columns, read_table


def read_text(folder: Path, content: str | bytes, name: str = "table.csv", **options: Any) -> TableReading:
    """Write a file with this content, text in UTF-8 unless it is bytes, and read it as a table of HCPs."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_table(path, entity_columns(TwinType.HCP), TableOptions(**options))


def column_text(name: str, cells: list[str]) -> str:
    """A table with the ids 0, 1, ... and a column of these cells."""
    return "".join([f"hcp_id,{name}\n", *(f"{row},{cell}\n" for row, cell in enumerate(cells))])
