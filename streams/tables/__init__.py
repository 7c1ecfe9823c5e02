"""Reads tables as people export them: text in several forms, Parquet, Excel and data frames, all with the same rules.

Cells are read as text first and converted by the declared kind of their column. Nothing is guessed in silence: what can be read in
two ways is refused with the option that settles it, a bad cell refuses its row and not the table, and what was converted is told.
It imports ``schemas`` only.
"""

from streams.tables.declared import Column, Kind, entity_columns, outcome_columns
from streams.tables.files import load_table, table_blocks, table_headers
from streams.tables.mapping import ColumnUse, TableMapping
from streams.tables.options import DateOrder, Decimal, TableOptions, TimeUnit
from streams.tables.raw import RawTable, frame_table
from streams.tables.reading import convert_table, read_frame, read_table, read_times
from streams.tables.report import MAX_BAD_SHARE, BadCell, TableReading, TableRefused

__all__ = [
    "MAX_BAD_SHARE",
    "BadCell",
    "Column",
    "ColumnUse",
    "DateOrder",
    "Decimal",
    "Kind",
    "RawTable",
    "TableMapping",
    "TableOptions",
    "TableReading",
    "TableRefused",
    "TimeUnit",
    "convert_table",
    "entity_columns",
    "frame_table",
    "load_table",
    "outcome_columns",
    "read_frame",
    "read_table",
    "read_times",
    "table_blocks",
    "table_headers",
]
