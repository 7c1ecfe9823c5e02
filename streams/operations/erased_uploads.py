"""Whether an uploaded table names a person in any of its cells."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.redaction import Names, redact

__all__ = ["names_table"]

_PART_BYTES = 1_000_000


def names_table(content: bytes, ending: str | None, names: Names) -> bool:
    """Whether the bytes of a table name a person.

    Args:
        content: a CSV or Parquet file.
        ending: ``.csv`` or ``.parquet``; any other file is looked through as text.
        names: whether a text names the person.
    """
    return any(redact(part, names) is not part for part in _parts(content, ending))


def _parts(content: bytes, ending: str | None) -> Iterator[bytes]:
    """The cells of a table as text, in parts of whole lines; of a Parquet file that cannot be read the bytes."""
    if ending == ".parquet":
        try:
            yield from _parquet_parts(content)
        except (pa.ArrowException, OSError):
            yield content
    elif content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        yield from _line_parts(content.decode("utf-16", errors="replace").encode())
    else:
        yield from _line_parts(content)


def _parquet_parts(content: bytes) -> Iterator[bytes]:
    file = pq.ParquetFile(io.BytesIO(content))
    yield ", ".join(file.schema_arrow.names).encode()
    for batch in file.iter_batches():
        columns: dict[str, bytes] = {}
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            columns.setdefault(name, "\n".join(map(str, column.unique().to_pylist())).encode(errors="surrogateescape"))
        for text in columns.values():
            yield from _line_parts(text)


def _line_parts(content: bytes) -> Iterator[bytes]:
    """Parts of about a megabyte that end with a line."""
    start = 0
    while start < len(content):
        end = content.find(b"\n", start + _PART_BYTES)
        end = len(content) if end < 0 else end + 1
        yield content[start:end]
        start = end
