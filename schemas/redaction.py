"""Redacts what names a person in bytes of records: in JSON the smallest element that is about the person, else everything.

In an array only the elements are replaced that name the person at any depth; an object that names the person outside of an array is
replaced as a whole, because its other members are about the same person.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

__all__ = ["ERASED", "ERASED_VALUE", "Names", "names_entity", "redact", "texts_in"]

ERASED = "[erased]"
ERASED_VALUE = b'"[erased]"'
"""A value that was redacted as a whole."""

Names: TypeAlias = Callable[[str], bool]
"""Whether a text names the person."""

_WORD = re.compile(r"[^\s\"',;()\[\]{}<>=|]+")
_CATALOGUE_NAMES = frozenset({"twin_type", "brand", "metric_type", "target", "intervention_type", "channel", "frequency"})
"""Members that hold a word of a catalogue: they name nobody, whatever the person is called."""

_ID_NAME = re.compile(r"(^|_)(ids?|npi|name|entity|key|subject|person)$", re.IGNORECASE)


class _Number(str):
    """A number as it is written, so that nothing else than what is redacted changes."""

    __slots__ = ()


class _Object(tuple[tuple[str, Any], ...]):
    """The members of an object in their order, repeated names included."""

    __slots__ = ()


def names_entity(entity: str) -> Names:
    """Whether a text is an id, or contains it as a word of its own.

    Example:
        >>> names = names_entity("hcp-7")
        >>> [names(text) for text in ("hcp-7", "entity_id 'hcp-7' is unknown", "see hcp-7.", "hcp-77", "hcp-7-b", "xhcp-7")]
        [True, True, True, False, False, False]
    """
    pattern = re.compile(rf"(?<![\w.:@/-]){re.escape(entity)}(?![\w@/-]|[.:]\w|\\[ux][0-9a-fA-F])")
    return lambda text: text == entity or pattern.search(text) is not None


def redact(value: bytes | None, names: Names) -> bytes | None:
    r"""The bytes without what names the person; the same object where nothing does.

    Example:
        >>> names = names_entity("x")
        >>> redact(b'[{"entity_id": "x", "features": {"a": 1.50}}, {"entity_id": "y", "v": 1.50}]', names)
        b'["[erased]",{"entity_id":"y","v":1.50}]'
        >>> redact(b'{"rows": [{"who": "x"}, 2]}', names), redact(b'{"who": {"id": "\\u0078"}}', names)
        (b'{"rows":["[erased]",2]}', b'"[erased]"')
        >>> redact(b"no JSON: x", names), redact(b"no JSON", names), redact(None, names)
        (b'"[erased]"', b'no JSON', None)
    """
    if value is None:
        return None
    try:
        document = _parse(value)
        redacted = _redact(document, names)
        return value if redacted == document else _dump(redacted).encode()
    except (ValueError, RecursionError):
        return ERASED_VALUE if any(map(names, _readings(value))) else value


def texts_in(value: bytes | None) -> set[str]:
    """Every text in bytes that may be an id: the texts and words in a JSON document, or the words of any other text.

    Example:
        >>> sorted(texts_in(b'{"a": ["b c", 7]}'))
        ['a', 'b', 'b c', 'c']
    """
    if value is None:
        return set()
    try:
        texts = set(_texts(_parse(value)))
    except (ValueError, RecursionError):
        texts = set(_readings(value))
    return texts | {word.rstrip(".:") for text in texts for word in _WORD.findall(text)}


def _parse(value: bytes) -> Any:
    return json.loads(value, parse_int=_Number, parse_float=_Number, parse_constant=_refuse, object_pairs_hook=_Object)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _readings(value: bytes) -> Iterator[str]:
    """Ways to read bytes that are no JSON: as they are, with their escape sequences replaced, and as UTF-16."""
    text = value.decode(errors="replace")
    yield text
    yield re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), text)
    if b"\0" in value:
        yield value.decode("utf-16-le", errors="replace")
        yield value.decode("utf-16-be", errors="replace")


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, _Object):
        for name, member in node:
            yield name
            if isinstance(member, _Number) and _ID_NAME.search(name):
                yield str(member)
            if not (isinstance(member, str) and name in _CATALOGUE_NAMES):
                yield from _texts(member)
    elif isinstance(node, list):
        for element in node:
            yield from _texts(element)
    elif isinstance(node, str) and not isinstance(node, _Number):
        yield node


def _redact(node: Any, names: Names) -> Any:
    if isinstance(node, list):
        return [_redact(element, names) if isinstance(element, list) else _redact_element(element, names) for element in node]
    if isinstance(node, _Object):
        if any(map(names, _texts(_without_lists(node)))):
            return ERASED
        return _Object((name, _redact(member, names) if isinstance(member, list | _Object) else member) for name, member in node)
    return _redact_element(node, names)


def _redact_element(element: Any, names: Names) -> Any:
    return ERASED if any(map(names, _texts(element))) else element


def _without_lists(node: Any) -> Any:
    if isinstance(node, _Object):
        return _Object((name, _without_lists(member)) for name, member in node)
    return None if isinstance(node, list) else node


def _dump(node: Any) -> str:
    if isinstance(node, _Number):
        return str(node)
    if isinstance(node, _Object):
        return f"{{{','.join(f'{json.dumps(name)}:{_dump(member)}' for name, member in node)}}}"
    if isinstance(node, list):
        return f"[{','.join(map(_dump, node))}]"
    return json.dumps(node)
