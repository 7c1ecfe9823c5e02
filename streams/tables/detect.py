"""What a text file leaves open: its encoding and its delimiter, from the bytes and the first lines."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Collection, Sequence
from itertools import islice
from typing import NamedTuple

from streams.tables.headers import header_key

__all__ = ["Dialect", "decode_text", "detect_delimiter", "encoding_note", "is_wide"]

_SAMPLE_BYTES = 65_536
_SAMPLE_ROWS = 200
_DELIMITERS = (",", ";", "\t", "|")
DELIMITER_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins with the mark of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_GUESSED = ("cp1252", "latin-1")
"""Encodings of one byte a letter that are guessed in this order; every text is one in the last."""


def decode_text(content: bytes, encoding: str | None) -> tuple[bytes, str | None]:
    """The content of a text file in UTF-8, and the name of its encoding where it is another one.

    Without a mark and not in UTF-8, it is read in the Windows code page that Excel writes in western countries, which is told.

    Raises:
        ValueError: when the content is not text in the encoding.
    """
    name = encoding or _marked_encoding(content)
    if name is None:
        if content.isascii() or _is_in(content, "utf-8"):
            return content, None
        _refuse_damaged(content)
        return _decode(content, next(encoding for encoding in _GUESSED if _is_in(content, encoding)))
    if name == "utf-8-sig":
        return content.removeprefix(codecs.BOM_UTF8), None
    return _decode(content, name)


def encoding_note(encoding: str, stated: str | None) -> str:
    """What to tell of an encoding: one of 8 bits that nobody stated is guessed, as no byte tells it from others.

    >>> encoding_note("utf-16", None)
    'read as utf-16'
    """
    if stated is None and encoding in _GUESSED:
        return (
            f"read as {encoding}, guessed as it is not UTF-8: where letters are wrong, name another one, such as --encoding cp1250"
        )
    return f"read as {encoding}"


def _decode(content: bytes, name: str) -> tuple[bytes, str]:
    try:
        return content.decode(name).removeprefix("\ufeff").encode(), name
    except UnicodeError as error:
        raise ValueError(f"it is not text in {name}: {error}; --encoding names another one") from error


def _refuse_damaged(content: bytes) -> None:
    """Refuse text in UTF-8 that is damaged: in another encoding its other letters would be wrong."""
    text = content.decode(errors="replace")
    damaged = text.count("\ufffd")
    if sum(not character.isascii() for character in text) > 2 * damaged:
        line = text[: text.index("\ufffd")].count("\n") + 1
        raise ValueError(f"it is UTF-8 with {damaged} damaged letters, the first in line {line}: --encoding names another encoding")


def _is_in(content: bytes, encoding: str) -> bool:
    try:
        content.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _marked_encoding(content: bytes) -> str | None:
    """The encoding that a mark at the begin, or every second byte being NUL, tells."""
    for mark, name in _MARKS:
        if content.startswith(mark):
            return name
    sample = content[: _SAMPLE_BYTES // 2 * 2]
    nuls_even, nuls_odd = sample[::2].count(0), sample[1::2].count(0)
    if max(nuls_even, nuls_odd) > len(sample) // 4:
        return "utf-16-be" if nuls_even > nuls_odd else "utf-16-le"
    return None


def is_wide(content: bytes) -> bool:
    """Whether the bytes of a text file are UTF-16 or UTF-32."""
    return (_marked_encoding(content) or "utf-8").startswith(("utf-16", "utf-32"))


class Dialect(NamedTuple):
    """How the lines of a text file are split.

    Attributes:
        headers: cells of the first line.
        width: cells of most rows, which may have an empty cell more than the header.
    """

    delimiter: str
    headers: tuple[str, ...]
    width: int


def detect_delimiter(lines: Sequence[str], delimiter: str | None, declared_keys: Collection[str]) -> Dialect:
    """Choose the delimiter with which the first line has declared headers and the rows have as many cells as it.

    Args:
        lines: the first lines of the file, at least one.
        delimiter: the one to use, if it is known.
        declared_keys: keys of declared headers, see :func:`~streams.tables.headers.header_key`.

    Raises:
        ValueError: when two delimiters serve equally well.
    """
    if delimiter is not None:
        return _split(lines, delimiter)[0]
    candidates = [_split(lines, sign) for sign in _DELIMITERS]
    ranked = sorted(candidates, key=lambda item: _fit(item[0], item[1], declared_keys), reverse=True)
    (best, share), (second, second_share) = ranked[:2]
    if len(second.headers) > 1 and _fit(best, share, declared_keys) == _fit(second, second_share, declared_keys):
        names = " or ".join(DELIMITER_NAMES[item.delimiter] for item in (best, second))
        raise ValueError(f"its delimiter may be {names}: settle it with --delimiter")
    return best


def _fit(dialect: Dialect, share: float, declared_keys: Collection[str]) -> tuple[int, bool, float]:
    named = sum(header_key(header) in declared_keys for header in dialect.headers)
    return named, len(dialect.headers) > 1, share if len(dialect.headers) > 1 else 0.0


def _split(lines: Sequence[str], delimiter: str) -> tuple[Dialect, float]:
    """The dialect with a delimiter, and the share of rows with as many cells as the header, empty ones at the end aside."""
    rows = list(islice(csv.reader(lines, delimiter=delimiter), _SAMPLE_ROWS))
    headers, body = (rows[0] if rows else []), [row for row in rows[1:] if row]
    width = len(headers)
    widths = [len(row) if any(row[width:]) or len(row) < width else width for row in body]
    longest = max((len(row) for row in body if not any(row[width:])), default=width)
    share = sum(count == width for count in widths) / len(widths) if widths else 1.0
    return Dialect(delimiter, tuple(headers), max(width, longest)), share
