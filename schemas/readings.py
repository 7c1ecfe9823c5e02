r"""The ways to read bytes and texts in which an id may stand: encodings, escape sequences, URL encoding and base64.

Whoever reads a record for the id of a person does not choose how it was written, and the record may have been written to be slow
to read. So every way takes time in proportion to the text, and the number of ways is fixed: at most five times over for escape
sequences, twice for URL encoding, and once for base64.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import unicodedata
from collections.abc import Collection, Iterator
from functools import lru_cache

__all__ = [
    "LEAST_BASE64_BYTES",
    "SEARCHED_FORMS",
    "UNSEARCHED_FORMS",
    "base64_needles",
    "base64_texts",
    "decoded_base64",
    "octet_needles",
    "readings",
    "spellings",
    "unescaped",
]

LEAST_BASE64_BYTES = 4
"""A shorter id is part of almost any base64 by chance."""

SEARCHED_FORMS = (
    "as it is given, and with composed or decomposed accents (Unicode NFC and NFD)",
    "in JSON, also in JSON within texts and with escape sequences, up to five times over",
    "in bytes that are UTF-8, UTF-16, Latin-1 or Windows-1252",
    "URL-encoded, up to twice over, with + or %20 for a blank",
    f"in base64 of any of these encodings, in both alphabets and at any position, for ids of {LEAST_BASE64_BYTES} bytes or more",
)
UNSEARCHED_FORMS = (
    "in other letters: another case, other blanks or separators, without leading zeros, compatibility forms (NFKC)",
    "compressed, encrypted, hashed, in hexadecimal, in base64 twice over or with line breaks in it",
    "as HTML entities, quoted-printable, UTF-7, UTF-32 or EBCDIC, and text that was decoded with the wrong encoding",
    "in UTF-16 right behind text in another encoding, or whose bytes are UTF-8 as well",
    "as a part of a longer word or number",
)

_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|([\"\\/bfnrt]))")
_ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_MAX_ESCAPES, _MAX_URL_ENCODINGS = 5, 2
_ONE_BYTE = "cp1252"  # Latin-1, and letters in place of its control characters
_CUT = "_"  # half of a character at the end, which may be the first half of another letter of a longer id
_PERCENT = re.compile(rb"(?:%[0-9a-fA-F]{2})+")
_MAX_NEEDLE = 100
_URL_ALPHABET = str.maketrans("-_", "+/")
_STANDARD_ALPHABET = str.maketrans("+/", "-_")
_BASE64_WORD = re.compile(r"[A-Za-z0-9+/_-]{6,}")


def spellings(entity: str) -> list[str]:
    """An id, and the other ways to write its accents that Unicode takes for the same text.

    Example:
        >>> spellings("hcp-7"), [len(spelling) for spelling in spellings("é")]
        (['hcp-7'], [1, 2])
    """
    return list(dict.fromkeys([entity, *(unicodedata.normalize(form, entity) for form in ("NFC", "NFD"))]))


def readings(value: bytes) -> Iterator[str]:
    """Ways to read bytes that are no JSON: in several encodings, and what they are without escape sequences and URL encoding."""
    text = value.decode(errors="replace")
    yield from unescaped(text)
    if "\0" in text or "\ufffd" in text:
        yield from unescaped(value.decode(_ONE_BYTE, errors="replace"))
        for start in (0, 1):
            for encoding in ("utf-16-le", "utf-16-be"):
                yield from unescaped(value[start:].decode(encoding, errors="replace").replace("\ufffd", _CUT))


def unescaped(text: str) -> Iterator[str]:
    """A text, and what it is without escape sequences of JSON and without URL encoding, as often as it may have been encoded."""
    yield text
    yield from _url_decoded(text)
    steps = 0
    while steps < _MAX_ESCAPES and "\\" in text and (plain := _ESCAPE.sub(_unescape, text)) != text:
        text = plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # joins the halves of surrogate pairs
        yield text
        steps += 1
    if steps:
        yield from _url_decoded(text)


def _unescape(match: re.Match[str]) -> str:
    return chr(int(match[1], 16)) if match[1] else _ESCAPED.get(match[2], match[2])


def _url_decoded(text: str) -> Iterator[str]:
    if "+" in text:
        with_blanks = text.replace("+", " ")
        yield with_blanks
        yield from _percent_decoded(with_blanks)
    yield from _percent_decoded(text)


def _percent_decoded(text: str) -> Iterator[str]:
    for _ in range(_MAX_URL_ENCODINGS):
        if "%" not in text:
            return
        octets = _PERCENT.sub(lambda match: bytes.fromhex(match[0].replace(b"%", b"").decode()), text.encode(errors="replace"))
        plain = octets.decode(errors="replace")
        if plain == text:
            return
        yield plain
        if "\ufffd" in plain:
            yield octets.decode(_ONE_BYTE, errors="replace")
        text = plain


def octet_needles(entity: str) -> list[bytes]:
    """An id in every spelling and encoding that is searched for, as bytes."""
    written = spellings(entity)
    encoded = [_encoded(spelling, encoding) for spelling in written for encoding in ("utf-8", _ONE_BYTE, "utf-16-le", "utf-16-be")]
    encoded += [json.dumps(spelling)[1:-1].encode() for spelling in written]
    return list(dict.fromkeys(octets for octets in encoded if octets))


def _encoded(text: str, encoding: str) -> bytes:
    try:
        return text.encode(encoding)
    except UnicodeEncodeError:
        return b""


@lru_cache(maxsize=16)
def base64_needles(entity: str) -> tuple[str, ...]:
    """Texts of which each base64 that holds the id has one: what every base64 of it has in common, at each of three positions.

    Example:
        >>> base64_needles("hcp-7")[:3], base64_needles("7")
        (('aGNwLT', 'hjcC03', 'oY3AtN'), ())
    """
    needles = [
        needle
        for octets in octet_needles(entity)
        if len(octets) >= LEAST_BASE64_BYTES
        for position in range(3)
        if (needle := _common_base64(octets, position))
    ]
    return tuple(dict.fromkeys(spelled for needle in needles for spelled in (needle, needle.translate(_STANDARD_ALPHABET))))


def _common_base64(octets: bytes, position: int) -> str:
    """The characters of base64 that depend on these bytes alone, ``position`` bytes behind the beginning of a group of three."""
    text = base64.b64encode(b"\0" * position + octets).decode().rstrip("=")
    first = -(-8 * position // 6)
    return text[first : 8 * (position + len(octets)) // 6][:_MAX_NEEDLE]


def base64_texts(text: str, needles: Collection[str]) -> Iterator[str]:
    """What the base64 in a text says that has one of these needles, whatever stands before it; nothing where none has."""
    if not any(needle in text for needle in needles):
        return
    shortest = min(map(len, needles))
    for run in re.findall(rf"[A-Za-z0-9+/_-]{{{shortest},}}", text):
        if any(needle in run for needle in needles):
            for start in range(4):
                yield from readings(_decode(run[start:].translate(_URL_ALPHABET)))


def decoded_base64(tokens: Collection[str]) -> Iterator[str]:
    """What those of these tokens say that are base64 of a readable text as a whole."""
    for token in tokens:
        if _BASE64_WORD.fullmatch(token) and len(token) % 4 != 1:
            try:
                text = _decode(token.translate(_URL_ALPHABET)).decode()
            except UnicodeDecodeError:
                continue
            if text.isprintable():
                yield text


def _decode(characters: str) -> bytes:
    """The bytes of base64 without its padding; a single character behind the last group of four says nothing."""
    whole = characters if len(characters) % 4 != 1 else characters[:-1]
    return binascii.a2b_base64(whole + "=" * (-len(whole) % 4))
