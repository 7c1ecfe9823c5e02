"""Redacts what names a person in bytes of records: in JSON the smallest element that is about the person, else everything.

In an array only the elements are replaced that name the person at any depth; an object that names the person outside of an array is
replaced as a whole, because its other members are about the same person. A text that is JSON itself, or is encoded, is read as what
it says: :mod:`schemas.readings`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from schemas.readings import base64_needles, base64_texts, decoded_base64, readings, spellings, unescaped

__all__ = ["ERASED", "ERASED_VALUE", "Names", "names_entity", "redact", "replace_entity", "texts_in"]

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
        >>> [names(text) for text in ("hcp-7", "entity_id 'hcp-7' is unknown", "see a/hcp-7.", "hcp-77", "hcp-7-b", "xhcp-7")]
        [True, True, True, False, False, False]
        >>> [names(text) for text in ("aGNwLTc=", "d2hvOiBoY3AtNw", "aGNwLTc3")]  # base64 of hcp-7, who: hcp-7 and hcp-77
        [True, True, False]
    """
    pattern, written, needles = _pattern(entity), frozenset(spellings(entity)), base64_needles(entity)

    def is_named(text: str) -> bool:
        return text in written or pattern.search(text) is not None

    return lambda text: is_named(text) or any(map(is_named, base64_texts(text, needles)))


def _pattern(entity: str) -> re.Pattern[str]:
    """An id in any spelling as a word of its own; an accent behind it makes it another word."""
    written = "|".join(map(re.escape, spellings(entity)))
    return re.compile(rf"(?<![\w.:@-])(?:{written})(?![\w@\u0300-\u036f-]|[.:]\w|\\[ux][0-9a-fA-F])")


def replace_entity(value: Any, entity: str) -> Any:
    r"""A JSON value with ``[erased]`` wherever a text, or the name of a member, is the id or contains it; all else stays.

    A text that has the id only in its decoded form is replaced as a whole.

    Example:
        >>> replace_entity({"requested_by": "x", "why": "see x, y", "channel": "x", "twins": {"npi": 7}}, "x")
        {'requested_by': '[erased]', 'why': 'see [erased], y', 'channel': 'x', 'twins': {'npi': 7}}
        >>> replace_entity({"npi": 7, "n": 7, "7": {}}, "7"), replace_entity(['{"who": "\\u0078"}'], "x")
        ({'npi': '[erased]', 'n': 7, '[erased]': {}}, ['[erased]'])
    """
    names, pattern, written = names_entity(entity), _pattern(entity), frozenset(spellings(entity))

    def replace_text(text: str) -> str:
        replaced = ERASED if text in written else pattern.sub(ERASED, text)
        return ERASED if any(map(names, _readings_of(replaced))) else replaced

    def replace_member(name: str, member: Any) -> Any:
        if isinstance(member, str) and name in _CATALOGUE_NAMES:
            return member
        if isinstance(member, int | float) and str(member) == entity and _ID_NAME.search(name):
            return ERASED
        return replace(member)

    def replace(node: Any) -> Any:
        if isinstance(node, dict):
            replaced = {replace_text(name): replace_member(name, member) for name, member in node.items()}
            return replaced if len(replaced) == len(node) else ERASED
        if isinstance(node, list):
            return [replace(element) for element in node]
        return replace_text(node) if isinstance(node, str) else node

    return replace(value)


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
        >>> redact(b'{"n": 1, "rows": [{"body": "{\\"who\\": \\"\\\\u0078\\"}"}, 2]}', names)
        b'{"n":1,"rows":["[erased]",2]}'
    """
    if value is None:
        return None
    try:
        document = _parse(value)
        redacted = _redact(document, names)
        return value if redacted == document else _dump(redacted).encode()
    except (ValueError, RecursionError):
        return ERASED_VALUE if any(map(names, readings(value))) else value


def texts_in(value: bytes | None) -> set[str]:
    """Every text in bytes that may be an id: the texts and words in a JSON document, or the words of any other text.

    Example:
        >>> sorted(texts_in(b'{"a": ["b c/d", 7]}'))
        ['a', 'b', 'b c/d', 'c', 'c/d', 'd']
    """
    if value is None:
        return set()
    try:
        texts = set(_texts(_parse(value)))
    except (ValueError, RecursionError):
        texts = set(readings(value))
    tokens = _tokens(texts)
    decoded = {reading for text in decoded_base64(tokens) for reading in _readings_of(text)}
    return texts | tokens | decoded | _tokens(decoded)


def _tokens(texts: Iterable[str]) -> set[str]:
    tokens = {token for text in texts for token in _WORD.findall(text)}
    return {part.rstrip(".:") for token in tokens for part in (token, *token.split("/"))}


def _parse(value: bytes | str) -> Any:
    return json.loads(value, parse_int=_Number, parse_float=_Number, parse_constant=_refuse, object_pairs_hook=_Object)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _readings_of(text: str) -> Iterator[str]:
    """A text in JSON: as it is, without its escape sequences, and the texts in it where it is JSON itself."""
    yield from unescaped(text)
    if text.lstrip()[:1] in ("{", "[", '"'):
        try:
            document = _parse(text)
        except (ValueError, RecursionError):
            return
        yield from _texts(document)


def _texts(node: Any) -> Iterator[str]:
    """Every text in a document, names of members included; without recursion, which would pass each text through every level."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if isinstance(node, _Object):
            for name, member in node:
                yield from _readings_of(name)
                yield from _own_texts(name, member)
                if isinstance(member, list | _Object):
                    waiting.append(member)
        elif isinstance(node, list):
            waiting += node
        elif isinstance(node, str) and not isinstance(node, _Number):
            yield from _readings_of(node)


def _own_texts(name: str, member: Any) -> Iterator[str]:
    """What a member says that is neither a list nor an object."""
    if isinstance(member, _Number):
        if _ID_NAME.search(name):
            yield str(member)
    elif isinstance(member, str) and name not in _CATALOGUE_NAMES:
        yield from _readings_of(member)


def _redact(node: Any, names: Names) -> Any:
    if isinstance(node, list):
        return [_redact(element, names) if isinstance(element, list) else _redact_element(element, names) for element in node]
    if isinstance(node, _Object):
        return _redact_object(node, names)
    return _redact_element(node, names)


def _redact_object(node: _Object, names: Names) -> Any:
    """An object whose lists are redacted by themselves; one that names the person elsewhere is redacted as a whole."""
    members = []
    for name, member in node:
        redacted = _redact(member, names) if isinstance(member, list | _Object) else member
        is_named = isinstance(member, _Object) and redacted == ERASED
        if is_named or any(map(names, (*_readings_of(name), *_own_texts(name, member)))):
            return ERASED
        members.append((name, redacted))
    return _Object(members)


def _redact_element(element: Any, names: Names) -> Any:
    return ERASED if any(map(names, _texts(element))) else element


def _dump(node: Any) -> str:
    if isinstance(node, _Number):
        return str(node)
    if isinstance(node, _Object):
        return f"{{{','.join(f'{json.dumps(name)}:{_dump(member)}' for name, member in node)}}}"
    if isinstance(node, list):
        return f"[{','.join(map(_dump, node))}]"
    return json.dumps(node)
