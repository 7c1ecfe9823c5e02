"""Takes tables of a request into a file, block by block as they come, and reads them beside the event loop."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Annotated, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from fastapi import Depends, Query, Request

from streams.api.bodies import media_type
from streams.api.context import ApiContext
from streams.api.problems import Problem
from streams.tables import TableOptions
from streams.tables.options import DateOrder, Decimal

__all__ = ["PARQUET_TYPE", "TABLE_TYPES", "Reading", "Upload", "uploaded"]

CSV_TYPE, PARQUET_TYPE = "text/csv", "application/vnd.apache.parquet"
TABLE_TYPES = {CSV_TYPE: ".csv", PARQUET_TYPE: ".parquet"}
"""Types of bodies that are tables, each with the ending of its file."""
_EXPANSION = 8
"""A Parquet file may have so many times the bytes of the largest upload once it is unpacked."""
_MEGABYTE = 1_000_000


class Upload(NamedTuple):
    """A table in a file that lasts as long as its request, and the digest of its bytes."""

    path: Path
    digest: bytes


@asynccontextmanager
async def uploaded(request: Request, context: ApiContext) -> AsyncIterator[Upload]:
    """The table in the body of a request, one of few at a time.

    Raises:
        Problem: for a body of another type, one that is too large when unpacked, and while others are being read.
    """
    kind = media_type(request)
    if kind not in TABLE_TYPES:
        raise Problem(415, f"Content-Type {kind!r} is no table: use {' or '.join(TABLE_TYPES)}")
    if context.uploads.locked():
        raise Problem(503, "other tables are being read: try again in a moment", {"Retry-After": "2"})
    async with context.uploads:
        with NamedTemporaryFile(prefix="twinstream-", suffix=TABLE_TYPES[kind]) as file:
            digest = hashlib.sha256()
            async for block in request.stream():
                digest.update(block)
                file.write(block)
            file.flush()
            if os.fstat(file.fileno()).st_size == 0:
                raise Problem(422, "the body is empty: it has to be a table with a row of headers")
            if kind == PARQUET_TYPE:
                _require_bounded(Path(file.name), _EXPANSION * context.settings.api_max_upload_mb)
            yield Upload(Path(file.name), digest.digest())


def _require_bounded(path: Path, limit_mb: float) -> None:
    """Refuse a Parquet file that would fill the memory.

    Raises:
        Problem: when it is larger than the limit once it is unpacked, or no Parquet file.
    """
    try:
        metadata = pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        raise Problem(422, f"the body cannot be read as Parquet: {error}") from None
    size = sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
    if size > limit_mb * _MEGABYTE:
        raise Problem(
            413, f"the table has {size / _MEGABYTE:,.0f} MB when unpacked, at most {limit_mb:,.0f} are read: send it in parts"
        )


def _reading(
    decimal: Annotated[Decimal | None, Query(description="The sign of decimals, where 1,240 may be 1240 or 1.24.")] = None,
    timezone: Annotated[str | None, Query(max_length=100, description="The zone of times without one.")] = None,
    date_order: Annotated[DateOrder | None, Query(description="The order in dates such as 01/02/2026.")] = None,
    delimiter: Annotated[str | None, Query(max_length=1, description="Between the cells of a text file.")] = None,
    encoding: Annotated[str | None, Query(max_length=50, description="Of a text file, such as latin-1.")] = None,
    missing: Annotated[list[str] | None, Query(description="A text that means a missing value, such as NA; repeatable.")] = None,
) -> TableOptions:
    """What a table leaves open."""
    return TableOptions(
        decimal=decimal,
        timezone=timezone,
        date_order=date_order,
        delimiter=delimiter,
        encoding=encoding,
        missing=tuple(missing or ()),
    )


Reading = Annotated[TableOptions, Depends(_reading)]
